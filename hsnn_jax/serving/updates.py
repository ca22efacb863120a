"""Updates of a retriever's state: items are added, changed, removed and listed anew.

New items go beside the lists where that is exact and simple (`has_side`), and into the lists when
the side list is full. What reads or changes the lists as a whole takes the `merged` state first.
"""

from typing import Any

import jax
import numpy as np

from hsnn_jax.distance import Distance
from hsnn_jax.lists import living
from hsnn_jax.lists.ids import as_ids
from hsnn_jax.serving import side
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.spreads import with_new_items
from hsnn_jax.serving.state import Nested, follow


def has_side(models: LevelModels) -> bool:
    """Tell whether new items may wait beside the lists: where the last scorer alone scores them.

    That needs one level of nodes, no pool, no models that are summed up or that encode nodes by
    themselves. Over a mesh a retriever does without as well.
    """
    alone = models.pool is None and models.ensemble is None and len(models.models) < 2
    return alone and len(models.scorers) == 2


def add(
    now: Nested, models: LevelModels, *, vectors: Any, ids: Any, distance: Distance, beside: bool
) -> Nested:
    """Take new items in: beside the lists, or with all that waits there into them where it is full.

    Those that do not fit at once are listed, however many, see `living.add`.

    Args:
      now: stays as it is.
      models: see `LevelModels`.
      vectors: what `LevelModels.items` takes.
      ids, distance: see `living.add`.
      beside: whether items may wait beside the lists where `has_side`.

    Raises:
      ValueError: see `living.add`.
    """
    new = _checked(now, models, vectors, ids)
    for found in (living.rows_of(now.items, new.ids), side.slots_of(now.side, new.ids)):
        living.refuse_known(new.ids, found)
    return _with_items(now, models, new, distance=distance, beside=beside and has_side(models))


def upsert(
    now: Nested, models: LevelModels, *, vectors: Any, ids: Any, distance: Distance, beside: bool
) -> Nested:
    """Take items in as they are now, known or not, see `living.upsert`; arguments as of `add`."""
    new = _checked(now, models, vectors, ids)
    rows, slots = living.rows_of(now.items, new.ids), side.slots_of(now.side, new.ids)
    if beside and has_side(models):
        known = new.ids[(rows >= 0) | (slots >= 0)]
        if known.size:
            now = remove(now, models, ids=known, distance=distance)
        return _with_items(now, models, new, distance=distance, beside=True)
    given: dict[str, Any] = {"ids": new.ids, "distance": distance, "features": new.features}
    items = living.upsert(now.items, new.vectors, **given)
    # An item may be back in its row, with other features.
    changed = living.rows_of(items, new.ids)
    after = follow(now, items, models=models, changed=changed, distance=distance)
    return _with_spreads(after, models, new)


def remove(now: Nested, models: LevelModels, *, ids: Any, distance: Distance) -> Nested:
    """Drop items, see `living.remove`."""
    ids = as_ids("ids", ids, like=now.items.ids)
    slots = side.slots_of(now.side, ids)
    beside, items, after = slots >= 0, now.items, now
    if not ids.size or not beside.all():
        items = living.remove(items, ids[~beside], distance=distance)
        after = follow(now, items, models=models, distance=distance)
    if now.side is None:
        return after
    return after._replace(side=side.without(now.side, slots[beside], lists=items))


def reassign(
    now: Nested, models: LevelModels, *, vectors: Any, ids: Any, distance: Distance
) -> Nested:
    """List all items anew, see `living.reassign`; `vectors` are what `LevelModels.items` takes."""
    now = merged(now, models, distance=distance)
    carried = changed = None
    if vectors is not None:
        vectors, carried = models.items("vectors", vectors, by_batches=True)
    items = living.reassign(now.items, vectors, ids=ids, distance=distance, features=carried)
    if ids is not None:
        changed = living.rows_of(items, ids)
    return follow(now, items, models=models, changed=changed, distance=distance)


def merged(now: Nested, models: LevelModels, *, distance: Distance) -> Nested:
    """Return the state with all items in the lists."""
    if now.side is None:
        return now
    return _listed(now, models, side.held(now.side), distance)


def warmed(now: Nested, models: LevelModels, *, distance: Distance, beside: bool) -> Nested:
    """Compile what a merge runs, and return the state with a side list, be it without items.

    Where items do not wait beside the lists, see `add`, nothing is compiled.
    """
    if not (beside and has_side(models)):
        return now
    living.warm_up(now.items, distance=distance)
    return now if now.side is not None else now._replace(side=side.blank(now.items))


def _checked(now, models, vectors, ids):
    vectors, carried = models.items("vectors", vectors, by_batches=True)
    return living.checked(now.items, vectors, ids=ids, features=carried)


def _with_items(now, models, new, *, distance, beside):
    """Put checked items, unknown ones, beside the lists or with all that is there into these."""
    if beside and not new.ids.size:
        return now
    if beside and new.ids.size <= side.room(now.side):
        before = side.blank(now.items) if now.side is None else now.side
        return now._replace(side=side.append(before, new))
    if now.side is not None:
        pairs = side.held(now.side), new
        new = jax.tree.map(lambda *each: np.concatenate(each), *pairs)
    return _listed(now, models, new, distance)


def _listed(now, models, new, distance):
    given: dict[str, Any] = {"ids": new.ids, "distance": distance, "features": new.features}
    items = living.add(now.items, new.vectors, **given)
    after = follow(now, items, models=models, distance=distance)
    return _with_spreads(after, models, new)


def _with_spreads(after, models, new):
    rows = living.rows_of(after.items, new.ids)
    given = {"vectors": new.vectors, "rows": rows}
    return after._replace(
        tail=with_new_items(after.tail, after.items.index, models=models, **given)
    )
