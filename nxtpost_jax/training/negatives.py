"""Negatives that a batch shares: who is drawn, how often, and for whom they are none.

Shape suffixes: B rows, L positions, S labels or items, N negatives, m long labels, M candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.sequences import PAD, Sequences

_NOBODY = -1  # owner of a negative that comes from no row


class Negatives(NamedTuple):
    """Hold the negatives of one batch.

    Attributes:
      ids_N: int32[N], PAD where fewer were drawn.
      owners_N: int32[N], the user whose label an in-batch negative is, -1 for a uniform one.
    """

    ids_N: jax.Array
    owners_N: jax.Array


def draw_uniform(key: jax.Array, candidates: Array | int, num_negatives: int) -> Negatives:
    """Draw items with replacement, each as likely.

    Args:
      key: a jax random key.
      candidates: int32[M], the items to draw from, or their number for the items 0..M-1.
      num_negatives: N.
    """
    ids_N = jax.random.choice(key, candidates, (num_negatives,)).astype(jnp.int32)
    return Negatives(ids_N, jnp.full(num_negatives, _NOBODY))


def draw_in_batch(
    key: jax.Array, labels_BxS: Array, users_B: Array, num_negatives: int
) -> Negatives:
    """Draw from the batch's labels without replacement: the paper's negatives, at a fixed cost.

    A batch of 128 rows of 200 has 25,600 labels; compared with each position they would cost a
    hundred times the rest. All of them are taken where `num_negatives` is no less than their
    number. A popular item is among the labels, and among the negatives, as often as it occurs.

    Args:
      key: a jax random key.
      labels_BxS: int32[B, S], PAD where there is none; PAD is drawn only when labels run out.
      users_B: int32[B], the rows' users.
      num_negatives: the most that are drawn.

    Returns:
      min(num_negatives, B * S) negatives.
    """
    labels_P = labels_BxS.reshape(-1)
    order_P = jnp.where(labels_P != PAD, jax.random.uniform(key, labels_P.shape), -1)
    _, drawn_N = jax.lax.top_k(order_P, min(num_negatives, labels_P.size))
    rows_N = drawn_N // labels_BxS.shape[1]
    return Negatives(jnp.take(labels_P, drawn_N), jnp.take(users_B, rows_N))


def join(*parts: Negatives) -> Negatives:
    """Concatenate negatives of several kinds."""
    return Negatives(*map(jnp.concatenate, zip(*parts)))


def allowed(negatives: Negatives, users_B: Array, own_BxS: Array) -> jax.Array:
    """Tell which negatives are none of a row's own posts: bool[B, N].

    PAD is never a negative. An in-batch negative must be the label of another user and must
    not occur in the row. A uniform one may: it says nothing about whom it came from.

    Args:
      negatives: N of them.
      users_B: int32[B], the rows' users.
      own_BxS: int32[B, S], the items of each row, inputs and labels.
    """
    ids_N, owners_N = negatives
    in_row_BxN = jnp.any(own_BxS[:, :, None] == ids_N[None, None, :], axis=1)
    own_BxN = in_row_BxN | (owners_N[None, :] == users_B[:, None])
    return (ids_N != PAD)[None, :] & ~(own_BxN & (owners_N != _NOBODY)[None, :])


def log_expected_counts(
    negatives: Negatives, num_candidates: int, log_popularity: Array | None = None
) -> jax.Array:
    """Compute the log of how often each negative's item is expected among all draws: f32[N].

    An item is drawn n_u / M times among n_u uniform draws, and n_b p(item) times among n_b
    in-batch ones, p its share of the training labels. With both kinds the counts add up, as if
    all were drawn from the mixture.

    Args:
      negatives: N of them, of either kind or both.
      num_candidates: M.
      log_popularity: f32[num_items] of `log_popularity`, needed with in-batch negatives.

    Source: Yi et al. 2019, Sampling-bias-corrected neural modeling; Yang et al. 2020, Mixed
    negative sampling.
    """
    ids_N, owners_N = negatives
    uniform_N = owners_N == _NOBODY
    count_N = jnp.full(ids_N.shape, jnp.sum(uniform_N) / num_candidates)
    if log_popularity is not None:
        in_batch = jnp.sum(~uniform_N & (ids_N != PAD))
        share_N = jnp.exp(jnp.take(log_popularity, jnp.maximum(ids_N, 0), mode="clip"))
        count_N += in_batch * share_N
    return jnp.log(count_N)


def log_popularity(sequences: Sequences, num_items: int) -> np.ndarray:
    """Compute the log of each item's share of the labels: float32[num_items].

    Every event but a user's first is a label. An item that never is one counts as one label, so
    that the logarithm stays finite.
    """
    first = sequences.offsets[:-1][sequences.lengths > 0]
    counts = np.bincount(np.delete(sequences.items, first), minlength=num_items)
    if len(counts) > num_items:
        raise ValueError(f"num_items: expected at least {len(counts)}, found {num_items}")
    return np.log(np.maximum(counts, 1) / max(counts.sum(), 1)).astype(np.float32)
