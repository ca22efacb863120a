"""How an index uses its nodes while it is learned, and whether it has collapsed."""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance, first_least, pairwise_distance

# [rows, K] values held at once: 16 MiB of float32.
_MAX_BLOCK = 2**22


class CollapseWarning(UserWarning):
    """A learned index uses few of its nodes."""


class Assignment(NamedTuple):
    """The hard assignment that the next call of `telemetry` compares with."""

    node: jax.Array  # int32 [n], the nearest node of each item
    representatives: jax.Array  # int32 [K], the item nearest to each node among its own, or -1


def telemetry(
    vectors: ArrayLike,
    nodes: ArrayLike,
    *,
    alpha: ArrayLike | None,
    previous: Assignment | None = None,
    capacity: int | None = None,
    distance: Distance = "l2",
) -> tuple[dict[str, float], Assignment]:
    """Measure one level.

    Args:
      vectors: float [n, d]; residuals at the finer levels of a residual index.
      nodes: float [K, d].
      alpha: inverse temperature of the soft assignment; None where there is none.
      previous: from the previous call on the same items.
      capacity: slots of a list, for `overflow`.
      distance: see `distance.pairwise_distance`.

    Returns:
      (metrics, assignment). The metrics are floats: `used_nodes` and `used_share`, nodes that
      are nearest to an item; `perplexity` of the items' distribution over nodes (K when even);
      `max_occupancy`, `mean_occupancy` and their ratio `imbalance`. With an alpha:
      `soft_hard_gap`, mean ||cbar - c_hard||. With `previous`: `flip_rate`, share of items whose
      nearest node has changed, and `representative_churn`, share of nodes whose representative
      has. With `capacity`: `overflow`, items that their nearest node would have no room for.
    """
    vectors, nodes = jnp.asarray(vectors), jnp.asarray(nodes)
    node, representatives, gap = _measure(vectors, nodes, alpha, distance=distance)
    counts = np.bincount(np.asarray(node), minlength=nodes.shape[0])
    share = counts[counts > 0] / counts.sum()
    metrics = {
        "used_nodes": float(share.size),
        "used_share": share.size / counts.size,
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "max_occupancy": float(counts.max()),
        "mean_occupancy": float(counts.mean()),
        "imbalance": float(counts.max() / counts.mean()),
    }
    if alpha is not None:
        metrics["soft_hard_gap"] = float(gap)
    if previous is not None:
        metrics["flip_rate"] = float(jnp.mean(node != previous.node))
        changed = representatives != previous.representatives
        metrics["representative_churn"] = float(jnp.mean(changed))
    if capacity is not None:
        metrics["overflow"] = float(np.maximum(counts - capacity, 0).sum())
    return metrics, Assignment(node, representatives)


def collapsed(
    metrics: dict[str, float], *, used_share: float = 0.5, perplexity_share: float = 0.2
) -> bool:
    """Tell whether a level has collapsed.

    Args:
      metrics: from `telemetry`.
      used_share: fewer used nodes than this share of all is a collapse.
      perplexity_share: so is a perplexity below this share of the number of nodes: some nodes
        hold nearly everything, though others are used.
    """
    nodes = metrics["used_nodes"] / metrics["used_share"]
    few = metrics["used_share"] < used_share
    return bool(few or metrics["perplexity"] < perplexity_share * nodes)


@functools.partial(jax.jit, static_argnames="distance")
def _measure(vectors, nodes, alpha, *, distance):
    def of_row(vector):
        row = pairwise_distance(vector[None, :], nodes, distance=distance)[0]
        node, closest = first_least(row)
        if alpha is None:
            return node, closest, jnp.zeros(())
        soft = jax.nn.softmax(-alpha * row) @ nodes
        return node, closest, jnp.sqrt(jnp.sum((soft - nodes[node]) ** 2))

    block = max(1, min(vectors.shape[0], _MAX_BLOCK // nodes.shape[0]))
    node, distances, gap = jax.lax.map(of_row, vectors, batch_size=block)
    closest = jax.ops.segment_min(distances, node, nodes.shape[0])
    rows = jnp.arange(vectors.shape[0], dtype=jnp.int32)
    best = jnp.where(distances == closest[node], rows, vectors.shape[0])
    found = jax.ops.segment_min(best, node, nodes.shape[0])
    # An empty segment's minimum is the largest integer.
    representatives = jnp.where(found < vectors.shape[0], found, -1)
    return node, representatives, jnp.mean(gap)


class Monitor:
    """Telemetry of a training: remembers the last assignment, and warns once of a collapse.

    Args:
      item_vectors: float [n, d].
      distance: see `distance.pairwise_distance`.
    """

    def __init__(self, item_vectors: ArrayLike, *, distance: Distance = "l2") -> None:
        self._items = jnp.asarray(item_vectors)
        self._distance: Distance = distance
        self._previous: dict[str, Assignment] = {}
        self._warned = False

    def __call__(self, nodes: Any, alpha: ArrayLike | None) -> dict[str, float]:
        """Return `telemetry` under names that start with "index_", or "index_<level>_".

        Args:
          nodes: float [K, d]; or a tuple of such, residual levels, numbered from 1.
          alpha: inverse temperature, or None.
        """
        if not isinstance(nodes, tuple):
            return self._level("index_", self._items, nodes, alpha)[0]
        record, residuals = {}, self._items
        for number, level in enumerate(nodes, start=1):
            found, node = self._level(f"index_{number}_", residuals, level, alpha)
            record |= found
            residuals = residuals - level[node]
        return record

    def _level(self, prefix, vectors, nodes, alpha):
        metrics, assignment = telemetry(
            vectors,
            nodes,
            alpha=alpha,
            previous=self._previous.get(prefix),
            distance=self._distance,
        )
        self._previous[prefix] = assignment
        if collapsed(metrics) and not self._warned:
            self._warned = True
            warnings.warn(
                f"the index has collapsed: {metrics['used_nodes']:.0f} of {nodes.shape[0]} nodes "
                f"are used, perplexity {metrics['perplexity']:.1f} ({prefix.rstrip('_')})",
                CollapseWarning,
                stacklevel=4,
            )
        return {prefix + name: value for name, value in metrics.items()}, assignment.node
