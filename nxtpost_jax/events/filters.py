"""The integrity filter: events and items that break the rules leave histories, labels and index.

Training labels, histories and query targets are all cut from `Sequences`, so filtering these
before a split covers all three; the same `item_allowed` restricts the candidates of
`ranking.evaluate`. A `Recommender` applies it by itself: see its `event_filter`, its `remove`, and
`allowed` of its `recommend`.

Source: NxtPost (arXiv 2202.03645), integrity filtering of training data and index.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.checks import checked_mask
from nxtpost_jax.events.sequences import Sequences


def apply_filter(
    sequences: Sequences,
    item_allowed: ArrayLike | None = None,
    *,
    event_allowed: ArrayLike | None = None,
) -> Sequences:
    """Leave out the events of refused items, and refused events.

    Args:
      sequences: events.
      item_allowed: bool[N], or None to allow every item; the mask of the index, too.
      event_allowed: bool[n_events], or None to allow every event.

    Returns:
      The same users, their static features kept, with the events that are left.

    Raises:
      ValueError: a mask has another dtype or shape, or N is below an item of an event.
    """
    keep = np.ones(len(sequences.items), bool)
    if item_allowed is not None:
        highest = int(sequences.items.max(initial=-1))
        item_allowed = checked_mask("item_allowed", item_allowed)
        if len(item_allowed) <= highest:
            raise ValueError(
                f"item_allowed: expected at least {highest + 1} entries, one per item, found "
                f"{len(item_allowed)}"
            )
        keep &= item_allowed[sequences.items]
    if event_allowed is not None:
        keep &= checked_mask("event_allowed", event_allowed, len(keep))
    return keep_events(sequences, keep)


def keep_events(sequences: Sequences, keep: np.ndarray) -> Sequences:
    """Keep the events where bool[n_events] `keep` is True, and every user."""
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    columns = {
        name: None if getattr(sequences, name) is None else getattr(sequences, name)[keep]
        for name in ("times", "actions", "surfaces", "weights")
    }
    offsets = kept_before[sequences.offsets]
    return Sequences(sequences.items[keep], offsets, static=sequences.static, **columns)
