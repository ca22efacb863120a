"""Online Retail, and the general format: interactions.csv with items.csv or items.npy."""

import collections
import datetime
import io
import tokenize
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.files import SourceFiles
from experiments.data.interactions import Events
from experiments.data.json_log import is_json, read_json_items, read_json_table
from experiments.data.log_table import read_log_table
from experiments.data.parquet_log import MAGIC, read_parquet_table
from experiments.data.table import csv_rows, is_whole
from experiments.harness.errors import bad_input, shown

RETAIL_HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
_NPY_MAGIC = b"\x93NUMPY"
# What numpy raises on a header that is no literal, is cut, or names more than memory holds.
_BAD_NPY = (ValueError, EOFError, OSError, MemoryError, SyntaxError, TypeError, tokenize.TokenError)


def read_online_retail(files: SourceFiles, path: Path) -> Events:
    """Read UCI's Online Retail: an invoice line is an event, a cancellation an action.

    Rows without a customer are left out and counted in the notes. An item's text is its most
    frequent description; weights are quantities, negative where goods came back.
    """
    rows = csv_rows(files.read(path), path)
    if ",".join(rows[0]) != RETAIL_HEADER:
        raise bad_input(path, line=1, expected=RETAIL_HEADER, found=shown(",".join(rows[0])))
    body = rows[1:]
    keep = [number for number, row in enumerate(body) if row[6]]
    if not keep:
        raise bad_input(path, expected="at least one row with a CustomerID", found="none")
    return Events(
        users=_retail_numbers(path, body, keep, "CustomerID").astype(np.int64),
        items=np.array([body[number][1] for number in keep]),
        timestamps=_retail_times(path, body, keep),
        actions=np.array([body[number][0][:1].upper() == "C" for number in keep], np.int32),
        action_names=("purchase", "cancellation"),
        weights=_retail_numbers(path, body, keep, "Quantity"),
        texts=_most_frequent_descriptions(body),
        notes=(f"{len(body) - len(keep):,} rows without a customer are left out",),
    )


def _retail_times(path: Path, body: list[list[str]], keep: list[int]) -> np.ndarray:
    """Convert dates without a zone, taken as UTC, to unix seconds; few are distinct."""
    seconds: dict[str, float] = {}
    for number in keep:
        text = body[number][4]
        if text not in seconds:
            seconds[text] = _unix_seconds(path, number + 2, text)
    return np.array([seconds[body[number][4]] for number in keep])


def _unix_seconds(path: Path, line: int, text: str) -> float:
    for form in ("%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M"):
        try:
            moment = datetime.datetime.strptime(text, form)
        except ValueError:
            continue
        return moment.replace(tzinfo=datetime.UTC).timestamp()
    raise bad_input(path, line=line, expected="a date as 2010-12-31 08:26:00", found=shown(text))


def _retail_numbers(path: Path, body: list[list[str]], keep: list[int], name: str) -> np.ndarray:
    column = [*RETAIL_HEADER.split(",")].index(name)
    values = np.empty(len(keep))
    for position, number in enumerate(keep):
        text = body[number][column]
        try:
            values[position] = float(text)
        except ValueError:
            values[position] = np.nan
        if not np.isfinite(values[position]):
            raise bad_input(
                path, line=number + 2, expected=f"a number as {name}", found=shown(text)
            )
    return values


def _most_frequent_descriptions(body: list[list[str]]) -> dict[int | str, str]:
    counts = collections.Counter((row[1], " ".join(row[2].split())) for row in body)
    texts: dict[int | str, str] = {}
    for (item, text), _ in counts.most_common():  # ties: first seen first
        if text:
            texts.setdefault(item, text)
    return texts


def read_general(
    files: SourceFiles, path: Path, *, columns: Mapping[str, str] | None = None
) -> Events:
    """Read a log with a header, see `log_table`, lines of JSON, or a parquet file.

    items.csv (`id,text,...`, all further columns join the text), items.jsonl (`read_json_items`),
    a meta_NAME.jsonl as Amazon's reviews have, or items.npy (float, [n, d]) beside it describe
    items. Row i of items.npy is the i-th row of the texts; without these it is the item whose id
    is the number i.
    """
    data = files.read(path)
    read = read_parquet_table if data.startswith(MAGIC) else read_log_table
    read = read_json_table if is_json(data) else read
    table, notes, item_column = read(data, path, given=columns)
    action_names, actions = (), None
    if "action" in table:
        found, actions = np.unique(table["action"], return_inverse=True)
        action_names = tuple(found.tolist())
    texts, content = _read_items(files, table["item"], item_column)
    return Events(
        users=table["user"],
        items=table["item"],
        timestamps=table["time"],
        actions=actions,
        action_names=action_names,
        weights=table.get("weight"),
        texts=texts,
        content=content,
        notes=notes,
    )


def _read_items(
    files: SourceFiles, items: np.ndarray, item_column: str
) -> tuple[dict | None, tuple | None]:
    """Return texts and content by item id, from a table of texts and items.npy."""
    table, matrix = _table_of_items(files), files.find("items.npy")
    if table is None and matrix is None and (other := files.find("items.parquet")):
        raise bad_input(other, expected="items.csv or items.npy beside a log", found="parquet")
    texts = None
    if table is not None:
        data = files.read(table)
        texts = (
            read_json_items(data, table, item=item_column, whole=items.dtype.kind == "i")
            if is_json(data)
            else _items_csv(data, table, items)
        )
    if texts is not None and table is not None:
        _check_matched(table, np.unique(items), texts)
    if matrix is None:
        return texts, None
    vectors = _items_npy(files.read(matrix), matrix)
    row_of = _rows_by_id(matrix, items, len(vectors)) if texts is None else _rows_of(texts)
    if len(row_of) != len(vectors):
        expected = f"{len(row_of):,} rows, one for each of items.csv"
        raise bad_input(matrix, expected=expected, found=f"{len(vectors):,}")
    return texts, (row_of, vectors)


def _table_of_items(files: SourceFiles) -> Path | None:
    """Find the one file that has the items' texts.

    Raises:
      InputError: there are several.
    """
    named = [files.find(name) for name in ("items.csv", "items.jsonl")]
    found = [path for path in (*named, *files.like("meta_*.jsonl")) if path is not None]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise bad_input(files.folder, expected="one file of items' texts", found=names)
    return found[0] if found else None


def _check_matched(path: Path, items: np.ndarray, texts: Mapping) -> None:
    """Refuse the table of other items, such as ids that lost their leading zeros."""
    missing = [item for item in items.tolist() if item not in texts]
    if 2 * len(missing) > len(items):
        other = next(iter(texts.keys() - set(items.tolist())), "none other")
        raise bad_input(
            path,
            expected=f"at least half of the {len(items):,} items of the log",
            found=f"{len(items) - len(missing):,} (the log has {shown(str(missing[0]))}, the table "
            f"{shown(str(other))})",
        )


def _rows_of(texts: dict) -> dict[int | str, int]:
    return {item: row for row, item in enumerate(texts)}


def _rows_by_id(path: Path, items: np.ndarray, n_rows: int) -> dict[int | str, int]:
    if items.dtype.kind != "i" or items.max() >= n_rows:
        worst = shown(str(items.max())) if items.dtype.kind == "i" else shown(str(items[0]))
        expected = f"item ids from 0 to {n_rows - 1:,} (row numbers, as there is no items.csv)"
        raise bad_input(path, expected=expected, found=f"item {worst}")
    return {row: row for row in range(n_rows)}


def _items_csv(data: bytes, path: Path, items: np.ndarray) -> dict[int | str, str]:
    rows = csv_rows(data, path)
    if len(rows[0]) < 2 or rows[0][0].strip() != "id":
        raise bad_input(path, line=1, expected="id,text,...", found=shown(",".join(rows[0])))
    is_int = items.dtype.kind == "i"
    texts: dict[int | str, str] = {}
    for item, *fields in rows[1:]:
        key = int(item) if is_int and is_whole(item) else item
        if key in texts:
            raise bad_input(path, expected="one row an item", found=f"{shown(item)} twice")
        texts[key] = " ".join(field for field in fields if field).strip()
    return texts


def _items_npy(data: bytes, path: Path) -> np.ndarray:
    if not data.startswith(_NPY_MAGIC):  # numpy would try a zip archive or a pickle
        raise bad_input(path, expected="a .npy array", found=f"damage ({shown(data[:8])})")
    try:
        vectors = np.load(io.BytesIO(data), allow_pickle=False)
    except _BAD_NPY as error:
        found = f"damage ({' '.join(str(error).split())[:80]})"
        raise bad_input(path, expected="a .npy array", found=found) from error
    if getattr(vectors, "ndim", 0) != 2 or vectors.dtype.kind not in "fiu":
        found = f"{getattr(vectors, 'dtype', type(vectors))} {getattr(vectors, 'shape', '')}"
        raise bad_input(path, expected="numbers of shape [items, features]", found=found)
    if not np.all(np.isfinite(vectors)):
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise bad_input(path, expected="finite numbers", found=f"NaN or infinity in row {row}")
    return vectors
