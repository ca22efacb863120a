"""Files of arrays whose bytes nobody vouches for: numbers and texts alone, of no hidden size.

`numpy.load` makes room for what an array's header says before it looks how much there is, and a
packed file may unpack to any size. Here nothing is held that is larger than the file.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Of dtypes: an object would be a pickle, which executes what it likes. bfloat16 is written as V.
_KINDS = "biufUV"


def read(path: Path) -> dict[str, np.ndarray]:
    """Read what `numpy.savez` wrote.

    Raises:
      ValueError: it is no such file; it is named.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        whole, held = path.stat().st_size, sum(member.file_size for member in members)
        if held > whole:
            raise ValueError(f"arrays: expected at most {whole:,} bytes, found {held:,}")
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("arrays: expected distinct names, found one twice")
        return {
            name: _array(name, archive.read(member))
            for name, member in zip(names, members, strict=True)
        }


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of which file it is what cannot be read.

    Raises:
      ValueError: whatever went wrong within; what a damaged file does to its readers, no list of
        errors could tell.
    """
    try:
        yield
    except Exception as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: expected what `save` wrote, found {found:.300}") from error


def _array(name: str, data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, by_columns, dtype = reader(stream)
    there = len(data) - stream.tell()
    if dtype.kind not in _KINDS or dtype.names or min(shape, default=0) < 0:
        raise ValueError(f"{name}: expected numbers, found {dtype} of shape {list(shape)}")
    if math.prod(shape) * dtype.itemsize != there:
        found = f"{there:,} bytes"
        raise ValueError(f"{name}: expected {dtype} of shape {list(shape)}, found {found}")
    flat = np.frombuffer(data, dtype, offset=stream.tell(), count=math.prod(shape))
    return flat.reshape(shape, order="F" if by_columns else "C").copy("K")
