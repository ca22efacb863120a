"""The compiled program stays small, and its state is shared evenly."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

import shampoo_jax
from experiments.bench.parameter_sets import PARAMETER_SETS
from shampoo_jax import Sharding

OPERATIONS = {
    "products": r"stablehlo\.dot_general",
    "eigendecompositions": r"custom_call @lapack_ssyevd",
    "loops": r"stablehlo\.while",
}


def _operations(layers: int, *, inputs: int) -> dict[str, int]:
    shapes = {}
    for i in range(layers):
        shapes |= {f"kernel_{i}": (inputs, 64), f"bias_{i}": (64,)}
    params = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    tx = shampoo_jax.shampoo(0.1)
    state = jax.eval_shape(tx.init, params)
    text = jax.jit(tx.update).lower(params, state, params).as_text()
    return {name: len(re.findall(pattern, text)) for name, pattern in OPERATIONS.items()}


@pytest.mark.parametrize(("inputs", "roots"), [(64, 1), (48, 2)])
def test_products_and_roots_do_not_grow_with_the_number_of_layers(inputs, roots):
    few, many = (_operations(layers, inputs=inputs) for layers in (40, 200))
    assert few == many
    factors = 2  # of the kernels; the biases have none
    # Of a step; and of a root and its probe, which like sides share.
    assert few["products"] == factors * 2 + roots * (1 + 3)
    assert few["eigendecompositions"] == roots


# Where a whole number of blocks per device is far from their share: of 39 equal blocks on 32
# devices some has two; 221 blocks of a hundred shapes are four per device on 64.
COARSE = {("sequences", 32): 1.6, ("odd200", 64): 1.75}


def _largest_block(params):
    pools = jax.eval_shape(shampoo_jax.scale_by_shampoo().init, params).pools
    sizes = [sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pool)) for pool in pools]
    return max(size / pool.last_refresh.shape[0] for size, pool in zip(sizes, pools))


@pytest.mark.parametrize("devices", [2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("name", PARAMETER_SETS)
def test_state_per_device_is_at_most_a_third_above_its_share(name, devices):
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in PARAMETER_SETS[name]().items()}
    whole = shampoo_jax.memory(params, devices=1)["total"]
    share = max(whole / devices, _largest_block(params))
    found = shampoo_jax.memory(params, devices=devices)["total"]
    assert found <= COARSE.get((name, devices), 1.3) * share


def test_a_state_of_fewer_devices_is_refused_where_more_stack_otherwise():
    shapes = PARAMETER_SETS["odd200"]()
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}

    def transform(devices):
        mesh = AbstractMesh((devices,), ("blocks",), axis_types=(AxisType.Auto,))
        return shampoo_jax.scale_by_shampoo(sharding=Sharding(mesh=mesh))

    state = jax.eval_shape(transform(8).init, params)
    with pytest.raises(ValueError, match="must see the same mesh"):
        jax.eval_shape(transform(64).update, params, state, params)
