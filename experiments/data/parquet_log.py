"""A log of events in a parquet file: the columns of the roles alone are read, by pyarrow."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.data.log_table import LogTable, roles_of
from experiments.data.typed_log import typed_log
from experiments.harness.errors import InputError, bad_input
from nxtpost_jax.events.roles import ColumnError

MAGIC = b"PAR1"
_MOST_RATIO = 1_000  # unpacked bytes of the columns that are read for each packed one
_LEAST_LIMIT = 256 << 20  # bytes that any file may unpack to


def read_parquet_table(
    data: bytes, path: Path, *, given: Mapping[str, str] | None = None
) -> LogTable:
    """Read user, item, time and, where there are any, action and weight; see `read_log_table`.

    Args:
      data: of the file.
      given: {role: name} of columns that the caller names.

    Raises:
      InputError: the file is damaged or unpacks to a thousand times its size, a column is missing
        or unclear, a value is missing or none of its role, or pyarrow is not installed.
    """
    arrow = _pyarrow()
    try:
        file = arrow.parquet.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        roles = roles_of(names, given)
        limit = max(_LEAST_LIMIT, _MOST_RATIO * len(data))
        batches = _bounded(path, file, list(roles.values()), limit=limit)
        table = arrow.Table.from_batches(batches) if batches else dict.fromkeys(roles.values(), ())
    except ColumnError as error:
        raise bad_input(path, expected=error.expected, found=error.found) from None
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        why = str(error).partition("\n")[0]
        raise bad_input(
            path, expected="a whole parquet file", found=f"damage ({why:.80})"
        ) from None
    return typed_log(table, roles, path=path, names=names)


def _bounded(path: Path, file: Any, names: list[str], *, limit: int) -> list:
    """Read columns a batch at a time, and stop at what no log unpacks to.

    What the file says of its own size is not asked: damaged, it ends the process inside pyarrow.
    """
    batches, size = [], 0
    for batch in file.iter_batches(columns=names):
        size += batch.nbytes
        if size > limit:
            raise bad_input(path, expected=f"at most {limit:,} bytes when unpacked", found="more")
        batch.validate(full=True)  # texts that are no UTF-8, numbers of no category
        batches.append(batch)
    return batches


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise InputError(
            "a parquet file needs pyarrow: pip install 'shampoo-nxtpost-hsnn[parquet]'"
        ) from None
    return pyarrow
