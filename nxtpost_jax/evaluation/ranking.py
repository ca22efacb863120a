"""Full ranking: a target's rank among all items, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.arrays import Array
from nxtpost_jax.evaluation.dealing import Deal
from nxtpost_jax.evaluation.metrics import Metrics, inverse_propensity, metrics_of_ranks
from nxtpost_jax.events.checks import checked_mask, item_ids
from nxtpost_jax.events.columns import Moment, seconds
from nxtpost_jax.events.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.events.splits import Queries

__all__ = [
    "Metrics",
    "ScoresFn",
    "best_of_scores",
    "dot_scores",
    "evaluate",
    "last_times",
    "metrics_of_ranks",
    "rank_of_targets",
    "unique_items",
]

ScoresFn = Callable[[dict[str, np.ndarray]], Array]


@jax.jit
def rank_of_targets(
    scores_BxN: Array,
    targets_B: Array,
    *,
    seen_BxS: Array,
    candidates_N: Array | None = None,
) -> jax.Array:
    """Rank each target among the candidates, less the ones its user has seen.

    Ties count against the target: its rank is the number of candidates, itself included, that
    score at least as much. A score of NaN counts as the highest for another item and ranks the
    target last; so does a target that is itself in `seen`, since no recommendation could hold it.

    Args:
      scores_BxN: f32[B, N].
      targets_B: int32[B].
      seen_BxS: int32[B, S], item ids left out, without repetition in a row, PAD elsewhere.
      candidates_N: bool[N], the targets among them; every item when None.

    Returns:
      int32[B], from 1 to the number of candidates.
    """
    last = scores_BxN.shape[1] if candidates_N is None else jnp.sum(candidates_N)
    target_Bx1 = jnp.take_along_axis(scores_BxN, targets_B[:, None], axis=1)
    above_BxN = ~(scores_BxN < target_Bx1)
    if candidates_N is not None:
        above_BxN &= candidates_N[None]
    above_B = jnp.sum(above_BxN, axis=1)
    seen_scores_BxS = jnp.take_along_axis(scores_BxN, jnp.maximum(seen_BxS, 0), axis=1)
    real_BxS = seen_BxS != PAD
    if candidates_N is not None:
        real_BxS &= candidates_N[jnp.maximum(seen_BxS, 0)]
    seen_above_B = jnp.sum(real_BxS & ~(seen_scores_BxS < target_Bx1), axis=1)
    target_seen_B = jnp.any(real_BxS & (seen_BxS == targets_B[:, None]), axis=1)
    last_B = target_seen_B | jnp.isnan(target_Bx1[:, 0])
    return jnp.where(last_B, last, above_B - seen_above_B).astype(jnp.int32)


@partial(jax.jit, static_argnames="k")
def best_of_scores(
    scores_BxN: Array, left_out_BxS: Array, *, allowed_N: Array | None = None, k: int
) -> tuple[jax.Array, jax.Array]:
    """Find each row's k best items.

    Args:
      scores_BxN: f32[B, N].
      left_out_BxS: int32[B, S], items never returned, PAD elsewhere.
      allowed_N: bool[N], the items that may be returned; every item when None.
      k: at most N.

    Returns:
      ids int32[B, k], the best first, PAD where fewer than k items are left, and their scores
      f32[B, k], -inf at PAD.
    """
    rows_Bx1 = jnp.arange(len(scores_BxN))[:, None]
    columns_BxS = jnp.where(left_out_BxS == PAD, scores_BxN.shape[1], left_out_BxS)
    if allowed_N is not None:
        scores_BxN = jnp.where(allowed_N[None], scores_BxN, -jnp.inf)
    scores_BxN = jnp.asarray(scores_BxN).at[rows_Bx1, columns_BxS].set(-jnp.inf, mode="drop")
    best_Bxk, ids_Bxk = jax.lax.top_k(scores_BxN, k)
    return jnp.where(jnp.isneginf(best_Bxk), PAD, ids_Bxk), best_Bxk


def evaluate(
    scores_fn: ScoresFn,
    queries: Queries,
    *,
    max_len: int,
    ks: Sequence[int] = (10,),
    candidates: ArrayLike | None = None,
    seen_filter: bool = True,
    backfill: Callable[[Sequences], Sequences] | None = None,
    query_times: ArrayLike | Sequence[Moment] | None = None,
    coverage: bool = False,
    popularity: ArrayLike | None = None,
    debias_power: float = 0.5,
    batch_size: int = 256,
    bootstrap: int = 1000,
    seed: int = 0,
    deal: Deal | None = None,
) -> Metrics:
    """Rank every query's target against all items, or all candidates.

    Args:
      scores_fn: takes a batch of `sequences.pad_histories` (B = `batch_size` rows, the last
        batch filled up with repeated ones) and returns f32[B, N], a score an item.
      queries: histories and targets.
      max_len: events of a history that `scores_fn` is given; the seen filter has all of them.
      ks: cut-offs of hit rate and NDCG.
      candidates: bool[N] or int ids, the items that are ranked, all targets among them; every
        item when None. Cold items only is a protocol of its own.
      seen_filter: leave a user's earlier items out of the candidates.
      backfill: fills histories before they are scored (see `backfill`). What it adds counts as
        seen by nobody.
      query_times: float[q], the moments of the queries in seconds, or datetimes, for
        `scores_fn`s that ask for them (`baselines.recent_popularity`); adds `query_times`
        float64[B] to the batch.
      coverage: add "coverage@k", the share of the candidates in the top k of any query. It costs
        a sort of all scores; without it targets are ranked by counting.
      popularity: int[N], training events an item; adds "debiased_ndcg@k", see
        `metrics.inverse_propensity`.
      debias_power: its power.
      batch_size: B.
      bootstrap, seed: see `metrics_of_ranks`; queries of one user are resampled together.
      deal: of several processes that all call this alike, this one's share; each gets the figures
        of one process. Not beside `coverage`.

    Raises:
      ValueError: a target is no candidate or beyond the scores, or there is no query.
    """
    histories = queries.histories
    widest = int(histories.lengths.max(initial=0)) if seen_filter else 0
    filled = histories if backfill is None else backfill(histories)
    moments_Q = None if query_times is None else seconds("query_times", query_times)
    if moments_Q is not None and len(moments_Q) != len(queries):
        raise ValueError(f"query_times: expected {len(queries)}, found {len(moments_Q)}")
    if coverage and deal is not None:
        raise ValueError("coverage: expected False beside deal, found True")
    lists = None
    batches = _fixed_batches(len(queries), batch_size)
    ranks = [np.zeros((0, batches.shape[1]), np.int32)]
    for rows in batches if deal is None else deal.own(batches):
        batch = pad_histories(filled.select(rows), max_len)
        if moments_Q is not None:
            batch["query_times"] = moments_Q[rows]
        scores_BxN = scores_fn(batch)
        allowed_N = _candidates(candidates, scores_BxN.shape[1])
        targets_B = _checked_targets(queries.targets[rows], allowed_N, scores_BxN.shape[1])
        seen_BxS = np.full((len(rows), 1), PAD, np.int32)
        if widest:
            seen_BxS = unique_items(histories.select(rows), widest)
        ranks.append(
            np.asarray(
                rank_of_targets(scores_BxN, targets_B, seen_BxS=seen_BxS, candidates_N=allowed_N)
            )[None]
        )
        if coverage:
            lists = lists or _TopLists(max(ks), allowed_N, num_items=scores_BxN.shape[1])
            lists.add(scores_BxN, seen_BxS, allowed_N)
    ranks = np.concatenate(ranks)
    ranks = ranks if deal is None else deal.joined(ranks, len(batches))
    ranks = ranks.ravel()[: len(queries)]
    weights = None
    if popularity is not None:
        weights = inverse_propensity(popularity, queries.targets, power=debias_power)
    metrics = metrics_of_ranks(
        ranks, ks=ks, users=queries.users, weights=weights, bootstrap=bootstrap, seed=seed
    )
    if lists is not None:
        metrics.values.update(lists.coverage(ks))
    return metrics


def last_times(histories: Sequences) -> np.ndarray:
    """Take the time of each history's last event as its query time: float64[B].

    Raises:
      ValueError: there are no times, or a history is empty.
    """
    if histories.times is None:
        raise ValueError("histories: expected times, found none")
    if not histories.lengths.all():
        empty = np.flatnonzero(histories.lengths == 0)[0]
        raise ValueError(f"histories: expected an event with a time, found none in number {empty}")
    return histories.times[histories.offsets[1:] - 1]


def dot_scores(users_fn: Callable, items_NxD: Array) -> ScoresFn:
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


class _TopLists:
    """Collect which items any query's top lists hold."""

    def __init__(self, k: int, allowed_N: np.ndarray | None, *, num_items: int):
        self._k = k
        self._first_place_N = np.full(num_items, k)  # the best place an item has in any list
        self._num_candidates = num_items if allowed_N is None else int(allowed_N.sum())

    def add(self, scores_BxN: Array, seen_BxS: Array, allowed_N: Array | None) -> None:
        k = min(self._k, len(self._first_place_N))
        ids_Bxk = np.asarray(best_of_scores(scores_BxN, seen_BxS, allowed_N=allowed_N, k=k)[0])
        places_Bxk = np.broadcast_to(np.arange(k)[None, :], ids_Bxk.shape)
        real_Bxk = ids_Bxk != PAD
        np.minimum.at(self._first_place_N, ids_Bxk[real_Bxk], places_Bxk[real_Bxk])

    def coverage(self, ks: Sequence[int]) -> dict[str, float]:
        shown = {k: int((self._first_place_N < k).sum()) for k in ks}
        return {f"coverage@{k}": count / self._num_candidates for k, count in shown.items()}


def _candidates(candidates, num_items: int) -> np.ndarray | None:
    if candidates is None:
        return None
    candidates = np.asarray(candidates)
    if candidates.dtype == bool:
        return checked_mask("candidates", candidates, num_items)
    candidates = item_ids("candidates", candidates)
    if candidates.max(initial=0) >= num_items:
        raise ValueError(
            f"candidates: expected items below {num_items}, the number of scores, found "
            f"{candidates.min()}..{candidates.max()}"
        )
    allowed_N = np.zeros(num_items, bool)
    allowed_N[candidates] = True
    return allowed_N


def _checked_targets(targets_B, allowed_N, num_items: int) -> np.ndarray:
    if targets_B.max() >= num_items:
        raise ValueError(
            f"targets: expected items below {num_items}, the number of scores, found "
            f"{targets_B.max()}"
        )
    if allowed_N is not None and not allowed_N[targets_B].all():
        outside = targets_B[~allowed_N[targets_B]][0]
        raise ValueError(f"targets: expected candidates, found item {outside}, which is none")
    return targets_B


def _fixed_batches(count: int, batch_size: int):
    """Split range(count) into batches of one size; the last is filled up with repetitions."""
    size = min(batch_size, count) or 1
    return np.resize(np.arange(count), -(-count // size) * size).reshape(-1, size)


def _dot_scores(users_fn, items_NxD, histories):
    return users_fn(histories) @ items_NxD.T
