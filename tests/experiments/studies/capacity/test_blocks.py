"""Dealing of blocks: counted by hand for two matrices."""

import jax
import jax.numpy as jnp
import optax
import pytest

import shampoo_jax
from experiments.studies.capacity.blocks import ROOT, dealing_of
from shampoo_jax import Blocks


def state_for(devices, shapes):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {f"{i}": jax.ShapeDtypeStruct(s, jnp.float32) for i, s in enumerate(shapes)}
    with jax.set_mesh(mesh):
        return jax.eval_shape(shampoo_jax.shampoo(1e-3, blocks=Blocks(block_size=16)).init, params)


def test_blocks_that_divide_are_dealt_evenly():
    found = dealing_of(state_for(4, [(32, 32)]), 4, every=2)
    assert (found.blocks, found.per_device, found.imbalance) == (4, 1, 1.0)
    assert found.direction_bytes == 32 * 32 * 4
    assert found.root_flops == ROOT * 2 * 16**3 / 2


def test_a_block_too_many_costs_every_device_a_row():
    found = dealing_of(state_for(4, [(16, 80)]), 4)
    assert (found.blocks, found.per_device) == (5, 2)
    assert found.imbalance == pytest.approx(8 / 5)


def test_other_optimizers_have_no_blocks():
    params = {"w": jnp.zeros((4, 4))}
    found = dealing_of(optax.adamw(1e-3).init(params), 4)
    assert not found.has_blocks and found.direction_bytes == 0
