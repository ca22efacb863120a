"""Optimizers by learning rate, on next-character prediction.

    python -m experiments.shampoo_ablation --data TEXT --seeds 1
    python -m experiments.shampoo_ablation --data TEXT --preset small    # half an hour

A causal Transformer (3 layers, width 128, length 64, batch 32), 600 steps with 50 of warm-up and a
cosine to zero, gradients clipped to norm 1, decoupled decay 0.1; "small" has 2 layers of width 64
and 400 steps. The first nine tenths of the text train, the rest validates; there is no test split.
All of shampoo_jax are their defaults, but for "thrifty", which gathers statistics every 4 steps and
refreshes every 40. AdamW has b1 .9 and b2 .95; Muon steps the matrices between embedding and head,
and leaves the rest to such an AdamW. Every optimizer is tried at every rate. Shampoo's best must
end below AdamW's. Without --data the text is Python source of the standard library.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.bench.character_model import CharacterModel
from experiments.data.datasets import read_text
from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.options import ManySeeds, WithData, check_least
from experiments.harness.plots import Draw, draw_curves, draw_lines, read_curves
from experiments.harness.provenance import DataName
from experiments.harness.report import Table
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.loop.training import TrainResult, train
from shampoo_jax import Refresh, dimension_numbers

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
BATCH_SIZE, LENGTH = 32, 64
OptimizerName = Literal["adamw", "muon", "shampoo", "thrifty", "soap", "kl_shampoo", "kl_soap"]
THRIFTY = Refresh(precondition_frequency=40, statistics_frequency=4)
STEPS_BETWEEN_EVALUATIONS = 50  # an "epoch" of the loop
VALIDATION_WINDOWS = 512
EMBEDDED_CHARACTERS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation(ManySeeds, WithData):
    """Compare optimizers over learning rates."""

    epochs: int = 12
    """evaluations, 50 steps apart"""
    task: Literal["characters"] = "characters"
    """what is learned"""
    seeds: int = 3
    """number of seeds, from --seed on"""
    rates: tuple[float, ...] = RATES
    """peak learning rates, tried with every optimizer"""
    optimizers: tuple[OptimizerName, ...] = ("adamw", "shampoo", "thrifty")
    """what is compared; adamw is always among them"""
    width: int = 128
    """of the Transformer"""
    layers: int = 3
    """of the Transformer"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, epochs=1, width=4, layers=1)
        if "adamw" not in self.optimizers:
            raise bad_input(
                "--optimizers", expected="adamw among them", found=", ".join(self.optimizers)
            )


PRESETS = {
    "default": Ablation(),
    "small": Ablation(
        epochs=8,
        width=64,
        layers=2,
        rates=(5e-3, 1e-2, 2e-2, 4e-2),
        optimizers=("adamw", "muon", "shampoo", "soap", "kl_shampoo"),
    ),
    "smoke": Ablation(epochs=1, seeds=1, rates=(4e-3,)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """Characters as int32 codes, split in two."""

    name: DataName
    vocabulary: int
    training: np.ndarray
    validation: np.ndarray


def load(path: Path | None) -> Text:
    """Read a text file, or take the standard library's source.

    Raises:
      InputError: the file cannot be read, or is shorter than a few windows.
    """
    if path is None:
        name, text = "<python-source>", _embedded_text()
    else:
        name, text = f"<{path.stem}>", read_text(path)
    characters, codes = np.unique(np.array(list(text)), return_inverse=True)
    cut = len(codes) * 9 // 10
    if len(codes) - cut <= 2 * LENGTH:
        found = f"{len(codes)} characters"
        raise bad_input(name, expected=f"at least {20 * LENGTH} characters", found=found)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    codes = codes.astype(np.int32)
    return Text(DataName(name, digest), len(characters), codes[:cut], codes[cut:])


def _embedded_text() -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    parts, size = [], 0
    for file in sorted(folder.glob("*.py")):
        text = file.read_bytes().decode("ascii", "ignore")
        parts.append(text)
        size += len(text)
        if size >= EMBEDDED_CHARACTERS:
            break
    return "".join(parts)[:EMBEDDED_CHARACTERS]


def make_optimizer(name: str, rate: float, *, steps: int) -> optax.GradientTransformation:
    """Build an optimizer with clipping, warm-up, cosine and decay."""
    warmup = min(50, max(1, steps // 2))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
    decay: dict[str, Any] = {"weight_decay": 0.1}
    makers: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adamw": lambda: optax.adamw(schedule, b1=0.9, b2=0.95, **decay),
        "muon": lambda: optax.contrib.muon(
            schedule,
            adam_b2=0.95,
            adam_weight_decay=0.1,
            muon_weight_dimension_numbers=muon_dimensions,
            **decay,
        ),
        "shampoo": lambda: shampoo_jax.shampoo(schedule, **decay),
        "thrifty": lambda: shampoo_jax.shampoo(schedule, refresh=THRIFTY, **decay),
        "soap": lambda: shampoo_jax.soap(schedule, **decay),
        "kl_shampoo": lambda: shampoo_jax.kl_shampoo(schedule, **decay),
        "kl_soap": lambda: shampoo_jax.kl_soap(schedule, **decay),
    }
    return optax.chain(optax.clip_by_global_norm(1.0), makers[name]())


def muon_dimensions(params: Any) -> Any:
    """Return what Muon orthogonalizes: kernels of layers, those of attention as matrices."""

    def of(path: tuple, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        names = tuple(key.key for key in path)
        if names[-1] != "kernel" or "head" in names:
            return None
        roles = dimension_numbers.flax(names, leaf)
        inputs, outputs = roles.sides if roles and roles.sides else ((0,), (1,))
        return optax.contrib.MuonDimensionNumbers(inputs, outputs)

    return jax.tree_util.tree_map_with_path(of, params)


def _windows(codes: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    rows = codes[starts[:, None] + np.arange(LENGTH + 1)[None, :]]
    return {"inputs": rows[:, :-1], "labels": rows[:, 1:]}


def batches(codes: np.ndarray, *, epoch: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Draw windows of the text: a function of seed and epoch."""
    rng = np.random.default_rng((seed, epoch))
    for _ in range(STEPS_BETWEEN_EVALUATIONS):
        yield _windows(codes, rng.integers(0, len(codes) - LENGTH, BATCH_SIZE))


def train_one(
    run: Run,
    text: Text,
    *,
    optimizer: str,
    rate: float,
    seed: int,
    options: Ablation,
    mesh: Mesh,
) -> TrainResult:
    """Train one optimizer at one learning rate as a stage of the run."""
    epochs = options.epochs
    model = CharacterModel(
        text.vocabulary, width=options.width, layers=options.layers, length=LENGTH
    )

    def loss(params, batch, key) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del key
        logits = cast(jax.Array, model.apply(params, batch["inputs"]))
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return jnp.mean(entropy), {}

    starts = np.linspace(0, len(text.validation) - LENGTH - 1, VALIDATION_WINDOWS).astype(int)
    held_out = _windows(text.validation, starts)
    score = jax.jit(lambda params: loss(params, held_out, None)[0])
    steps = epochs * STEPS_BETWEEN_EVALUATIONS
    return train(
        run,
        stage=f"{optimizer}-{rate:g}-{seed}",
        init_params=lambda key: model.init(key, held_out["inputs"][:1]),
        loss=loss,
        tx=make_optimizer(optimizer, rate, steps=steps),
        batches=lambda epoch: batches(text.training, epoch=epoch, seed=seed),
        epochs=epochs,
        steps_per_epoch=STEPS_BETWEEN_EVALUATIONS,
        seed=seed,
        mesh=mesh,
        evaluate=lambda params: {"validation_loss": float(score(params))},
        opt_state_sharding=shampoo_jax.state_sharding,
        checkpoint_every=steps + 1,
    )


def end_losses(results: Mapping[tuple[str, float], Sequence[TrainResult]]) -> dict:
    """Return the median validation loss at the end, by optimizer and learning rate."""
    return {
        key: float(np.median([r.history[-1]["validation_loss"] for r in own]))
        for key, own in results.items()
    }


def best_rate(ends: Mapping[tuple[str, float], float], name: str) -> float:
    """Return the learning rate at which an optimizer ends lowest."""
    return min((end, rate) for (optimizer, rate), end in ends.items() if optimizer == name)[1]


def steps_to(results: Sequence[TrainResult], target: float) -> float | None:
    """Return the median first step whose validation loss is at most a target."""
    firsts = [
        next((h["step"] for h in r.history if h["validation_loss"] <= target), np.inf)
        for r in results
    ]
    median = float(np.median(firsts))
    return median if np.isfinite(median) else None


def table_of(
    results: Mapping[tuple[str, float], Sequence[TrainResult]],
    *,
    optimizers: Sequence[str],
    rates: Sequence[float],
    seeds: int,
) -> Table:
    """Lay the end losses out by learning rate, AdamW as the baseline."""
    ends = end_losses(results)
    target = ends["adamw", best_rate(ends, "adamw")]

    def row(name: str) -> list:
        own = results[name, best_rate(ends, name)]
        step_ms = 1e3 * float(np.median([r.seconds / r.steps for r in own]))
        losses = (ends.get((name, rate)) for rate in rates)
        return [OPTIMIZERS[name], *losses, steps_to(own, target), step_ms]

    return Table(
        title="Validation loss at the end, by peak learning rate",
        columns=("optimizer", *(f"{r:g}" for r in rates), "steps to AdamW's best", "ms a step"),
        baselines=[row("adamw")],
        rows=[row(name) for name in optimizers if name != "adamw"],
        note=f"Median of {seeds} seed(s); the last two columns at each optimizer's best rate.",
    )


def rate_panels(figures: Figures) -> list[Draw]:
    """Draw the validation loss at the end by learning rate."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for (name, rate), (loss,) in pick(figures, "(.+)/(.+)/validation_loss").items():
        curves.setdefault(OPTIMIZERS[name], []).append((float(rate), loss))
    draw = functools.partial(
        draw_lines, curves=curves, log_x=True, title="The end by learning rate"
    )
    return [
        functools.partial(draw, x_label="peak learning rate", y_label="validation loss at the end")
    ]


def pose_text(options: Ablation) -> Posed:
    """Read the text."""
    text = load(options.data)
    return Posed(text, text.name)


def measure(setting: Setting[Ablation]) -> Outcome:
    """Train over the grid."""
    run, options, text = setting.run, setting.options, setting.inputs

    def over_seeds(name: str, rate: float) -> list[TrainResult]:
        common = {"options": options, "mesh": setting.mesh}
        return [
            train_one(run, text, optimizer=name, rate=rate, seed=seed, **common)
            for seed in options.all_seeds
        ]

    grid = itertools.product(options.optimizers, options.rates)
    results = {(name, rate): over_seeds(name, rate) for name, rate in grid}
    ends = end_losses(results)
    flat = {f"{name}/{rate:g}/validation_loss": value for (name, rate), value in ends.items()}
    best = {name: best_rate(ends, name) for name in options.optimizers}
    lines = read_curves(run.folder)
    curves = {OPTIMIZERS[n]: lines[f"{n}-{rate:g}-{options.seed}"] for n, rate in best.items()}
    draw = functools.partial(
        draw_curves,
        curves=curves,
        metric="validation_loss",
        label="validation loss at its best rate",
    )
    found = (f"{OPTIMIZERS[name]} {ends[name, rate]:.3f}" for name, rate in best.items())
    return Outcome(
        title="Optimizers on characters",
        intro=f"{text.name.name}, {len(text.training) + len(text.validation):,} characters.",
        protocol={"split": "the last tenth of the text validates", "test": "none"},
        metrics={k: v for k, v in flat.items() if not k.startswith("adamw")},
        baselines={k: v for k, v in flat.items() if k.startswith("adamw")},
        tables=[
            table_of(
                results, optimizers=options.optimizers, rates=options.rates, seeds=options.seeds
            )
        ],
        panels=[functools.partial(draw, against="step")],
        found=f"Validation loss at the end, each at its best learning rate: {', '.join(found)}.",
    )


STUDY = Study(
    name="shampoo_ablation",
    about="optimizers over learning rates, characters",
    minutes=210,
    claim="At each one's best learning rate Shampoo ends below AdamW.",
    presets=PRESETS,
    claim_panels=rate_panels,
    pose=pose_text,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
