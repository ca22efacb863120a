"""Errors that the user can mend, and how an entry point reports them."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MOST_LETTERS = 1500  # of a message


class InputError(Exception):
    """An error the user can mend: one line that names the file (and line), expected, found.

    Not a ValueError: the command-line parser would put those of a config into a box of six lines.
    What a file holds may be long: the middle of a long message is left out.
    """

    def __init__(self, message: str):
        half = MOST_LETTERS // 2
        long = len(message) > MOST_LETTERS
        super().__init__(f"{message[:half]} ... {message[-half:]}" if long else message)


def bad_input(
    where: str | os.PathLike, *, expected: str, found: str, line: int | None = None
) -> InputError:
    """Build the one-line message "WHERE, line LINE: expected EXPECTED, found FOUND".

    `line` counts from 1.
    """
    place = f"{os.fspath(where)}" if line is None else f"{os.fspath(where)}, line {line}"
    return InputError(" ".join(f"{place}: expected {expected}, found {found}".split()))


def shown(text: str | bytes, limit: int = 60) -> str:
    """Quote what was found on one line, cut to `limit` characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


# The disk's doing, whatever file it was; and what is its doing in a folder of our own.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM}


def disk_error(error: BaseException | None, *, folder: Path | None = None) -> str | None:
    """Say what is wrong with the disk where that is why something failed, else return None.

    Args:
        error: and what it came from.
        folder: a file in it that is gone or may not be written is the disk's fault too.
    """
    if error is None:
        return None
    if isinstance(error, OSError) and error.errno is not None:
        place = os.path.abspath(os.fsdecode(error.filename or "/"))
        ours = folder is not None and Path(place).is_relative_to(os.path.abspath(folder))
        if error.errno in _DISK or (error.errno in _GONE and ours):
            return os.strerror(error.errno)
    told = re.search(r"\[os_error_code='(\d+)'\]", str(error))  # TensorStore's words
    if told and int(told[1]) in _DISK | _GONE:
        return os.strerror(int(told[1]))
    return disk_error(error.__cause__ or error.__context__, folder=folder)


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Turn an InputError into `error: ...` on stderr and exit code 2, without a traceback.

    Serves as a context manager and as a decorator: `@exit_on_input_error()`.
    """
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
