"""A text as codes of characters, split in three by position."""

from __future__ import annotations

import dataclasses
import hashlib
import sysconfig
from pathlib import Path

import numpy as np

from experiments.data.files import read_text
from experiments.harness.errors import bad_input
from experiments.harness.provenance import DataName

EMBEDDED_CHARACTERS = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """Characters as int32 codes: nine tenths train, a twentieth validates, the last is test."""

    name: DataName
    vocabulary: int
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.training) + len(self.validation) + len(self.test)


def read_characters(path: Path | None, *, least: int) -> Text:
    """Read a text file, or take the standard library's source.

    The last twentieth is test, the one before validation.

    Args:
      path: of UTF-8 text, plain or gzipped; None for Python source.
      least: characters that validation and test need each.

    Raises:
      InputError: the file cannot be read, or is too short.
    """
    if path is None:
        name, text = "<python-source>", _python_source()
    else:
        name, text = f"<{path.stem}>", read_text(path)
    characters, codes = np.unique(np.array(list(text)), return_inverse=True)
    if len(codes) // 20 < least:
        found = f"{len(codes)} characters"
        raise bad_input(name, expected=f"at least {20 * least} characters", found=found)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    cuts = [len(codes) * 18 // 20, len(codes) * 19 // 20]
    parts = np.split(codes.astype(np.int32), cuts)
    return Text(DataName(name, digest), len(characters), *parts)


def _python_source() -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    parts, size = [], 0
    for file in sorted(folder.glob("*.py")):
        text = file.read_bytes().decode("ascii", "ignore")
        parts.append(text)
        size += len(text)
        if size >= EMBEDDED_CHARACTERS:
            break
    return "".join(parts)[:EMBEDDED_CHARACTERS]
