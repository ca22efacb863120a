"""Files as bytes: plain or gzipped, hashed as they are read, with errors that name the line."""

import gzip
import hashlib
import io
import os
import zlib
from pathlib import Path

from experiments.harness.errors import bad_input, shown

_MOST_RATIO = 200  # unpacked bytes for each packed one; logs have 3 to 20
_LEAST_LIMIT = 16 << 20  # bytes that any file may unpack to
_CHUNK = 1 << 20


class SourceFiles:
    """The files of one data set: finds them, reads them and hashes what was read.

    The hash covers decompressed bytes in the order of reading, so a gzipped copy of a file has
    the hash of the plain one, and neither names nor file times matter.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._digest = hashlib.sha256()

    def find(self, name: str) -> Path | None:
        """Return the plain file `name` of the folder, else its gzipped form, else None."""
        candidates = (self.folder / name, self.folder / f"{name}.gz")
        return next((path for path in candidates if path.is_file()), None)

    def like(self, pattern: str) -> list[Path]:
        """Return the files of the folder whose names without `.gz` match, ascending."""
        found = [*self.folder.glob(pattern), *self.folder.glob(f"{pattern}.gz")]
        return sorted(path for path in found if path.is_file())

    def read(self, path: Path) -> bytes:
        """Return the decompressed bytes of a file that must not be empty, and hash them."""
        data = read_bytes(path)
        if not data.strip():
            raise bad_input(path, expected="at least one line", found="an empty file")
        self._digest.update(b"%d\n" % len(data))
        self._digest.update(data)
        return data

    @property
    def sha256(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over everything read so far."""
        return self._digest.hexdigest()[:16]


def plain_name(path: Path) -> str:
    """Return the file's name without `.gz`."""
    return path.name.removesuffix(".gz")


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes, decompressed when they start with gzip's magic number.

    Raises:
        InputError: the file cannot be read, or its gzip stream is cut short or damaged.
    """
    try:
        if not path.is_file() and path.exists():  # reading a pipe would wait for ever
            raise bad_input(path, expected="a regular file", found="a folder, pipe or device")
        data = path.read_bytes()
    except OSError as error:
        raise bad_input(
            path, expected="a readable file", found=error.strerror or str(error)
        ) from error
    if not path.name.endswith(".gz") and not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return _unpacked(data, path)
    except EOFError as error:
        raise bad_input(
            path, expected="a whole gzip file", found="one that is cut short"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise bad_input(path, expected="a whole gzip file", found=f"damage ({error})") from error


def _unpacked(data: bytes, path: Path) -> bytes:
    """Decompress a piece at a time, and stop at what no table of text shrinks by."""
    limit = max(_LEAST_LIMIT, _MOST_RATIO * len(data))
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        while part := stream.read(_CHUNK):
            size += len(part)
            if size > limit:
                expected = f"at most {_MOST_RATIO} times its {len(data):,} bytes when unpacked"
                raise bad_input(path, expected=expected, found="more")
            parts.append(part)
    return b"".join(parts)


def read_head(path: Path, size: int = 1 << 16) -> bytes:
    """Return up to `size` decompressed bytes of a file, to recognise its format by."""
    try:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rb") as stream:
            return stream.read(size)
    except (OSError, EOFError, zlib.error):
        return read_bytes(path)[:size]


def decode_utf8(data: bytes, path: Path) -> str:
    """Decode bytes that are promised to be UTF-8 (a leading byte-order mark is dropped).

    Raises:
        InputError: names the first line that is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = shown(data[error.start : error.start + 1])
        raise bad_input(path, line=line, expected="UTF-8 text", found=f"byte {found}") from error


def read_text(path: str | os.PathLike) -> str:
    """Read a plain-text file, UTF-8, plain or gzipped.

    Raises:
        InputError: the file is missing, empty, damaged or not UTF-8.
    """
    path = Path(path)
    return decode_utf8(SourceFiles(path.parent).read(path), path)


def git_blob_id(data: bytes) -> str:
    """Return the id that git gives a file of these bytes (SHA-1 over a header and the bytes)."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
