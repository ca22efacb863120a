"""The index of items: vectors in fixed-capacity arrays on the device, under ids from 0.

What callers call them is in `names`; errors say that.

A catalogue never changes: `add` and `remove` give another one. So a request that has taken one
reads vectors, ids and presence of one moment, whatever is added and removed meanwhile.

An item lies in a slot. Slots are in two segments, and a search looks into both. A new item comes
into the recent segment, which is small: to copy it is all that an `add` costs. When it is full its
items move to the free slots of the base segment, which is copied then. Where these are too few the
capacity of the base doubles. Shapes are else as they were: a search that was compiled once goes on
as items come and go, and is compiled anew only at a doubling.

Shape suffixes: S slots of the base, R recent ones, D vector width, m items of a call.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.checks import item_ids
from nxtpost_jax.events.ids import Ids, Numbered
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.serving.places import Places
from nxtpost_jax.serving.programs import Items, power_of_two

_SPARE = 64  # slots, or an eighth of the items where that is more, free from the start
_RECENT = (64, 1024)  # slots of the recent segment, a sixteenth of the items in between


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Catalogue:
    """Hold item vectors and which of them may be found; `of` makes one.

    Attributes:
      items: the vectors of both segments and where items are, on the device; what a free slot
        holds is never read.
      base: the ids in S slots, of items that may have been removed since.
      alive: bool[S] on the host, slots of the base where an item is.
      recent: the ids in R slots, PAD where free.
      removed: int32[r], the ids that were removed and are not back, sorted.
      revision: grows when an id comes back, perhaps with another vector: what was computed from
        the vectors of items that are in two catalogues of one revision holds in both.
      names: the caller's ids, which the numbers here stand for.
    """

    items: Items
    base: Places
    alive: np.ndarray
    recent: Places
    removed: np.ndarray
    revision: int = 0
    names: Ids = dataclasses.field(default_factory=Numbered)

    def __post_init__(self):
        for array in (self.alive, self.removed):
            array.flags.writeable = False

    @classmethod
    def of(
        cls,
        vectors: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        capacity: int | None = None,
        recent: int | None = None,
        names: Ids | None = None,
    ) -> Catalogue:
        """Start with items in the first slots.

        Args:
          vectors: f32[n, D].
          ids: int[n], 0 to n - 1 when None.
          capacity: S, at least n; n and some spare slots when None.
          recent: R; a sixteenth of the items, from 64 to 1,024, when None.
          names: what callers call the ids; the same numbers when None.

        Raises:
          ValueError: an id is there twice or is no id, or the capacity is below n.
        """
        vectors = jnp.asarray(vectors, jnp.float32)
        count = len(vectors)
        ids = np.arange(count, dtype=np.int32) if ids is None else _unique_ids(ids, Numbered())
        if len(ids) != count:
            raise ValueError(f"ids: expected {count}, one per vector, found {len(ids)}")
        capacity = count + max(_SPARE, count // 8) if capacity is None else capacity
        if capacity < max(count, 1):
            raise ValueError(f"capacity: expected at least {max(count, 1)}, found {capacity}")
        if recent is None:
            recent = int(np.clip(power_of_two(count // 16), *_RECENT))
        free = capacity - count + recent
        ids = np.pad(ids, (0, free), constant_values=PAD)
        vectors = jnp.pad(vectors, [(0, free), (0, 0)])
        return cls.restore(vectors, ids, removed=(), recent=recent, names=names)

    @classmethod
    def restore(
        cls,
        vectors: ArrayLike,
        ids: ArrayLike,
        *,
        removed: ArrayLike,
        recent: int | np.ndarray = 0,
        names: Ids | None = None,
    ) -> Catalogue:
        """Rebuild a catalogue of its `vectors`, `ids` and `removed`, slot by slot.

        Args:
          vectors, ids, removed: as the attributes.
          recent: R, how many of the slots, the last ones, are recent.
          names: what callers call the ids; the same numbers when None.
        """
        vectors, ids = jnp.asarray(vectors, jnp.float32), np.array(ids, np.int32)
        size = len(ids) - int(recent)
        base, late = ids[:size], ids[size:]
        return cls(
            Items(vectors[:size], *map(jnp.asarray, (base != PAD, vectors[size:], late != PAD))),
            base=Places(base),
            alive=base != PAD,
            recent=Places(late),
            removed=np.array(removed, np.int32),
            names=Numbered() if names is None else names,
        )

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        width = self.items.vectors_SxD.shape[1]
        return f"Catalogue({len(self):,} items in {self.num_slots:,} slots, width {width})"

    @property
    def num_slots(self) -> int:
        """Count the slots of both segments: S + R."""
        return len(self.base.ids) + len(self.recent.ids)

    @property
    def vectors(self) -> jax.Array:
        """Join the vectors of both segments: f32[S + R, D], a copy on the device."""
        return jnp.concatenate([self.items.vectors_SxD, self.items.recent_RxD])

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """List the ids in all slots: int32[S + R], PAD where free."""
        ids = np.concatenate([np.where(self.alive, self.base.ids, PAD), self.recent.ids])
        ids.flags.writeable = False
        return ids

    @functools.cached_property
    def sorted_ids(self) -> np.ndarray:
        """List the items' ids in order: int32[n]."""
        ids = np.sort(self.ids[self.ids != PAD])
        ids.flags.writeable = False
        return ids

    @property
    def next_id(self) -> int:
        """Give the lowest id above all that ever were."""
        highest = self.removed[-1] if len(self.removed) else PAD
        return int(max(self.base.highest, self.recent.highest, highest)) + 1

    def read(self, name: str, values: Any) -> np.ndarray:
        """Read the caller's ids as numbers of items that are here, were or might be: int32[m].

        Raises:
          ValueError: nobody ever named an item so, or it can be no id.
        """
        ids = self.names.codes(name, values)
        unknown = np.flatnonzero(ids == PAD)
        if len(unknown):
            raise unknown_item(name, list(values)[unknown[0]])
        return ids

    def slots(self, name: str, ids: ArrayLike) -> np.ndarray:
        """Find the slots of items: int32[m].

        Raises:
          ValueError: an id is none of the catalogue's; `name` says whose.
        """
        slots = self.find(ids)
        unknown = np.flatnonzero(slots == PAD)
        if len(unknown):
            raise unknown_item(name, self.names.take(np.asarray(ids))[unknown[0]])
        return slots

    def find(self, ids: ArrayLike) -> np.ndarray:
        """Find the slots of items: int32[m], PAD where the catalogue has no such id."""
        early, late = self.base.find(ids), self.recent.find(ids)
        if len(self.alive):
            early = np.where(self.alive[early], early, np.int32(PAD))  # at PAD it is PAD anyway
        return np.where(late != PAD, late + np.int32(len(self.base.ids)), early)

    def was_removed(self, ids: ArrayLike) -> np.ndarray:
        """Tell which ids were removed and are not back: bool[m]."""
        ids = np.asarray(ids)
        if not len(self.removed):
            return np.zeros(ids.shape, bool)
        places = np.minimum(np.searchsorted(self.removed, ids), len(self.removed) - 1)
        return self.removed[places] == ids

    def ids_of(self, slots: ArrayLike) -> np.ndarray:
        """Name the items in slots, PAD at PAD: int32 of the same shape."""
        slots = np.asarray(slots)
        size = len(self.base.ids)
        ids = np.full(slots.shape, PAD, np.int32)
        for places, first, last in ((self.base, 0, size), (self.recent, size, self.num_slots)):
            here = (slots >= first) & (slots < last)
            ids[here] = places.ids[slots[here] - first]
        return ids

    def mask(self, slots: np.ndarray) -> np.ndarray:
        """Mark slots, PAD among them ignored: bool[S + R]."""
        chosen = np.zeros(self.num_slots, bool)
        chosen[slots[slots != PAD]] = True
        return chosen

    def by_slot(self, values: ArrayLike) -> np.ndarray:
        """Sort values by id into their slots; 0 where there is none."""
        values = np.asarray(values)
        known = (self.ids != PAD) & (self.ids < len(values))
        return np.where(known, values[np.where(known, self.ids, 0)], values.dtype.type(0))

    def checked_new_ids(self, ids: ArrayLike | None, count: int) -> np.ndarray:
        """Read the ids of items to add, or name them from `next_id` on: int32[count].

        Raises:
          ValueError: there are not `count` of them, or an id is there twice, in the catalogue
            already, or no id at all.
        """
        if ids is None:
            ids = np.arange(self.next_id, self.next_id + count)
        ids = _unique_ids(ids, self.names)
        if len(ids) != count:
            raise ValueError(f"ids: expected {count}, one per item, found {len(ids)}")
        known = np.flatnonzero(self.find(ids) != PAD)
        if len(known):
            found = self.names.take(ids)[known[0]]
            raise ValueError(f"ids: expected new ones, found {found} in the catalogue")
        return ids

    def add(self, vectors_mxD: ArrayLike, ids: ArrayLike | None = None) -> Catalogue:
        """Give a catalogue with more items in recent slots; a full segment is emptied first.

        Args:
          vectors_mxD: f32[m, D].
          ids: int[m]; the next m free ids, from `next_id` on, when None.

        Raises:
          ValueError: see `checked_new_ids`, or the vectors have another width.
        """
        shape, width = np.shape(vectors_mxD), self.items.vectors_SxD.shape[1]
        if len(shape) != 2 or shape[1] != width:
            raise ValueError(f"vectors: expected shape [m, {width}], found {list(shape)}")
        new = self.checked_new_ids(ids, shape[0])
        if not len(new):
            return self
        vectors_mxD = np.asarray(vectors_mxD, np.float32)
        back = self.was_removed(new).any()
        changes: dict[str, Any] = {"revision": self.revision + 1} if back else {}
        if back:
            changes["removed"] = np.setdiff1d(self.removed, new)
        roomy = self if len(new) <= len(self.recent.free) else self._emptied()
        if len(new) > len(self.recent.ids):
            grown = roomy._in_base(vectors_mxD, new, padded=power_of_two(len(new)))
        else:
            grown = roomy._in_recent(vectors_mxD, new)
        return dataclasses.replace(grown, **changes)

    def remove(self, ids: ArrayLike) -> Catalogue:
        """Give a catalogue without some items; their slots are free there.

        Raises:
          ValueError: an id is unknown or there twice.
        """
        gone = _unique_ids(ids, self.names)
        slots = self.slots("ids", gone)
        if not len(gone):
            return self
        size = len(self.base.ids)
        early, late = slots[slots < size], slots[slots >= size] - size
        alive, recent = self.alive.copy(), self.recent.ids.copy()
        alive[early], recent[late] = False, PAD
        items = self.items
        if len(early):
            items = items._replace(present_S=jnp.asarray(alive))
        if len(late):
            items = items._replace(recent_present_R=jnp.asarray(recent != PAD))
        return dataclasses.replace(
            self,
            items=items,
            alive=alive,
            recent=Places(recent) if len(late) else self.recent,
            removed=np.union1d(self.removed, gone),
        )

    def of_vectors(self, vectors_SxD: jax.Array) -> Catalogue:
        """Give the same items of the base with other vectors."""
        return dataclasses.replace(self, items=self.items._replace(vectors_SxD=vectors_SxD))

    def without(self, removed: np.ndarray) -> Catalogue:
        """Give a catalogue where some ids are removed, whether they are here or never were."""
        here = removed[self.find(removed) != PAD]
        return dataclasses.replace(self.remove(here), removed=np.union1d(self.removed, removed))

    @functools.cached_property
    def _size(self) -> int:
        return int(self.alive.sum() + (self.recent.ids != PAD).sum())

    def _in_recent(self, vectors_mxD: np.ndarray, new: np.ndarray) -> Catalogue:
        """Put items into recent slots, of which enough are free."""
        slots = self.recent.free[: len(new)]
        ids, rows_RxD = self.recent.ids.copy(), np.array(self.items.recent_RxD)
        ids[slots], rows_RxD[slots] = new, vectors_mxD
        # Arrays of the host and no program: nothing to compile, and nothing that readers hold.
        recent, present = jax.device_put((rows_RxD, ids != PAD))
        items = self.items._replace(recent_RxD=recent, recent_present_R=present)
        return dataclasses.replace(self, items=items, recent=Places(ids))

    def _emptied(self) -> Catalogue:
        """Move all recent items to the base."""
        late = self.recent.ids
        rows_mxD = np.asarray(self.items.recent_RxD)[late != PAD]
        moved = self._in_base(rows_mxD, late[late != PAD], padded=len(late))
        none = Places(np.full_like(late, PAD))
        items = moved.items._replace(recent_present_R=jax.device_put(none.ids != PAD))
        return dataclasses.replace(moved, items=items, recent=none)

    def _in_base(self, vectors_mxD: np.ndarray, new: np.ndarray, *, padded: int) -> Catalogue:
        """Put items into the base, by a program for `padded` rows."""
        if not len(new):
            return self
        items, alive, ids = self._with_room(len(new))
        slots = np.flatnonzero(~alive)[: len(new)].astype(np.int32)
        alive, ids, missing = alive.copy(), np.where(alive, ids, PAD), padded - len(new)
        alive[slots], ids[slots] = True, new
        vectors = _put(
            items.vectors_SxD,
            np.pad(slots, (0, missing), constant_values=len(alive)),
            np.pad(vectors_mxD, [(0, missing), (0, 0)]),
        )
        items = items._replace(vectors_SxD=vectors, present_S=jax.device_put(alive))
        return dataclasses.replace(self, items=items, base=Places(ids), alive=alive)

    def _with_room(self, count: int) -> tuple[Items, np.ndarray, np.ndarray]:
        """Double the base until `count` slots are free: items, `alive` and ids."""
        used, capacity = int(self.alive.sum()), len(self.alive)
        while used + count > capacity:
            capacity *= 2
        new = capacity - len(self.alive)
        if not new:
            return self.items, self.alive, self.base.ids
        vectors = jnp.pad(self.items.vectors_SxD, [(0, new), (0, 0)])
        ids = np.pad(self.base.ids, (0, new), constant_values=PAD)
        return self.items._replace(vectors_SxD=vectors), np.pad(self.alive, (0, new)), ids


def unknown_item(name: str, found: object) -> ValueError:
    """Say that a catalogue has no such item."""
    shown = found if isinstance(found, (int, np.integer)) else repr(str(found))
    return ValueError(f"{name}: expected item ids of the catalogue, found {shown!s:.60}")


def _unique_ids(ids, names: Ids) -> np.ndarray:
    ids = item_ids("ids", ids)
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        found = names.take(distinct[counts > 1])[0]
        raise ValueError(f"ids: expected each once, found {found} repeated")
    return ids


# Not donated: a request may still read the array that this starts from.
@jax.jit
def _put(vectors_SxD, slots_m, rows_mxD):
    return vectors_SxD.at[slots_m].set(rows_mxD, mode="drop")
