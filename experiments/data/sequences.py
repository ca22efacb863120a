"""Sequences and sets of item numbers, published without times: SASRec, S3-Rec, LightGCN."""

from pathlib import Path

import numpy as np

from experiments.data.files import SourceFiles
from experiments.data.interactions import Events
from experiments.data.table import read_int_lines
from experiments.harness.errors import InputError, bad_input, shown


def looks_like_pairs(head: bytes) -> bool:
    """Say whether these lines are `user item` pairs: two numbers a line, users on several lines.

    A file in which no user comes back is a table that maps one id to another.
    """
    lines = _number_lines(head)
    users = [line[0] for line in lines]
    return bool(lines) and _mostly_two(lines) and len(set(users)) < len(users)


def looks_like_sequences(head: bytes) -> bool:
    """Say whether these lines are `user item item ...`, a user a line."""
    lines = _number_lines(head)
    return bool(lines) and not _mostly_two(lines)


def _number_lines(head: bytes) -> list[list[bytes]]:
    """Split the first lines into tokens; nothing where the first line is not all numbers."""
    lines = [line.split() for line in head[: 1 << 14].split(b"\n")[:200] if line.strip()]
    if not lines or len(lines[0]) < 2 or not all(token.isdigit() for token in lines[0]):
        return []
    return lines


def _mostly_two(lines: list[list[bytes]]) -> bool:
    return sum(len(line) == 2 for line in lines) * 2 > len(lines)


def read_pairs(files: SourceFiles, path: Path) -> Events:
    """Read SASRec's `user item` lines, in time order within each user."""
    data = files.read(path)
    values, offsets = read_int_lines(data, path)
    widths = np.diff(offsets)
    if np.any(widths != 2):
        raise _bad_line(data, path, int(np.argmax(widths != 2)), "user item")
    return Events(users=values[0::2], items=values[1::2])


def read_sequences(files: SourceFiles, path: Path) -> Events:
    """Read S3-Rec's `user item item ...` lines: a user a line, items in time order."""
    data = files.read(path)
    users, items, heads, widths = _user_lines(data, path)
    if np.any(widths < 1):
        row = int(np.argmax(widths < 1))
        raise _bad_line(data, path, row, "user item item ...")
    _refuse_repeated_users(heads, path)
    return Events(users=users, items=items)


def read_train_test(files: SourceFiles, train: Path, test: Path) -> Events:
    """Read LightGCN's train.txt and test.txt: `user item item ...`, sets without an order.

    A user may have a line without items. The publisher's split stays in `published_test`.
    """
    parts = []
    for path in (train, test):
        users, items, heads, _ = _user_lines(files.read(path), path)
        _refuse_repeated_users(heads, path)
        parts.append((users, items))
    (train_users, train_items), (test_users, test_items) = parts
    if len(train_users) == 0:
        raise bad_input(train, expected="at least one event", found="users without items")
    return Events(
        users=np.concatenate([train_users, test_users]),
        items=np.concatenate([train_items, test_items]),
        published_test=np.repeat([False, True], [len(train_users), len(test_users)]),
        ordered=False,
        notes=("published without order: a user's events are a set",),
    )


def _user_lines(data: bytes, path: Path) -> tuple[np.ndarray, ...]:
    """Return users [n], items [n], and by line the user and how many items follow it."""
    values, offsets = read_int_lines(data, path)
    is_head = np.zeros(len(values), bool)
    is_head[offsets[:-1]] = True
    heads, widths = values[offsets[:-1]], np.diff(offsets) - 1
    return np.repeat(heads, widths), values[~is_head], heads, widths


def _refuse_repeated_users(heads: np.ndarray, path: Path) -> None:
    unique, first = np.unique(heads, return_index=True)
    if len(unique) == len(heads):
        return
    is_first = np.zeros(len(heads), bool)
    is_first[first] = True
    row = int(np.argmin(is_first))
    found = f"a second line of user {heads[row]}"
    raise bad_input(path, line=row + 1, expected="one line a user", found=found)


def _bad_line(data: bytes, path: Path, row: int, expected: str) -> InputError:
    found = shown(data.split(b"\n")[row].rstrip(b"\r"))
    return bad_input(path, line=row + 1, expected=expected, found=found)
