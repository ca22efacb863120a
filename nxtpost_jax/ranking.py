"""Full ranking: a target's rank among all items, and what follows from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.splits import Queries

ScoresFn = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Hold mean figures over queries, their standard errors and the ranks behind them.

    Attributes:
      values: mean by name: "hr@10", "ndcg@10", "mrr", ...
      standard_errors: bootstrap over queries, by the same names.
      ranks: int32[q], the target's rank, 1 is the best.
    """

    values: dict[str, float]
    standard_errors: dict[str, float]
    ranks: np.ndarray

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@jax.jit
def rank_of_targets(scores_BxN, targets_B, seen_BxS):
    """Rank each target among all items, less the ones its user has seen.

    Ties count against the target: its rank is the number of candidates, itself included, that
    score at least as much. A score of NaN counts as the highest for another item and ranks the
    target last; so does a target that is itself in `seen`, since no recommendation could hold it.

    Args:
      scores_BxN: f32[B, N].
      targets_B: int32[B].
      seen_BxS: int32[B, S], item ids left out, without repetition in a row, PAD elsewhere.

    Returns:
      int32[B], from 1 to N.
    """
    num_items = scores_BxN.shape[1]
    target_Bx1 = jnp.take_along_axis(scores_BxN, targets_B[:, None], axis=1)
    above_B = jnp.sum(~(scores_BxN < target_Bx1), axis=1)
    seen_scores_BxS = jnp.take_along_axis(scores_BxN, jnp.maximum(seen_BxS, 0), axis=1)
    real_BxS = seen_BxS != PAD
    seen_above_B = jnp.sum(real_BxS & ~(seen_scores_BxS < target_Bx1), axis=1)
    target_seen_B = jnp.any(real_BxS & (seen_BxS == targets_B[:, None]), axis=1)
    last_B = target_seen_B | jnp.isnan(target_Bx1[:, 0])
    return jnp.where(last_B, num_items, above_B - seen_above_B).astype(jnp.int32)


def metrics_of_ranks(
    ranks, *, ks: Sequence[int] = (10,), bootstrap: int = 1000, seed: int = 0
) -> Metrics:
    """Average hit rate and NDCG at each k and the reciprocal rank over queries.

    With one relevant item a query, NDCG@k is 1 / log2(rank + 1) for a rank of at most k, else 0.

    Args:
      ranks: int[q], 1 is the best.
      ks: cut-offs.
      bootstrap: resamples of the queries for the standard errors.
      seed: draws the resamples.

    Raises:
      ValueError: there is no query, or a cut-off is below 1.
    """
    ranks = np.asarray(ranks, np.int32)
    if not len(ranks):
        raise ValueError("queries: expected at least one, found none")
    if min(ks) < 1:
        raise ValueError(f"ks: expected cut-offs of at least 1, found {tuple(ks)}")
    gain = 1 / np.log2(ranks + 1.0)
    columns = {f"hr@{k}": (ranks <= k).astype(np.float64) for k in ks}
    columns |= {f"ndcg@{k}": np.where(ranks <= k, gain, 0.0) for k in ks}
    columns["mrr"] = 1.0 / ranks
    values_QxM = np.stack(list(columns.values()), axis=1)
    errors = _bootstrap_errors(values_QxM, bootstrap, np.random.default_rng(seed))
    means = values_QxM.mean(axis=0)
    return Metrics(dict(zip(columns, means.tolist())), dict(zip(columns, errors.tolist())), ranks)


def evaluate(
    scores_fn: ScoresFn,
    queries: Queries,
    *,
    max_len: int,
    ks: Sequence[int] = (10,),
    seen_filter: bool = True,
    batch_size: int = 256,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Rank every query's target against all items.

    Args:
      scores_fn: takes a batch of `sequences.pad_histories` (B = `batch_size` rows, the last
        batch filled up with repeated ones) and returns f32[B, N], a score an item.
      queries: histories and targets.
      max_len: events of a history that `scores_fn` is given; the seen filter has all of them.
      ks: cut-offs of hit rate and NDCG.
      seen_filter: leave a user's earlier items out of the candidates.
      batch_size: B.
      bootstrap, seed: see `metrics_of_ranks`.
    """
    widest = int(queries.histories.lengths.max(initial=0)) if seen_filter else 0
    ranks = [
        _rank_batch(scores_fn, queries, rows, max_len, widest)
        for rows in _fixed_batches(len(queries), batch_size)
    ]
    ranks = np.concatenate(ranks)[: len(queries)] if ranks else np.zeros(0, np.int32)
    return metrics_of_ranks(ranks, ks=ks, bootstrap=bootstrap, seed=seed)


def dot_scores(users_fn: Callable, items_NxD) -> ScoresFn:
    """Turn a function from histories to user vectors f32[B, D] into one to scores."""
    return partial(_dot_scores, users_fn, items_NxD)


def unique_items(histories: Sequences, width: int) -> np.ndarray:
    """List each history's distinct items: int32[B, width], PAD after the last one."""
    rows = np.repeat(np.arange(len(histories)), histories.lengths)
    stride = int(histories.items.max(initial=0)) + 1
    keys = np.unique(rows * stride + histories.items)
    rows, items = keys // stride, keys % stride
    first = np.searchsorted(rows, np.arange(len(histories)))
    unique = np.full((len(histories), max(width, 1)), PAD, np.int32)
    unique[rows, np.arange(len(rows)) - first[rows]] = items
    return unique


def _rank_batch(scores_fn, queries: Queries, rows, max_len: int, widest: int) -> np.ndarray:
    histories = queries.histories.select(rows)
    scores_BxN = scores_fn(pad_histories(histories, max_len))
    targets_B = queries.targets[rows]
    if targets_B.max() >= scores_BxN.shape[1]:
        raise ValueError(
            f"targets: expected items below {scores_BxN.shape[1]}, the number of scores, "
            f"found {targets_B.max()}"
        )
    seen_BxS = np.full((len(rows), 1), PAD, np.int32)
    if widest:
        seen_BxS = unique_items(histories, widest)
    return np.asarray(rank_of_targets(scores_BxN, targets_B, seen_BxS))


def _fixed_batches(count: int, batch_size: int):
    """Split range(count) into batches of one size; the last is filled up with repetitions."""
    size = min(batch_size, count) or 1
    return np.resize(np.arange(count), -(-count // size) * size).reshape(-1, size)


def _dot_scores(users_fn, items_NxD, histories):
    return users_fn(histories) @ items_NxD.T


def _bootstrap_errors(values_QxM, resamples: int, rng) -> np.ndarray:
    """Deviate the means of resampled queries, a block of resamples at a time."""
    count, means = len(values_QxM), []
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(0, count, count), minlength=count)
        means.append(drawn @ values_QxM / count)
    return np.std(means, axis=0, ddof=1) if resamples > 1 else np.zeros(values_QxM.shape[1])
