"""The training losses: each state against the next event, the pooled user against the next m.

Shape suffixes: B rows, L positions, P vectors that are scored (B L states, or B pooled ones), Q
labels of each (1, or m), N negatives, M candidates, S items of a row, D model width.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.model import Encoded, NxtPost, apply, count_items
from nxtpost_jax.training import negatives as negative_draws
from nxtpost_jax.training.full_softmax import (
    chunked_logsumexp,
    raised_logsumexp,
    sharded_logsumexp,
)
from nxtpost_jax.training.objective import Objective, resolve

_MASKED = -1e9  # finite: a row with every negative masked keeps a finite gradient


def sampled_softmax(positive_PxQ: Array, negative_PxN: Array, kept_PxN: Array) -> jax.Array:
    """Compute -log exp(s+) / (exp(s+) + sum over the kept negatives exp(s-)): f32[P, Q].

    Args:
      positive_PxQ: f32[P, Q], logits of the positives.
      negative_PxN: f32[P, N], logits of the negatives, which the Q positives share.
      kept_PxN: bool[P, N].
    """
    masked_PxN = jnp.where(kept_PxN, negative_PxN, _MASKED)
    return jax.nn.softplus(jax.nn.logsumexp(masked_PxN, axis=1, keepdims=True) - positive_PxQ)


def binary_cross_entropy(
    positive_PxQ: Array, negative_PxN: Array, kept_PxN: Array, *, beta: float = 1.0
) -> jax.Array:
    """Compute the mean cross entropy of a positive and its k kept negatives: f32[P, Q].

    -(log sigmoid(s+)^beta + sum over negatives log(1 - sigmoid(s-))) / (1 + k). The power is
    taken in the log, beta log sigmoid(s+), where nothing overflows. Args as `sampled_softmax`.

    Source: SASRec (Kang and McAuley 2018) with beta 1, up to the factor 1 / (1 + k); gSASRec
    (arXiv 2308.07192), gBCE, with `calibrated_beta`.
    """
    softplus_PxN = jnp.where(kept_PxN, jax.nn.softplus(negative_PxN), 0)
    total_Px1 = jnp.sum(softplus_PxN, axis=1, keepdims=True)
    terms_Px1 = 1 + jnp.sum(kept_PxN, axis=1, keepdims=True)
    return (beta * jax.nn.softplus(-positive_PxQ) + total_Px1) / terms_Px1


def calibrated_beta(num_negatives: int, num_candidates: int, calibration: float) -> float:
    """Compute gSASRec's beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha).

    alpha = k / (M - 1) is the share of the other items that is drawn, at most 1.
    """
    alpha = min(1.0, num_negatives / max(num_candidates - 1, 1))
    return 1 - calibration * (1 - alpha)


def short_term_loss(
    states_BxLxD: Array,
    positives_BxLxD: Array,
    *,
    negatives_NxD: Array,
    labels_BxL: Array,
    negative_ids_N: Array,
    temperature: float,
) -> jax.Array:
    """Score each state's next item against negatives that the whole batch shares.

    Sampled softmax of similarities over a temperature:
    -log exp(u.p / T) / (exp(u.p / T) + sum over negatives exp(u.n / T)),
    averaged over all positions with a label. A negative that is the position's own label is
    left out of its sum. `loss` has the other losses and negatives.

    Args:
      states_BxLxD: f32[B, L, D], states u.
      positives_BxLxD: f32[B, L, D], vectors p of the labels.
      negatives_NxD: f32[N, D], vectors n.
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
    labels_Px1 = labels_BxL.reshape(-1, 1)
    positive_Px1 = jnp.sum(states_PxD * positives_BxLxD.reshape(-1, D), axis=1, keepdims=True)
    kept_PxN = labels_Px1 != negative_ids_N[None, :]
    loss_Px1 = sampled_softmax(positive_Px1, states_PxD @ negatives_NxD.T, kept_PxN)
    return _mean_over_labels(loss_Px1, labels_Px1)


def loss(
    model: NxtPost,
    params: Any,
    *,
    batch: Mapping[str, Array],
    content: Content,
    key: jax.Array,
    objective: Objective | None = None,
    num_negatives: int | None = None,
    candidates: Array | None = None,
    log_popularity: Array | None = None,
    trends: Array | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute the training loss of a batch: short_weight * short-term + long_weight * long-term.

    The short-term loss scores every state against the item that follows it, the long-term loss
    the pooled vector of a row's first `pooled_lengths` states against its `long_labels`; each is
    a mean over its labels, each label's loss times its event's weight where the batch has weights.
    Both share one draw of negatives. What is no negative:
      the position's own label, or for the pooled vector any of the row's long labels;
      of in-batch negatives, whatever is the same user's label or occurs in the row; PAD.
    In-batch negatives are the labels of those losses that have a weight. In a full softmax every
    candidate counts, a row's other labels too, so labels must be among the candidates.

    With `logq` each negative's logit is lowered by the log of its expected count among the
    draws, and the positive's is not: it is never drawn but always there, and the sum over
    negatives then estimates the sum over all other items without bias (Bengio and Senecal 2003;
    Yi et al. 2019 correct the positive too).

    A pure function for `jax.value_and_grad` over `params` under `jit`: with the batch sharded
    over a mesh axis the mean is still over all positions of the whole batch.

    Args:
      model: the towers.
      params: the "params" collection of `model.init`.
      batch: dict of `batches.train_batches`, its `num_labels` that of the objective. Only
        `items` and `labels` are needed without in-batch negatives and long-term loss.
      content: the catalogue's content, such as f32[n, C], or None for ids only.
      key: a jax random key, for negatives and dropout.
      objective: losses and negatives; `Objective()` when None.
      num_negatives: short for `objective=Objective(num_negatives=...)`.
      candidates: int32[M], the items that uniform negatives and the full softmax's catalogue
        are made of, each once; all items when None. Leave out items that the training period
        does not know, or they are taught to be wrong.
      log_popularity: f32[n] of `negatives.log_popularity`, for `logq` with in-batch negatives.
      trends: uint8[3, M, n] of `trends.TrendTable`, what is known of items at the moments that the
        batch names; for a model with `trends`.
      mesh: for a full softmax, the mesh over all axes of which the catalogue is dealt.

    Returns:
      f32[] and metrics: `loss` f32[]; `positions` int32[], the number of short-term labels; and
      `short_loss` and `long_loss` f32[] where both have a weight.

    Raises:
      ValueError: both `objective` and `num_negatives` are given, the batch lacks something that
        the objective reads, or `log_popularity` is missing.

    Source: NxtPost (arXiv 2202.03645), short-term and long-term loss.
    """
    objective = resolve(objective, num_negatives) or Objective()
    _check(objective, batch, log_popularity)
    _check_trends(model, trends=trends, mesh=mesh)
    draw_key, dropout_key = jax.random.split(key)
    if candidates is None:
        num_items = count_items(model, content)
        candidates = jnp.arange(num_items, dtype=jnp.int32)
    labels = _scored_labels(objective, batch)
    if objective.loss == "full_softmax":
        others_N = candidates
        score = partial(_full_softmax, objective, mesh)
    else:
        drawn = _draw(objective, draw_key, batch, labels, candidates)
        others_N = drawn.ids_N
        score = partial(
            _sampled_loss,
            objective,
            drawn,
            own_kept_BxN=_kept_of_each_row(objective, drawn, batch, labels),
            num_candidates=len(candidates),
            log_popularity=log_popularity,
        )
    encoded: Encoded = apply(
        model,
        params,
        batch,
        [*labels.values(), others_N],
        content=content,
        rngs={"dropout": dropout_key},
        method="encode_batch",
    )
    terms = {}
    for term, positives_BxQxD in zip(labels, encoded.items):
        if term == "short":  # one matrix of all positions: faster on CPU than three dimensions
            queries_PxD, Q = encoded.states_BxLxD.reshape(-1, encoded.states_BxLxD.shape[-1]), 1
        else:
            queries_PxD = _pooled(model, params, batch, encoded.states_BxLxD)
            Q = objective.num_labels
        queries_PxD = queries_PxD / model.config.temperature
        positives_PxQxD = positives_BxQxD.reshape(-1, Q, queries_PxD.shape[1])
        positive_PxQ = jnp.sum(queries_PxD[:, None] * positives_PxQxD, axis=-1)
        labels_PxQ = labels[term].reshape(-1, Q)
        raised = None
        if trends is not None:
            moments_P = batch["moments" if term == "short" else "long_moments"].reshape(-1)
            raised = _raised(
                model, params, trends, moments_P=moments_P, labels_PxQ=labels_PxQ, others_N=others_N
            )
            positive_PxQ += raised.positive_PxQ
        loss_PxQ = score(queries_PxD, positive_PxQ, labels_PxQ, encoded.items[-1], raised=raised)
        weights_BxQ = batch.get("weights" if term == "short" else "long_weights")
        weights_PxQ = None if weights_BxQ is None else weights_BxQ.reshape(-1, Q)
        terms[term] = _mean_over_labels(loss_PxQ, labels_PxQ, weights_PxQ)
    weights = {"short": objective.short_weight, "long": objective.long_weight}
    value = reduce(operator.add, (weights[term] * terms[term] for term in terms))
    metrics = {"loss": value, "positions": jnp.sum(batch["labels"] != PAD)}
    if len(terms) > 1:
        metrics |= {f"{term}_loss": terms[term] for term in terms}
    return value, metrics


def _check(objective: Objective, batch, log_popularity) -> None:
    in_batch = objective.loss != "full_softmax" and objective.negatives != "uniform"
    needed = ["users"] if in_batch else []
    needed += ["long_labels", "pooled_lengths"] if objective.long_weight else []
    for name in needed:
        if name not in batch:
            raise ValueError(f"batch: expected {name!r}, which this objective reads, found none")
    if objective.long_weight and batch["long_labels"].shape[1] != objective.num_labels:
        raise ValueError(
            f"batch: expected num_labels={objective.num_labels} long labels a row, found "
            f"{batch['long_labels'].shape[1]}"
        )
    if objective.logq and in_batch and log_popularity is None:
        raise ValueError("log_popularity: expected an array for logq with in-batch, found None")


def _check_trends(model: NxtPost, *, trends, mesh) -> None:
    if model.config.trends != (trends is not None):
        expected = "those of a model with them" if trends is None else "None beside a model without"
        raise ValueError(
            f"trends: expected {expected}, found {'none' if trends is None else 'some'}"
        )
    if trends is not None and mesh is not None:
        raise ValueError("mesh: expected None beside trends, found one")


class _Raised(NamedTuple):
    """What trends do to the logits of one loss.

    Attributes:
      positive_PxQ: f32, added to the labels'.
      others_MxN: f32, added to the other items' at each moment.
      moments_P: int32.
    """

    positive_PxQ: jax.Array
    others_MxN: jax.Array
    moments_P: Array


def _raised(model: NxtPost, params, trends, *, moments_P, labels_PxQ, others_N) -> _Raised:
    def of(known):
        return apply(model, params, known, method="raised") / model.config.temperature

    others_3xMxN = jnp.take(trends, others_N, axis=2, mode="clip")
    labels_3xPxQ = trends[:, moments_P[:, None], jnp.maximum(labels_PxQ, 0)]
    return _Raised(of(labels_3xPxQ), of(others_3xMxN), moments_P)


def _scored_labels(objective: Objective, batch) -> dict:
    """Name the labels of the losses that have a weight."""
    labels = {"short": batch["labels"]} if objective.short_weight else {}
    return labels | ({"long": batch["long_labels"]} if objective.long_weight else {})


def _draw(objective: Objective, key, batch, labels, candidates) -> negative_draws.Negatives:
    count = objective.num_negatives
    if objective.negatives == "uniform":
        return negative_draws.draw_uniform(key, candidates, count)
    labels_BxS = jnp.concatenate(list(labels.values()), axis=1)
    if objective.negatives == "in_batch":
        return negative_draws.draw_in_batch(key, labels_BxS, batch["users"], count)
    uniform_key, batch_key = jax.random.split(key)
    return negative_draws.join(
        negative_draws.draw_uniform(uniform_key, candidates, count),
        negative_draws.draw_in_batch(batch_key, labels_BxS, batch["users"], count),
    )


def _kept_of_each_row(objective: Objective, drawn, batch, labels):
    """Mask a row's own posts: bool[B, N]; [1, N] where negatives come from no row."""
    if objective.negatives == "uniform":
        return jnp.ones((1, len(drawn.ids_N)), bool)
    own_BxS = jnp.concatenate([batch["items"], batch["labels"], *labels.values()], axis=1)
    return negative_draws.allowed(drawn, batch["users"], own_BxS)


def _sampled_loss(
    objective: Objective,
    drawn,
    queries_PxD,
    positive_PxQ,
    labels_PxQ,
    negatives_NxD,
    *,
    own_kept_BxN,
    num_candidates: int,
    log_popularity,
    raised: _Raised | None,
):
    # None of a vector's labels is its negative.
    miss_PxN = jnp.all(labels_PxQ[:, :, None] != drawn.ids_N[None, None, :], axis=1)
    kept_PxN = miss_PxN & _of_each_vector(own_kept_BxN, len(queries_PxD))
    logits_PxN = queries_PxD @ negatives_NxD.T
    if raised is not None:
        logits_PxN += jnp.take(raised.others_MxN, raised.moments_P, axis=0)
    negative_PxN = logits_PxN
    if objective.logq:
        shift_N = negative_draws.log_expected_counts(drawn, num_candidates, log_popularity)
        negative_PxN = logits_PxN - shift_N[None, :]
    if objective.loss == "sampled_softmax":
        loss_PxQ = sampled_softmax(positive_PxQ, negative_PxN, kept_PxN)
        if objective.label_smoothing:
            count_Px1 = jnp.sum(kept_PxN, axis=1, keepdims=True)
            total_Px1 = jnp.sum(logits_PxN, axis=1, keepdims=True, where=kept_PxN)
            added_PxQ = _smoothing(objective, positive_PxQ, total_Px1 / jnp.maximum(count_Px1, 1))
            loss_PxQ += jnp.where(count_Px1 > 0, added_PxQ, 0)
        return loss_PxQ
    beta = 1.0
    if objective.loss == "gbce":
        beta = calibrated_beta(len(drawn.ids_N), num_candidates, objective.calibration)
    return binary_cross_entropy(positive_PxQ, negative_PxN, kept_PxN, beta=beta)


def _of_each_vector(mask_BxN, count: int):
    """Repeat a row's mask for each of its vectors: bool[P, N], or [1, N] if all rows share one."""
    B, N = mask_BxN.shape
    if B == 1:
        return mask_BxN
    return jnp.broadcast_to(mask_BxN[:, None], (B, count // B, N)).reshape(count, N)


def _full_softmax(
    objective: Objective, mesh, queries_PxD, positive_PxQ, labels_PxQ, items_NxD, *, raised
):
    del labels_PxQ
    if raised is not None:
        total_P = raised_logsumexp(
            queries_PxD, items_NxD, raised_MxN=raised.others_MxN, moments_P=raised.moments_P
        )
    elif mesh is None:
        total_P = chunked_logsumexp(queries_PxD, items_NxD, chunk=objective.chunk)
    else:
        total_P = sharded_logsumexp(
            queries_PxD, items_NxD, mesh=mesh, axis=mesh.axis_names, chunk=objective.chunk
        )
    loss_PxQ = total_P[:, None] - positive_PxQ
    if objective.label_smoothing:
        mean_Px1 = (queries_PxD @ jnp.mean(items_NxD, axis=0))[:, None]
        if raised is not None:
            mean_Px1 += jnp.mean(raised.others_MxN, axis=1)[raised.moments_P][:, None]
        loss_PxQ += _smoothing(objective, positive_PxQ, mean_Px1)
    return loss_PxQ


def _smoothing(objective: Objective, positive_PxQ, mean_Px1):
    """Deal a share of the target over others, whose mean logit is given: what that adds."""
    return objective.label_smoothing * (positive_PxQ - mean_Px1)


def _pooled(model: NxtPost, params, batch, states_BxLxD):
    """Pool the states before the long labels: f32[B, D]."""
    columns_L = jnp.arange(states_BxLxD.shape[1])
    read_BxL = columns_L[None, :] < batch["pooled_lengths"][:, None]
    items_BxL = jnp.where(read_BxL, batch["items"], PAD)
    return apply(model, params, states_BxLxD, items_BxL, method="pool")


def _mean_over_labels(loss_PxQ, labels_PxQ, weights_PxQ=None):
    """Divide by the number of labels, whatever they weigh: a weight changes its own label alone."""
    scored_PxQ = labels_PxQ != PAD
    if weights_PxQ is not None:
        loss_PxQ = loss_PxQ * weights_PxQ
    return jnp.sum(jnp.where(scored_PxQ, loss_PxQ, 0)) / jnp.maximum(jnp.sum(scored_PxQ), 1)
