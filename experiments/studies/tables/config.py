"""What the tables are made of: models, their training, what the rivals are tuned over."""

from __future__ import annotations

import dataclasses
import math

from experiments.harness.errors import bad_input
from experiments.retrieval.kept_gain import TWO_TOWER
from experiments.studies.rated_scorer import CROSSES, K, ScorersConfig
from experiments.tasks.rated_events import check_halves

MODELS = (TWO_TOWER, "S", "M", "L", "XL")  # by size
TABLES = (1, 2, 3)  # of the paper


@dataclasses.dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """Models, their training, and what is searched."""

    models: tuple[str, ...] = (TWO_TOWER, "S", "M", "L")
    """two tower (XS) and S, always first, then at least one larger size of the paper"""
    crosses: tuple[str, ...] | None = None
    """that MoNNs read beside what all models read: genre and follows, of simulated users none"""
    steps: int = 1000
    """training steps at most"""
    evaluate_every: int = 200
    """steps between evaluations of the validation split"""
    batch_size: int = 256
    """events a step"""
    negatives: int = 64
    """items that all events of a step share"""
    rate: float = 5e-3
    """peak learning rate of Adam"""
    like_weight: float = 1.0
    """weight of the cross entropy of ratings beside the sampled softmax; 0 without ratings"""
    events: int = 50_000
    """events, drawn by seed, of which NE is taken"""
    pairs: int = 50_000
    """liked training events that levels are trained together on"""
    nodes: int = 32
    """nodes of HSNN; validation chooses from this number and its multiples"""
    share: float = 0.1
    """of the items, what a search may score"""
    stale_days: float | None = None
    """how old all models are: the last tenth of all events tests what was trained that many days
    before; without, the last tenth of each user's events tests"""
    trials: int = 2
    """settings that each rival and each HSNN is tuned over, 1 to 4"""
    show: tuple[int, ...] = (1,)
    """tables that are made: 1 rivals, 2 learners of nodes, 3 LTI without one part at a time; the
    latter two take hours"""
    ablation_steps: int = 1500
    """training steps of each row of tables 2 and 3"""
    ablation_seeds: int = 5
    """seeds of tables 2 and 3, from --seed on"""

    def __post_init__(self) -> None:
        places = [MODELS.index(name) if name in MODELS else -1 for name in self.models]
        if places[:2] != [0, 1] or len(places) < 3 or places != sorted({*places}):
            expected = f"XS, S, then some of {', '.join(MODELS[2:])}, by size"
            raise bad_input("--tables.models", expected=expected, found=", ".join(self.models))
        crosses = self.crosses or ()
        if not set(crosses) <= set(CROSSES):
            expected, found = f"some of {', '.join(CROSSES)}", ", ".join(crosses)
            raise bad_input("--tables.crosses", expected=expected, found=found)
        if not 0 < self.share <= 1 or self.trials > 4:
            name = "share" if self.trials <= 4 else "trials"
            expected = {"share": "a share in (0, 1]", "trials": "1 to 4"}[name]
            raise bad_input(f"--tables.{name}", expected=expected, found=str(vars(self)[name]))
        if self.stale_days is not None and not 0 <= self.stale_days < math.inf:
            found = str(self.stale_days)
            raise bad_input("--tables.stale-days", expected="at least 0 days", found=found)
        if not self.show or len({*self.show}) < len(self.show) or not {*self.show} <= {*TABLES}:
            found = " ".join(map(str, self.show)) or "none"
            raise bad_input("--tables.show", expected="some of 1, 2, 3, once each", found=found)
        for name in ("ablation_steps", "ablation_seeds"):
            if vars(self)[name] < 1:
                flag = f"--tables.{name.replace('_', '-')}"
                raise bad_input(flag, expected="at least 1", found=str(vars(self)[name]))
        check_halves(self.batch_size, flag="--tables.batch-size")

    def budget(self, num_items: int) -> int:
        """Return how many items a search may score: a share, and no fewer than are looked for."""
        return max(min(K, num_items), round(self.share * num_items))

    @property
    def largest(self) -> str:
        """The largest model."""
        return self.models[-1]

    @property
    def scorers(self) -> ScorersConfig:
        """How a `Scorer` is trained and measured."""
        both = {field.name for field in dataclasses.fields(ScorersConfig)}
        own = {name: value for name, value in vars(self).items() if name in both}
        return ScorersConfig(**own)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnConfig:
    """The simulated log that is measured without --data."""

    users: int = 4000
    """users of several interests"""
    items: int = 1000
    """items of the planted tree"""
    leaves: int = 24
    """of the tree"""
    branches: int = 6
    """of the tree"""
    interests: int = 4
    """leaves of a user"""
    events: int = 60
    """that a user has"""
    noise: float = 0.1
    """of what a user finds of an item, beside cosines"""

    def __post_init__(self) -> None:
        for name, most, of in (
            ("events", self.items // 2, "half of the items"),
            ("interests", self.leaves, "the leaves"),
            ("leaves", self.items, "the items"),
        ):
            value = getattr(self, name)
            if value > most:
                flag = f"--drawn.{name}"
                raise bad_input(flag, expected=f"at most {of}, {most}", found=str(value))
