"""Errors that the user can mend, and how an entry point reports them."""

import contextlib
import os
import sys
from collections.abc import Iterator


class InputError(Exception):
    """An error the user can mend: one line that names the file (and line), expected, found.

    Not a ValueError: the command-line parser would put those of a config into a box of six lines.
    """


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
