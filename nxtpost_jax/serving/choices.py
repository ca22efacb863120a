"""Which items each query of a request may get: those allowed, less those seen or excluded."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.evaluation.ranking import unique_items
from nxtpost_jax.events.columns import as_array
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.serving import histories as given
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.histories import Histories, Unknown
from nxtpost_jax.serving.programs import Items, power_of_two
from nxtpost_jax.serving.reading import Reader


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """Hold what B queries may get, in slots of one catalogue.

    Attributes:
      count: B.
      allowed: int32[m], all that any query may get; None for the whole catalogue.
      allowed_lists: B lists of what each query may get, or None.
      left_out: B lists of what a query must not get, or None.
    """

    count: int
    allowed: np.ndarray | None = None
    left_out: Sequences | None = None
    allowed_lists: Sequences | None = None

    def items(self, catalogue: Catalogue) -> Items:
        """Give what is searched."""
        if self.allowed is None:
            return catalogue.items
        return catalogue.items.only(catalogue.mask(self.allowed))

    def of_rows(
        self, rows: np.ndarray, catalogue: Catalogue, *, width: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Lay out what some queries must not get, for `programs.nearest`.

        Returns:
          int32[B, width] slots, PAD elsewhere, and bool[B, S + R] where a list is longer than that
          or each query is allowed its own.
        """
        out = np.full((len(rows), width), PAD, np.int32)
        allowed_BxS = None
        if self.allowed_lists is not None:
            allowed_BxS = np.zeros((len(rows), catalogue.num_slots), bool)
            _mark(allowed_BxS, self.allowed_lists.select(rows), True)
        if self.left_out is None:
            return out, allowed_BxS
        lists = self.left_out.select(rows)
        distinct_BxE = unique_items(lists, int(lists.lengths.max()))
        most = int((distinct_BxE != PAD).sum(axis=1).max())
        if most <= width:
            out[:, :most] = distinct_BxE[:, :most]
            return out, allowed_BxS
        if allowed_BxS is None:
            allowed_BxS = np.ones((len(rows), catalogue.num_slots), bool)
        _mark(allowed_BxS, lists, False)
        return out, allowed_BxS

    def in_ids(self, rows: np.ndarray, catalogue: Catalogue) -> dict[str, np.ndarray | None]:
        """Say what some queries may get in ids, for `Index.search`: `allowed` and `exclude`."""
        allowed, exclude = self.allowed, None
        if allowed is not None:
            allowed = catalogue.ids_of(allowed[allowed != PAD])
        if self.left_out is not None:
            lists = self.left_out.select(rows)
            width = power_of_two(int(lists.lengths.max()))
            exclude = catalogue.ids_of(unique_items(lists, width))
        return {"allowed": allowed, "exclude": exclude}


def of_request(
    reader: Reader,
    count: int,
    *,
    seen: Sequences | None,
    allowed: Any,
    exclude: Histories | None,
    unknown: Unknown = "refuse",
) -> Choice:
    """Read what a request of `count` queries says of it.

    Args:
      reader: of the moment.
      count: B.
      seen: checked histories whose items are left out, or None.
      allowed, exclude, unknown: see `Recommender.recommend`.

    Raises:
      ValueError: an item is unknown, or there are not B lists.
    """
    slots, lists = None, None
    if _are_lists(allowed):
        lists = _lists("allowed", allowed, reader, count, unknown=unknown)
    else:
        slots = _allowed(reader, allowed, unknown=unknown)
    seen = None if seen is None else _in_slots(reader, seen)
    if exclude is not None:
        seen = _joined(seen, _lists("exclude", exclude, reader, count, unknown=unknown))
    return Choice(count, slots, seen, lists)


def refuse_mask(name: str, ids: ArrayLike) -> None:
    """Refuse a mask where ids are expected."""
    array = as_array(name, ids)
    if array.dtype == bool:
        raise ValueError(
            f"{name}: expected item ids (np.flatnonzero makes them of a mask), found {array.dtype}"
            f"{list(array.shape)}"
        )


def _allowed(reader: Reader, allowed: Any, *, unknown: Unknown) -> np.ndarray | None:
    """Find the slots of the items that a request allows."""
    if allowed is None:
        return None
    refuse_mask("allowed", allowed)
    ids = given.numbers("allowed", allowed, reader.catalogue, unknown=unknown)
    reader.check_known("allowed", ids)
    return reader.catalogue.find(ids)


def _are_lists(allowed: Any) -> bool:
    """Tell ids per query from ids for all; a tuple may be an id."""
    if isinstance(allowed, (list, tuple)):
        return bool(allowed) and all(isinstance(each, (list, np.ndarray)) for each in allowed)
    return isinstance(allowed, Sequences) or (isinstance(allowed, np.ndarray) and allowed.ndim == 2)


def _lists(
    name: str, lists: Histories, reader: Reader, count: int, *, unknown: Unknown
) -> Sequences:
    """Read a list of items per query, in slots; padding and removed items are none."""
    read = given.lists(name, lists, count, reader.catalogue, unknown=unknown)
    reader.check_known(name, read.items)
    return _in_slots(reader, read)


def _joined(seen: Sequences | None, excluded: Sequences) -> Sequences:
    """Put two lists per query into one."""
    if seen is None:
        return excluded
    owners = [lists.owners(np.arange(len(lists.items))) for lists in (seen, excluded)]
    items = np.concatenate([seen.items, excluded.items])
    return Sequences.from_events(np.concatenate(owners), items, num_users=len(seen))


def _mark(mask_BxS: np.ndarray, lists: Sequences, value: bool) -> None:
    mask_BxS[lists.owners(np.arange(len(lists.items))), lists.items] = value


def _in_slots(reader: Reader, lists: Sequences) -> Sequences:
    lists = reader.without_removed(lists)
    return Sequences(reader.catalogue.find(lists.items), lists.offsets)
