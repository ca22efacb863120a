"""Canonical checkpoints: a state without padding, pools or mesh.

    tree = to_canonical(state, params, block_size=256)                  # numpy: save it with orbax
    state = from_canonical(tree, tx.init(params), params, block_size=256)

A `ShampooState` becomes `{"count", "plan", "blocks"}`. `blocks` maps the path of a parameter and
the start of a piece (a grid of equal blocks) to the arrays of those blocks, in row-major order of
the grid and with their true sizes. It therefore restores onto any number of devices, any shape of
mesh and any cap on pools. What decides the blocks is in `plan` and must agree.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from shampoo_jax.plan import Piece, PlanConfig, Pool, make_plan
from shampoo_jax.state import PoolState, ShampooState
from shampoo_jax.transform import plan_config


def _is_shampoo(x) -> bool:
    return isinstance(x, ShampooState)


def _trailing_dims(pool: Pool, leaves: list) -> list[tuple[int, ...] | None]:
    """Name the pool's dims behind the row axis of each leaf; None for leaves without rows."""
    square = [(k, k) for k in pool.preconditioned]  # factors, then roots, come first
    rest = leaves[2 * len(square) :]
    rows = leaves[-1].shape[0]  # the counters come last
    return [
        *square,
        *square,
        *(tuple(range(x.ndim - 1)) if x.ndim and x.shape[0] == rows else None for x in rest),
    ]


def _place(piece: Piece, leaf: int, dims: tuple[int, ...] | None) -> tuple:
    """Index the blocks of one leaf of a piece in an array of the pool."""
    if dims is None:
        return (...,)
    start, n = piece.row + leaf * piece.blocks_per_leaf, piece.blocks_per_leaf
    sizes = [piece.block[k] for k in piece.perm]
    return (slice(start, start + n), *(slice(0, sizes[k]) for k in dims))


def _names(pool: PoolState) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(pool)]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]


def _blocks(params, config: PlanConfig) -> Iterator[tuple[str, int, Pool, Piece, int]]:
    """List (name, index of the pool, pool, piece, leaf's place in the family) of all blocks."""
    named = jax.tree_util.tree_leaves_with_path(params)
    plan = make_plan(tuple(tuple(x.shape) for _, x in named), config)
    for i, pool in enumerate(plan.pools):
        for piece in pool.pieces:
            start = "_".join(map(str, piece.start)) or "0"
            for place, leaf in enumerate(plan.families[piece.family].leaves):
                yield f"{jax.tree_util.keystr(named[leaf][0])}@{start}", i, pool, piece, place


def _described(config: PlanConfig) -> dict[str, int]:
    """What decides the blocks, as integers; 0 stands for None."""
    return {
        "block_size": config.block_size or 0,
        "target_dimensionality": config.target_dimensionality or 0,
    }


def to_canonical(state: Any, params: Any, **plan_options) -> Any:
    """Replace every `ShampooState` of an optimizer's state by its canonical form.

    Args:
      state: any optax state; arrays that are spread over devices are gathered to this host.
      params: tree of arrays or ShapeDtypeStructs.
      **plan_options: `block_size`, `target_dimensionality`, `exponents`, `max_pools` and `round_to`
        as given to `scale_by_shampoo`.

    Returns:
      The state, numpy arrays in nested dicts in the place of `ShampooState`s.
    """
    config = plan_config(**plan_options)

    def convert(x):
        return _convert(x, params, config) if _is_shampoo(x) else x

    return jax.tree.map(convert, state, is_leaf=_is_shampoo)


def _convert(state: ShampooState, params, config: PlanConfig) -> dict:
    state = jax.device_get(state)
    blocks = {}
    for name, i, pool, piece, leaf in _blocks(params, config):
        arrays = jax.tree.leaves(state.pools[i])
        parts = zip(_names(state.pools[i]), arrays, _trailing_dims(pool, arrays), strict=True)
        blocks[name] = {k: np.array(x[_place(piece, leaf, dims)]) for k, x, dims in parts}
    return {"count": np.asarray(state.count), "plan": _described(config), "blocks": blocks}


def from_canonical(tree: Any, like: Any, params: Any, **plan_options) -> Any:
    """Undo `to_canonical` for the mesh that `like` lives on.

    Args:
      tree: result of `to_canonical`, perhaps restored from a file.
      like: a fresh state, `tx.init(params)`, whose layout, dtypes and shardings are taken.
      params, **plan_options: see `to_canonical`; `max_pools` and `round_to` may differ from those
        of the saved state.

    Raises:
      ValueError: another block_size or target_dimensionality, other parameters or other moments
        than the saved ones, named.
    """
    config = plan_config(**plan_options)

    def convert(x, saved):
        return _restore(saved, x, params, config) if _is_shampoo(x) else saved

    return jax.tree.map(convert, like, tree, is_leaf=_is_shampoo)


def _restore(saved: dict, like: ShampooState, params, config: PlanConfig) -> ShampooState:
    for name, value in _described(config).items():
        found = int(saved["plan"][name])
        if found != value:
            raise ValueError(
                f"shampoo: the checkpoint was made with {name}={found or None}, "
                f"expected {name}={value or None}"
            )
    pools = jax.tree.map(np.array, jax.device_get(like.pools))
    blocks = list(_blocks(params, config))
    _check_same("parameters", set(saved["blocks"]), {name for name, *_ in blocks})
    for name, i, pool, piece, leaf in blocks:
        arrays, own = jax.tree.leaves(pools[i]), saved["blocks"][name]
        _check_same(f"moments of {name}", set(own), set(_names(pools[i])))
        for key, x, dims in zip(_names(pools[i]), arrays, _trailing_dims(pool, arrays)):
            x[_place(piece, leaf, dims)] = own[key]
    new = ShampooState(np.asarray(saved["count"], np.int32), pools)
    return jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), new, like)


def _check_same(what: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise ValueError(
            f"shampoo: the {what} in the checkpoint differ: "
            f"missing {sorted(expected - found)}, unexpected {sorted(found - expected)}"
        )
