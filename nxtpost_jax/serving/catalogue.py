"""The index of items: vectors in fixed-capacity arrays on the device, under ids from 0.

What callers call them is in `names`; errors say that.

A catalogue never changes: `add` and `remove` give another one. So a request that has taken one
reads vectors, ids and presence of one moment, whatever is added and removed meanwhile. The price
is a copy of the vectors per `add`, on the device.

An item lies in a slot. Slots are reused after a removal, and the arrays keep their shapes until
no slot is free; then the capacity doubles. So a search that was compiled once goes on as items
come and go, and is compiled anew only at a doubling.

Shape suffixes: S slots, D vector width, m items of a call.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.checks import item_ids
from nxtpost_jax.events.ids import Ids, Numbered
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.serving.programs import Items, power_of_two

_SPARE = 64  # slots, or an eighth of the items where that is more, free from the start


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Catalogue:
    """Hold item vectors and which of them may be found; `of` makes one.

    Attributes:
      vectors: f32[S, D] on the device; what a free slot holds is never read.
      present: bool[S] on the device, True where an item is.
      ids: int32[S] on the host, the item in each slot, PAD where free.
      removed: int32[r], the ids that were removed and are not back, sorted.
      sorted_ids, sorted_slots: int32[n], the items' ids in order, and their slots.
      revision: grows when an id comes back, perhaps with another vector: what was computed from
        the vectors of items that are in two catalogues of one revision holds in both.
      names: the caller's ids, which the numbers here stand for.
    """

    vectors: jax.Array
    present: jax.Array
    ids: np.ndarray
    removed: np.ndarray
    sorted_ids: np.ndarray
    sorted_slots: np.ndarray
    revision: int = 0
    names: Ids = dataclasses.field(default_factory=Numbered)

    def __post_init__(self):
        for name in ("ids", "removed", "sorted_ids", "sorted_slots"):
            getattr(self, name).flags.writeable = False

    @classmethod
    def of(
        cls,
        vectors: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        capacity: int | None = None,
        names: Ids | None = None,
    ) -> Catalogue:
        """Start with items in the first slots.

        Args:
          vectors: f32[n, D].
          ids: int[n], 0 to n - 1 when None.
          capacity: S, at least n; n and some spare slots when None.
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
        ids = np.pad(ids, (0, capacity - count), constant_values=PAD)
        vectors = jnp.pad(vectors, [(0, capacity - count), (0, 0)])
        return cls.restore(vectors, ids, removed=(), names=names)

    @classmethod
    def restore(
        cls, vectors: ArrayLike, ids: ArrayLike, *, removed: ArrayLike, names: Ids | None = None
    ) -> Catalogue:
        """Rebuild a catalogue of its `vectors`, `ids` and `removed`, slot by slot."""
        ids = np.array(ids, np.int32)
        slots = np.flatnonzero(ids != PAD).astype(np.int32)
        slots = slots[np.argsort(ids[slots])]
        return cls(
            vectors=jnp.asarray(vectors, jnp.float32),
            present=jnp.asarray(ids != PAD),
            ids=ids,
            removed=np.array(removed, np.int32),
            sorted_ids=ids[slots],
            sorted_slots=slots,
            names=Numbered() if names is None else names,
        )

    def __len__(self) -> int:
        return len(self.sorted_ids)

    def __repr__(self) -> str:
        slots, width = self.vectors.shape
        return f"Catalogue({len(self):,} items in {slots:,} slots, width {width})"

    @property
    def items(self) -> Items:
        """Give what a search reads."""
        return Items(self.vectors, self.present)

    @property
    def next_id(self) -> int:
        """Give the lowest id above all that ever were."""
        return int(max(ids.max(initial=-1) for ids in (self.sorted_ids, self.removed))) + 1

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
        ids = np.asarray(ids)
        if not len(self):
            return np.full(len(ids), PAD, np.int32)
        places = np.searchsorted(self.sorted_ids, ids)
        places = np.minimum(places, len(self) - 1)
        return np.where(self.sorted_ids[places] == ids, self.sorted_slots[places], PAD)

    def was_removed(self, ids: ArrayLike) -> np.ndarray:
        """Tell which ids were removed and are not back: bool[m]."""
        return np.isin(ids, self.removed)

    def ids_of(self, slots: ArrayLike) -> np.ndarray:
        """Name the items in slots, PAD at PAD: int32 of the same shape."""
        slots = np.asarray(slots)
        return np.where(slots == PAD, np.int32(PAD), self.ids[np.maximum(slots, 0)])

    def mask(self, slots: np.ndarray) -> np.ndarray:
        """Mark slots, PAD among them ignored: bool[S]."""
        chosen_S = np.zeros(len(self.ids), bool)
        chosen_S[slots[slots != PAD]] = True
        return chosen_S

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
        """Give a catalogue with more items in free slots, of twice the capacity if there are few.

        Args:
          vectors_mxD: f32[m, D].
          ids: int[m]; the next m free ids, from `next_id` on, when None.

        Raises:
          ValueError: see `checked_new_ids`, or the vectors have another width.
        """
        shape = np.shape(vectors_mxD)
        if len(shape) != 2 or shape[1] != self.vectors.shape[1]:
            expected = self.vectors.shape[1]
            raise ValueError(f"vectors: expected shape [m, {expected}], found {list(shape)}")
        new = self.checked_new_ids(ids, shape[0])
        if not len(new):
            return self
        roomy = self._with_room(len(new))
        slots = np.flatnonzero(roomy.ids == PAD)[: len(new)].astype(np.int32)
        padded_m = _padded(slots, len(roomy.ids))
        rows_mxD = np.pad(np.asarray(vectors_mxD), [(0, len(padded_m) - len(new)), (0, 0)])
        vectors, present = _put(roomy.vectors, roomy.present, padded_m, rows_mxD)
        ids = roomy.ids.copy()
        ids[slots] = new
        order = np.argsort(new)
        places = np.searchsorted(self.sorted_ids, new[order])
        return dataclasses.replace(
            self,
            vectors=vectors,
            present=present,
            ids=ids,
            removed=np.setdiff1d(self.removed, new),
            sorted_ids=np.insert(self.sorted_ids, places, new[order]),
            sorted_slots=np.insert(self.sorted_slots, places, slots[order]),
            revision=self.revision + int(self.was_removed(new).any()),
        )

    def remove(self, ids: ArrayLike) -> Catalogue:
        """Give a catalogue without some items; their slots are free there.

        Raises:
          ValueError: an id is unknown or there twice.
        """
        gone = _unique_ids(ids, self.names)
        slots = self.slots("ids", gone)
        if not len(gone):
            return self
        ids = self.ids.copy()
        ids[slots] = PAD
        places = np.searchsorted(self.sorted_ids, gone)
        return dataclasses.replace(
            self,
            present=_clear(self.present, _padded(slots, len(ids))),
            ids=ids,
            removed=np.union1d(self.removed, gone),
            sorted_ids=np.delete(self.sorted_ids, places),
            sorted_slots=np.delete(self.sorted_slots, places),
        )

    def without(self, removed: np.ndarray) -> Catalogue:
        """Give a catalogue where some ids are removed, whether they are here or never were."""
        here = removed[self.find(removed) != PAD]
        return dataclasses.replace(self.remove(here), removed=np.union1d(self.removed, removed))

    def _with_room(self, count: int) -> Catalogue:
        """Double the capacity until `count` slots are free."""
        capacity = len(self.ids)
        while len(self) + count > capacity:
            capacity *= 2
        new = capacity - len(self.ids)
        if not new:
            return self
        return dataclasses.replace(
            self,
            vectors=jnp.pad(self.vectors, [(0, new), (0, 0)]),
            present=jnp.pad(self.present, (0, new)),
            ids=np.pad(self.ids, (0, new), constant_values=PAD),
        )


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


def _padded(slots: np.ndarray, beyond: int) -> np.ndarray:
    """Fill up to a power of two with a slot that is none, to bound the traced shapes."""
    return np.pad(slots, (0, power_of_two(len(slots)) - len(slots)), constant_values=beyond)


# Nothing is donated: a request may still read the arrays that these start from.
@jax.jit
def _put(vectors_SxD, present_S, slots_m, rows_mxD):
    vectors_SxD = vectors_SxD.at[slots_m].set(rows_mxD, mode="drop")
    return vectors_SxD, present_S.at[slots_m].set(True, mode="drop")


@jax.jit
def _clear(present_S, slots_m):
    return present_S.at[slots_m].set(False, mode="drop")
