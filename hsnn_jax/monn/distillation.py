"""Distillation on unlabelled pairs, against the bias of learning from exposed items alone.

The teacher is the model itself at other parameters, such as an average of its past ones, or a
larger model; only its logits enter.
"""

import jax
import jax.numpy as jnp

from hsnn_jax.monn.losses import binary_cross_entropy


def distillation_loss(student_logits, teacher_logits, mask=None):
    """Compute the mean cross entropy of the student to the teacher's probabilities.

    No gradient reaches the teacher. The gradient in a student logit is the difference of the
    two probabilities; the loss itself is least, not zero, where they agree.

    Args:
      student_logits, teacher_logits: float [...].
      mask: optional bool [...], which pairs count, such as those without a label.

    Returns:
      float [], 0 when no pair counts.

    Source: arXiv 2408.06653v3, distillation of MoNN on unlabelled data.
    """
    target = jax.lax.stop_gradient(jax.nn.sigmoid(teacher_logits))
    losses = binary_cross_entropy(student_logits, target)
    if mask is None:
        return jnp.mean(losses)
    return jnp.sum(jnp.where(mask, losses, 0)) / jnp.maximum(jnp.sum(mask), 1)


def ema_update(params, ema, decay):
    """Move an average of parameters towards the present ones: decay * ema + (1 - decay) * params.

    Args:
      params, ema: pytrees of one structure; start `ema` as the parameters themselves.
      decay: in [0, 1), may be traced; 0.999 averages over about 1,000 steps.
    """
    return jax.tree.map(lambda new, old: decay * old + (1 - decay) * new, params, ema)
