"""From trained towers to HSNN: learn nodes, train a MoNN, choose budgets, measure cost and recall.

Two scorers search: the inner product of NxtPost's towers, and, added to it, a MoNN over the same
vectors and the items that follow those of the history. Either searches all items and the lists of
the nodes, which the inner product scores.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import nxtpost_jax
from experiments.harness.run_folder import Run
from experiments.harness.timing import median_seconds, percentiles_ms, seconds_of
from experiments.retrieval.nodes import log_learning
from experiments.retrieval.residual_monn import (
    MoNNTraining,
    Questions,
    as_model,
    residual,
    train_residual,
)
from experiments.retrieval.searchers import (
    HSNN,
    Array,
    Exact,
    Model,
    Requests,
    recall_curve,
)
from experiments.tasks.neighbours import fold_of, follower_lists, latest_first
from experiments.tasks.next_item import Problem
from hsnn_jax import LTIConfig
from hsnn_jax.cost_curves import Found, Searcher, recall
from hsnn_jax.cost_curves import measure as measure_budgets
from hsnn_jax.nodes.fit import fit_index
from nxtpost_jax import PAD, Metrics, NxtPost, Queries
from nxtpost_jax.evaluation.ranking import metrics_of_ranks, unique_items
from nxtpost_jax.events.batches import training_windows
from nxtpost_jax.events.sequences import gather_rows, window_index

K = 10  # items a request asks for
# The cross, chosen on MovieLens-1M's validation (docs/results/notes/monn-choices.md).
MET = 40  # latest items of a history that it counts
WINDOW = 2  # events that an item follows within
HALF_LIFE = 1.0  # of its recency, in items
# Shares of the catalogue a search may score; validation chooses the least that is good enough.
BUDGET_SHARES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25)
KEPT_SHARE = 0.97  # of exact search's validation HR@10


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
                self.model, self.params, item_vectors_NxD=self.item_vectors, histories=histories
            )
            parts.append(vectors[: len(rows)])
        return jnp.concatenate(parts)


def encode_towers(problem: Problem, model: NxtPost, *, params: Any) -> Towers:
    """Encode the catalogue with trained parameters."""
    content = None if problem.content is None else jnp.asarray(problem.content)
    return Towers(model, params, nxtpost_jax.encode_catalogue(model, params, content=content))


class Pairs(NamedTuple):
    """Training positions.

    Attributes:
      users: float32 [n, D], the user's state there.
      items: int32 [n], the item that followed.
      met: int32 [n, MET], the items up to there, latest first, -1 after.
      fold: int32 [n], see `tasks.neighbours.fold_of`.
    """

    users: np.ndarray
    items: np.ndarray
    met: np.ndarray
    fold: np.ndarray

    def draw(self, rng: np.random.Generator, *, size: int) -> dict[str, np.ndarray]:
        """Draw a batch of `size` pairs uniformly, with replacement."""
        rows = rng.integers(0, len(self.items), size)
        return {name: x[rows] for name, x in self._asdict().items()}


def training_pairs(problem: Problem, towers: Towers, *, most: int, seed: int) -> Pairs:
    """Draw up to `most` training positions."""
    split, max_len = problem.split, towers.model.config.max_len
    starts, lengths = training_windows(split.train, max_len)
    order = np.random.default_rng(seed).permutation(len(starts))
    order = order[: np.searchsorted(np.cumsum(lengths[order]), most) + 1]
    batch, states, events = 64, [], []
    for rows in np.resize(order, (-(-len(order) // batch), batch)):
        index, valid = window_index(starts[rows], lengths[rows], max_len)
        histories = gather_rows(split.train, index, valid)
        states.append(np.asarray(_states(towers, histories))[valid])
        events.append(index[valid])
    event = np.concatenate(events)[:most]
    owner = split.train.owners(event)
    return Pairs(
        users=np.concatenate(states)[:most],
        items=split.train.items[event + 1],
        met=latest_first(split.train.items, split.train.offsets[owner], ends=event + 1, length=MET),
        fold=fold_of(owner, True),
    )


def _states(towers: Towers, histories) -> jax.Array:
    items = jnp.maximum(histories["items"], 0)
    return _encode_positions(
        towers.model, towers.params, histories, jnp.take(towers.item_vectors, items, axis=0)
    )


def _positions(model: NxtPost, params, histories, vectors):
    return model.apply({"params": params}, histories, vectors, method="encode_histories")


_encode_positions = jax.jit(_positions, static_argnums=0)


def learn_nodes(
    run: Run,
    pairs: Pairs,
    *,
    item_vectors: Array,
    config: LTIConfig,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
) -> np.ndarray:
    """Learn nodes, float32 [K, D], by LTI on pairs, the optimizer sharded over the mesh."""
    with jax.set_mesh(mesh):
        fitted = fit_index(
            pairs.users,
            item_vectors,
            positives=pairs.items,
            tx=tx,
            config=config,
            key=jax.random.key(seed),
        )
    log_learning(run, fitted.metrics, stage="index")
    return jax.device_get(fitted.params["nodes"])


def train_monn(
    run: Run,
    problem: Problem,
    *,
    pairs: Pairs,
    towers: Towers,
    asked: Asked,
    config: MoNNTraining,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
) -> Model:
    """Train a MoNN over the towers' vectors and the followers of what the user met.

    `asked`, of validation, selects.
    """
    (size,) = config.sizes
    train = problem.split.train
    owners = train.owners(np.arange(len(train.items)))
    lists = follower_lists(owners, train.items, num_items=problem.num_items, window=WINDOW)
    width = towers.item_vectors.shape[1]
    scorer = residual(size, width, overarch=config.overarch, cross=True, half_life=HALF_LIFE)
    result = train_residual(
        run,
        scorer,
        item_vectors=towers.item_vectors,
        draw=functools.partial(pairs.draw, size=config.batch_size),
        config=config,
        tx=tx,
        questions=Questions(asked.requests, asked.targets[:, None], K),
        temperature=towers.model.config.temperature,
        stage="monn",
        seed=seed,
        mesh=mesh,
        lists=lists,
    )
    return as_model(
        f"MoNN {size}",
        scorer,
        params=result.params,
        item_vectors=towers.item_vectors,
        lists=lists,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """Queries made ready: what is searched for, and the targets int [q]."""

    requests: Requests
    targets: np.ndarray


def make_asked(problem: Problem, towers: Towers, *, queries: Queries) -> Asked:
    """Encode the users of queries, list what they met and what not to recommend to them."""
    seen = _seen(problem, queries, width=int(queries.histories.lengths.max()))
    requests = Requests(towers.encode(queries), seen, _met(queries))
    return Asked(requests, np.asarray(queries.targets))


def _met(queries: Queries) -> np.ndarray:
    histories = queries.histories
    return latest_first(
        histories.items, histories.offsets[:-1], ends=histories.offsets[1:], length=MET
    )


def _seen(problem: Problem, queries: Queries, *, width: int) -> np.ndarray:
    if problem.protocol.seen_filter:
        return unique_items(queries.histories, width)
    return np.full((len(queries), 1), PAD, np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Searches:
    """The two searches of one scorer: of all items, and through the index."""

    exact: Exact
    indexed: HSNN

    @property
    def num_items(self) -> int:
        """How many there are."""
        return int(self.indexed.retriever.stats()["items"])

    @property
    def budgets(self) -> list[int]:
        """The budgets to try, each at least one list's capacity."""
        least, most = self.indexed.least_budget, self.num_items
        return sorted({max(least, round(share * most)) for share in BUDGET_SHARES})

    def choose_budget(self, asked: Asked) -> int:
        """Return the least budget that keeps `KEPT_SHARE` of exact HR@10 on validation queries."""

        def hit_rate(searcher: Searcher, budget: int) -> float:
            found = searcher.search(asked.requests, K, budget=budget)
            return _metrics(asked, found.ids, self.num_items, bootstrap=0)[f"hr@{K}"]

        wanted = KEPT_SHARE * hit_rate(self.exact, 0)
        good = (b for b in self.budgets if hit_rate(self.indexed, b) >= wanted)
        return next(good, self.budgets[-1])

    def recall_curve(self, asked: Asked, exact: Found) -> list[tuple[float, float]]:
        """Return (items scored, recall of the exact answer) at several budgets."""
        points = measure_budgets(
            self.indexed, asked.requests, k=K, budgets=self.budgets, exact=exact.ids
        )
        return recall_curve(points)


def make_searches(model: Model, item_vectors: Array, *, nodes: Array, router: Model) -> Searches:
    """List the items at the nodes; `router` scores nodes, as if they were items."""
    name = f"{model.name}, HSNN"
    indexed = HSNN(name, model, item_vectors, nodes, slack=2.0, router=router)
    indexed.build()
    return Searches(Exact(f"{model.name}, exact", model), indexed)


def _metrics(asked: Asked, ids, num_items: int, *, bootstrap: int = 1000) -> Metrics:
    """Rank the targets in lists of K ids; one that is not listed counts as last."""
    hits = np.asarray(ids) == asked.targets[:, None]
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, num_items)
    return metrics_of_ranks(ranks, ks=(K,), bootstrap=bootstrap)


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieved:
    """What a search found and what it cost.

    Attributes:
      metrics: HR and NDCG at 10 with standard errors.
      recall: mean share of the exact top 10 that was found.
      items_scored: mean a query.
      flops: mean a query, the user tower of NxtPost left out.
      queries_per_second: warm, all queries in one call, vectors of users given.
      p50_ms, p99_ms: of one warm request, from history to ids.
    """

    metrics: Metrics
    recall: float
    items_scored: float
    flops: float
    queries_per_second: float
    p50_ms: float
    p99_ms: float


def measure(
    problem: Problem,
    towers: Towers,
    *,
    searcher: Searcher,
    queries: Queries,
    asked: Asked,
    exact: Found,
    budget: int,
) -> Retrieved:
    """Search the queries, made ready as `asked`; `exact` is the same scorer's exact answer."""

    def search(requests: Requests) -> Found:
        return searcher.search(requests, K, budget=budget)

    found = search(asked.requests)
    seconds = median_seconds(lambda: search(asked.requests).ids, repeats=5)
    p50_ms, p99_ms = percentiles_ms(_request_latencies(problem, towers, search, queries))
    return Retrieved(
        metrics=_metrics(asked, found.ids, problem.num_items),
        recall=recall(found.ids, exact.ids),
        items_scored=found.items_scored,
        flops=found.flops,
        queries_per_second=len(queries) / seconds,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
    )


def _request_latencies(problem, towers, search, queries: Queries, *, count=200) -> list[float]:
    """Time single requests end to end, after one that compiles."""
    width = int(queries.histories.lengths.max())

    def answer(row: int):
        query = queries.select(np.array([row]))
        padded = nxtpost_jax.pad_histories(query.histories, towers.model.config.max_len)
        user = nxtpost_jax.user_vectors(
            towers.model, towers.params, item_vectors_NxD=towers.item_vectors, histories=padded
        )
        return search(Requests(user, _seen(problem, query, width=width), _met(query))).ids

    rows = (0, *range(min(count, len(queries))))
    return [seconds_of(functools.partial(answer, row)) for row in rows][1:]
