"""Learning to index (LTI): nodes trained by gradient through soft assignments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance, nearest, pairwise_distance
from hsnn_jax.lists.checks import as_vectors
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.kmeans import kmeans
from hsnn_jax.nodes.sinkhorn import sinkhorn


def levels_of(tree: Any) -> tuple:
    """Return what belongs to the levels as a tuple, that of a single level too."""
    return tree if isinstance(tree, tuple) else (tree,)


def _like_num_nodes(levels, config):
    return tuple(levels) if isinstance(config.num_nodes, tuple) else levels[0]


def init_params(key: jax.Array, vectors: ArrayLike, *, config: LTIConfig) -> dict:
    """Start the nodes, those of a finer level from what the coarser ones leave.

    Args:
      key: PRNG key.
      vectors: float [n, d] item vectors.
      config: see `LTIConfig`.

    Returns:
      {"nodes": float [K, d]}, or a tuple of such where `config.num_nodes` is a tuple.
    """
    vectors = as_vectors("vectors", vectors)
    config, levels = config.for_items(vectors.shape[0]), []
    for level, size in enumerate(config.level_sizes):
        # The first level's key does not depend on the number of levels.
        level_key = key if level == 0 else jax.random.fold_in(key, level)
        levels.append(_start(level_key, vectors, size, config))
        node, _ = nearest(vectors, levels[-1], distance=config.distance)
        vectors = vectors - levels[-1][node]
    return {"nodes": _like_num_nodes(levels, config)}


def _start(key, vectors, size, config):
    if config.start == "kmeans":
        return kmeans(vectors, size, key=key, iterations=config.kmeans_iterations)
    noise = jax.random.normal(key, (size, vectors.shape[1]), vectors.dtype)
    spread = jnp.std(vectors, axis=0, keepdims=True)
    return jnp.mean(vectors, axis=0, keepdims=True) + 0.1 * spread * noise


def alpha_schedule(step: ArrayLike, config: LTIConfig) -> jax.Array:
    """Return alpha = alpha_max (t / T)^exp: soft at first, hard as in serving at the end."""
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / config.total_steps, 0.0, 1.0)
    return config.alpha_max * progress**config.alpha_exponent


def warmup(step: ArrayLike, config: LTIConfig) -> jax.Array:
    """Return the linear ramp of the index loss: 1 / warmup at step 0, then up to 1."""
    ramp = (jnp.asarray(step, jnp.float32) + 1.0) / max(config.warmup_steps, 1)
    return jnp.minimum(ramp, 1.0)


def quantise(
    vectors: jax.Array,
    nodes: jax.Array,
    *,
    alpha: jax.Array | float,
    distance: Distance = "l2",
    sinkhorn_iterations: int = 0,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Replace vectors by convex combinations of nodes.

    Args:
      vectors: float [B, d].
      nodes: float [K, d].
      alpha: inverse temperature, >= 0.
      distance: see `distance.pairwise_distance`.
      sinkhorn_iterations: 0 for the softmax; else the assignment is balanced over the batch.
      weights: optional float [B] for the latter, 0 for padding.

    Returns:
      (cbar float [B, d], a float [B, K]): a = softmax_k(-alpha d(j, k)), cbar = a @ nodes.
    """
    distances = pairwise_distance(vectors, nodes, distance=distance)
    a_BxK = sinkhorn(-alpha * distances, iterations=sinkhorn_iterations, weights=weights)
    return a_BxK @ nodes, a_BxK


class Quantised(NamedTuple):
    """Vectors in the codes of N residual levels."""

    q: tuple  # float [B, d] a level: the sum of cbar up to this level
    a: tuple  # float [B, K_n] a level
    hard: jax.Array  # float [B, d]: the sum over levels of the node with the largest a


def quantise_levels(
    vectors: jax.Array,
    nodes: Any,
    *,
    alpha: jax.Array | float,
    config: LTIConfig,
    weights: jax.Array | None = None,
) -> Quantised:
    """Quantise level by level what the coarser levels have left.

    r_1 = v; r_n = r_{n-1} - cbar_{n-1}; q_n = cbar_1 + ... + cbar_n.

    Args:
      vectors: float [B, d].
      nodes: float [K, d], or a tuple of such.
      alpha: inverse temperature.
      config: its distance and assignment.
      weights: optional float [B], 0 for padding.
    """
    iterations = config.sinkhorn_iterations if config.assignment == "sinkhorn" else 0
    total, hard, q, a = jnp.zeros_like(vectors), jnp.zeros_like(vectors), [], []
    for level in levels_of(nodes):
        cbar, a_BxK = quantise(
            vectors - total,
            level,
            alpha=alpha,
            distance=config.distance,
            sinkhorn_iterations=iterations,
            weights=weights,
        )
        total, hard = total + cbar, hard + level[jnp.argmax(a_BxK, axis=1)]
        q.append(total)
        a.append(a_BxK)
    return Quantised(tuple(q), tuple(a), hard)


def empty_history(config: LTIConfig) -> Any:
    """Return the pooled assignments before the first batch: zeros [balance_batches - 1, K]."""
    sizes = config.level_sizes
    levels = [jnp.zeros((config.balance_batches - 1, size)) for size in sizes]
    return _like_num_nodes(levels, config)


def push_history(history: Any, mean_assignment: Any) -> Any:
    """Append a batch's mean assignment [K] and drop the oldest, at every level."""
    return jax.tree.map(
        lambda old, new: jnp.concatenate([old, new[None, :]])[1:], history, mean_assignment
    )


def balance_penalty(mean_assignment: jax.Array, history: jax.Array) -> jax.Array:
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


def lti_loss(
    params: Any,
    batch: dict,
    *,
    key: jax.Array | None,
    step: ArrayLike,
    config: LTIConfig,
    history: Any = None,
) -> tuple[jax.Array, dict]:
    """Compute the index loss of a batch: supervised + reconstruction + balance, warmed up.

    Args:
      params: {"nodes": float [K, d]}, or a tuple of such, one a residual level.
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
      history: float [H, K] (a tuple for levels) from `push_history`; None pools this batch
        alone.

    Returns:
      (scalar, metrics): `supervised`, `reconstruction`, `balance`, `alpha`, `perplexity` of the
      mean assignment, `soft_hard_gap` (mean ||cbar - hard node||) and `mean_assignment` [K].
      Over residual levels, supervised (on <u, q_n>), balance and perplexity are means;
      reconstruction and the gap are those of q_N.

    Source: arXiv 2408.06653v3, Algorithm 1 and section on joint optimisation.
    """
    batch = with_negatives(batch, key, config=config)
    weights = batch.get("weights", jnp.ones(batch["users"].shape[0]))
    nodes, alpha = params["nodes"], alpha_schedule(step, config)
    own = quantise_levels(batch["positives"], nodes, alpha=alpha, config=config, weights=weights)
    weights = weights / jnp.maximum(jnp.sum(weights), 1e-9)
    shared = [None] * len(own.q)
    if "negatives" in batch:
        shared = quantise_levels(batch["negatives"], nodes, alpha=alpha, config=config).q
    pair_losses = [
        supervised_loss(batch, own_q, shared=shared_q, config=config)
        for own_q, shared_q in zip(own.q, shared)
    ]
    supervised = jnp.sum(weights * sum(pair_losses)) / len(own.q)
    squared_error = jnp.sum((own.q[-1] - batch["positives"]) ** 2, axis=1)
    reconstruction = jnp.sum(weights * squared_error)
    means = [weights @ a_BxK for a_BxK in own.a]
    empty = [jnp.zeros((0, mean.size)) for mean in means]
    history = empty if history is None else levels_of(history)
    balance = sum(map(balance_penalty, means, history)) / len(means)
    loss = supervised + config.reconstruction_weight * reconstruction
    loss = warmup(step, config) * (loss + config.balance_weight * balance)
    perplexities = [jnp.exp(jnp.sum(jax.scipy.special.entr(mean))) for mean in means]
    gap = jnp.sqrt(jnp.sum((own.q[-1] - own.hard) ** 2, axis=1))
    metrics = {
        "supervised": supervised,
        "reconstruction": reconstruction,
        "balance": balance,
        "alpha": alpha,
        "perplexity": sum(perplexities) / len(means),
        "soft_hard_gap": jnp.sum(weights * gap),
        "mean_assignment": tuple(means) if isinstance(nodes, tuple) else means[0],
    }
    return loss, jax.lax.stop_gradient(metrics)


def with_negatives(batch: dict, key: jax.Array | None, *, config: LTIConfig) -> dict:
    """Draw shared negatives from the catalogue, if the batch brings one and no negatives."""
    if "negatives" in batch or "catalogue" not in batch:
        return batch
    if key is None:
        raise ValueError("key: expected one, by which negatives are drawn, found none")
    catalogue = batch["catalogue"]
    ids = jax.random.randint(key, (config.num_negatives,), 0, catalogue.shape[0])
    return batch | {"negatives": catalogue[ids], "negative_ids": ids}


def supervised_loss(
    batch: dict, embedded: jax.Array, *, shared: jax.Array | None, config: LTIConfig
) -> jax.Array:
    """Return the loss [B] of each pair.

    Args:
      batch: see `lti_loss`.
      embedded: float [B, d], what stands for the pairs' items, such as cbar.
      shared: float [N, d], what stands for the shared negatives, or None.
      config: its loss, logit_scale and in_batch.
    """
    own = config.logit_scale * jnp.sum(batch["users"] * embedded, axis=1)
    others = _negative_logits(batch, embedded, shared, config)
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


def _negative_logits(batch, embedded, shared, config):
    """Return logits [B, B] of the in-batch and [B, N] of the shared negatives, where used."""
    users, ids, logits = batch["users"], batch.get("positive_ids"), []
    if config.in_batch and config.loss == "sampled_softmax":
        same = jnp.eye(users.shape[0], dtype=bool)
        if ids is not None:
            same = ids[:, None] == ids[None, :]
        if "weights" in batch:
            same |= (batch["weights"] == 0)[None, :]
        logits.append(jnp.where(same, -jnp.inf, config.logit_scale * users @ embedded.T))
    if shared is not None:
        same = jnp.zeros((users.shape[0], shared.shape[0]), bool)
        if ids is not None and "negative_ids" in batch:
            same = ids[:, None] == batch["negative_ids"][None, :]
        logits.append(jnp.where(same, -jnp.inf, config.logit_scale * users @ shared.T))
    # Labels bring negatives of their own to the log loss.
    if not logits and not (config.loss == "bce" and "labels" in batch):
        raise ValueError(
            "batch: expected 'negatives' or 'catalogue', unless config.in_batch with loss "
            f"'sampled_softmax', or 'labels' with 'bce', found {sorted(batch)}"
        )
    return logits
