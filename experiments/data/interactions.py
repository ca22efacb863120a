"""The record that every reader returns: who met which item, in what order, and what items say."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Events of users with items, sorted by user, then time; ties keep the order of the file.

    Shapes: n events, n_users, n_items, d content features. Dense ids index the id arrays.

    Attributes:
        name: short name of the data set, such as "ml-1m".
        sha256: first 16 hexadecimal digits of the hash of the bytes that were read.
        user_ids: original ids [n_users], int64 or str, ascending.
        item_ids: original ids [n_items], int64 or str, ascending; only items that have events.
        users: dense user of each event, int32 [n], ascending.
        items: dense item of each event, int32 [n].
        timestamps: unix seconds, float64 [n], or None where the publisher gives an order only.
        actions: index into `action_names`, int32 [n], or None.
        action_names: names of the actions, such as ("purchase", "cancellation").
        weights: rating, quantity or other strength, float32 [n], or None.
        item_texts: one text per dense item ("" where there is none), or None.
        item_content: float32 [n_items, d], or None; a row of NaN is an item without content.
        groups: group of each user (for library calls: its package), int32 [n_users], or None.
        group_names: names of the groups.
        published_test: True for events of the publisher's own test part, bool [n], or None.
        ordered: False where the publisher gives sets, so that a user's order means nothing.
        notes: facts about provenance that belong beside every figure on this data.
    """

    name: str
    sha256: str
    user_ids: np.ndarray
    item_ids: np.ndarray
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None = None
    actions: np.ndarray | None = None
    action_names: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    item_texts: list[str] | None = None
    item_content: np.ndarray | None = None
    groups: np.ndarray | None = None
    group_names: tuple[str, ...] = ()
    published_test: np.ndarray | None = None
    ordered: bool = True
    notes: tuple[str, ...] = ()

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        return len(self.users)

    def summary(self) -> str:
        """Describe the data on one line: name, users, items, events, hash."""
        return (
            f"{self.name}: {self.n_users:,} users, {self.n_items:,} items, "
            f"{self.n_events:,} events, sha256 {self.sha256}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """What a reader found, with original ids and in the order of the file.

    `texts` maps an original item id to its text and `content` to its vector; ids without events
    are allowed there and left out of the record.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None = None
    actions: np.ndarray | None = None
    action_names: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    texts: Mapping[int | str, str] | None = None
    content: tuple[Mapping[int | str, int], np.ndarray] | None = None
    published_test: np.ndarray | None = None
    ordered: bool = True
    notes: tuple[str, ...] = ()


def from_events(name: str, sha256: str, events: Events) -> Interactions:
    """Give users and items dense ids and sort events by user, then time, stably."""
    user_ids, users = np.unique(events.users, return_inverse=True)
    item_ids, items = np.unique(events.items, return_inverse=True)
    keys = (users,) if events.timestamps is None else (events.timestamps, users)
    order = np.lexsort(keys)

    def sorted_as(values: np.ndarray | None, dtype: type) -> np.ndarray | None:
        return None if values is None else np.asarray(values)[order].astype(dtype)

    return Interactions(
        name=name,
        sha256=sha256,
        user_ids=user_ids,
        item_ids=item_ids,
        users=users[order].astype(np.int32),
        items=items[order].astype(np.int32),
        timestamps=sorted_as(events.timestamps, np.float64),
        actions=sorted_as(events.actions, np.int32),
        action_names=events.action_names,
        weights=sorted_as(events.weights, np.float32),
        item_texts=_texts_of(item_ids, events.texts),
        item_content=_content_of(item_ids, events.content),
        published_test=sorted_as(events.published_test, np.bool_),
        ordered=events.ordered,
        notes=events.notes,
    )


def _texts_of(item_ids: np.ndarray, texts: Mapping | None) -> list[str] | None:
    return None if texts is None else [texts.get(item, "") for item in item_ids.tolist()]


def _content_of(item_ids: np.ndarray, content: tuple | None) -> np.ndarray | None:
    """Take each item's row; an item without one gets NaN, to be masked, not mistaken for zero."""
    if content is None:
        return None
    row_of, matrix = content
    rows = np.array([row_of.get(item, -1) for item in item_ids.tolist()])
    taken = matrix[rows].astype(np.float32)
    taken[rows < 0] = np.nan
    return taken
