"""What the layouts take of the trained models: parts are parts, tables lie by rows."""

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from experiments.capacity_plan import of_digits
from experiments.studies.capacity.case import bytes_per_device
from experiments.studies.capacity.trained import characters, sequences

MESH = AbstractMesh((8,), ("data",), axis_types=(AxisType.Auto,))


def held(make, layout, optimizer):
    with jax.sharding.use_abstract_mesh(MESH):
        state = make(layout, optimizer, tiny=True).lay(MESH).state
    return bytes_per_device(state.params), bytes_per_device(state.opt_state)


@pytest.mark.parametrize("make", [of_digits, sequences])
def test_parameters_in_parts(make):
    whole, parts = held(make, "replicated", "adamw"), held(make, "fsdp", "adamw")
    assert parts[0] < 0.3 * whole[0]
    assert parts[1] < 0.3 * whole[1]


def test_shampoos_state_is_dealt_under_every_layout():
    found = {held(sequences, layout, "shampoo")[1] for layout in ("replicated", "fsdp", "rows")}
    assert len(found) == 1
    assert found.pop() < held(sequences, "replicated", "adamw")[1]


def test_tables_by_rows_and_the_rest_whole():
    whole, rows = (held(characters, layout, "adamw")[0] for layout in ("replicated", "rows"))
    # 98 characters do not divide by 8: the table stays whole.
    assert rows == whole
    whole, rows = (held(sequences, layout, "adamw")[0] for layout in ("replicated", "rows"))
    assert whole - rows == pytest.approx(7 / 8 * 4 * 16 * (3712 + 32))
