"""Task planted: does a learned index find a simulated tree, and does it collapse without remedies?

Nodes start at random around the mean of the items. The remedies are balance, dead-node
replacement, temperature schedule and warm-up; no capacity bound helps either side.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from experiments.data.drawn import Planted, planted_tree
from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, pick
from experiments.harness.plots import Draw, draw_points
from experiments.harness.report import Table
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.retrieval.nodes import log_learning, lti_config
from hsnn_jax.distance import nearest
from hsnn_jax.nodes.fit import FitResult, fit_index
from hsnn_jax.nodes.kmeans import kmeans
from hsnn_jax.nodes.telemetry import CollapseWarning, telemetry

REMEDIES = {
    "all remedies": {},
    "no balance": {"balance_weight": 0.0},
    "no replacement": {"dead_after": 0},
    "no schedule, no warm-up": {"alpha_exponent": 0.0, "warmup_steps": 0},
    "no remedies": {
        "balance_weight": 0.0,
        "dead_after": 0,
        "alpha_exponent": 0.0,
        "warmup_steps": 0,
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlantedConfig:
    """The simulated tree, and the learners."""

    items: int = 5000
    """items"""
    leaves: int = 64
    """leaves of the tree, and nodes of the index"""
    pairs: int = 20_000
    """pairs of a user and an item"""
    width: int = 32
    """of the vectors"""
    steps: int = 1500
    """steps of each learner"""
    batch_size: int = 256
    """pairs a step"""
    dead_after: int = 30
    """batches without use after which a remedy replaces a node"""
    adam_rate: float = 3e-3
    """learning rate of Adam"""
    sgd_rate: float = 0.3
    """learning rate of plain gradient descent"""
    optimizers: tuple[Literal["Adam", "SGD"], ...] = ("Adam", "SGD")
    """who trains"""
    remedies: tuple[str, ...] = tuple(REMEDIES)
    """with which remedies"""

    def __post_init__(self) -> None:
        if set(self.remedies) - set(REMEDIES):
            expected = f"some of {tuple(REMEDIES)}"
            raise bad_input("--planted.remedies", expected=expected, found=str(self.remedies))


def measure_nodes(drawn: Planted, nodes: ArrayLike) -> dict[str, float]:
    """Return purity and the use of the nodes, by the nearest node of each item."""
    items, vectors = jnp.asarray(drawn.items), jnp.asarray(nodes)
    node = np.asarray(nearest(items, vectors)[0])
    table = np.zeros((vectors.shape[0], drawn.leaf.max() + 1), np.int64)
    np.add.at(table, (node, drawn.leaf), 1)
    found = telemetry(items, vectors, alpha=None)[0]
    names = ("used_nodes", "used_share", "perplexity", "imbalance")
    return {"purity": table.max(axis=1).sum() / len(node)} | {n: found[n] for n in names}


def learn(
    drawn: Planted, config: PlantedConfig, *, optimizer: str, seed: int, **changes: Any
) -> FitResult:
    """Learn the nodes from a random start."""
    changes = {"start": "random", "dead_after": config.dead_after} | changes
    rate = config.adam_rate if optimizer == "Adam" else config.sgd_rate
    make = optax.adam if optimizer == "Adam" else optax.sgd
    with warnings.catch_warnings():  # a collapse is what some variants show
        warnings.simplefilter("ignore", CollapseWarning)
        return fit_index(
            drawn.users,
            drawn.items,
            positives=drawn.liked,
            tx=make(rate),
            config=lti_config(nodes=config.leaves, steps=config.steps, **changes),
            key=jax.random.key(seed),
            batch_size=config.batch_size,
            log_every=max(1, config.steps // 20),
        )


def run_planted(run: Run, config: PlantedConfig, *, seeds: Sequence[int]) -> Outcome:
    """Learn with the remedies on and off, from every seed."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        drawn = planted_tree(
            items=config.items,
            users=config.pairs,
            width=config.width,
            leaves=config.leaves,
            branches=8,
            skew=0.25,  # the largest leaf holds about twice the mean: even nodes can be pure
            seed=seed,
        )
        means = kmeans(jnp.asarray(drawn.items), config.leaves, key=jax.random.key(seed))
        found.setdefault("k-means", []).append(measure_nodes(drawn, means))
        for optimizer in config.optimizers:
            for remedy in config.remedies:
                name = f"LTI, {optimizer}, {remedy}"
                fitted = learn(drawn, config, optimizer=optimizer, seed=seed, **REMEDIES[remedy])
                found.setdefault(name, []).append(measure_nodes(drawn, fitted.params["nodes"]))
                log_learning(run, fitted.metrics, stage=f"{name}-{seed}")
                print(f"seed {seed}, {name}: done", flush=True)
    return _outcome(found, config, seeds)


def _outcome(found, config: PlantedConfig, seeds) -> Outcome:
    metrics, rows = {}, []
    for name, own in found.items():
        cells = []
        for figure in ("purity", "used_share", "perplexity", "imbalance"):
            values = np.array([one[figure] for one in own])
            metrics |= {f"{name}/{s}/{figure}": v for s, v in zip(seeds, values)}
            cells += [float(values.mean()), f"{values.min():.3g} to {values.max():.3g}"]
        rows.append([name, *cells])
    columns = ("", "purity", "of seeds", "used nodes", "of seeds", "perplexity", "of seeds")
    columns += ("max / mean items", "of seeds")
    table = Table(
        title="A planted tree, simulated",
        columns=columns,
        baselines=rows[:1],
        rows=rows[1:],
        note=f"{config.items:,} items on {config.leaves} leaves of unequal size, as many nodes, "
        f"random start, {len(seeds)} seed(s). By the nearest node, no capacity bound. Purity: "
        "share of items whose leaf is the commonest of their node.",
    )
    return Outcome(
        title="Collapse and its remedies, simulated",
        intro="Simulated: unit vectors around the leaves of a planted tree.",
        protocol={"data": "simulated planted tree", "capacity": "none"},
        metrics=metrics,
        baselines={k: v for k, v in metrics.items() if k.startswith("k-means/")},
        tables=[table],
    )


def collapse_panels(figures: Figures) -> list[Draw]:
    """Draw how pure the nodes are and how many are used, a dot per seed."""
    shown = (
        ("purity", "purity of the nodes", "Is the tree found?"),
        ("used_share", "share of the nodes in use", "Do nodes collapse?"),
    )
    return [
        functools.partial(
            draw_points,
            rows={name: own for (name,), own in pick(figures, rf"(.+)/\d+/{figure}").items()},
            label=label,
            title=title,
            reference=1.0,
        )
        for figure, label, title in shown
    ]
