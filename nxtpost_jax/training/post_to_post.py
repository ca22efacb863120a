"""Pretrain the post tower on co-engagement: posts that one user engaged with close together.

NxtPost's post vectors come from such a stage (arXiv 2202.03645, post embeddings): both sides of
a pair pass through one tower, and an in-batch softmax tells partners from strangers. The content
vectors stay inputs. With content the ids take no part, so that what is learned serves posts that
nobody has seen; without content the id vectors are trained.

Shape suffixes: P pairs a batch, D model width, N items.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.content import Content, take
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.towers.model import NxtPost, apply, count_items
from nxtpost_jax.training.finite import check_arrays, check_losses

_MASKED = -1e9  # finite: a row with every other item masked keeps a finite gradient


def co_engaged_pairs(train: Sequences, *, max_gap: int, seed: int, epoch: int) -> np.ndarray:
    """Pair each event with a later one of the same user, at a gap drawn from 1 to max_gap.

    Args:
      train: training sequences only, or the pairs leak what is to be predicted.
      max_gap: g, in events.
      seed, epoch: equal values give equal pairs.

    Returns:
      int32[n, 2], in drawn order; no pair of an item with itself.
    """
    if max_gap < 1:
        raise ValueError(f"max_gap: expected at least 1, found {max_gap}")
    rng = np.random.default_rng((seed, epoch))
    events = np.arange(len(train.items))
    partners = events + rng.integers(1, max_gap + 1, len(events))
    within = partners < train.offsets[1:][train.owners(events)]
    pairs = np.stack([train.items[events[within]], train.items[partners[within]]], axis=1)
    return rng.permutation(pairs[pairs[:, 0] != pairs[:, 1]])


def pair_batches(pairs: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Cut pairs into batches int32[batch_size, 2]; the last is filled up from the first pairs."""
    if batch_size < 2:
        raise ValueError(f"batch_size: expected at least 2, found {batch_size}")
    rows = np.resize(pairs, (-(-len(pairs) // batch_size) * batch_size, 2))
    yield from rows.reshape(-1, batch_size, 2)


def pair_loss(
    left_PxD: Array,
    right_PxD: Array,
    *,
    pairs_Px2: Array,
    temperature: float,
    log_q_N: Array | None = None,
) -> jax.Array:
    """Score each post's partner against the other pairs' posts, from both sides.

    The mean of two softmax losses: of i's left post over all right posts, and of its right post
    over all left ones. The posts of the pair itself never count as its negatives, wherever
    they occur in the batch.

    Args:
      left_PxD, right_PxD: f32[P, D], the posts' vectors.
      pairs_Px2: int32[P, 2], their ids.
      temperature: divides the similarity.
      log_q_N: f32[N], the log of each item's share of the pairs, subtracted from its scores to
        undo that frequent items are frequent negatives (Yi et al. 2019); no correction if None.

    Returns:
      f32[].
    """
    scores_PxP = left_PxD @ right_PxD.T / temperature
    left_P, right_P = pairs_Px2[:, 0], pairs_Px2[:, 1]
    return 0.5 * (
        _softmax_loss(scores_PxP, right_P, left_P, log_q_N)
        + _softmax_loss(scores_PxP.T, left_P, right_P, log_q_N)
    )


def _softmax_loss(scores_PxP, candidates_P, queries_P, log_q_N):
    if log_q_N is not None:
        scores_PxP = scores_PxP - log_q_N[candidates_P][None]
    own_PxP = candidates_P[None] == candidates_P[:, None]
    own_PxP |= candidates_P[None] == queries_P[:, None]
    diagonal_PxP = jnp.eye(len(candidates_P), dtype=bool)
    logits_PxP = jnp.where(own_PxP & ~diagonal_PxP, _MASKED, scores_PxP)
    return jnp.mean(jax.nn.logsumexp(logits_PxP, axis=1) - jnp.diagonal(logits_PxP))


def log_shares(train: Sequences, num_items: int) -> np.ndarray:
    """Estimate `log_q_N` from the items' shares of all events: f32[num_items].

    An item without any event counts as one with one; it occurs in no pair.
    """
    counts = np.maximum(np.bincount(train.items, minlength=num_items), 1)
    return np.log(counts / counts.sum()).astype(np.float32)


def pretrain(
    model: NxtPost,
    train: Sequences,
    *,
    content: Content = None,
    epochs: int,
    batch_size: int = 256,
    max_gap: int = 3,
    log_q: bool = False,
    seed: int = 0,
    tx: optax.GradientTransformation | None = None,
) -> tuple[dict, list[float]]:
    """Train the post tower alone, from newly drawn parameters.

    Args:
      model: the towers; its temperature and similarity are used.
      train: training sequences only.
      content: see `content`, or None for ids only.
      epochs: passes over the events, each with newly drawn pairs.
      batch_size: P, pairs a step.
      max_gap: see `co_engaged_pairs`.
      log_q: correct by `log_shares`, see `pair_loss`.
      seed: draws parameters and pairs.
      tx: optimizer; AdamW at 1e-3 when None.

    Returns:
      The post tower's parameters, for `{**params, "post_tower": these}` with the parameters of
      the whole model, and the mean loss of each epoch.

    Raises:
      ValueError: an option is out of range, or no user has two different items close together.
      FloatingPointError: a loss or a parameter is NaN or infinite.
    """
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, found {epochs}")
    tx = optax.adamw(1e-3) if tx is None else tx
    params, state = _init(model, tx, take(content, np.arange(2)), jax.random.key(seed))
    num_items = count_items(model, content)
    log_q_N = jnp.asarray(log_shares(train, num_items)) if log_q else None
    content = jax.tree.map(jnp.asarray, content)
    means = []
    for epoch in range(epochs):
        pairs = co_engaged_pairs(train, max_gap=max_gap, seed=seed, epoch=epoch)
        if not len(pairs):
            raise ValueError(f"train: expected two items of a user within {max_gap}, found none")
        losses = []
        for batch in pair_batches(pairs, batch_size):
            params, state, value = _step(model, tx, params, state, batch, content, log_q_N)
            losses.append(value)
        losses = np.array(jax.device_get(losses))
        check_losses(losses)
        check_arrays("params", params)
        means.append(float(losses.mean()))
    return params["post_tower"], means


@partial(jax.jit, static_argnames=("model", "tx"))
def _init(model, tx, rows, key):
    ids = jnp.arange(2) if rows is None else None
    params = model.init(key, rows, ids, method="encode_items")["params"]
    return params, tx.init(params)


@partial(jax.jit, static_argnames=("model", "tx"), donate_argnames=("params", "state"))
def _step(model, tx, params, state, pairs_Px2, content, log_q_N):
    def objective(params):
        ids = pairs_Px2 if content is None else None
        vectors_Px2xD = apply(model, params, take(content, pairs_Px2), ids, method="encode_items")
        left_PxD, right_PxD = vectors_Px2xD[:, 0], vectors_Px2xD[:, 1]
        temperature = model.config.temperature
        return pair_loss(
            left_PxD, right_PxD, pairs_Px2=pairs_Px2, temperature=temperature, log_q_N=log_q_N
        )

    value, grads = jax.value_and_grad(objective)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value
