"""The index of items: vectors in fixed-capacity arrays on the device, under the caller's ids.

An item lies in a slot. Slots are reused after a removal, and the arrays keep their shapes until
no slot is free; then the capacity doubles. So a search that was compiled once goes on as items
come and go, and is compiled anew only at a doubling.

Shape suffixes: S slots, D vector width, m items of a call.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.events.checks import item_ids
from nxtpost_jax.events.sequences import PAD

_SPARE = 64  # slots, or an eighth of the items where that is more, free from the start


class Catalogue:
    """Hold item vectors and which of them may be found.

    Attributes:
      vectors: f32[S, D] on the device; what a free slot holds is never read.
      present: bool[S] on the device, True where an item is.
      ids: int32[S] on the host, the item in each slot, PAD where free.
    """

    def __init__(self, vectors, ids=None, *, capacity: int | None = None):
        """Start with items in the first slots.

        Args:
          vectors: f32[n, D].
          ids: int[n], 0 to n - 1 when None.
          capacity: S, at least n; n and some spare slots when None.

        Raises:
          ValueError: an id is there twice or is no id, or the capacity is below n.
        """
        vectors = jnp.asarray(vectors, jnp.float32)
        count = len(vectors)
        ids = np.arange(count, dtype=np.int32) if ids is None else _unique_ids(ids)
        if len(ids) != count:
            raise ValueError(f"ids: expected {count}, one a vector, found {len(ids)}")
        capacity = count + max(_SPARE, count // 8) if capacity is None else capacity
        if capacity < max(count, 1):
            raise ValueError(f"capacity: expected at least {max(count, 1)}, found {capacity}")
        self.vectors = jnp.pad(vectors, [(0, capacity - count), (0, 0)])
        self.present = jnp.arange(capacity) < count
        self.ids = np.pad(ids, (0, capacity - count), constant_values=PAD)
        self._removed = np.zeros(0, np.int32)
        self._index()

    @classmethod
    def restore(cls, vectors, ids, removed) -> Catalogue:
        """Rebuild a catalogue of its `vectors`, `ids` and `removed`, slot by slot."""
        catalogue = cls(vectors[:0], [], capacity=len(ids))
        catalogue.vectors = jnp.asarray(vectors, jnp.float32)
        catalogue.ids = np.asarray(ids, np.int32)
        catalogue.present = jnp.asarray(catalogue.ids != PAD)
        catalogue._removed = np.asarray(removed, np.int32)
        catalogue._index()
        return catalogue

    def __len__(self) -> int:
        return len(self._sorted_ids)

    @property
    def removed(self) -> np.ndarray:
        """List the ids that were removed and are not back, sorted: int32[r]."""
        return self._removed

    @property
    def next_id(self) -> int:
        """Give the lowest id above all that ever were."""
        highest = [ids.max(initial=-1) for ids in (self.ids, self._removed)]
        return int(max(highest)) + 1

    def slots(self, name: str, ids) -> np.ndarray:
        """Find the slots of items: int32[m].

        Raises:
          ValueError: an id is none of the catalogue's; `name` says whose.
        """
        slots = self.find(ids)
        unknown = np.flatnonzero(slots == PAD)
        if len(unknown):
            found = np.asarray(ids)[unknown[0]]
            raise ValueError(f"{name}: expected item ids of the catalogue, found {found}")
        return slots

    def find(self, ids) -> np.ndarray:
        """Find the slots of items: int32[m], PAD where the catalogue has no such id."""
        ids = np.asarray(ids)
        if not len(self._sorted_ids):
            return np.full(len(ids), PAD, np.int32)
        places = np.searchsorted(self._sorted_ids, ids)
        places = np.minimum(places, len(self._sorted_ids) - 1)
        return np.where(self._sorted_ids[places] == ids, self._sorted_slots[places], PAD)

    def was_removed(self, ids) -> np.ndarray:
        """Tell which ids were removed and are not back: bool[m]."""
        return np.isin(ids, self._removed)

    def ids_of(self, slots) -> np.ndarray:
        """Name the items in slots, PAD at PAD: int32 of the same shape."""
        slots = np.asarray(slots)
        return np.where(slots == PAD, np.int32(PAD), self.ids[np.maximum(slots, 0)])

    def mask(self, name: str, chosen) -> np.ndarray:
        """Turn a choice of items, ids or bool[M] by id, into bool[S] by slot.

        Raises:
          ValueError: an id is unknown, or M is not above the highest id.
        """
        chosen = np.asarray(chosen)
        if chosen.dtype != bool:
            chosen_S = np.zeros(len(self.ids), bool)
            chosen_S[self.slots(name, chosen)] = True
            return chosen_S
        highest = self.ids.max()
        if len(chosen) <= highest:
            raise ValueError(
                f"{name}: expected bool[M] with M above {highest}, the highest id, found "
                f"{len(chosen)} entries"
            )
        return self.by_slot(chosen)

    def by_slot(self, values) -> np.ndarray:
        """Sort values by id into their slots; 0 where there is none."""
        values = np.asarray(values)
        known = (self.ids != PAD) & (self.ids < len(values))
        return np.where(known, values[np.where(known, self.ids, 0)], values.dtype.type(0))

    def checked_new_ids(self, ids, count: int) -> np.ndarray:
        """Read the ids of items to add, or name them from `next_id` on: int32[count].

        Raises:
          ValueError: there are not `count` of them, or an id is there twice, in the catalogue
            already, or no id at all.
        """
        if ids is None:
            ids = np.arange(self.next_id, self.next_id + count)
        ids = _unique_ids(ids)
        if len(ids) != count:
            raise ValueError(f"ids: expected {count}, one an item, found {len(ids)}")
        known = np.flatnonzero(self.find(ids) != PAD)
        if len(known):
            raise ValueError(f"ids: expected new ones, found {ids[known[0]]} in the catalogue")
        return ids

    def add(self, vectors_mxD, ids=None) -> np.ndarray:
        """Put items into free slots, doubling the capacity where there are too few.

        Args:
          vectors_mxD: f32[m, D].
          ids: int[m]; the next m free ids when None.

        Returns:
          The items' ids, int32[m].

        Raises:
          ValueError: see `checked_new_ids`, or the vectors have another width; then nothing
            has changed.
        """
        shape = np.shape(vectors_mxD)
        if len(shape) != 2 or shape[1] != self.vectors.shape[1]:
            expected = self.vectors.shape[1]
            raise ValueError(f"vectors: expected shape [m, {expected}], found {list(shape)}")
        ids = self.checked_new_ids(ids, shape[0])
        if not len(ids):
            return ids
        while len(self) + len(ids) > len(self.ids):
            self._double()
        slots = np.flatnonzero(self.ids == PAD)[: len(ids)].astype(np.int32)
        padded_m = _padded(slots, len(self.ids))
        rows_mxD = np.pad(np.asarray(vectors_mxD), [(0, len(padded_m) - len(ids)), (0, 0)])
        self.vectors, self.present = _put(self.vectors, self.present, padded_m, rows_mxD)
        self.ids[slots] = ids
        order = np.argsort(ids)
        places = np.searchsorted(self._sorted_ids, ids[order])
        self._sorted_ids = np.insert(self._sorted_ids, places, ids[order])
        self._sorted_slots = np.insert(self._sorted_slots, places, slots[order])
        self._removed = np.setdiff1d(self._removed, ids)
        return ids

    def remove(self, ids) -> None:
        """Take items out; their slots become free.

        Raises:
          ValueError: an id is unknown or there twice; then nothing has changed.
        """
        ids = _unique_ids(ids)
        slots = self.slots("ids", ids)
        if not len(ids):
            return
        self.present = _clear(self.present, _padded(slots, len(self.ids)))
        self.ids[slots] = PAD
        places = np.searchsorted(self._sorted_ids, ids)
        self._sorted_ids = np.delete(self._sorted_ids, places)
        self._sorted_slots = np.delete(self._sorted_slots, places)
        self._removed = np.union1d(self._removed, ids)

    def _double(self) -> None:
        capacity = len(self.ids)
        self.vectors = jnp.pad(self.vectors, [(0, capacity), (0, 0)])
        self.present = jnp.pad(self.present, (0, capacity))
        self.ids = np.pad(self.ids, (0, capacity), constant_values=PAD)

    def _index(self) -> None:
        slots = np.flatnonzero(self.ids != PAD).astype(np.int32)
        order = np.argsort(self.ids[slots])
        self._sorted_ids, self._sorted_slots = self.ids[slots][order], slots[order]


def _unique_ids(ids) -> np.ndarray:
    ids = item_ids("ids", ids)
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        raise ValueError(f"ids: expected each once, found {distinct[counts > 1][0]} repeated")
    return ids


def _padded(slots: np.ndarray, beyond: int) -> np.ndarray:
    """Fill up to a power of two with a slot that is none, to bound the traced shapes."""
    size = 1 << max(len(slots) - 1, 0).bit_length()
    return np.pad(slots, (0, size - len(slots)), constant_values=beyond)


@partial(jax.jit, donate_argnums=(0, 1))
def _put(vectors_SxD, present_S, slots_m, rows_mxD):
    vectors_SxD = vectors_SxD.at[slots_m].set(rows_mxD, mode="drop")
    return vectors_SxD, present_S.at[slots_m].set(True, mode="drop")


@partial(jax.jit, donate_argnums=0)
def _clear(present_S, slots_m):
    return present_S.at[slots_m].set(False, mode="drop")
