"""Options by their own names, put into the records that hold them; cases for `make test-long`."""

import dataclasses
from typing import Any

import pytest

from shampoo_jax import Blocks, Momentum, Refresh, Root, Sharding

RECORDS = {"blocks": Blocks, "refresh": Refresh, "root": Root, "sharding": Sharding}


def grouped(**options: Any) -> dict[str, Any]:
    """Return the arguments of a factory: `block_size=8` becomes `blocks=Blocks(block_size=8)`."""
    given = {}
    for argument, record in RECORDS.items():
        names = [f.name for f in dataclasses.fields(record) if f.name in options]
        if names:
            given[argument] = record(**{name: options.pop(name) for name in names})
    ball = {name: options.pop(name) for name in ("dampening", "nesterov") if name in options}
    if ball:
        given["momentum"] = Momentum(options.pop("momentum", 0.0), **ball)
    return given | options


def long(*values: Any) -> list[Any]:
    """Return parameters of a test that only `make test-long` runs."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]
