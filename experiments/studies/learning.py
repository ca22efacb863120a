"""Task learning: the index learned jointly with the towers or after them, and what it needs.

All variants train the same linear towers over the same vectors for the same number of steps.
Separate: the towers alone, then k-means, EM or LTI on their vectors. Joint: towers and nodes by
one loss (LTI), and without its schedule, warm-up or balance, or with Sinkhorn assignments.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import optax

from experiments.data.drawn import planted_tree
from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, mean_and_error, pick
from experiments.harness.plots import Draw, draw_points
from experiments.harness.report import Table, signed
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.retrieval.linear_towers import Adapted, Vectors, adapt
from experiments.retrieval.nodes import lti_config
from experiments.retrieval.searchers import (
    HSNN,
    Requests,
    dot_model,
    measure_all,
    truth_of,
)
from experiments.tasks.pairs import PairProblem
from hsnn_jax.cost_curves import Measured, at_equal
from hsnn_jax.nodes.learners import EM, LTI, KMeans, Learner
from hsnn_jax.nodes.telemetry import telemetry

SHARES = (0.02, 0.04, 0.05, 0.07, 0.1, 0.15)
K = 20
Of = Literal["recall", "truth"]  # of exact answers, of held-out items
OF: tuple[Of, ...] = ("recall", "truth")

JOINT = {
    "joint LTI": {},
    "joint LTI, no temperature schedule": {"alpha_exponent": 0.0},
    "joint LTI, no warm-up": {"warmup_steps": 0},
    "joint LTI, no balance": {"balance_weight": 0.0},
    "joint LTI, Sinkhorn": {"assignment": "sinkhorn"},
}
SEPARATE = ("separate k-means", "separate EM", "separate LTI")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """Variants of index learning."""

    nodes: int = 128
    """nodes of every index"""
    steps: int = 1000
    """steps of the towers, with the index or without, and of LTI after them"""
    batch_size: int = 512
    """pairs a step"""
    rate: float = 1e-3
    """learning rate of Adam"""
    share: float = 0.05
    """of the items, at which the variants are compared"""
    users: int = 1000
    """users, drawn by seed, who ask"""
    pairs: int = 200_000
    """training pairs that are drawn from"""
    slack: float = 1.5
    """slots of a list over the mean number of items of a node"""
    items: int = 6000
    """items of the planted tree, where no data is given"""
    variants: tuple[str, ...] = (*SEPARATE, *JOINT)
    """what is learned; the first is what the others are compared with"""

    def __post_init__(self) -> None:
        known = (*SEPARATE, *JOINT)
        if not self.variants or set(self.variants) - set(known):
            found = ", ".join(self.variants) or "none"
            raise bad_input("--learning.variants", expected=f"some of {known}", found=found)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Vectors to learn from and users to ask about: truth int32 [B, w], -1 after."""

    vectors: Vectors
    requests: Requests
    truth: np.ndarray


def planted_task(seed: int, *, config: LearningConfig) -> Task:
    """Draw a planted tree; the last users ask, for the item that each was drawn near to."""
    drawn = planted_tree(
        items=config.items,
        users=config.pairs + config.users,
        width=32,
        leaves=max(8, config.items // 40),
        seed=seed,
    )
    pairs, asked = slice(0, config.pairs), slice(config.pairs, None)
    none = np.full((config.users, 1), -1, np.int32)
    return Task(
        Vectors(drawn.users[pairs], drawn.liked[pairs], drawn.items),
        Requests(drawn.users[asked], none),
        drawn.liked[asked][:, None],
    )


def towers_task(
    seed: int,
    *,
    problem: PairProblem,
    towers: tuple[np.ndarray, np.ndarray],
    config: LearningConfig,
) -> Task:
    """Take the vectors of trained towers, training pairs and test users drawn by seed."""
    users, items = towers
    rows = np.random.default_rng([seed, 4]).permutation(len(problem.train.users))
    pairs = rows[: config.pairs]
    asked = problem.users_with(problem.test, most=config.users, seed=seed)
    return Task(
        Vectors(users[problem.train.users[pairs]], problem.train.items[pairs], items),
        Requests(users[asked], problem.known.padded(asked)),
        problem.test.padded(asked),
    )


def learn_all(
    task: Task, config: LearningConfig, *, seed: int
) -> Iterator[tuple[str, Adapted, jax.Array]]:
    """Yield (variant, towers, nodes) of one seed."""
    key = jax.random.key(seed)
    train = functools.partial(
        adapt, task.vectors, rate=config.rate, key=key, batch_size=config.batch_size
    )
    lti = functools.partial(lti_config, nodes=config.nodes, steps=config.steps)
    base = lti()
    alone = train(base, joint=False)
    users, items = alone.users(task.vectors.users), alone.items(task.vectors.items)
    tx = optax.adam(config.rate)
    learners = (
        KMeans(num_nodes=(config.nodes,)),
        EM(config=base, tx=tx, batch_size=config.batch_size, rounds=min(10, config.steps)),
        LTI(config=base, tx=tx, batch_size=config.batch_size),
    )
    chosen: dict[str, Learner] = dict(zip(SEPARATE, learners, strict=True))
    for name in config.variants:
        if name in JOINT:
            both = train(lti(**JOINT[name]), joint=True)
            yield name, both, both.params["nodes"]
            continue
        learned = chosen[name].learn(users, items, positives=task.vectors.positives, key=key)
        yield name, alone, learned.nodes[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """One variant of one seed."""

    points: list[Measured]
    exact: Measured
    telemetry: dict[str, float]


def measure_variant(
    task: Task, towers: Adapted, *, nodes: jax.Array, config: LearningConfig
) -> Learned:
    """Index the towers' item vectors by the nodes and measure cost and recall."""
    items = np.asarray(towers.items(task.vectors.items))
    users = np.asarray(towers.users(task.requests.users))
    requests = Requests(users, task.requests.exclude)
    model, count = dot_model(items), len(items)
    hsnn = HSNN("HSNN", model, items, nodes, slack=config.slack)
    budgets = sorted({round(share * count) for share in SHARES})
    exact, curves = measure_all(
        model, [hsnn], requests=requests, k=K, budgets=budgets, truth=task.truth
    )
    return Learned(curves[hsnn.name], exact, telemetry(items, nodes, alpha=None)[0])


def run_learning(
    run: Run,
    make_task: Callable[[int], Task],
    *,
    config: LearningConfig,
    protocol: Mapping[str, Any],
    seeds: Sequence[int],
) -> Outcome:
    """Measure every variant from every seed; `make_task` maps a seed to a `Task`."""
    found: dict[str, list[Learned]] = {}
    num_items = 0
    for seed in seeds:
        task = make_task(seed)
        for name, towers, nodes in learn_all(task, config, seed=seed):
            learned = measure_variant(task, towers, nodes=nodes, config=config)
            found.setdefault(name, []).append(learned)
            run.truncate_metrics(f"{name}-{seed}", after_step=0)  # of a resumed run
            run.log(f"{name}-{seed}", config.steps, **learned.telemetry)
            print(f"seed {seed}, {name}: done", flush=True)
        num_items = len(task.vectors.items)
    return _outcome(found, config, num_items, protocol=protocol, seeds=seeds)


def _at_share(learned: Learned, config: LearningConfig, num_items: int, of: Of) -> np.ndarray:
    """Return the recall of every user at the share; at the nearest point outside the curve."""
    value = config.share * num_items
    found = at_equal(learned.points, cost="items_scored", value=value, of=of)
    if found is None:
        nearest = min(learned.points, key=lambda p: abs(p.items_scored - value))
        found = getattr(nearest, of)
    return found


def _outcome(found, config: LearningConfig, num_items: int, *, protocol, seeds) -> Outcome:
    metrics, rows, base = {}, [], config.variants[0]
    at = functools.partial(_at_share, config=config, num_items=num_items)

    def of_seeds(name, of):
        return np.array([np.nanmean(at(learned, of=of)) for learned in found[name]])

    def difference(name, of):
        return mean_and_error(of_seeds(name, of) - of_seeds(base, of))

    for name, learned in found.items():
        usage = {
            f: float(np.mean([one.telemetry[f] for one in learned]))
            for f in ("used_nodes", "perplexity", "imbalance")
        }
        recalls = {of: of_seeds(name, of) for of in OF}
        exact = float(np.mean([np.nanmean(truth_of(one.exact)) for one in learned]))
        (change, error), (other, other_error) = (difference(name, of) for of in recalls)
        metrics |= {f"{name}/{seed}/recall": v for seed, v in zip(seeds, recalls["recall"])}
        metrics |= {f"{name}/{seed}/recall@{K}": v for seed, v in zip(seeds, recalls["truth"])}
        metrics |= {f"{name}/{f}": v for f, v in usage.items()}
        metrics |= {f"{name}/above": change, f"{name}/above_se": error, f"{name}/exact": exact}
        metrics |= {f"{name}/truth_above": other, f"{name}/truth_above_se": other_error}
        shown = [signed(change, error), signed(other, other_error)]
        shown = [None, None] if name == base else shown
        cells = [recalls["recall"].mean(), shown[0], recalls["truth"].mean(), shown[1], exact]
        rows.append([name, *cells, *usage.values()])
    columns = ("", "recall of exact 20", "above the first", f"recall@{K}", "above the first")
    columns += ("exact", "used nodes", "perplexity", "max / mean items")
    table = Table(
        title=f"Joint or separate, at {config.share:.0%} of the items scored",
        columns=columns,
        baselines=rows[:1],
        rows=rows[1:],
        note=f"{config.nodes} nodes, {num_items:,} items. Means over {len(seeds)} seed(s); "
        "differences are paired by seed, with the standard error over seeds. Exact: recall of "
        "held-out items by brute force over the variant's own towers. Used nodes, perplexity and "
        "max / mean are of the nearest nodes, no capacity applied.",
    )
    return Outcome(
        title=f"Index learning on {protocol['data']}",
        intro="Linear towers over given vectors; the index is learned jointly with them or "
        "afterwards.",
        protocol={**protocol, "cut": K},
        metrics=metrics,
        baselines={f"{base}/recall": float(rows[0][1])},
        tables=[table],
    )


def learning_panels(figures: Figures) -> list[Draw]:
    """Draw each variant's recall above the first's, a dot per seed, with paired errors."""
    shown = (
        ("recall", "above_se", f"Recall of the exact top {K}"),
        (f"recall@{K}", "truth_above_se", f"Recall@{K} of held-out items"),
    )
    panels = []
    for figure, error, title in shown:
        own = {name: v for (name,), v in pick(figures, rf"(.+)/\d+/{figure}").items()}
        base = next(iter(own))
        errors = pick(figures, f"([^/]+)/{error}")
        panels.append(
            functools.partial(
                draw_points,
                rows={n: list(np.subtract(v, own[base])) for n, v in own.items() if n != base},
                errors={name: 2 * values[0] for (name,), values in errors.items()},
                label=f"minus that of {base}\n(line: two standard errors)",
                title=title,
                reference=0.0,
            )
        )
    return panels
