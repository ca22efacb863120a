"""Keep what estimates of recall go by true to the items that come."""

import jax.numpy as jnp
import numpy as np

from hsnn_jax.descent.recall import Tail
from hsnn_jax.lists.index import Index
from hsnn_jax.monn.scorers import dot
from hsnn_jax.serving.encoders import LevelModels


def with_new_items(
    tail: Tail | None, index: Index, *, models: LevelModels, vectors: np.ndarray, rows: np.ndarray
) -> Tail | None:
    """Return a calibration whose spreads count items that came, where inner products score them.

    New items may lie further from their nodes than those of the calibration. What another scorer
    makes of them is not known without users: its spreads stay as they were.

    Args:
      tail: before the items came, or None.
      index: with the items.
      models: see `LevelModels`.
      vectors: float [b, d] of the items.
      rows: int [b], where they are.
    """
    if tail is None or models.models or models.scorers[-1] is not dot or not len(rows):
        return tail
    size = index.nodes.shape[0]
    node = np.asarray(index.positions)[rows] // index.lists.shape[1]
    away = np.asarray(vectors) - np.asarray(index.nodes)[node]
    came = np.bincount(node, minlength=size)
    before = np.maximum(np.asarray(index.counts) - came, 0)
    square = np.bincount(node, np.mean(away**2, axis=1), size)
    spread = np.asarray(tail.spread)
    mixed = np.sqrt((before * spread**2 + square) / np.maximum(before + came, 1))
    return tail._replace(spread=jnp.asarray(np.where(came > 0, mixed, spread), jnp.float32))
