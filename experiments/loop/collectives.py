"""Collectives in the text of a compiled program."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def count_collectives(text: str) -> int:
    """Count the collectives of a program."""
    return len(_results(text, COLLECTIVES))


def collective_bytes(text: str, kinds: Sequence[str] = COLLECTIVES) -> int:
    """Sum the sizes of what collectives of some kinds return, in bytes."""
    arrays = re.findall(r"([a-z]+)(\d*)\[([\d,]*)\]", " ".join(_results(text, kinds)))
    # "f32[8,100]"; a pred takes a byte.
    return sum(
        math.prod(int(size) for size in dims.split(",") if size) * int(bits or 8) // 8
        for _, bits, dims in arrays
    )


def _results(text: str, kinds: Sequence[str]) -> list[str]:
    """Return the types of what each collective returns: one array, or a tuple of them."""
    return re.findall(rf"= (\(.*?\)|\S+) (?:{'|'.join(kinds)})(?:-start)?\(", text)
