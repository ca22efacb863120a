"""From trained towers to an HSNN index: learn nodes, choose a budget, measure cost and recall."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import hsnn_jax
import nxtpost_jax
from experiments.next_item import Problem
from experiments.run_folder import Run
from experiments.timing import median_seconds, percentiles_ms, seconds_of
from hsnn_jax import Index, LTIConfig, SearchResult, Tiles
from hsnn_jax.scorers import dot
from nxtpost_jax import PAD, Metrics, NxtPost, Queries
from nxtpost_jax.batches import training_windows
from nxtpost_jax.ranking import metrics_of_ranks, unique_items
from nxtpost_jax.sequences import gather_rows, window_index

K = 10  # items a request asks for
# Shares of the catalogue a search may score; validation chooses the least that is good enough.
BUDGET_SHARES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25)
KEPT_SHARE = 0.97  # of exact search's validation HR@10
MAX_BEAM = 32  # nodes that a search may visit


@dataclasses.dataclass(frozen=True, eq=False)
class Towers:
    """Trained towers with the catalogue encoded: item_vectors float32 [N, D]."""

    model: NxtPost
    params: dict
    item_vectors: jax.Array

    def encode(self, queries: Queries, *, batch_size: int = 256) -> jax.Array:
        """Encode the users of queries: float32 [q, D]."""
        parts = []
        for rows in np.array_split(np.arange(len(queries)), max(1, -(-len(queries) // batch_size))):
            # One shape for all batches: the last ones repeat their first row.
            padded = np.pad(rows, (0, batch_size - len(rows)), constant_values=rows[0])
            histories = nxtpost_jax.pad_histories(
                queries.histories.select(padded), self.model.config.max_len
            )
            vectors = nxtpost_jax.user_vectors(
                self.model, self.params, self.item_vectors, histories
            )
            parts.append(vectors[: len(rows)])
        return jnp.concatenate(parts)


def encode_towers(problem: Problem, model: NxtPost, params) -> Towers:
    """Encode the catalogue with trained parameters."""
    content = None if problem.content is None else jnp.asarray(problem.content)
    return Towers(model, params, nxtpost_jax.encode_catalogue(model, params, content))


def training_pairs(
    problem: Problem, towers: Towers, *, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw up to `most` training positions: the state there [n, D] and the item that followed."""
    split, max_len = problem.split, towers.model.config.max_len
    starts, lengths = training_windows(split.train, max_len)
    order = np.random.default_rng(seed).permutation(len(starts))
    order = order[: np.searchsorted(np.cumsum(lengths[order]), most) + 1]
    batch, states, labels = 64, [], []
    for rows in np.resize(order, (-(-len(order) // batch), batch)):
        index, valid = window_index(starts[rows], lengths[rows], max_len)
        histories = gather_rows(split.train, index, valid)
        states.append(np.asarray(_states(towers, histories))[valid])
        labels.append(split.train.items[index + 1][valid])
    return np.concatenate(states)[:most], np.concatenate(labels)[:most]


def _states(towers: Towers, histories) -> jax.Array:
    items = jnp.maximum(histories["items"], 0)
    return _encode_positions(
        towers.model, towers.params, histories, jnp.take(towers.item_vectors, items, axis=0)
    )


def _positions(model: NxtPost, params, histories, vectors):
    return model.apply({"params": params}, histories, vectors, method="encode_histories")


_encode_positions = jax.jit(_positions, static_argnums=0)


def learn_index(
    run: Run,
    problem: Problem,
    towers: Towers,
    *,
    config: LTIConfig,
    tx: optax.GradientTransformation,
    pairs: int,
    seed: int,
    mesh: Mesh,
) -> Indexed:
    """Learn the nodes by LTI on training pairs, the optimizer sharded over the mesh; fill lists."""
    users, positives = training_pairs(problem, towers, most=pairs, seed=seed)
    with jax.set_mesh(mesh):
        fitted = hsnn_jax.fit_index(
            users, towers.item_vectors, positives, tx, config=config, key=jax.random.key(seed)
        )
    run.truncate_metrics("index", after_step=0)
    for record in fitted.metrics:
        run.log("index", **record)
    nodes = jax.device_get(fitted.params["nodes"])
    index = hsnn_jax.build_index(towers.item_vectors, nodes)
    return Indexed(index, hsnn_jax.pack(index, towers.item_vectors))


@dataclasses.dataclass(frozen=True, eq=False)
class Indexed:
    """An index with the item vectors laid out by its lists."""

    index: Index
    tiles: Tiles

    @property
    def max_beam(self) -> int:
        """Nodes that a search may visit."""
        return min(MAX_BEAM, self.index.nodes.shape[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Requests:
    """Queries made ready: users float32 [q, D], targets [q], items left out int32 [q, E]."""

    users: jax.Array
    targets: np.ndarray
    seen: np.ndarray


def make_requests(problem: Problem, towers: Towers, queries: Queries) -> Requests:
    """Encode the users of queries and list what must not be recommended to them."""
    seen = np.full((len(queries), 1), PAD, np.int32)
    if problem.protocol.seen_filter:
        seen = unique_items(queries.histories, int(queries.histories.lengths.max()))
    return Requests(towers.encode(queries), np.asarray(queries.targets), seen)


def _metrics(requests: Requests, ids, num_items: int, *, bootstrap: int = 1000) -> Metrics:
    """Rank the targets in lists of K ids; one that is not listed counts as last."""
    hits = np.asarray(ids) == requests.targets[:, None]
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, num_items)
    return metrics_of_ranks(ranks, ks=(K,), bootstrap=bootstrap)


def find(indexed: Indexed, requests: Requests, *, budget: int) -> SearchResult:
    """Search every request through the index."""
    return hsnn_jax.search(
        dot,
        None,
        indexed.index,
        indexed.tiles,
        requests.users,
        K,
        budget=budget,
        max_beam=indexed.max_beam,
        exclude=requests.seen,
    )


def find_exactly(towers: Towers, requests: Requests) -> SearchResult:
    """Score every item for every request."""
    return hsnn_jax.brute_force(
        dot, None, towers.item_vectors, requests.users, K, exclude=requests.seen
    )


def budgets_of(index: Index) -> list[int]:
    """Return the budgets to try, each at least one list's capacity."""
    num_items, capacity = int(index.positions.shape[0]), int(index.lists.shape[1])
    return sorted({max(capacity, round(share * num_items)) for share in BUDGET_SHARES})


def choose_budget(towers: Towers, indexed: Indexed, requests: Requests) -> int:
    """Return the least budget that keeps `KEPT_SHARE` of exact HR@10 on validation requests."""
    num_items = int(indexed.index.positions.shape[0])

    def hit_rate(found: SearchResult) -> float:
        return _metrics(requests, found.ids, num_items, bootstrap=0)[f"hr@{K}"]

    exact = hit_rate(find_exactly(towers, requests))
    budgets = budgets_of(indexed.index)
    good = (b for b in budgets if hit_rate(find(indexed, requests, budget=b)) >= KEPT_SHARE * exact)
    return next(good, budgets[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieved:
    """What a search found and what it cost.

    Attributes:
      metrics: HR and NDCG at 10 with standard errors.
      recall: mean share of the exact top 10 that was found.
      items_scored: mean a query.
      queries_per_second: warm, all queries in one call, vectors of users given.
      p50_ms, p99_ms: of one warm request, from history to ids.
    """

    metrics: Metrics
    recall: float
    items_scored: float
    queries_per_second: float
    p50_ms: float
    p99_ms: float


def measure(
    problem: Problem,
    towers: Towers,
    indexed: Indexed | None,
    queries: Queries,
    requests: Requests,
    *,
    budget: int = 0,
) -> Retrieved:
    """Search the queries, made ready as `requests`, through the index, or exactly without one."""

    def run(some: Requests) -> SearchResult:
        if indexed is None:
            return find_exactly(towers, some)
        return find(indexed, some, budget=budget)

    found = run(requests)
    exact = found if indexed is None else find_exactly(towers, requests)
    seconds = median_seconds(lambda: run(requests).ids, repeats=5)
    p50_ms, p99_ms = percentiles_ms(_request_latencies(problem, towers, run, queries))
    return Retrieved(
        metrics=_metrics(requests, found.ids, problem.num_items),
        recall=hsnn_jax.recall(found.ids, exact.ids),
        items_scored=float(np.asarray(found.items_scored).mean()),
        queries_per_second=len(queries) / seconds,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
    )


def _request_latencies(problem, towers, run, queries: Queries, *, count: int = 200) -> list[float]:
    """Time single requests end to end, after one that compiles."""
    width = int(queries.histories.lengths.max())

    def answer(row: int):
        history = queries.histories.select(np.array([row]))
        padded = nxtpost_jax.pad_histories(history, towers.model.config.max_len)
        user = nxtpost_jax.user_vectors(towers.model, towers.params, towers.item_vectors, padded)
        seen = np.full((1, width), PAD, np.int32)
        if problem.protocol.seen_filter:
            seen = unique_items(history, width)
        return run(Requests(user, queries.targets[:1], seen)).ids

    rows = (0, *range(min(count, len(queries))))
    return [seconds_of(functools.partial(answer, row)) for row in rows][1:]


def recall_curve(
    towers: Towers, indexed: Indexed, requests: Requests, budgets: Sequence[int]
) -> list[tuple[float, float]]:
    """Return (items scored, recall of the exact top 10) at several budgets."""
    points = hsnn_jax.frontier(
        dot,
        None,
        indexed.index,
        towers.item_vectors,
        requests.users,
        K,
        budgets=budgets,
        max_beam=indexed.max_beam,
        exclude=requests.seen,
    )
    return [(point.items_scored, point.recall) for point in points]
