"""Compile what requests will need before they come."""

from __future__ import annotations

import numpy as np

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.serving import entering
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.live_users import MOST_USERS
from nxtpost_jax.serving.programs import (
    Items,
    columns_of,
    encoded_users,
    left_out_width,
    nearest,
    padded_k,
    power_of_two,
    rows_up_to,
    vectors_at,
)
from nxtpost_jax.serving.reading import Reader
from nxtpost_jax.serving.streaming import extend, joined, parted, prefill


def warm_up(reader: Reader, *, rows: int, k: int) -> None:
    """Run every program that `Recommender.warm_up` promises, on inputs of its shapes.

    Raises:
      ValueError: rows or k is below 1.
    """
    for name, value in (("rows", rows), ("k", k)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value!r}")
    max_len, items, raised = reader.model.config.max_len, reader.catalogue.items, reader.raised()
    for count in rows_up_to(rows):
        for columns in sorted({columns_of(longest, max_len) for longest in range(1, max_len + 1)}):
            histories = _histories(reader, count, columns)
            encoded_users(reader.model, reader.params, items=items, histories=histories)
        vectors_at(items, np.zeros(count, np.int32))
        for each in [None] if raised is None else [None, raised]:  # items know no trend
            _search(items, count, k, width=left_out_width(max_len), raised=each)
        _enter(reader, count)
        if count <= MOST_USERS:
            _stream(reader, count)
    _join(reader.catalogue)
    if reader.mirror is not None:
        widths = {power_of_two(longest) for longest in range(1, max_len + 1)}
        sizes = {padded_k(n, len(reader.catalogue)) for n in range(1, k + 1)}
        reader.mirror.warm_up(k=sorted(sizes), batch=rows_up_to(rows), exclude=sorted(widths))


def _search(items: Items, count: int, k: int, *, width: int, raised: Array | None) -> None:
    slots, dim = len(items.present_S) + len(items.recent_present_R), items.vectors_SxD.shape[1]
    vectors = np.zeros((count, dim), np.float32)
    left_out = np.full((count, width), PAD, np.int32)
    for size in sorted({padded_k(n, slots) for n in range(1, k + 1)}):
        for allowed in (None, np.ones((count, slots), bool)):
            limits = {"left_out_BxE": left_out, "allowed_BxS": allowed, "raised_S": raised}
            nearest(vectors, items, **limits, k=size)


def _enter(reader: Reader, count: int) -> None:
    """Encode new items, and put them into a catalogue that nobody serves by."""
    catalogue, known = reader.catalogue, reader.start.content
    ids = np.zeros(count, np.int32)
    rows = None if known is None else entering.rows_of(known, ids)
    vectors = entering.encoded(reader.model, reader.params, rows, ids)
    if count > len(catalogue.recent.ids) and _has_room(catalogue, count):
        catalogue.add(vectors)


def _join(catalogue: Catalogue) -> None:
    """Fill the recent segment, so that it is emptied into the base."""
    size, width = catalogue.items.recent_RxD.shape
    if _has_room(catalogue, size):
        catalogue.add(np.zeros((size, width))).add(np.zeros((1, width)))


def _has_room(catalogue: Catalogue, count: int) -> bool:
    """Tell whether the base is not doubled by `count` items more; then all is compiled anew."""
    return len(catalogue) + count <= len(catalogue.alive)


def _stream(reader: Reader, count: int) -> None:
    """Read users' events, and one more of each."""
    model, params, items = reader.model, reader.params, reader.catalogue.items
    rows = _histories(reader, count, model.config.max_len, length=1)
    vectors = vectors_at(items, rows["items"])
    cache, _ = prefill(model, params, histories=rows, item_vectors_BxLxD=vectors)
    if count > 1:
        cache = joined(parted(cache))
    if model.config.max_len > 1:
        features = {name: each if name == "static" else each[:, 0] for name, each in rows.items()}
        del features["items"]
        vector = vectors_at(items, np.zeros(count, np.int32))
        extend(model, params, cache=cache, item_vectors_BxD=vector, features=features)


def _histories(reader: Reader, count: int, columns: int, *, length: int | None = None) -> dict:
    """Lay out histories of one item, with what else the model reads."""
    events = np.zeros(count * (length or columns))
    given: dict[str, np.ndarray] = {name: events for name in reader.columns}
    if "static" in given:
        given["static"] = np.zeros((count, len(reader.model.config.static_sizes)))
    offsets = np.arange(count + 1) * (length or columns)
    return pad_histories(Sequences(events, offsets, **given), columns)
