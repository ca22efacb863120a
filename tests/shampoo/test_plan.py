"""The plan: what may change how blocks are stacked must not change what happens to them."""

import numpy as np
import pytest

from shampoo_jax import Blocks
from shampoo_jax.plan import _merge_classes, _row_cost, make_plan

SHAPES = ((9, 4), (5,), (3, 2, 7), (11, 10), (10, 6), (9, 4), (), (13, 2), (0, 3))


def _positions(**options):
    """Return the position of every block, named by leaf, start of its piece and place therein."""
    plan, found = make_plan(SHAPES, Blocks(**options)), {}
    for pool in plan.pools:
        for piece in pool.pieces:
            row = piece.row
            for leaf in plan.families[piece.family].leaves:
                for place in range(piece.blocks_per_parameter):
                    found[leaf, piece.start, place] = int(pool.position[row])
                    row += 1
    return found


@pytest.mark.parametrize("block_size", [4, 6, None])
@pytest.mark.parametrize("target", [1, None])
def test_positions_depend_neither_on_rounding_nor_on_the_cap_on_pools(block_size, target):
    cut = {"block_size": block_size, "target_dimensionality": target}
    expected = _positions(**cut, round_to=1)
    assert sorted(expected.values()) == list(range(len(expected)))
    for stacked in ({"round_to": 3}, {"round_to": 8}, {"round_to": 16, "max_pools": 1}):
        assert _positions(**cut, **stacked) == expected


def test_leaves_that_are_only_grafted_have_rows_of_whole_blocks_elements():
    """As many elements as a block has, not as many as its side."""
    plan = make_plan(((6 * 36 + 1,),), Blocks(block_size=6, exponents=lambda dims: None))
    (pool,) = plan.pools
    assert [tuple(size) for size in pool.sizes] == [(36,)] * 6 + [(1,)]


def test_a_row_costs_its_products_and_a_tenth_of_its_roots():
    """Multiply-adds: the block once, a product each side, and 2 d^3 for a root."""
    whole = 4 * 3 + 2 * (4 * 3) * 4 + 2 * 4**3 + 2 * (4 * 3) * 3 + 2 * 3**3
    assert _row_cost(np.array([4.0, 3.0]), (0.5, 0.5)) == whole
    assert _row_cost(np.array([4.0, 3.0]), (0.5, 0.0)) == 12 + 2 * 12 * 4 + 2 * 4**3


def test_classes_are_merged_where_rows_would_else_pad_devices():
    """One block each, the smaller one a fifth as much work: together they fill a device less."""
    dims, counts = np.array([[128, 128], [75, 75]]), np.array([1, 1])
    merged = {
        devices: _merge_classes(dims, counts, (0.5, 0.5), most=9, devices=devices)
        for devices in (1, 8)
    }
    assert merged == {1: [[0], [1]], 8: [[0, 1]]}


@pytest.mark.parametrize("exponents", [(0.5, -0.5), (-0.5, 0.5), (0.5,)])
def test_exponents_of_no_use_are_refused(exponents):
    with pytest.raises(ValueError, match=r"^exponents: expected one non-negative number per dim"):
        make_plan(((4, 3),), Blocks(exponents=lambda dims: exponents))
