"""Items described under the caller's own ids: a text or a vector each, at the start and later."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.content import Content
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.texts import TextEncoder
from nxtpost_jax.serving.histories import as_list
from nxtpost_jax.serving.served import Start

Described = Mapping[Hashable, str | ArrayLike]


def at_start(
    content: Described, *, names: OwnIds, items: np.ndarray
) -> tuple[np.ndarray, TextEncoder | None]:
    """Read the content of a table's items; texts are encoded as those of the trained items teach.

    Args:
      content: {id: text} or {id: vector of C}; items without one have none, and further items can
        be recommended by theirs.
      names: of the table's items; those of `content` are added.
      items: int32[n_events], the items of the events.

    Returns:
      Vectors float32[N, C] for all names, NaN where there is none, and the encoder of texts.

    Raises:
      ValueError: the content is no such mapping, or less than half of the items have some.
    """
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise ValueError(f"content: expected a text or a vector by item id, found a {found}")
    ids = list(content)
    codes = names.add("content", ids)
    trained = np.unique(items)
    _check_matched(names, trained, codes)
    given = _texts_or_vectors(list(content.values()), ids)
    if isinstance(given, np.ndarray):
        vectors = np.full((len(names), given.shape[1]), np.nan, np.float32)
        vectors[codes] = given
        return vectors, None
    texts = [""] * len(names)
    for code, text in zip(codes.tolist(), given):
        texts[code] = text
    encoder = TextEncoder.fit([texts[code] for code in trained])
    vectors = encoder(texts)
    vectors[~vectors.any(axis=1)] = np.nan
    return vectors, encoder


def later(content: Any, ids: Any, start: Start) -> tuple[Any, Any]:
    """Read what `Recommender.add` is given where items have the caller's ids: vectors and ids.

    Raises:
      ValueError: ids are missing or given twice, the model knows no texts, or not a word of one.
    """
    if isinstance(content, Mapping):
        if ids is not None:
            raise ValueError("ids: expected None beside content by id, found some")
        content, ids = list(content.values()), list(content)
    if content is None:
        return None, ids
    if ids is None:
        raise ValueError("ids: expected the new items' ids, as the others have, found None")
    ids = as_list(ids)
    given = _texts_or_vectors(_one_per_item(content), ids)
    if isinstance(given, np.ndarray):
        return given, ids
    if start.encoder is None:
        raise ValueError(f"content: expected vectors, as at fit, found the text {given[0]!r:.60}")
    vectors = start.encoder(given)
    unread = np.flatnonzero(~vectors.any(axis=1))
    if len(unread):
        found = f"{given[unread[0]]!r:.60} of item {ids[unread[0]]!r:.60}"
        raise ValueError(f"content: expected a text with a word that training had, found {found}")
    return vectors, ids


def beside(content: Described, start: Start) -> dict[int, np.ndarray]:
    """Read content beside a table of a fit that goes on, by the encoder of before.

    Returns:
      {number: vector float32[C]}; zeros where no word of a text is known.

    Raises:
      ValueError: items are known by id only or by numbers, or content is of another kind.
    """
    known = start.content
    if not isinstance(start.names, OwnIds) or known is None:
        raise ValueError(
            "content: expected None where items are known by id only or are numbers, found some"
        )
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise ValueError(f"content: expected a text or a vector by item id, found a {found}")
    ids = list(content)
    given = _texts_or_vectors(list(content.values()), ids)
    if not isinstance(given, np.ndarray):
        if start.encoder is None:
            raise ValueError(
                f"content: expected vectors, as before, found the text {given[0]!r:.60}"
            )
        given = start.encoder(given)
    width = _width(known)
    if given.shape[1] != width:
        raise ValueError(f"content: expected vectors of {width}, found {given.shape[1]}")
    return dict(zip(start.names.add("content", ids).tolist(), given))


def _width(known: Content) -> int:
    """Count the features of content by id, which is one matrix."""
    (table,) = jax.tree.leaves(known)
    return table.shape[1]


def _one_per_item(content: Any) -> list:
    """Put one text or one vector into a list."""
    entries = [content] if isinstance(content, str) else list(content)
    is_vector = bool(entries) and isinstance(entries[0], (int, float, np.number))
    return [content] if is_vector else entries


def _texts_or_vectors(values: list, ids: Any) -> list[str] | np.ndarray:
    """Tell texts, None for none among them, from vectors float32[m, C]."""
    if len(values) != len(ids):
        raise ValueError(f"content: expected {len(ids)} of it, one per id, found {len(values)}")
    if not values:
        raise ValueError("content: expected that of one item at least, found none")
    if all(value is None or isinstance(value, str) for value in values):
        return [value or "" for value in values]
    vectors = [np.asarray(value) for value in values]
    width = vectors[0].shape
    for item, vector in zip(ids, vectors):
        if vector.ndim != 1 or vector.shape != width or vector.dtype.kind not in "fiu":
            found = f"{vector.dtype}{list(vector.shape)} of item {item!r:.60}"
            raise ValueError(
                f"content: expected a text or a vector of one width per item, found {found}"
            )
    return np.stack(vectors).astype(np.float32)


def _check_matched(names: OwnIds, trained: np.ndarray, described: np.ndarray) -> None:
    """Refuse content of other items, such as ids that lost their leading zeros."""
    missing = np.setdiff1d(trained, described)
    if 2 * len(missing) > len(trained):
        other = np.setdiff1d(described, trained)
        ours, theirs = (names.take(codes[:1]).tolist() for codes in (missing, other))
        raise ValueError(
            f"content: expected that of at least half of the {len(trained):,} items, found "
            f"{len(trained) - len(missing):,} (the events have {ours[0]!r:.60}, the "
            f"content {', '.join(map(repr, theirs)) or 'nothing else':.60})"
        )
