"""The compiled program stays small, and its state is shared evenly."""

import re

import jax
import jax.numpy as jnp
import pytest

import shampoo_jax
from experiments.bench.parameter_sets import PARAMETER_SETS

OPERATIONS = {
    "products": r"stablehlo\.dot_general",
    "eigendecompositions": r"custom_call @lapack_ssyevd",
    "loops": r"stablehlo\.while",
}


def _operations(layers: int) -> dict[str, int]:
    shapes = {}
    for i in range(layers):
        shapes |= {f"kernel_{i}": (64, 64), f"bias_{i}": (64,)}
    params = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    tx = shampoo_jax.shampoo(0.1)
    state = jax.eval_shape(tx.init, params)
    text = jax.jit(tx.update).lower(params, state, params).as_text()
    return {name: len(re.findall(pattern, text)) for name, pattern in OPERATIONS.items()}


def test_products_and_roots_do_not_grow_with_the_number_of_layers():
    few, many = _operations(20), _operations(200)
    assert few == many
    factors = 2  # of the kernels; the biases have none
    assert few["products"] == factors * (2 + 1 + 3)  # step, root, and the probe of the root
    assert few["eigendecompositions"] == factors


@pytest.mark.parametrize("name", PARAMETER_SETS)
def test_state_a_device_is_at_most_a_third_above_its_share(name):
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in PARAMETER_SETS[name]().items()}
    whole = shampoo_jax.memory(params, devices=1)["total"]
    for devices in (2, 4, 8):
        assert shampoo_jax.memory(params, devices=devices)["total"] <= 1.3 * whole / devices
