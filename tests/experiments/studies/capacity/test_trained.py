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


# From 16,384 numbers on arrays are dealt: two kernels of the perceptron, NxtPost's table of ids.
@pytest.mark.parametrize(
    ("make", "dealt"), [(of_digits, 64 * 256 + 256**2), (sequences, 16 * 3712)]
)
def test_parameters_in_parts(make, dealt):
    whole, parts = held(make, "replicated", "adamw"), held(make, "fsdp", "adamw")
    assert whole[0] - parts[0] == 7 / 8 * 4 * dealt
    assert whole[1] - parts[1] == 2 * 7 / 8 * 4 * dealt


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
