"""How well the nodes fit the items now, beside the build, and whether new nodes are due."""

from hsnn_jax.distance import Distance
from hsnn_jax.lists.edits import total_distance
from hsnn_jax.lists.index import Index, Tiles, stats
from hsnn_jax.lists.wide import WideTiles

# Of all items, away from home: more is too much, whatever the build had.
MOST_OVERFLOW = 0.2


class SkewWarning(UserWarning):
    """Many items lie away from their nearest node, where a search looks for them last."""


def measure(
    index: Index, tiles: Tiles | WideTiles, *, distance: Distance = "l2"
) -> dict[str, float]:
    """Measure how well the nodes fit the items now.

    Returns:
      `overflow_share` of items away from their nearest node; `mean_distance` of items to the
      node that lists them; `imbalance`, max / mean occupancy. All 0 without items.
    """
    found = stats(index)
    items = max(found["items"], 1)
    return {
        "overflow_share": found["overflow"] / items,
        "mean_distance": float(total_distance(index, tiles, distance=distance)) / items,
        "imbalance": found["imbalance"],
    }


def needs_rebuild(
    drift: dict[str, float],
    *,
    more_overflow: float = 0.1,
    most_overflow: float = MOST_OVERFLOW,
    distance_ratio: float = 1.2,
    imbalance_ratio: float = 2.0,
) -> bool:
    """Tell whether new nodes are due.

    All but `most_overflow` is held against the build, since that is what a rebuild brings back.

    Args:
      drift: from `living.drift`.
      more_overflow: growth of the overflow share that is too much.
      most_overflow: overflow share that is too much whatever it was at the build: items that are
        not listed where a search looks for them.
      distance_ratio: growth of the mean distance to the node that is too much.
      imbalance_ratio: growth of max / mean occupancy that is too much.
    """
    return (
        drift["overflow_share"] > drift["overflow_share_at_build"] + more_overflow
        or drift["overflow_share"] > most_overflow
        or drift["mean_distance"] > distance_ratio * drift["mean_distance_at_build"]
        or drift["imbalance"] > imbalance_ratio * drift["imbalance_at_build"]
    )
