"""Read interaction data in its publishers' own formats, plain or gzipped, into one record.

`read(path)` looks at names and first lines, not at an option, to recognise the format. docs/data.md
shows a line of each. MNIST and plain text have functions of their own: `read_mnist`, `read_text`.
"""

import fnmatch
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.data.files import SourceFiles, plain_name, read_head, read_text
from experiments.data.interactions import Events, Interactions, from_events
from experiments.data.json_log import is_json, is_json_log
from experiments.data.log_table import is_header, is_log
from experiments.data.mnist import Mnist, read_idx, read_mnist
from experiments.data.movies import read_ratings_csv, read_ratings_dat, read_u_data
from experiments.data.parquet_log import MAGIC
from experiments.data.sequences import (
    looks_like_pairs,
    looks_like_sequences,
    read_pairs,
    read_sequences,
    read_train_test,
)
from experiments.data.shops_and_csv import RETAIL_HEADER, read_general, read_online_retail
from experiments.harness.errors import InputError, bad_input

__all__ = ["Interactions", "Mnist", "read", "read_idx", "read_mnist", "read_text"]

RECOGNISED = (
    "MovieLens (ratings.dat, u.data or ratings.csv), MovieTweetings (ratings.dat), "
    "SASRec (a .txt of `user item` lines), S3-Rec (a .txt of `user item item ...` lines), "
    "LightGCN (train.txt and test.txt), Online Retail (a .csv) or "
    "a log with a header (interactions.csv, or one .csv, .tsv or .inter) or of JSON (one .jsonl), "
    "plain or .gz, or .parquet"
)

_TABLES = (".txt", ".csv", ".tsv", ".dat", ".inter", ".jsonl", ".json", ".parquet")
# Of the items, which the log's reader looks at.
_OF_ITEMS = ("items.parquet", "items.jsonl", "meta_*.jsonl")
Reader = Callable[[SourceFiles, Path], Events]
_BY_NAME: dict[str, Reader] = {
    "ratings.dat": read_ratings_dat,
    "u.data": read_u_data,
    "ratings.csv": read_ratings_csv,
    "interactions.csv": read_general,
    "interactions.jsonl": read_general,
    "interactions.parquet": read_general,
}


def read(path: str | os.PathLike, columns: Mapping[str, str] | None = None) -> Interactions:
    """Read a folder or a file in any recognised format.

    `columns` names a log's columns by role, {"user": "visitorid"}, where they are not recognised.

    The name is the folder's, or that of a freely named file. The hash is over file contents only.

    Raises:
        InputError: one line that names the file, the line, what was expected and what was found.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise bad_input(path, expected="a folder or a file", found="nothing there")
        if not path.is_dir() and not path.is_file():  # reading a pipe would wait for ever
            raise bad_input(path, expected="a folder or a regular file", found="a pipe or device")
        if columns is not None:
            return _read_log(path, columns)
        return _read_folder(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise bad_input(
            path, expected="something readable", found=error.strerror or str(error)
        ) from error


def _read_folder(folder: Path) -> Interactions:
    files = SourceFiles(folder)
    for file_name, reader in _BY_NAME.items():
        if path := files.find(file_name):
            return _finish(files, path, reader)
    if files.find("train.txt") and files.find("test.txt"):
        return _read_published_split(files)
    return _finish(files, *_only_file(folder))


def _read_file(path: Path) -> Interactions:
    files, name = SourceFiles(path.parent), plain_name(path)
    if name in _BY_NAME:
        return _finish(files, path, _BY_NAME[name])
    if name in ("train.txt", "test.txt") and files.find("train.txt") and files.find("test.txt"):
        return _read_published_split(files)
    reader = _reader_by_content(path)
    if reader is None:
        raise bad_input(path, expected=RECOGNISED, found="none of these")
    return _finish(files, path, reader, name=Path(name).stem)


def _read_log(path: Path, columns: Mapping[str, str]) -> Interactions:
    """Read the log whose columns the caller names: a file, or the one of a folder that has them."""
    if path.is_dir():
        names = [name.encode() for name in columns.values()]
        found = [
            each
            for each in sorted(path.iterdir())
            if each.is_file() and plain_name(each).endswith(_TABLES)
            if all(name in read_head(each).partition(b"\n")[0] for name in names)
        ]
        if len(found) != 1:
            there = ", ".join(each.name for each in found) or "none"
            expected = f"one file whose header has {', '.join(columns.values())}"
            raise bad_input(path, expected=expected, found=there)
        path = found[0]
    reader = read_ratings_csv if plain_name(path) == "ratings.csv" else read_general
    named = None if plain_name(path) in _BY_NAME else Path(plain_name(path)).stem
    return _finish(
        SourceFiles(path.parent), path, functools.partial(reader, columns=columns), name=named
    )


def _read_published_split(files: SourceFiles) -> Interactions:
    train, test = (path for name in ("train", "test") if (path := files.find(f"{name}.txt")))
    return _finish(files, train, lambda files, path: read_train_test(files, path, test))


def _finish(
    files: SourceFiles, path: Path, reader: Reader, *, name: str | None = None
) -> Interactions:
    events = reader(files, path)  # before the hash, which covers what the reader has read
    return from_events(name or files.folder.resolve().name, files.sha256, events)


def _only_file(folder: Path) -> tuple[Path, Reader]:
    """Return the one file of a folder whose content is recognised."""
    found = {
        path: reader
        for path in sorted(folder.iterdir())
        if path.is_file() and plain_name(path).endswith(_TABLES)
        if not any(fnmatch.fnmatch(plain_name(path), pattern) for pattern in _OF_ITEMS)
        if (reader := _reader_by_content(path, in_folder=True))
    }
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise bad_input(folder, expected="one data file (or name the file itself)", found=names)
    if not found:
        raise _unknown_folder(folder)
    return next(iter(found.items()))


def _reader_by_content(path: Path, *, in_folder: bool = False) -> Reader | None:
    """Recognise a freely named file by its first lines.

    A table of unrepeated number pairs may be a map from id to id: only a named file is trusted.
    """
    head = read_head(path)
    if not head.strip() and not in_folder:
        raise bad_input(path, expected="at least one line", found="an empty file")
    if head.startswith(MAGIC):
        return read_general
    first_line = head.partition(b"\n")[0].removeprefix(b"\xef\xbb\xbf").strip()
    if first_line == RETAIL_HEADER.encode():
        return read_online_retail
    if first_line == b"userId,movieId,rating,timestamp":
        return read_ratings_csv
    # Of a file that was named, the reader says which column is not clear.
    if is_log(first_line) or (not in_folder and is_header(first_line)):
        return read_general
    named = not in_folder or plain_name(path).endswith(".jsonl")
    if is_json_log(first_line) or (named and is_json(first_line)):
        return read_general
    if first_line.count(b"::") == 3:
        return read_ratings_dat
    if looks_like_sequences(head):
        return read_sequences
    if looks_like_pairs(head) or (not in_folder and _is_pair(first_line)):
        return read_pairs
    return None


def _is_pair(line: bytes) -> bool:
    tokens = line.split()
    return len(tokens) == 2 and all(token.isdigit() for token in tokens)


def _unknown_folder(folder: Path) -> InputError:
    if SourceFiles(folder).find("train-images-idx3-ubyte"):
        return bad_input(folder, expected=RECOGNISED, found="MNIST images, not interactions")
    names = sorted(path.name for path in folder.iterdir())
    found = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return bad_input(folder, expected=RECOGNISED, found=found or "an empty folder")
