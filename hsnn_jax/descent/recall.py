"""How much of the exact answer a search has found, told from the nodes that it skipped.

A node that was skipped lists `left` items that the user may get. Each of them beats a score s with
a probability that falls with (s - score of the node) in units of the user's and the node's spread:
log P(z) = a + b z + c z^2. Summed over the skipped nodes at the score of the last item found, that
is the expected number of items missed; the same sum over the visited nodes, against what was found
there in truth, tells how far the model is off for this user and this filter. A found item is among
the exact k best where few enough missed ones beat it: a Poisson probability. A monotone map, from
searches that were simulated at the build, ends it. All of it is one pass over the nodes' scores.

Own work. Estimates that stop a search early, by boosted trees over a search's state: DARTH (arXiv
2505.19001).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.descent.beam import Array, Beam
from hsnn_jax.monn.scorers import dot

_STEPS = 14  # halvings by which thresholds are found


class Tail(NamedTuple):
    """What a calibration has learned of an index and its scorer; arrays alone."""

    shape: Array  # float32 [3]: a, b, c
    spread: Array  # float32 [K]: of (item's score - its node's) / the user's unit
    weights: Array  # float32 [5], see `expected_recall`
    raw: Array  # float32 [M], ascending: expected recall ...
    mapped: Array  # float32 [M], ascending: ... and what was measured
    tolerances: Array  # float32 [T], ascending: share of k expected among skipped nodes ...
    reached: Array  # float32 [T], descending: ... and the mean recall where it is the limit


class Wanted(NamedTuple):
    """What the estimate needs of a request."""

    tail: Tail
    k: Any  # int32 [], items that were asked for, at most those that are found
    tolerance: Any = None  # float32 []: choose budgets by it, see `affordable`


class Evidence(NamedTuple):
    """What a search knows of its own answer."""

    missed: Any  # float [B], items of skipped nodes expected above the last one found
    slope: Any  # float [B], d log(missed) / d score
    seen: Any  # float [B], the same of visited nodes
    found: Any  # int [B], items found, at most k
    allowed: Any  # int [B], items that the user may get
    unseen: Any  # int [B], those of skipped nodes
    gaps: Any  # float [B, k], scores found above the last one's


def user_spread(scorer: Any, users: Any, *, scores: Any, xp: Any = jnp) -> Any:
    """Return the unit of a user's scores, float [B, 1].

    An inner product grows with the user's length, wherever the user looks. Of any other scorer it
    is the standard deviation of the user's scores of the nodes.
    """
    if scorer is dot:
        unit = xp.sqrt(xp.sum(xp.square(users), axis=1, keepdims=True))
    else:
        unit = xp.std(scores, axis=1, keepdims=True)
    return xp.maximum(unit, 1e-30)


def above(
    tail: Tail, threshold: Any, *, scores: Any, spread: Any, left: Any, xp: Any = jnp
) -> tuple[Any, Any]:
    """Return how many items of each node are expected above a score, and its rate of change.

    Args:
      tail: of `shape` alone.
      threshold: float [B].
      scores: float [B, S], of nodes.
      spread: float [B, S], of their items' scores.
      left: int [B, S], items.
      xp: numpy or jax.numpy.

    Returns:
      (float [B, S], float [B, S]: of log P by the score).
    """
    a, b, c = (tail.shape[i] for i in range(3))
    z = xp.maximum((threshold[:, None] - scores) / spread, -b / (2 * c))
    log = a + z * (b + c * z)
    return left * xp.exp(xp.minimum(log, 0.0)), xp.where(log < 0, b + 2 * c * z, 0.0) / spread


def expected_recall(weights: Any, known: Evidence, *, k: Any, xp: Any = jnp) -> Any:
    """Return the share of the min(k, allowed) exact items that is expected among those found.

    log(missed) is corrected by what was found in the visited nodes against what was expected:
    w0 + w1 log(missed) + w2 log(found / seen), and per score by w3 slope gap; w4 sharpens or
    blurs the probabilities. The Poisson distribution is Wilson and Hilferty's (1931).

    Args:
      weights: float [5].
      known: see `Evidence`.
      k: int [] or [B], items asked for.
      xp: numpy or jax.numpy.

    Returns:
      float [B]; exact where no more than k items are allowed.
    """
    best = xp.minimum(k, known.allowed)
    log = weights[0] + weights[1] * xp.log(xp.maximum(known.missed, 1e-9))
    log = log + weights[2] * xp.log((known.found + 0.5) / (known.seen + 0.5))
    log = log[:, None] + weights[3] * known.slope[:, None] * known.gaps
    missed = xp.minimum(xp.exp(xp.minimum(log, 30.0)), known.unseen[:, None])
    rank = xp.arange(1, known.gaps.shape[1] + 1)[None, :]
    room = xp.maximum(best[:, None] - rank, 0) + 1.0
    away = 3 * xp.sqrt(room) * (1 - 1 / (9 * room) - xp.cbrt(missed / room)) * weights[4]
    normal = 1 / (1 + xp.exp(-xp.clip(away * (1.5976 + 0.07056 * away * away), -80, 80)))
    counts = rank <= xp.minimum(known.found, best)[:, None]
    among = xp.sum(xp.where(counts, normal, 0.0), axis=1) / xp.maximum(best, 1)
    return xp.where(known.allowed <= k, known.found / xp.maximum(best, 1), among)


def estimate(
    wanted: Wanted,
    found: jax.Array,
    *,
    unit: jax.Array,
    scores: jax.Array,
    left: jax.Array,
    beam: Beam,
    unseen: jax.Array,
) -> jax.Array:
    """Estimate the recall of each user's answer, float32 [B]; 1 where nothing is unseen.

    Args:
      wanted: see `Wanted`.
      found: float [B, k'], scores found, best first; -inf beyond.
      unit: float [B, 1] from `user_spread`.
      scores: float [B, K], of all nodes.
      left: int32 [B or 1, K] from `remaining`.
      beam: the nodes that were visited.
      unseen: int32 [B] from `unseen_items`.
    """
    tail, k = wanted.tail, wanted.k
    rank = jnp.arange(found.shape[1])[None, :]
    number = jnp.minimum(jnp.sum(found > -jnp.inf, axis=1, dtype=jnp.int32), k)
    last = jnp.take_along_axis(found, jnp.maximum(number - 1, 0)[:, None], axis=1)
    given: dict[str, Any] = {"scores": scores, "spread": unit * tail.spread[None, :], "left": left}
    of_all, slope_of_all = above(tail, last[:, 0], **given)
    nodes = jnp.minimum(beam.nodes, left.shape[1] - 1)
    visited = beam.extents > 0
    rows = jnp.arange(left.shape[0])[:, None]
    of_beam, slope_of_beam = above(
        tail,
        last[:, 0],
        scores=beam.outputs[:, :, -1],
        spread=unit * tail.spread[nodes],
        left=jnp.where(visited, left[rows, nodes], 0),
    )
    seen = jnp.sum(of_beam, axis=1)
    missed = jnp.maximum(jnp.sum(of_all, axis=1) - seen, 0)
    slope = jnp.sum(of_all * slope_of_all, axis=1) - jnp.sum(of_beam * slope_of_beam, axis=1)
    known = Evidence(
        missed=missed,
        slope=jnp.minimum(slope / jnp.maximum(missed, 1e-9), 0),
        seen=seen,
        found=number,
        allowed=jnp.broadcast_to(jnp.sum(left, axis=1, dtype=jnp.int32), unseen.shape),
        unseen=unseen,
        gaps=jnp.where(rank < number[:, None], found - last, 0),
    )
    raw = expected_recall(tail.weights, known, k=k)
    mapped = jnp.interp(raw, tail.raw, tail.mapped)
    mapped = jnp.where(known.allowed <= k, raw, mapped)
    return jnp.where(unseen == 0, 1.0, mapped).astype(jnp.float32)


def affordable(
    tail: Tail,
    tolerance: Any,
    *,
    k: Any,
    unit: Any,
    scores: Any,
    left: Any,
    counts: Any,
    xp: Any = jnp,
) -> Any:
    """Return the budget at which so few of the k best are expected in skipped nodes, int32 [B].

    The k-th best score is where k items are expected above; nodes are skipped from the lowest
    score on while what they are expected to hold of it stays within tolerance * k.

    Args:
      tail: see `Tail`.
      tolerance: float [], or [B] of as many users or of one.
      k: int [].
      unit: float [B, 1] from `user_spread`.
      scores: float [B, K], of all nodes.
      left: int [B or 1, K], items that the user may get.
      counts: int [K], items of the nodes' lists.
      xp: numpy or jax.numpy.
    """
    spread = unit * tail.spread[None, :]
    wanted = xp.minimum(k, xp.sum(left, axis=1)) * xp.ones(len(scores))
    least, most = xp.min(scores, axis=1), xp.max(scores + 12 * spread, axis=1)
    low, high = least - (most - least), most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        of_node, _rate = above(tail, middle, scores=scores, spread=spread, left=left, xp=xp)
        enough = xp.sum(of_node, axis=1) >= wanted
        low, high = xp.where(enough, middle, low), xp.where(enough, high, middle)
    of_node, _rate = above(tail, low, scores=scores, spread=spread, left=left, xp=xp)
    low, high = least, xp.max(scores, axis=1)  # nodes below `low` may be skipped
    for _ in range(_STEPS):
        middle = (low + high) / 2
        skipped = xp.sum(xp.where(scores < middle[:, None], of_node, 0.0), axis=1)
        within = skipped <= tolerance * wanted
        low, high = xp.where(within, middle, low), xp.where(within, high, middle)
    visited = (scores >= low[:, None]) & (left > 0)
    return xp.maximum(xp.sum(xp.where(visited, counts[None, :], 0), axis=1), 1).astype(np.int32)


def tolerance_of(tail: Tail, recall: float) -> np.float32:
    """Return the tolerance to choose budgets by where a recall is wanted, float32 [].

    It is that of a calibration whose searches missed a quarter as much in the mean: hardly a user
    then needs a second round, and a round costs more than what one user sees too much.
    """
    reached, tolerances = np.asarray(tail.reached)[::-1], np.asarray(tail.tolerances)[::-1]
    return np.float32(np.exp(np.interp(1 - (1 - recall) / 4, reached, np.log(tolerances))))
