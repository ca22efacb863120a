"""Products of a trace: shared work by devices, a shard_map's as it stands."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from experiments.studies.capacity.trace import flops_per_device

MESH = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))


def test_work_is_dealt_outside_of_shard_map_and_local_inside():
    x, w = jax.ShapeDtypeStruct((16, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)

    def local(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)[0]

    def step(x, w):
        given = {"in_specs": (PartitionSpec("data"), PartitionSpec())}
        inside = jax.shard_map(local, mesh=MESH, out_specs=PartitionSpec("data"), **given)
        return inside(x, w) + jax.jit(lambda x: x @ w)(x)

    with jax.sharding.use_abstract_mesh(MESH):
        jaxpr = jax.make_jaxpr(step)(x, w).jaxpr
    whole = 2 * 16 * 8 * 8
    assert flops_per_device(jaxpr, 4) == 3 * whole / 4 + whole / 4


def test_the_longest_branch_counts_and_a_loop_without_length_does_not():
    def step(x, take):
        x = jax.lax.cond(take, lambda x: x @ x, lambda x: x @ (x @ x), x)
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x)

    jaxpr = jax.make_jaxpr(step)(jnp.zeros((4, 4)), True).jaxpr
    assert flops_per_device(jaxpr, 1) == 2 * 2 * 4**3


def test_a_transposed_convolution_does_not_count_the_zeros_it_reads():
    def forward(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, k = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 6))
    once = flops_per_device(jax.make_jaxpr(forward)(x, k).jaxpr, 1)
    back = jax.grad(lambda x: jnp.sum(forward(x, k)))
    assert flops_per_device(jax.make_jaxpr(back)(x).jaxpr, 1) == 2 * once
