"""The options of `experiments.shampoo_ablation`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

from experiments.harness.errors import bad_input
from experiments.harness.options import (
    ManySeeds,
    Options,
    WithData,
    WithEvents,
    WithLayout,
    check_least,
)
from experiments.harness.results import RESULTS
from experiments.studies.optimizers.comparison import BASELINE
from experiments.studies.optimizers.directions import LENGTHS
from experiments.studies.optimizers.spaces import OptimizerName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(ManySeeds, WithLayout):
    """Compare tuned optimizers on a task."""

    steps: int = 480
    """of a training run"""
    batch_size: int = 64
    """examples per step"""
    width: int = 16
    """of the model"""
    evaluations: int = 24
    """of the validation data, at equal distances; they divide the steps"""
    trials: int = 8
    """points that every optimizer is tried at"""
    seeds: int = 5
    """number of seeds at the chosen point, from --seed on"""
    trial_seed: int = 97
    """seed of all trials"""
    finalists: int = 1
    """an optimizer's best trials that are trained again from the next seed: the least mean of both
    is chosen; 1 = the least loss of one seed is"""
    trials_from: tuple[Path, ...] = ()
    """trials.jsonl of runs by equal settings and versions: not trained again"""
    optimizers: tuple[OptimizerName, ...] = get_args(OptimizerName)
    """what is compared; adamw is always among them"""
    turns: int = 12
    """turns of ten steps of the timing"""
    axes: bool = False
    """change one choice of Shampoo at a time instead of comparing optimizers"""
    directions: bool = False
    """turn the steps of Muon and Shampoo to where each optimizer goes, at their lengths, instead of
    comparing optimizers"""

    def __post_init__(self) -> None:
        super().__post_init__()
        ones = ("steps", "batch_size", "width", "evaluations", "turns")
        check_least(self, **dict.fromkeys(ones, 1), trials=2, trial_seed=0, finalists=1)
        if BASELINE not in self.optimizers:
            found = ", ".join(self.optimizers)
            raise bad_input("--optimizers", expected=f"{BASELINE} among them", found=found)
        if self.axes and self.directions:
            raise bad_input("--directions", expected="no --axes beside it", found="both")
        if self.directions and not {*LENGTHS} <= {*self.optimizers}:
            found = ", ".join(self.optimizers)
            raise bad_input("--optimizers", expected=f"{' and '.join(LENGTHS)}", found=found)
        if self.steps % self.evaluations:
            expected = f"a multiple of {self.evaluations} evaluations"
            raise bad_input("--steps", expected=expected, found=str(self.steps))
        for path in self.trials_from:
            if not path.is_file():
                raise bad_input("--trials-from", expected="files", found=str(path))
        again = self.trial_seed + (self.finalists > 1)
        if {self.trial_seed, again} & {*self.all_seeds}:
            seeds = f"a seed outside of {self.all_seeds.start} to {self.all_seeds.stop - 1}"
            seeds += ", and the next one too" * (again != self.trial_seed)
            raise bad_input("--trial-seed", expected=seeds, found=str(self.trial_seed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Comparison):
    """Compare tuned optimizers on scikit-learn's digits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mnist(Comparison, WithData):
    """Compare tuned optimizers on MNIST."""

    steps: int = 600
    """of a training run"""
    batch_size: int = 128
    """examples per step"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cifar10(Comparison, WithData):
    """Compare tuned optimizers on CIFAR-10."""

    steps: int = 1440
    """of a training run"""
    batch_size: int = 128
    """examples per step"""
    trials: int = 6
    """points that every optimizer is tried at"""
    seeds: int = 3
    """number of seeds at the chosen point, from --seed on"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Characters(Comparison, WithData):
    """Compare tuned optimizers on a Transformer over characters."""

    steps: int = 1200
    """of a training run"""
    batch_size: int = 32
    """examples per step"""
    width: int = 128
    """of the model"""
    layers: int = 3
    """of the Transformer"""
    length: int = 64
    """characters that it reads"""
    trials: int = 6
    """points that every optimizer is tried at"""
    seeds: int = 3
    """number of seeds at the chosen point, from --seed on"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, layers=1, length=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequences(Comparison, WithEvents):
    """Compare tuned optimizers on NxtPost's encoder of users."""

    steps: int = 960
    """of a training run"""
    batch_size: int = 32
    """examples per step"""
    width: int = 64
    """of the model"""
    layers: int = 2
    """of the encoder"""
    length: int = 50
    """events that it reads"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, layers=1, length=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile(Options):
    """Join what was kept of all tasks."""

    results: Path = RESULTS
    """folder with shampoo-ablation-*.json"""
