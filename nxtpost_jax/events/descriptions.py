"""What items say of themselves as content: every column of a description is read by its own part.

Texts, vectors and sets of vectors are channels, called as their columns are. Tags, categories and
numbers of all columns are one channel, "features". It is fitted once and kept: a new item is read
without a refit, by its columns that training knew; an item that lacks a column has zeros there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nxtpost_jax.events import parts as kinds_of_parts
from nxtpost_jax.events.content import Channel, Content
from nxtpost_jax.events.item_tables import Column, Columns
from nxtpost_jax.events.kinds import Encoder, Kind, Told, kind_of
from nxtpost_jax.events.parts import Numbers, Part, Tags, Texts
from nxtpost_jax.events.texts import TextEncoder

FEATURES = "features"
ALONE = "content"  # the column's name where items have one text or vector each, without names


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Descriptions:
    """Read descriptions of items; `fit` and `of_one` make it.

    Attributes:
      parts: by column.
      channel_of: the channel of each column.
      left_out: columns that are known but not read.
      id_column: with the items' ids, where it was a table.
      alone: whether content is one text or vector per item, without names.
    """

    parts: Mapping[str, Part]
    channel_of: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    id_column: str | None = None
    alone: bool = False

    def __repr__(self) -> str:
        return ", ".join(f"{name} ({part.kind})" for name, part in self.parts.items())

    @classmethod
    def fit(
        cls,
        columns: Columns,
        ids: Sequence,
        *,
        taught: Sequence[int],
        told: Told,
        id_column: str | None = None,
    ) -> Descriptions:
        """Learn words, tags and quantiles of training items; a column that they lack is left out.

        Args:
          columns: m values each.
          ids: [m], the items'.
          taught: rows of the items of training; or the evaluation knows what it should not.
          told: what the caller says of columns, see `kinds`.
          id_column: of a table.

        Raises:
          ValueError: the caller names a column that is not there or says nothing, a value is of no
            kind or of another than its column, or no column says anything.
        """
        _check_told(told, columns, id_column)
        parts, left_out = {}, []
        for name, values in columns.items():
            part = _fitted(Column(name, ids, values), taught, told)
            if part is None or not part.width:
                left_out.append(name)
            else:
                parts[name] = part
        if not parts:
            raise ValueError(
                "content: expected a column that says something of the items of the events, found "
                f"{', '.join(map(repr, columns)) or 'none'}"
            )
        return cls(parts, _channels_of(parts), tuple(left_out), id_column)

    @classmethod
    def of_one(
        cls, values: list, ids: Sequence, *, kind: Kind, taught: Sequence[int], told: Told
    ) -> Descriptions:
        """Learn of one text or vector per item; `told` may have an encoder of "content"."""
        _check_told(told, [ALONE], None)
        encoder = _encoder(told, ALONE)
        if told and (encoder is None or kind != "text"):
            found = f"{told.get(ALONE)!r:.60} beside a {kind} per item"
            raise ValueError(f"parts: expected an encoder of texts for {ALONE!r}, found {found}")
        column = Column(ALONE, ids, values)
        part = kinds_of_parts.fit(column, kind, taught=taught, encoder=encoder)
        return cls({ALONE: part}, {ALONE: ALONE}, alone=True)

    def __call__(self, columns: Columns, ids: Sequence) -> Content:
        """Read m items: {channel: float32[m, C] or `ContentSet`}, one array where it is `alone`.

        Raises:
          ValueError: a column is unknown, a value is of another kind than its column, or the
            encoder of texts is missing.
        """
        unknown = [name for name in columns if name not in self.known]
        if unknown:
            expected = ", ".join(self.parts)
            raise ValueError(f"content: expected {expected}, found the column {unknown[0]!r}")
        nothing = [None] * len(ids)
        read: dict[str, Any] = {
            name: part(Column(name, ids, columns.get(name, nothing)))
            for name, part in self.parts.items()
        }
        unsaid = {
            name: part.unsaid
            for name, part in self.parts.items()
            if isinstance(part, Tags | Numbers)
        }
        channels: dict[str, Channel] = {
            self.channel_of[name]: read[name] for name in read if name not in unsaid
        }
        if unsaid:
            channels[FEATURES] = _features([read[name] for name in unsaid], [*unsaid.values()])
        return channels[ALONE] if self.alone else channels

    @property
    def known(self) -> set[str]:
        """Name all columns that items may have."""
        own = set() if self.id_column is None else {self.id_column}
        return {*self.parts, *self.left_out, *own}

    @property
    def only(self) -> Part:
        """Give the part that is `alone`."""
        (part,) = self.parts.values()
        return part

    def stored(self) -> dict[str, np.ndarray]:
        """Give plain arrays that `restore` reads."""
        said = {
            "parts": [[name, part.kind, self.channel_of[name]] for name, part in self.parts.items()]
        }
        said |= {name: getattr(self, name) for name in ("left_out", "id_column", "alone")}
        arrays = {"said": np.frombuffer(json.dumps(said).encode(), np.uint8)}
        for place, part in enumerate(self.parts.values()):
            arrays |= {f"{place}/{name}": array for name, array in part.stored().items()}
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray], *, told: Told) -> Descriptions:
        """Read what `stored` gave.

        Args:
          arrays: plain ones.
          told: has the caller's encoders, which no folder holds.

        Raises:
          ValueError: there is an encoder of a column that needs none.
        """
        said = json.loads(arrays["said"].tobytes())
        parts, channel_of = {}, {}
        for place, (name, kind, channel) in enumerate(said["parts"]):
            begin = f"{place}/"
            own = {key.removeprefix(begin): a for key, a in arrays.items() if key.startswith(begin)}
            parts[name] = kinds_of_parts.restore(kind, own, encoder=_encoder(told, name))
            channel_of[name] = channel
        check_encoders(told, parts)
        return cls(parts, channel_of, tuple(said["left_out"]), said["id_column"], said["alone"])


def check_encoders(told: Told, parts: Mapping[str, Part]) -> None:
    """Refuse the caller's encoders of columns that are not read by one.

    Raises:
      ValueError: there is one.
    """
    own = [
        name
        for name, part in parts.items()
        if isinstance(part, Texts) and not isinstance(part.encoder, TextEncoder)
    ]
    for name in told:
        encoder = _encoder(told, name)
        if encoder is not None and not isinstance(encoder, TextEncoder) and name not in own:
            there = f"an encoder of {', '.join(own)}" if own else "no encoder"
            raise ValueError(f"parts: expected {there}, as was saved, found one of {name!r}")


def _encoder(told: Told, name: str) -> Encoder | None:
    given: Any = told.get(name)
    return None if given is None or isinstance(given, str) else given


def _check_told(told: Told, columns: Any, id_column: str | None) -> None:
    unknown = [name for name in told if name not in columns and name != id_column]
    if unknown:
        there = ", ".join(columns)
        raise ValueError(f"parts: expected columns of content ({there}), found {unknown[0]!r}")


def _fitted(column: Column, taught: Sequence[int], told: Told) -> Part | None:
    """Fit the part of a column; None where it says nothing or shall not."""
    given: Any = told.get(column.name)
    if column.name in told and given in (None, "id"):
        return None
    kind: Any = "text" if callable(given) else given or kind_of(column)
    if all(column.values[row] is None for row in taught):
        if given is not None:
            raise ValueError(
                f"content: expected a value in {column.name!r} of some item of the events, "
                "found none"
            )
        return None
    encoder = _encoder(told, column.name)
    return kinds_of_parts.fit(column, kind, taught=taught, encoder=encoder)


def _features(blocks: list[np.ndarray], unsaid: list[np.ndarray]) -> np.ndarray:
    """Join features side by side; an item that has some lacks the others in the usual way."""
    there = np.logical_or.reduce([block.any(axis=1) for block in blocks])
    lacking = [there & ~block.any(axis=1) for block in blocks]
    filled = [
        np.where(rows[:, None], usual, block) for rows, usual, block in zip(lacking, unsaid, blocks)
    ]
    return np.concatenate(filled, axis=1)


def _channels_of(parts: Mapping[str, Part]) -> dict[str, str]:
    """Name the channels: words as their columns are, no two alike."""
    joined = [name for name, part in parts.items() if isinstance(part, Tags | Numbers)]
    channel_of = {name: FEATURES for name in joined}
    taken = {FEATURES} if joined else set()
    for name in parts:
        if name not in channel_of:
            word = "".join(sign if f"_{sign}".isidentifier() else "_" for sign in name) or "_"
            word = word if word.isidentifier() else f"_{word}"
            while word in taken:
                word += "_"
            taken.add(word)
            channel_of[name] = word
    return channel_of
