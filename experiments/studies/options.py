"""The options of each task of `experiments.hsnn`, and their smoke presets."""

from __future__ import annotations

import dataclasses
from typing import Literal

from experiments.harness.errors import bad_input
from experiments.harness.options import ManySeeds, Options, WithEvents, WithLayout, flag_of
from experiments.retrieval.graph_training import GraphConfig
from experiments.retrieval.kept_gain import RoutesTraining
from experiments.retrieval.residual_monn import MoNNTraining
from experiments.studies.collapse import PlantedConfig
from experiments.studies.drift import DriftConfig
from experiments.studies.estimate import EstimateConfig
from experiments.studies.frontier import FrontierConfig
from experiments.studies.interests import InterestsConfig
from experiments.studies.learning import LearningConfig
from experiments.studies.rated_scorer import ScorersConfig
from experiments.studies.scale import ScaleConfig
from experiments.studies.tables.config import DrawnConfig, TablesConfig

MAY_BE_ZERO = ("hard_negatives", "like_weight", "noise", "popular")


def check_groups(options: Options) -> None:
    """Raise InputError where a number of a group of options is not positive."""
    for group in dataclasses.fields(options):
        config = getattr(options, group.name)
        if not dataclasses.is_dataclass(config):
            continue
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and (value < 0 or (value == 0 and field.name not in MAY_BE_ZERO)):
                flag = flag_of(f"{group.name}.{field.name}")
                raise bad_input(flag, expected="a number above 0", found=str(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped(Options):
    """Run a task whose options stand in groups of numbers above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_groups(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithFaiss(ManySeeds):
    """Measure beside faiss or without."""

    baselines: Literal["faiss", "none"] = "none"
    """whether faiss searches beside HSNN (extra `bench`)"""

    @property
    def faiss(self) -> bool:
        """Whether faiss takes part."""
        return self.baselines == "faiss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frontier(Grouped, WithFaiss, WithEvents, WithLayout):
    """Measure cost against recall, with ids as items."""

    monn: MoNNTraining = dataclasses.field(default_factory=MoNNTraining)
    """MoNNs over the towers"""
    frontier: FrontierConfig = dataclasses.field(default_factory=FrontierConfig)
    """users and indexes"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorers(Grouped, ManySeeds, WithEvents, WithLayout):
    """Compare scorers of rated events, and what a search keeps of them."""

    scorers: ScorersConfig = dataclasses.field(default_factory=ScorersConfig)
    """models and their training"""
    routes: RoutesTraining = dataclasses.field(default_factory=RoutesTraining)
    """routes of nodes"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning(Grouped, ManySeeds, WithEvents):
    """Learn the index and the towers jointly or apart."""

    graph: GraphConfig = dataclasses.field(default_factory=GraphConfig)
    """towers of ids that are trained"""
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    """variants of index learning"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(Grouped, WithFaiss):
    """Measure how cost grows with the catalogue."""

    scale: ScaleConfig = dataclasses.field(default_factory=ScaleConfig)
    """simulated catalogues"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(Grouped, ManySeeds):
    """Hold what answers say of their recall against the truth."""

    estimate: EstimateConfig = dataclasses.field(default_factory=EstimateConfig)
    """simulated catalogue and who asks"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted(Grouped, ManySeeds):
    """Find a planted tree, and remedy collapse."""

    planted: PlantedConfig = dataclasses.field(default_factory=PlantedConfig)
    """a simulated tree"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift(Grouped, ManySeeds, WithEvents):
    """Serve a catalogue that changes from day to day."""

    drift: DriftConfig = dataclasses.field(default_factory=DriftConfig)
    """days of serving"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interests(Grouped, ManySeeds, WithLayout):
    """Search for users of several interests."""

    interests: InterestsConfig = dataclasses.field(default_factory=InterestsConfig)
    """users of several interests on a planted tree"""
    routes: RoutesTraining = dataclasses.field(default_factory=RoutesTraining)
    """routes of nodes"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables(Grouped, ManySeeds, WithEvents, WithLayout):
    """Measure the paper's tables; --data library-calls takes the calls in installed packages."""

    seeds: int = 3
    """number of seeds, from --seed on"""
    tables: TablesConfig = dataclasses.field(default_factory=TablesConfig)
    """models, their training, what is searched"""
    drawn: DrawnConfig = dataclasses.field(default_factory=DrawnConfig)
    """the simulated log that is measured without --data"""


# What data of people takes, beside the default, which is sized for simulated users.
PUBLIC: dict[str, Options] = {
    "tables": Tables(
        tables=TablesConfig(
            steps=4000, evaluate_every=500, batch_size=256, negatives=128, rate=2e-3, nodes=64
        )
    ),
}

# Small, no download: seconds of compilation, hardly any training.
SMOKE: dict[str, Options] = {
    "frontier": Frontier(
        monn=MoNNTraining(sizes=("S",), steps=4, evaluate_every=2, batch_size=16, negatives=16),
        frontier=FrontierConfig(
            users=100, large_users=50, width=16, nodes=16, index_steps=20, pairs=2000
        ),
    ),
    "scorers": Scorers(
        scorers=ScorersConfig(
            models=("XS", "S"),
            steps=60,
            evaluate_every=30,
            batch_size=64,
            negatives=16,
            users=100,
            events=300,
            nodes=16,
            two_tower_nodes=32,
            index_steps=20,
            pairs=500,
        ),
        routes=RoutesTraining(users=100, steps=20, batch_size=32),
    ),
    "learning": Learning(
        graph=GraphConfig(
            width=16, steps=6, evaluate_every=3, batch_size=256, negatives=64, rate=2e-2
        ),
        learning=LearningConfig(nodes=16, steps=40, batch_size=64, users=60, pairs=1000, items=800),
    ),
    "scale": Scale(scale=ScaleConfig(items=(2000, 6000), width=16, users=40, requests=20)),
    "estimate": Estimate(
        estimate=EstimateConfig(
            items=1000,
            width=8,
            leaves=20,
            groups=1,
            users=16,
            repeats=2,
            scorers=("inner product",),
        )
    ),
    "planted": Planted(
        planted=PlantedConfig(
            items=400, leaves=16, pairs=1000, width=16, steps=60, batch_size=64, dead_after=10
        )
    ),
    "drift": Drift(
        drift=DriftConfig(
            days=4, content_dim=16, nodes=8, steps=40, daily_steps=4, batch_size=64, users=40
        )
    ),
    "interests": Interests(
        interests=InterestsConfig(
            items=400,
            leaves=20,
            width=8,
            users=500,
            asking=50,
            models=("XS", "S"),
            steps=60,
            evaluate_every=30,
            batch_size=64,
            negatives=32,
            nodes=16,
            index_steps=20,
        ),
        routes=RoutesTraining(users=100, steps=20, batch_size=32),
    ),
    "tables": Tables(
        tables=TablesConfig(
            models=("XS", "S", "M"),
            steps=20,
            evaluate_every=20,
            batch_size=32,
            negatives=16,
            events=300,
            pairs=300,
            nodes=8,
            show=(1, 2, 3),
            ablation_steps=10,
            ablation_seeds=1,
        ),
        drawn=DrawnConfig(users=150, items=120, leaves=12, branches=4, interests=2, events=30),
        seeds=2,
    ),
}
