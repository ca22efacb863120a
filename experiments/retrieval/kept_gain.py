"""How much of a scorer's gain over the two tower HSNN keeps, and at which share of its cost.

The nodes are learned on item vectors, by k-means and by LTI from there: on the scorer's own, which
scores a node as its representative item, or on the two tower's, which scores the nodes and leaves
the items to the scorer. With learned routes, what is read of a node is learned from the scorer's
exact answers to training users. Beside them: the two tower's best items, re-ranked by the scorer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness.errors import bad_input
from experiments.harness.report import Table, signed
from experiments.retrieval.searchers import (
    HSNN,
    Encode,
    Exact,
    Model,
    Requests,
    Reranked,
    measure_all,
    monn_model,
    truth_of,
)
from hsnn_jax.cost_curves import Measured, Searcher, paired_difference
from hsnn_jax.lists.index import Index, build_index
from hsnn_jax.monn.network import MoNNScorer
from hsnn_jax.nodes.beam_aware import RouteConfig, fit_routes

TWO_TOWER = "XS"  # the model that the gains are over
NAMES = {
    TWO_TOWER: "two tower",
    "S": "MoNN S",
    "M": "MoNN M",
    "L": "MoNN L",
    "XL": "MoNN XL",
    "MoL": "MoL 8x4",
}

SHARES = (0.02, 0.05, 0.06, 0.1, 0.2)  # of the items, what a search may score
# Slots of a list over the mean number of items of a node. A search scores a list's slots at
# least, and the smallest share of a small catalogue is to be measured.
SLACK = 1.1
CLEAR = 2.0  # standard errors from which a gain is taken apart; see `kept_share`
ROUTED = 0.08  # of the items: the budget that routes are learned for
ROUTED_NODES = "k-means"  # that they are learned of


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoutesTraining:
    """How routes are learned (Adam on a cosine)."""

    users: int = 5000
    """training users whose exact answers they are learned from"""
    steps: int = 1000
    """training steps"""
    batch_size: int = 256
    """users a step"""
    rate: float = 1e-2
    """peak learning rate; it falls to a twentieth"""


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """A trained scorer on the users who ask: encoded once, requests hold their rows.

    Attributes:
      model: its `encode_users` is from `rows_of`.
      requests: rows of the encoded users, int32 [B, 1], and what not to return.
      truth: int [B, w], held-out items.
      nodes: float [K, d] by name, among `vectors` float [n, d] of the items.
      learners: requests of training users, as `requests`, from which routes are learned.
      crosses: an index and encoded users to their crosses with its nodes, float [B, K, C], that
        learned routes read beside the two tower; None without.
    """

    model: Model
    requests: Requests
    truth: np.ndarray
    vectors: np.ndarray
    nodes: Mapping[str, np.ndarray]
    learners: Requests
    crosses: Callable[[Index, Any], Any] | None = None


def check_models(models: tuple[str, ...], known: Iterable[str], *, flag: str) -> None:
    """Raise InputError unless the two tower comes first and all models are known."""
    if set(models) - set(known) or models[:1] != (TWO_TOWER,):
        expected = f"{TWO_TOWER}, then some of {', '.join(known)}"
        raise bad_input(flag, expected=expected, found=", ".join(models) or "none")


def rows_of(users: Any) -> Encode:
    """Return a function from requests, which hold rows [B, 1], to those rows of encoded users."""
    users = jax.tree.map(jnp.asarray, users)
    return lambda asked: jax.tree.map(lambda x: x[jnp.asarray(asked.users)[:, 0]], users)


def serve_monn(
    name: str,
    scorer: MoNNScorer,
    *,
    params: Any,
    users: Any,
    items: Any,
    asking: np.ndarray,
    learning: np.ndarray,
    truth: np.ndarray,
    vectors: np.ndarray,
    nodes: Mapping[str, np.ndarray],
    crosses: Callable[[Index, Any], Any] | None = None,
) -> Served:
    """Serve a trained MoNN to B users who ask, and to U from whose answers routes are learned.

    Args:
      name, scorer, params, items: see `monn_model`.
      users: encoded, pytree of [B + U, ...]: those who ask, then the learners.
      asking, learning: int [B, E] and [U, E'], what not to return to them, -1 after.
      truth, vectors, nodes, crosses: see `Served`.
    """
    place = np.arange(len(asking) + len(learning))[:, None]
    return Served(
        model=monn_model(
            name, scorer, params=params, users=users, items=items, encode_users=rows_of(users)
        ),
        requests=Requests(place[: len(asking)], asking),
        truth=truth,
        vectors=vectors,
        nodes=nodes,
        learners=Requests(place[len(asking) :], learning),
        crosses=crosses,
    )


def measure_kept(
    served: Callable[[str, int], Served],
    models: Sequence[str],
    *,
    routes: RoutesTraining,
    k: int,
    seeds: Iterable[int],
) -> dict[str, list[dict[str, list[Measured]]]]:
    """Measure what is searched by every model of every seed, for `kept_table`.

    Args:
      served: maps one of the models and a seed to the model as it serves.
      models: of `NAMES`, the two tower first.
      routes: how they are learned.
      k: items to find.
      seeds: one after the other.
    """
    curves: dict[str, list] = {NAMES[model]: [] for model in models}
    for seed in seeds:
        two_tower = None
        for model in models:
            own = served(model, seed)
            two_tower = two_tower or own
            curves[NAMES[model]].append(serve(own, two_tower, k=k, routes=routes, seed=seed))
            print(f"{NAMES[model]}, seed {seed}: searched", flush=True)
    return curves


def serve(
    served: Served, two_tower: Served, *, k: int, routes: RoutesTraining, seed: int
) -> dict[str, list[Measured]]:
    """Measure exact search by a scorer, HSNN, and the two tower's best items re-ranked."""
    model = served.model
    searchers: list[Searcher] = [
        HSNN(f"HSNN {name}", model, served.vectors, nodes, slack=SLACK)
        for name, nodes in served.nodes.items()
    ]
    wanted = Exact("exact", model).search(served.learners, k, budget=0).ids
    learned = functools.partial(_routed, served=served, wanted=wanted, config=routes, seed=seed)
    searchers.append(learned(served))
    if served is not two_tower:
        searchers += [
            HSNN(
                f"HSNN {name}, two tower routes",
                model,
                two_tower.vectors,
                nodes,
                slack=SLACK,
                router=two_tower.model,
            )
            for name, nodes in two_tower.nodes.items()
        ]
        searchers.append(learned(two_tower))
        best = Exact("two tower", two_tower.model)
        searchers.append(Reranked("two tower re-ranked", best, model, 1, 1))
    budgets = [round(share * len(served.vectors)) for share in SHARES]
    exact, curves = measure_all(
        model, searchers, requests=served.requests, k=k, budgets=budgets, truth=served.truth
    )
    return {"exact": [exact]} | curves


def _routed(
    router: Served, *, served: Served, wanted: np.ndarray, config: RoutesTraining, seed: int
) -> HSNN:
    """Return a search by a scorer through nodes of its own or the two tower, of learned routes.

    The two tower's reads the crosses that the scorer has, summed over what a node lists.

    Args:
      router: whose nodes, and whose model begins the routes.
      served: whose items are searched.
      wanted: int [U, k], the exact answers to its learners.
      config, seed: of the training.
    """
    own, nodes = router is served, router.nodes[ROUTED_NODES]
    index = build_index(router.vectors, nodes, slack=SLACK)
    scorer, params = router.model.scorer, router.model.params

    def reads(asked: Requests) -> tuple[Any, Any]:
        users = router.model.encode_users(asked)
        if own or served.crosses is None:
            return users, None
        return users, served.crosses(index, served.model.encode_users(asked))

    users, crosses = reads(served.learners)
    routes, _ = fit_routes(
        scorer,
        params,
        users=users,
        features=router.model.features_of_nodes(index),
        wanted=wanted,
        index=index,
        tx=optax.adam(optax.cosine_decay_schedule(config.rate, config.steps, 0.05)),
        config=RouteConfig(
            budget=round(ROUTED * len(served.vectors)),
            steps=config.steps,
            batch_size=config.batch_size,
        ),
        key=jax.random.key(seed),
        crosses=crosses,
        exclude=served.learners.exclude,
    )

    def encode_users(asked: Requests) -> Any:
        users, crosses = reads(asked)
        return routes.level(scorer, params, users=users, crosses=crosses).users

    level = routes.level(scorer, params, users=users, crosses=crosses)
    model = dataclasses.replace(
        router.model,
        scorer=level.scorer,
        params=level.params,
        encode_users=encode_users,
        encode_nodes=lambda _: routes.nodes,
        user_flops=0.0 if own else router.model.user_flops,
    )
    whose = "" if own else "two tower's "
    name = f"HSNN {ROUTED_NODES}, {whose}learned routes"
    return HSNN(name, served.model, router.vectors, nodes, slack=SLACK, router=model)


def kept_table(
    curves: Mapping[str, Sequence[Mapping[str, list[Measured]]]],
    plain: Sequence[Measured],
    *,
    num_items: int,
    k: int,
) -> tuple[Table, dict[str, float]]:
    """Say what each search keeps of its scorer's gain over the two tower.

    Args:
      curves: of a scorer's name, what `serve` returned for each seed.
      plain: the two tower's exact search, a seed.
      num_items: that can be found.
      k: the cut.
    """
    base = np.mean([truth_of(point) for point in plain], axis=0)
    rows, figures = [], {}
    for scorer, seeds in curves.items():
        whole = np.mean([truth_of(own["exact"][0]) for own in seeds], axis=0)
        gain = paired_difference(whole, base)
        for name in seeds[0]:
            shares = (1.0,) if name == "exact" else SHARES
            for share, *points in zip(shares, *(own[name] for own in seeds), strict=True):
                row, own = _row(points, seeds, base, gain, num_items)
                key = f"{scorer}, {name}/{share:.0%}"
                figures |= {f"{key}/{figure}": value for figure, value in own.items()}
                # Budgets that afford the same lists are one row.
                if not rows or rows[-1][1:] != row:
                    rows.append([f"{scorer}, {name}", *row])
    mean_flops = float(np.mean([point.flops for point in plain]))
    first = ["two tower, exact", 1.0, None, float(base.mean()), None, None, mean_flops, None]
    table = Table(
        title="What a search keeps of the gain",
        columns=(
            *("", "share scored", "recall of the exact", f"recall@{k}", "over the two tower"),
            *("share of the gain", "FLOPs", "share of exact FLOPs"),
        ),
        baselines=[first],
        rows=rows,
        note=f"Means over {len(plain)} seed(s), paired by user. The share of the gain is given "
        f"where the exact gain exceeds {CLEAR:.0f} standard errors. The user tower counts. Items "
        "that the two tower scans count as scored only where the scorer re-ranks them; their "
        "FLOPs count.",
    )
    return table, figures


def kept_share(over: float, gain: tuple[float, float]) -> float | None:
    """Return the share of a gain that is kept; None where the gain is not clear.

    Args:
      over: what a search finds above the two tower.
      gain: what exact search does, and its standard error.
    """
    whole, error = gain
    return over / whole if whole > CLEAR * error else None


def _row(
    points: Sequence[Measured], seeds, base: np.ndarray, gain: tuple[float, float], num_items: int
) -> tuple[list, dict[str, float]]:
    truth = np.mean([truth_of(point) for point in points], axis=0)
    over, error = paired_difference(truth, base)
    kept = kept_share(over, gain)
    flops = float(np.mean([point.flops for point in points]))
    cost = flops / float(np.mean([own["exact"][0].flops for own in seeds]))
    share = float(np.mean([point.items_scored for point in points])) / num_items
    recall = float(np.mean([np.nanmean(point.recall) for point in points]))
    figures: dict[str, Any] = {
        "recall": float(truth.mean()),
        "over_two_tower": over,
        "over_two_tower_se": error,
        "flops_share": cost,
    }
    if kept is not None:
        figures["kept"] = kept
    cells = [share, recall, float(truth.mean()), signed(over, error), kept, flops, cost]
    return cells, figures
