"""The models of the tables: trained from every seed, and measured by brute force on a part."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness.figures import over_seeds_and_users
from experiments.harness.remembered import remember
from experiments.harness.report import Table, signed
from experiments.harness.run_folder import Run
from experiments.retrieval.kept_gain import NAMES, TWO_TOWER
from experiments.studies.rated_scorer import K, Scored, Scorer, model_config, train_model
from experiments.studies.scorers import relative_losses
from experiments.studies.tables.config import TablesConfig
from experiments.tasks.rated_events import Examples
from hsnn_jax.cost_curves import recall_by_user
from hsnn_jax.monn.network import module_flops

Part = Literal[1, 2]  # validation, test
PARTS = {1: "validation", 2: "test"}
NO_NEGATIVES = "n/a: no negatives were observed"


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model of one seed: what reads features, and its parameters on the host."""

    name: str
    seed: int
    scorer: Scorer
    params: Any

    @property
    def label(self) -> str:
        """The name in tables, by which its encoded users are found in requests."""
        return NAMES[self.name]

    @property
    def stage(self) -> str:
        """The name of its checkpoints and of what was measured of it."""
        return f"{self.name}-{self.seed}"


@dataclasses.dataclass(frozen=True, eq=False)
class Brute:
    """One model by brute force, from S seeds.

    Attributes:
      hits: float [S, U], whether a user's next item is among the best K unseen ones.
      losses: float [S, E], log loss of each rated event over the entropy of the mean label, whose
        mean is NE; None where no negatives were observed.
      flops: of a query: user tower, and every item.
    """

    hits: np.ndarray
    losses: np.ndarray | None
    flops: float


def train_all(
    run: Run,
    examples: Examples,
    *,
    config: TablesConfig,
    seeds: Sequence[int],
    mesh: Mesh,
) -> dict[str, list[Trained]]:
    """Train every model from every seed, each as a stage that a resumed run does not repeat."""
    found: dict[str, list[Trained]] = {}
    for name in config.models:
        monn = model_config(name, examples, crosses=config.crosses or ())
        scorer = Scorer(monn, examples)
        options = {"config": config, "mesh": mesh}
        found[name] = [train_one(run, scorer, name, seed=seed, **options) for seed in seeds]
    return found


def train_one(
    run: Run, scorer: Scorer, name: str, *, config: TablesConfig, seed: int, mesh: Mesh
) -> Trained:
    """Train one model from one seed, as a stage; `name` is its size."""
    options = {"config": scorers_of(config, scorer.examples), "stage": f"{name}-{seed}"}
    result = train_model(run, scorer, mesh=mesh, seed=seed, **options)
    return Trained(name, seed, scorer, jax.device_get(result.params))


def scorers_of(config: TablesConfig, examples: Examples) -> Any:
    """Return how models are trained: without negatives there is no cross entropy."""
    like_weight = config.like_weight if has_negatives(examples) else 0.0
    return dataclasses.replace(config.scorers, like_weight=like_weight)


def has_negatives(examples: Examples) -> bool:
    """Tell whether some events say that an item is not liked."""
    return bool((examples.labels == 0).any())


def measure_brute(run: Run, trained: Sequence[Trained], part: Part, *, events: int) -> Brute:
    """Measure one model of every seed on a part, all users; what was measured is remembered.

    Args:
      run: whose folder remembers.
      trained: of each seed.
      part: 1 for validation, 2 for test.
      events: that NE is taken of at most, the same ones for all models and seeds.
    """
    found = [
        remember(
            run,
            f"{own.stage}-{PARTS[part]}",
            measure=functools.partial(_measure, own, part, events=events),
        )
        for own in trained
    ]
    first = trained[0].scorer
    costs = module_flops(first.config)
    losses = [each["losses"] for each in found]
    return Brute(
        hits=np.stack([each["hits"] for each in found]),
        losses=np.stack(losses) if losses[0].size else None,
        flops=costs["user"] + costs["pair"] * first.examples.num_items,
    )


def _measure(own: Trained, part: Part, *, events: int) -> Mapping[str, np.ndarray]:
    examples = own.scorer.examples
    asked = examples.next_liked(part)
    hits = recall_by_user(own.scorer.best(own.params, asked), examples.items[asked][:, None])
    print(f"{own.label}, seed {own.seed}: {PARTS[part]} measured", flush=True)
    if not has_negatives(examples):
        return {"hits": hits, "losses": np.zeros(0)}
    rows = rated_rows(examples, part, events=events)
    logits = own.scorer.like_logits(own.params, rows)
    return {"hits": hits, "losses": relative_losses(Scored(logits, examples.labels[rows], hits))}


def rated_rows(examples: Examples, part: Part, *, events: int) -> np.ndarray:
    """Draw the events of a part that NE is taken of, the same ones for all that is measured."""
    rows = examples.rows(part)
    chosen = np.random.default_rng([11, part]).choice(rows, min(events, len(rows)), replace=False)
    return np.sort(chosen)


def brute_table(
    found: Mapping[str, Brute],
    *,
    part: Part,
    baselines: Mapping[str, np.ndarray],
    ceiling: np.ndarray | None = None,
) -> tuple[Table, dict[str, float]]:
    """Show every model by brute force beside baselines that are not trained.

    Args:
      found: of the models, the two tower first.
      part: that they were measured on.
      baselines: hits of others by name, float [users].
      ceiling: hits of the truth where it is known, float [users].
    """
    base = found[TWO_TOWER]
    rows, figures = [], {}

    def row(name: str, brute: Brute | None, hits: np.ndarray) -> list:
        over = over_seeds_and_users(hits - base.hits)
        figures.update({f"{name}/recall@{K}": float(hits.mean()), f"{name}/gain": over[0]})
        figures[f"{name}/gain_se"] = over[1]
        gain = None if brute is base else signed(*over)
        if brute is None:
            return [name, float(hits.mean()), gain, None, None, None, None]
        of_seeds = f"{hits.mean(1).min():.4f} to {hits.mean(1).max():.4f}"
        figures[f"{name}/flops"] = brute.flops
        ne, change = _entropies(brute, base)
        if brute.losses is not None:
            figures[f"{name}/ne"] = float(brute.losses.mean())
        return [name, float(hits.mean()), gain, of_seeds, ne, change, brute.flops / base.flops]

    def alone(name: str, hits: np.ndarray) -> list:
        return row(name, None, np.broadcast_to(hits, base.hits.shape))

    for name, brute in found.items():
        rows.append(row(NAMES[name], brute, brute.hits))
    others = [alone(name, hits) for name, hits in baselines.items()]
    if ceiling is not None:
        rows.append(alone("the planted interests themselves", ceiling))
    seeds, users = base.hits.shape
    table = Table(
        title=f"Brute force, the same features, {PARTS[part]}",
        columns=("", f"recall@{K}", "over the two tower", "of seeds", "NE", "change", "cost"),
        baselines=[*others, rows[0]],
        rows=rows[1:],
        note=f"{users:,} users, {seeds} seed(s); standard errors over both. Cost: operations of "
        "a query, user tower and all items, over the two tower's. Popularity, Markov and item-KNN "
        "add up sparse rows; they are not trained and have no cost here.",
    )
    return table, figures


def _entropies(brute: Brute, base: Brute) -> tuple[float | str, str | None]:
    if brute.losses is None or base.losses is None:
        return NO_NEGATIVES, None
    change, error = over_seeds_and_users(brute.losses - base.losses)
    whole = float(base.losses.mean())
    return float(brute.losses.mean()), (
        None if brute is base else f"{change / whole:+.2%} ± {error / whole:.2%}"
    )
