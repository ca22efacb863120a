"""What MovieLens tells of its users: gender, age, occupation, as categories."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.table import is_whole
from experiments.harness.errors import bad_input, shown

NAMES = ("gender", "age", "occupation")


class UserFeatures(NamedTuple):
    """Categories of users.

    Attributes:
      values: int32 [n_users, 3], a category of each of `NAMES`, -1 where a user is not listed.
      sizes: number of categories of each.
    """

    values: np.ndarray
    sizes: tuple[int, ...]


def read_user_features(folder: Path, user_ids: np.ndarray) -> UserFeatures | None:
    """Read users.dat (MovieLens-1M) or u.user (100K) beside the ratings; None without either.

    Ages count in decades. Zip codes are not read.

    Args:
      folder: the data folder, or the file of ratings in it.
      user_ids: original ids [n_users].

    Raises:
      InputError: a line is not as the publisher writes it.
    """
    folder = folder if folder.is_dir() else folder.parent
    for name, separator, columns in (("users.dat", "::", (1, 2, 3)), ("u.user", "|", (2, 1, 3))):
        if (folder / name).is_file():
            return _read(folder / name, separator, columns, user_ids)
    return None


def _read(path: Path, separator: str, columns, user_ids: np.ndarray) -> UserFeatures:
    found: dict[int, tuple[str, str, str]] = {}
    lines = path.read_text(encoding="latin-1").rstrip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        fields = line.split(separator)
        if len(fields) != 5 or not is_whole(fields[0]) or not is_whole(fields[columns[1]]):
            expected = separator.join(("id", "...", "zip"))
            raise bad_input(path, line=number, expected=expected, found=shown(line))
        gender, age, occupation = (fields[c] for c in columns)
        found[int(fields[0])] = (gender, str(int(age) // 10), occupation)
    values = np.full((len(user_ids), len(NAMES)), -1, np.int32)
    listed = [row for row, user in enumerate(user_ids.tolist()) if user in found]
    sizes = []
    for k in range(len(NAMES)):
        categories, codes = np.unique(
            [found[user_ids[row]][k] for row in listed], return_inverse=True
        )
        values[listed, k] = codes
        sizes.append(len(categories))
    return UserFeatures(values, tuple(sizes))
