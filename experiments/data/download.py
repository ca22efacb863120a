"""Fetch a published archive and accept only the file that the publisher is known to serve."""

import dataclasses
import http.client
import lzma
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from experiments.data.files import git_blob_id
from experiments.data.movies import ML_1M_RATINGS_BLOB
from experiments.harness.errors import InputError, bad_input

_CHUNK = 1 << 16
_MAX_ARCHIVE = 200 << 20  # bytes; ml-1m.zip is 6 MB
_MAX_MEMBER = 500 << 20

# What the zip reader and its decompressors raise; ValueError: an offset before the file's start.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published zip archive.

    Attributes:
        url: where the publisher serves it.
        members: files to unpack, by name within `root`; others are ignored.
        root: folder inside the archive.
        checked: the member whose git blob id must be `blob`.
        blob: id that git gives the published file (`git hash-object`).
    """

    url: str
    members: tuple[str, ...]
    root: str
    checked: str
    blob: str


ARCHIVES = {
    "ml-1m": Archive(
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        members=("README", "movies.dat", "ratings.dat", "users.dat"),
        root="ml-1m",
        checked="ratings.dat",
        blob=ML_1M_RATINGS_BLOB,
    )
}


def download(
    name: str,
    folder: str | os.PathLike,
    *,
    archive: Archive | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Fetch, check and unpack the archive `name` into `folder`, all or nothing.

    Args:
        name: a key of `ARCHIVES`.
        folder: must not exist, or hold the accepted file already (then nothing is fetched).
        archive: another source than the publisher's.
        progress: called with (bytes so far, bytes in all or 0 where the server does not say).
        timeout: seconds without an answer before giving up.

    Returns:
        The folder.

    Raises:
        InputError: unknown name, no answer, not the published file, or the folder is in the way;
            nothing is left behind.
    """
    if archive is None:
        if name not in ARCHIVES:
            raise bad_input("download", expected=f"one of {', '.join(ARCHIVES)}", found=repr(name))
        archive = ARCHIVES[name]
    folder = Path(folder)
    if _is_complete(folder, archive):
        return folder
    if folder.exists():
        raise bad_input(
            folder, expected=f"no such folder yet, or the published {name} in it", found="a folder"
        )
    try:
        _fetch_into(folder, archive, progress, timeout)
    except OSError as error:
        raise bad_input(
            folder, expected="a writable place", found=error.strerror or str(error)
        ) from error
    return folder


def _is_complete(folder: Path, archive: Archive) -> bool:
    path = folder / archive.checked
    return path.is_file() and git_blob_id(path.read_bytes()) == archive.blob


def _fetch_into(folder: Path, archive: Archive, progress: Progress | None, timeout: float) -> None:
    """Stage everything beside the folder's place; the last step is one rename."""
    anchor = next(parent for parent in folder.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(dir=anchor, prefix=".download-") as temporary:
        staged = Path(temporary, "unpacked")
        staged.mkdir()
        with open(Path(temporary, "archive.zip"), "w+b") as stream:
            _stream(archive.url, stream, progress, timeout)
            _unpack(stream, archive, staged)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(staged, folder)


def _stream(url: str, stream: BinaryIO, progress: Progress | None, timeout: float) -> None:
    """Copy what the server sends into `stream`, and see that all of it came."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            total, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(_CHUNK):
                done += len(chunk)
                if done > _MAX_ARCHIVE:
                    raise bad_input(url, expected=f"at most {_MAX_ARCHIVE:,} bytes", found="more")
                stream.write(chunk)
                if progress is not None:
                    progress(done, total)
    except urllib.error.HTTPError as error:
        raise bad_input(url, expected="an archive", found=f"HTTP status {error.code}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error or "no answer"
        raise bad_input(url, expected="an archive", found=f"no connection ({reason})") from error
    except InputError:
        raise
    except (ConnectionError, ValueError) as error:
        raise bad_input(url, expected="an archive", found=str(error)) from error
    if total and done != total:
        raise bad_input(url, expected=f"{total:,} bytes", found=f"{done:,}: the download was cut")


def _unpack(stream: BinaryIO, archive: Archive, folder: Path) -> None:
    """Write the wanted members under their own plain names; the archive chooses no path."""
    try:
        with zipfile.ZipFile(stream) as opened:
            for member in archive.members:
                data = _member(opened, f"{archive.root}/{member}", archive.url)
                if member == archive.checked and git_blob_id(data) != archive.blob:
                    raise bad_input(
                        f"{archive.url} {member}",
                        expected=f"the published file (git blob {archive.blob})",
                        found=f"git blob {git_blob_id(data)}",
                    )
                Path(folder, member).write_bytes(data)
    except _DAMAGE as error:
        raise bad_input(archive.url, expected="a whole zip archive", found=str(error)) from error


def _member(opened: zipfile.ZipFile, name: str, url: str) -> bytes:
    try:
        info = opened.getinfo(name)
    except KeyError:
        raise bad_input(url, expected=f"{name} in the archive", found="no such file") from None
    if info.file_size > _MAX_MEMBER:
        raise bad_input(url, expected=f"{name} of a sane size", found=f"{info.file_size:,} bytes")
    try:
        return opened.read(info)
    except OSError as error:  # bz2's word for damage; a place that cannot be written has another
        raise bad_input(url, expected="a whole zip archive", found=str(error)) from error
