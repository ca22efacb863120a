"""Path rules and batches: what lies where."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.harness.devices import make_mesh
from experiments.harness.errors import InputError
from experiments.loop.sharding import (
    fsdp,
    param_shardings,
    partition_spec,
    partition_specs,
    shard_batch,
)

AXES = {"data": 4, "model": 2}


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


TREE = {
    "items": {"embedding": shape(12, 6)},
    "tower": {"layer_0": {"kernel": shape(8, 10), "bias": shape(10)}},
}


def test_first_matching_rule_decides_and_the_rest_is_replicated():
    rules = [("embedding$", P("data")), ("tower/.*kernel", P(None, "model")), ("kernel", P("data"))]
    assert partition_specs(TREE, rules=rules, axis_sizes=AXES) == {
        "items": {"embedding": P("data")},
        "tower": {"layer_0": {"kernel": P(None, "model"), "bias": P()}},
    }


@pytest.mark.parametrize(
    ("sizes", "spec", "expected"),
    [
        ((12, 6), P("data", "model"), P("data", "model")),
        ((13, 6), P("data", "model"), P(None, "model")),
        ((16, 5), P(("data", "model"), "model"), P(("data", "model"), None)),
        ((12, 5), P(("data", "model")), P(None)),
        ((12, 5), P(), P()),
    ],
)
def test_dimension_that_does_not_divide_is_replicated(sizes, spec, expected):
    assert partition_spec("w", sizes, rules=[("w", spec)], axis_sizes=AXES) == expected


def test_fsdp_shards_the_largest_dividing_dimension_of_large_arrays():
    rule = fsdp("data", min_size=100)
    assert rule((8, 64), AXES) == P(None, "data")
    assert rule((64, 30), AXES) == P("data", None)
    assert rule((4, 8), AXES) == P()
    assert rule((101, 7), AXES) == P()


def test_rules_are_checked():
    with pytest.raises(InputError, match=r"layout: expected .* items/embedding.*, found 'kernels'"):
        partition_specs(TREE, rules=[("kernels", P())], axis_sizes=AXES)
    with pytest.raises(ValueError, match=r"w: expected at most 1 entries, .* found "):
        partition_spec("w", (3,), rules=[("w", P(None, "data"))], axis_sizes=AXES)
    with pytest.raises(ValueError, match=r"w: expected axes of \['data', 'model'\], found 'rows'"):
        partition_spec("w", (4,), rules=[("w", P("rows"))], axis_sizes=AXES)


def test_mesh_has_auto_axes_and_fills_one_size():
    mesh = make_mesh(jax.devices()[:8], shape=(-1, 2), axes=("data", "model"))
    assert dict(mesh.shape) == AXES
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert dict(make_mesh(jax.devices()[:3]).shape) == {"data": 3}
    with pytest.raises(ValueError, match=r"shape: expected sizes for 8 devices, found \(3,\)"):
        make_mesh(jax.devices()[:8], shape=(3,))


def test_param_shardings_belong_to_the_mesh():
    mesh = make_mesh(jax.devices()[:2])
    shardings = param_shardings(TREE, mesh, rules=[("embedding", P("data"))])
    assert shardings["items"]["embedding"] == NamedSharding(mesh, P("data"))
    assert shardings["tower"]["layer_0"]["bias"] == NamedSharding(mesh, P())


def test_batch_rows_are_dealt_over_the_devices():
    mesh = make_mesh(jax.devices()[:4])
    x = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    batch = shard_batch({"x": x, "temperature": np.float32(2.0)}, mesh)
    np.testing.assert_array_equal(batch["x"], x)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(2, 3)}
    assert batch["temperature"].sharding.is_fully_replicated


def test_batch_that_does_not_divide_is_an_input_error():
    with pytest.raises(
        InputError, match="batch size: expected a multiple of the 4 devices, found 6 rows in 'x'"
    ):
        shard_batch({"x": np.zeros((6, 2))}, make_mesh(jax.devices()[:4]))
