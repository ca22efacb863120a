"""The short-term loss: each state against the event that follows it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nxtpost_jax.model import NxtPost
from nxtpost_jax.sequences import PAD

_MASKED = -1e9  # finite: a row with every negative masked keeps a finite gradient


def short_term_loss(
    states_BxLxD, positives_BxLxD, negatives_NxD, labels_BxL, negative_ids_N, *, temperature
):
    """Score each state's next item against negatives that the whole batch shares.

    Sampled softmax of cosines over a temperature:
    -log exp(u.p / T) / (exp(u.p / T) + sum over negatives exp(u.n / T)),
    averaged over all positions with a label. A negative that is the position's own label is
    left out of its sum.

    Args:
      states_BxLxD: f32[B, L, D], unit vectors u.
      positives_BxLxD: f32[B, L, D], unit vectors p of the labels.
      negatives_NxD: f32[N, D], unit vectors n.
      labels_BxL: int32[B, L], PAD where a position is not scored.
      negative_ids_N: int32[N].
      temperature: T.

    Returns:
      f32[], 0 when no position has a label.

    Source: NxtPost (arXiv 2202.03645), short-term loss, with uniform negatives in place of the
    batch's other posts.
    """
    D = states_BxLxD.shape[-1]
    states_PxD = states_BxLxD.reshape(-1, D) / temperature
    labels_P = labels_BxL.reshape(-1)
    positive_P = jnp.sum(states_PxD * positives_BxLxD.reshape(-1, D), axis=-1)
    negative_PxN = states_PxD @ negatives_NxD.T
    hit_PxN = labels_P[:, None] == negative_ids_N[None, :]
    total_P = jax.nn.logsumexp(jnp.where(hit_PxN, _MASKED, negative_PxN), axis=-1)
    loss_P = jax.nn.softplus(total_P - positive_P)
    scored_P = labels_P != PAD
    return jnp.sum(jnp.where(scored_P, loss_P, 0)) / jnp.maximum(jnp.sum(scored_P), 1)


def loss(model: NxtPost, params, batch, content, key, *, num_negatives: int, candidates=None):
    """Compute the training loss of a batch, with uniform negatives shared over it.

    A pure function for `jax.value_and_grad` over `params` under `jit`: with the batch sharded
    over a mesh axis the mean is still over all positions of the whole batch.

    Args:
      model: the towers.
      params: the "params" collection of `model.init`.
      batch: dict of `batches.train_batches`.
      content: f32[n, C], or None for ids only.
      key: a jax random key, for negatives and dropout.
      num_negatives: N, drawn with replacement.
      candidates: int32[m], the items negatives come from, each as likely; the whole catalogue
        when None. Leave out items that the training period does not know, or they are taught
        to be wrong.

    Returns:
      f32[] and metrics: `loss` f32[], `positions` int32[], the number of labels scored.
    """
    draw_key, dropout_key = jax.random.split(key)
    if candidates is None:
        num_items = model.num_items if content is None else content.shape[0]
        negative_ids_N = jax.random.randint(draw_key, (num_negatives,), 0, num_items)
    else:
        negative_ids_N = jax.random.choice(draw_key, candidates, (num_negatives,))
    states_BxLxD, (positives_BxLxD, negatives_NxD) = model.apply(
        {"params": params},
        batch,
        [batch["labels"], negative_ids_N],
        content,
        rngs={"dropout": dropout_key},
        method="encode_training",
    )
    value = short_term_loss(
        states_BxLxD,
        positives_BxLxD,
        negatives_NxD,
        batch["labels"],
        negative_ids_N,
        temperature=model.config.temperature,
    )
    return value, {"loss": value, "positions": jnp.sum(batch["labels"] != PAD)}
