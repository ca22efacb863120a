"""Learning to index (LTI): nodes trained by gradient through soft assignments."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from hsnn_jax.distance import Distance, pairwise_distance
from hsnn_jax.kmeans import kmeans


@dataclasses.dataclass(frozen=True, kw_only=True)
class LTIConfig:
    """Coefficients of the LTI loss. The paper publishes none; the defaults are ours.

    Attributes:
      num_nodes: K.
      distance: d(j, k) of the soft assignment.
      loss: "sampled_softmax" over shared and in-batch negatives, or "bce", the paper's log loss.
      logit_scale: factor on <u, cbar>; an inverse temperature for unit vectors.
      in_batch: whether other pairs' items of the batch are negatives (sampled softmax).
      num_negatives: shared negatives drawn when the batch brings a catalogue, not negatives.
      alpha_max: inverse temperature of the assignment at the end.
      alpha_exponent: exp in alpha_max (t / T)^exp.
      total_steps: T.
      warmup_steps: steps of the linear ramp of the whole index loss; 0 for none.
      reconstruction_weight: weight of ||cbar - v||^2.
      balance_weight: weight of the FLOPs regulariser.
      balance_batches: batches its mean assignment is pooled over, this one included.
      kmeans_iterations: Lloyd iterations of the start.
    """

    num_nodes: int = 64
    distance: Distance = "l2"
    loss: Literal["sampled_softmax", "bce"] = "sampled_softmax"
    logit_scale: float = 20.0
    in_batch: bool = True
    num_negatives: int = 256
    alpha_max: float = 100.0
    alpha_exponent: float = 0.25
    total_steps: int = 1000
    warmup_steps: int = 100
    reconstruction_weight: float = 1.0
    balance_weight: float = 0.3
    balance_batches: int = 8
    kmeans_iterations: int = 20

    def __post_init__(self):
        if self.loss not in ("sampled_softmax", "bce"):
            raise ValueError(f"loss must be 'sampled_softmax' or 'bce', got {self.loss=}")
        for name in ("num_nodes", "total_steps", "balance_batches", "alpha_max", "logit_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "reconstruction_weight", "balance_weight", "alpha_exponent"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


def init_params(key, vectors, config: LTIConfig) -> dict:
    """Start the nodes from k-means.

    Args:
      key: PRNG key.
      vectors: float [n, d] item vectors.
      config: see `LTIConfig`.

    Returns:
      {"nodes": float [K, d]}.
    """
    nodes = kmeans(vectors, config.num_nodes, key=key, iterations=config.kmeans_iterations)
    return {"nodes": nodes}


def alpha_schedule(step, config: LTIConfig):
    """Return alpha = alpha_max (t / T)^exp: soft at first, hard as in serving at the end."""
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / config.total_steps, 0.0, 1.0)
    return config.alpha_max * progress**config.alpha_exponent


def warmup(step, config: LTIConfig):
    """Return the linear ramp of the index loss: 1 / warmup at step 0, then up to 1."""
    ramp = (jnp.asarray(step, jnp.float32) + 1.0) / max(config.warmup_steps, 1)
    return jnp.minimum(ramp, 1.0)


def quantise(vectors, nodes, alpha, *, distance: Distance = "l2"):
    """Replace vectors by convex combinations of nodes.

    Args:
      vectors: float [B, d].
      nodes: float [K, d].
      alpha: inverse temperature, >= 0.
      distance: see `distance.pairwise_distance`.

    Returns:
      (cbar float [B, d], a float [B, K]): a = softmax_k(-alpha d(j, k)), cbar = a @ nodes.
    """
    distances = pairwise_distance(vectors, nodes, distance=distance)
    a_BxK = jax.nn.softmax(-alpha * distances, axis=1)
    return a_BxK @ nodes, a_BxK


def empty_history(config: LTIConfig):
    """Return the pooled assignments before the first batch: zeros [balance_batches - 1, K]."""
    return jnp.zeros((config.balance_batches - 1, config.num_nodes))


def push_history(history, mean_assignment):
    """Append a batch's mean assignment [K] and drop the oldest."""
    return jnp.concatenate([history, mean_assignment[None, :]])[1:]


def balance_penalty(mean_assignment, history):
    """Return K times the sum over nodes of (mean assignment)^2: 1 when even, K when collapsed.

    Args:
      mean_assignment: float [K] of this batch. The gradient flows through it alone, as if it
        were the pooled mean: pooling steadies the estimate without weakening the pull.
      history: float [H, K] of earlier batches; rows of zeros are not filled yet.

    Source: FLOPs regulariser (Paria et al. 2020), pooled as in arXiv 2408.06653v3.
    """
    # A filled row sums to 1, so the sum of the history is the number of batches in it.
    batches = 1.0 + jnp.sum(history)
    pooled = jax.lax.stop_gradient((mean_assignment + jnp.sum(history, axis=0)) / batches)
    pooled += mean_assignment - jax.lax.stop_gradient(mean_assignment)
    return mean_assignment.shape[0] * jnp.sum(pooled**2)


def lti_loss(params, batch, key, *, step, config: LTIConfig, history=None):
    """Compute the index loss of a batch: supervised + reconstruction + balance, warmed up.

    Args:
      params: {"nodes": float [K, d]}.
      batch: dict of
        users: float [B, d]; positives: float [B, d], the item vectors of the pairs;
        negatives: optional float [N, d], shared by all pairs; or else
        catalogue: optional float [n, d], from which N shared negatives are drawn by `key`;
        positive_ids, negative_ids: optional int [B], [N]; a negative with the id of the pair's
          own positive is masked;
        labels: optional float [B] of the pairs, for "bce" (all 1 by default);
        weights: optional float [B], 0 for padding.
      key: PRNG key of the draw.
      step: t, of the temperature and the warm-up; may be traced.
      config: see `LTIConfig`.
      history: float [H, K] from `push_history`; None pools this batch alone.

    Returns:
      (scalar, metrics): `supervised`, `reconstruction`, `balance`, `alpha`, `perplexity` of the
      mean assignment, `soft_hard_gap` (mean ||cbar - nearest node||) and `mean_assignment` [K].

    Source: arXiv 2408.06653v3, Algorithm 1 and section on joint optimisation.
    """
    batch = _with_negatives(batch, key, config)
    weights = batch.get("weights", jnp.ones(batch["users"].shape[0]))
    weights = weights / jnp.maximum(jnp.sum(weights), 1e-9)
    alpha, nodes = alpha_schedule(step, config), params["nodes"]
    cbar, a_BxK = quantise(batch["positives"], nodes, alpha, distance=config.distance)
    supervised = jnp.sum(weights * _supervised(batch, cbar, nodes, alpha, config))
    squared_error = jnp.sum((cbar - batch["positives"]) ** 2, axis=1)
    reconstruction = jnp.sum(weights * squared_error)
    mean_assignment = weights @ a_BxK
    history = empty_history(config)[:0] if history is None else history
    balance = balance_penalty(mean_assignment, history)
    loss = supervised + config.reconstruction_weight * reconstruction
    loss = warmup(step, config) * (loss + config.balance_weight * balance)
    hard = nodes[jnp.argmax(a_BxK, axis=1)]
    metrics = {
        "supervised": supervised,
        "reconstruction": reconstruction,
        "balance": balance,
        "alpha": alpha,
        "perplexity": jnp.exp(jnp.sum(jax.scipy.special.entr(mean_assignment))),
        "soft_hard_gap": jnp.sum(weights * jnp.sqrt(jnp.sum((cbar - hard) ** 2, axis=1))),
        "mean_assignment": mean_assignment,
    }
    return loss, jax.lax.stop_gradient(metrics)


def _with_negatives(batch, key, config):
    if "negatives" in batch or "catalogue" not in batch:
        return batch
    catalogue = batch["catalogue"]
    ids = jax.random.randint(key, (config.num_negatives,), 0, catalogue.shape[0])
    return batch | {"negatives": catalogue[ids], "negative_ids": ids}


def _supervised(batch, cbar, nodes, alpha, config):
    """Return the loss [B] of each pair."""
    own = config.logit_scale * jnp.sum(batch["users"] * cbar, axis=1)
    others = _negative_logits(batch, cbar, nodes, alpha, config)
    if config.loss == "sampled_softmax":
        logits = jnp.concatenate([own[:, None], *others], axis=1)
        return jax.nn.logsumexp(logits, axis=1) - own
    labels = batch.get("labels", jnp.ones_like(own))
    pair_loss = jax.nn.softplus(own) - labels * own
    for logits in others:
        # A masked logit is -inf and softplus(-inf) = 0; the mean is over the ones that count.
        unmasked = jnp.sum(jnp.isfinite(logits), axis=1)
        pair_loss += jnp.sum(jax.nn.softplus(logits), axis=1) / jnp.maximum(unmasked, 1)
    return pair_loss


def _negative_logits(batch, cbar, nodes, alpha, config):
    """Return logits [B, B] of the in-batch and [B, N] of the shared negatives, where used."""
    users, ids, logits = batch["users"], batch.get("positive_ids"), []
    if config.in_batch and config.loss == "sampled_softmax":
        same = jnp.eye(users.shape[0], dtype=bool)
        if ids is not None:
            same = ids[:, None] == ids[None, :]
        if "weights" in batch:
            same |= (batch["weights"] == 0)[None, :]
        logits.append(jnp.where(same, -jnp.inf, config.logit_scale * users @ cbar.T))
    if "negatives" in batch:
        shared, _ = quantise(batch["negatives"], nodes, alpha, distance=config.distance)
        same = jnp.zeros((users.shape[0], shared.shape[0]), bool)
        if ids is not None and "negative_ids" in batch:
            same = ids[:, None] == batch["negative_ids"][None, :]
        logits.append(jnp.where(same, -jnp.inf, config.logit_scale * users @ shared.T))
    if not logits:
        raise ValueError(
            "batch must hold 'negatives' or 'catalogue' unless config.in_batch with "
            f"loss 'sampled_softmax'; got keys {sorted(batch)}"
        )
    return logits
