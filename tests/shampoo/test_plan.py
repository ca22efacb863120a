"""The plan: what may change how blocks are stacked must not change what happens to them."""

import pytest

from shampoo_jax import Blocks
from shampoo_jax.plan import make_plan

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
