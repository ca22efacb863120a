"""Losses of a scorer: weighted cross entropy per task, a sampled softmax for implicit data, and
distillation on unlabelled pairs, against the bias of learning from exposed items alone.

The teacher of a distillation is the model itself at other parameters, such as an average of its
past ones, or a larger model; only its logits enter.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return -y log p - (1 - y) log(1 - p) elementwise, p = sigmoid(logits), without overflow.

    Args:
      logits: float [...].
      labels: [...] in [0, 1]; probabilities are welcome.
    """
    return jax.nn.softplus(logits) - labels * logits


def multi_task_loss(
    logits: jax.Array, labels: jax.Array, *, weights: ArrayLike, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Compute the weighted sum over tasks of the mean cross entropy of the labelled examples.

    A task is averaged over its own labels, so that a task with few labels keeps its weight.

    Args:
      logits: float [..., T].
      labels: [..., T] in [0, 1]; what `mask` leaves out may hold anything, NaN too.
      weights: float [T], such as {click: 1, conversion: 5}'s values.
      mask: optional bool [..., T], False where a label is missing.

    Returns:
      (loss float [], mean cross entropy float [T]; 0 for a task without labels).

    Raises:
      ValueError: the shapes do not fit.

    Source: arXiv 2408.06653v3, supervised loss of MoNN.
    """
    weights = jnp.asarray(weights, jnp.float32)
    tasks = logits.shape[-1]
    if labels.shape != logits.shape or weights.shape != (tasks,):
        raise ValueError(
            f"labels, weights: expected shapes {list(logits.shape)}, the logits', and [{tasks}], "
            f"found {list(labels.shape)} and {list(weights.shape)}"
        )
    mask = jnp.ones(logits.shape, bool) if mask is None else mask
    # The label is replaced before the loss: a NaN times a zero gradient is NaN.
    losses = binary_cross_entropy(logits, jnp.where(mask, labels, 0))
    axes = tuple(range(logits.ndim - 1))
    total = jnp.sum(jnp.where(mask, losses, 0), axis=axes)
    per_task = total / jnp.maximum(jnp.sum(mask, axis=axes), 1)
    return weights @ per_task, per_task


def sampled_softmax(
    positive_B: jax.Array,
    negative_BxN: jax.Array,
    *,
    kept_BxN: jax.Array | None = None,
    log_expected_BxN: jax.Array | None = None,
) -> jax.Array:
    """Compute the mean of -log exp(s+) / (exp(s+) + sum over kept negatives exp(s-)).

    Args:
      positive_B: float [B], a user's logit of its item.
      negative_BxN: float [B, N], of the negatives.
      kept_BxN: optional bool [B, N], False for a negative that is one of the user's items. A
        row without any has loss 0.
      log_expected_BxN: optional, the log of each negative's expected number of draws, of a
        shape that broadcasts; the sum then estimates that over all items without bias (Bengio
        and Senecal 2003).
    """
    if log_expected_BxN is not None:
        negative_BxN = negative_BxN - log_expected_BxN
    if kept_BxN is not None:
        # Finite: a row with every negative left out keeps a finite gradient.
        negative_BxN = jnp.where(kept_BxN, negative_BxN, -1e9)
    return jnp.mean(jax.nn.softplus(jax.nn.logsumexp(negative_BxN, axis=1) - positive_B))


def distillation_loss(student_UxN: jax.Array, teacher_UxN: jax.Array) -> jax.Array:
    """Compute the mean cross entropy of a student's choices among N items to a teacher's.

    The choice is a softmax over the items, of which no label is needed: what is offered, or drawn.
    No gradient reaches the teacher. The gradient in a student's logit is the difference of the two
    probabilities over U; the loss itself is least, not zero, where they agree.

    Args:
      student_UxN, teacher_UxN: float [U, N], logits of U users' items.

    Returns:
      float [].

    Source: arXiv 2408.06653v3, distillation of MoNN on unlabelled data.
    """
    target_UxN = jax.lax.stop_gradient(jax.nn.softmax(teacher_UxN))
    return -jnp.mean(jnp.sum(target_UxN * jax.nn.log_softmax(student_UxN), axis=1))
