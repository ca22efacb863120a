"""Products of a step, counted in its trace: no device, no compilation, any number of devices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def flops_per_device(jaxpr: Any, devices: int) -> float:
    """Count the operations of a step's matrix products and convolutions on one device.

    What stands outside a `shard_map` is taken to be dealt evenly over the devices; inside one,
    shapes are a device's own. Loops count as in `program.costs_of`.

    Args:
      jaxpr: of the step on global shapes, from `jax.make_jaxpr`.
      devices: that share the work.
    """
    return _count(jaxpr, 1 / devices)


def _count(jaxpr: Any, share: float) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += share * dot_flops(equation)
        elif name == "conv_general_dilated":
            total += share * convolution_flops(equation)
        elif name == "while":
            continue
        elif name == "cond":
            total += max(_count(branch.jaxpr, share) for branch in params["branches"])
        else:
            times = params["length"] if name == "scan" else 1
            within = 1.0 if name == "shard_map" else share
            total += times * sum(_count(inner, within) for inner in _inner(params))
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def dot_flops(equation: Any) -> float:
    """Count a multiplication and an addition per product."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def convolution_flops(equation: Any) -> float:
    """Count a multiplication and an addition per product.

    The zeros of a dilated input are left out, those of its border are not.
    """
    params, kernel = equation.params, equation.invars[1].aval.shape
    outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
    zeros = math.prod(params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outputs / zeros
