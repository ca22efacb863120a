"""Items described under the caller's own ids, at the start and later: what is given, and to whom.

A description is a text, a vector, or a record of parts per item; a table is a record per row. What
becomes of them is `descriptions`' matter.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events import content as contents
from nxtpost_jax.events import log as logs
from nxtpost_jax.events import roles
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.descriptions import ALONE, Descriptions
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.item_tables import Columns, Record, names_of, of_records, of_table
from nxtpost_jax.events.kinds import Told, told_id
from nxtpost_jax.events.log import Table
from nxtpost_jax.serving.histories import as_list
from nxtpost_jax.serving.served import Start

Described = Mapping[Hashable, str | ArrayLike | Record] | Table
_EXPECTED = "a table of items, or a record, a text or a vector by item id"


class Begun(NamedTuple):
    """Hold what descriptions give a start.

    Attributes:
      content: of all N items that have names.
      codes: int32[m], items that were described.
      absent_N: bool[N], items of which nothing is known but their ids.
      descriptions: what reads further ones.
    """

    content: Content
    codes: np.ndarray
    absent_N: np.ndarray
    descriptions: Descriptions


def at_start(
    content: Described, *, names: OwnIds, items: np.ndarray, told: Told, usual: str | None
) -> Begun:
    """Read the content of a table's items, by what those of the events teach.

    Args:
      content: {id: text}, {id: vector of C}, {id: record of parts} or a table of records; items
        without any have none, and further items can be recommended by theirs.
      names: of the table's items; those of `content` are added.
      items: int32[n_events], the items of the events.
      told: what the caller says of parts, see `kinds`.
      usual: what the events' table calls items.

    Raises:
      ValueError: the content is none of these, less than half of the items have some, an item is
        there twice, or as in `descriptions`.
    """
    table_id = None
    if _is_table(content, names, told=told, usual=usual):
        table_id = _id_column(content, told=told, usual=usual)
        ids, columns = of_table(content, id_column=table_id)
    elif isinstance(content, Mapping):
        ids, columns = list(content), None
    else:
        raise ValueError(f"content: expected {_EXPECTED}, found a {type(content).__name__}")
    codes = names.add("content", ids)
    trained = np.unique(items)
    _check_once(ids, codes)
    _check_matched(names, trained, codes)
    order = np.argsort(codes)
    taught = order[np.isin(codes[order], trained)].tolist()
    if columns is None and _has_records(content):
        records: list[Any] = list(content.values())
        columns = of_records(records, ids)
    if columns is None:
        return _of_one(list(content.values()), ids, codes, len(names), taught=taught, told=told)
    known = Descriptions.fit(columns, ids, taught=taught, told=told, id_column=table_id)
    table = _scattered(known(columns, ids), codes, len(names))
    return Begun(table, codes, ~_present(table), known)


def _of_one(
    values: list, ids: list, codes: np.ndarray, count: int, *, taught: list[int], told: Told
) -> Begun:
    """Read one text or vector per item; a vector of zeros is not taken for none."""
    given = _texts_or_vectors(values, ids)
    kind = "vector" if isinstance(given, np.ndarray) else "text"
    some = list(given)
    known = Descriptions.of_one(some, ids, kind=kind, taught=taught, told=told)
    table = _scattered(known({ALONE: some}, ids), codes, count)
    absent_N = ~_present(table)
    if isinstance(given, np.ndarray):
        absent_N[codes] = np.isnan(given).all(axis=1)
    return Begun(table, codes, absent_N, known)


def later(content: Any, ids: Any, start: Start) -> tuple[Any, Any]:
    """Read what `Recommender.add` is given where items have the caller's ids: content and ids.

    Raises:
      ValueError: ids are missing or given twice, the model knows no such parts, or nothing of an
        item is known to it.
    """
    known = start.descriptions
    if content is None:
        return None, ids
    if known is not None and not known.alone:
        ids, columns = _more(content, ids, known)
        rows = known(columns, ids)
        unread = np.flatnonzero(~_present(rows))
        if len(unread):
            raise ValueError(
                f"content: expected some of {', '.join(known.parts)} that training knew, found "
                f"none of item {ids[unread[0]]!r:.60}"
            )
        return rows, ids
    if isinstance(content, Mapping):
        if ids is not None:
            raise ValueError("ids: expected None beside content by id, found some")
        content, ids = list(content.values()), list(content)
    if ids is None:
        raise _no_ids()
    ids = as_list(ids)
    given = _texts_or_vectors(_one_per_item(content), ids)
    if isinstance(given, np.ndarray):
        return given, ids
    if known is None or known.only.kind != "text":
        raise ValueError(f"content: expected vectors, as at fit, found the text {given[0]!r:.60}")
    vectors = known({ALONE: given}, ids)
    unread = np.flatnonzero(~_present(vectors))
    if len(unread):
        found = f"{given[unread[0]]!r:.60} of item {ids[unread[0]]!r:.60}"
        raise ValueError(f"content: expected a text with a word that training had, found {found}")
    return vectors, ids


def beside(content: Described, start: Start) -> dict[int, Any]:
    """Read content beside a table of a fit that goes on, by what the first fit learned.

    Returns:
      {number: one item's content}; zeros where nothing of it is known.

    Raises:
      ValueError: items are known by id only or by numbers, or content is of another kind.
    """
    known = start.descriptions
    if not isinstance(start.names, OwnIds) or known is None:
        raise ValueError(
            "content: expected None where items are known by id only or are numbers, found some"
        )
    if not known.alone:
        ids, columns = _more(content, None, known)
        rows = known(columns, ids)
    elif isinstance(content, Mapping):
        ids = list(content)
        rows = _more_of_one(list(content.values()), ids, known)
    else:
        found = type(content).__name__
        raise ValueError(f"content: expected a text or a vector by item id, found a {found}")
    codes = start.names.add("content", ids)
    _check_once(ids, codes)
    return {
        code: jax.tree.map(lambda part, i=i: part[i], rows) for i, code in enumerate(codes.tolist())
    }


def _more_of_one(values: list, ids: list, known: Descriptions) -> np.ndarray:
    given: Any = _texts_or_vectors(values, ids)
    if not isinstance(given, np.ndarray):
        if known.only.kind != "text":
            raise ValueError(
                f"content: expected vectors, as before, found the text {given[0]!r:.60}"
            )
        given = known({ALONE: given}, ids)
    width = known.only.width
    if given.shape[1] != width:
        raise ValueError(f"content: expected vectors of {width}, found {given.shape[1]}")
    absent = np.isnan(given).all(axis=1, keepdims=True)
    return np.asarray(contents.check(np.where(absent, 0, given), allow_missing=True))


def _more(content: Any, ids: Any, known: Descriptions) -> tuple[list, Columns]:
    """Read records beside ids, records by id, or a table, of parts that are known."""
    by_id = isinstance(content, Mapping) and _has_records(content)
    if ids is not None:
        if by_id or hasattr(content, "columns"):
            raise ValueError("ids: expected None beside content by id, found some")
        return _beside_ids(content, as_list(ids), known)
    if by_id:
        return list(content), of_records(list(content.values()), list(content))
    id_column = _known_id(content, known) if logs.is_table(content) else None
    if id_column is not None:
        if isinstance(content, Mapping) and np.ndim(content[id_column]) == 0:
            content = {name: [value] for name, value in content.items()}  # one record
        return of_table(content, id_column=id_column)
    if isinstance(content, Mapping) and known.known.issuperset(content):
        raise _no_ids()
    raise _no_records(content, known)


def _beside_ids(content: Any, ids: list, known: Descriptions) -> tuple[list, Columns]:
    """Read a record, or a list of them."""
    records = [content] if isinstance(content, Mapping) else content
    if not isinstance(records, (list, tuple)):
        raise _no_records(content, known)
    if len(records) != len(ids):
        raise ValueError(f"content: expected {len(ids)} records, one per id, found {len(records)}")
    return ids, of_records(records, ids)


def _no_records(content: Any, known: Descriptions) -> ValueError:
    found = f"a {type(content).__name__}"
    if isinstance(content, Mapping) and content:
        item, value = next(iter(content.items()))
        found = f"{value!r:.60} of item {item!r:.60}"
    parts = ", ".join(known.parts)
    return ValueError(f"content: expected a table or records of {parts}, found {found}")


def _no_ids() -> ValueError:
    return ValueError("ids: expected the new items' ids, as the others have, found None")


def _has_records(content: Mapping) -> bool:
    return any(isinstance(value, Mapping) for value in content.values())


def _is_table(content: Any, names: OwnIds, *, told: Told, usual: str | None) -> bool:
    """Tell a table from content by id: none of a dict's keys is an item, and some look like one."""
    if not isinstance(content, Mapping):
        return logs.is_table(content)
    keys, values = list(content), list(content.values())
    if _has_records(content) or any(isinstance(each, str) for each in values):
        return False
    if (names.codes("content", keys) >= 0).any():
        return False
    try:
        return bool(keys and _id_among(keys, told, usual))
    except roles.ColumnError:
        return any(_has_texts(column) for column in values)


def _has_texts(column: Any) -> bool:
    return not isinstance(column, np.ndarray) and any(isinstance(each, str) for each in column)


def _id_among(names: list[str], told: Told, usual: str | None) -> str:
    """Name the column of ids; one that the caller says is something else is none."""
    names = [name for name in names if told.get(name, "id") == "id"]
    return roles.item_id(names, told=told_id(told), usual=usual)


def _id_column(content: Table, *, told: Told, usual: str | None) -> str:
    try:
        return _id_among(names_of(content), told, usual)
    except roles.ColumnError as error:
        raise ValueError(f"content: expected {error.expected}, found {error.found}") from None


def _known_id(content: Table, known: Descriptions) -> str | None:
    """Name the column of ids; None where a dict has none, and so is no table."""
    try:
        return _id_column(content, told={}, usual=known.id_column)
    except ValueError:
        if isinstance(content, Mapping):
            return None
        raise


def _present(content: Content) -> np.ndarray:
    return ~contents.absent_on_host(content)


def _scattered(content: Content, codes: np.ndarray, count: int) -> Content:
    """Put rows of some items into those of all, zeros elsewhere."""

    def scattered(part: np.ndarray) -> np.ndarray:
        table = np.zeros((count, *part.shape[1:]), part.dtype)
        table[codes] = part
        return table

    return jax.tree.map(scattered, content)


def _check_once(ids: Sequence, codes: np.ndarray) -> None:
    _, first, count = np.unique(codes, return_index=True, return_counts=True)
    if (count > 1).any():
        found = ids[first[np.argmax(count > 1)]]
        raise ValueError(f"content: expected each item once, found {found!r:.60} twice or more")


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
