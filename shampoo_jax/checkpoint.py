"""Canonical checkpoints: a state without padding, pools or mesh.

    tree = to_canonical(state, params)                  # numpy: save it with orbax
    state = from_canonical(tree, tx.init(params), params=params)

A `ShampooState` becomes `{"count", "plan", "blocks"}`. `blocks` maps the path of a parameter and
the start of a piece (a grid of equal blocks) to the arrays of those blocks, in row-major order of
the grid and with their true sizes. It therefore restores onto any number of devices, any shape of
mesh, any cap on pools and any rounding. What decides the blocks is in `plan` and must agree.

Each state knows its own blocks (record.py), so no option is repeated here, and a state inside
optax.masked, partition or any other wrapper holds only the parameters that it was given.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from shampoo_jax import record
from shampoo_jax.options import Shape
from shampoo_jax.packing import pack, unpack
from shampoo_jax.record import BLOCK_OPTIONS, LeafBlocks
from shampoo_jax.state import PoolState, ShampooState

# The option or the argument that decides whether a state has this moment.
_OPTION_OF = {
    "factors": "exponents",
    "roots": "exponents",
    "spectra": "root",
    "eigenvalues": "preconditioner",
    "filtered": "b1",
    "momentum": "momentum",
    "graft": "grafting",
}


def to_canonical(state: Any, params: Any) -> Any:
    """Replace every `ShampooState` of an optimizer's state by its canonical form.

    Args:
      state: any optax state; arrays that are spread over devices are gathered to this host. Where
        they are spread over several processes, all of them must call.
      params: tree of arrays or ShapeDtypeStructs that the state was made for, whole.

    Returns:
      The state as numpy arrays, nested dicts in the place of `ShampooState`s.

    Raises:
      ValueError: `params` lacks a parameter that the state has blocks of, or has it in another
        shape; the state is that of several models (vmap).
    """
    shapes = _shapes(params)

    def convert(x):
        return _canonical(x, shapes) if _is_shampoo(x) else _to_host(x)

    return jax.tree.map(convert, _unboxed(state), is_leaf=_is_shampoo)


def from_canonical(tree: Any, like: Any, *, params: Any) -> Any:
    """Undo `to_canonical` for the devices that `like` lives on.

    Args:
      tree: result of `to_canonical`, perhaps restored from a file, with or without its containers.
      like: a fresh state, `tx.init(params)`, whose layout, dtypes and shardings are taken. `tx` may
        have other `max_pools` and `round_to` than that of the saved state.
      params: tree of arrays or ShapeDtypeStructs that `like` was made for, whole.

    Returns:
      A state of the structure of `like`. Training continues as if it had not been interrupted.

    Raises:
      ValueError: another block_size, target_dimensionality, dimension_numbers or exponents, other
        parameters, other moments or dtypes than the saved ones, named.
    """
    shapes = _shapes(params)
    saved = {_key(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    nodes, _ = jax.tree_util.tree_flatten_with_path(_unboxed(like), is_leaf=_is_shampoo)
    new = []
    for path, node in nodes:
        key = _key(path)
        if _is_shampoo(node):
            prefix = f"{key}/" if key else ""
            own = {k: saved.pop(k) for k in list(saved) if k.startswith(prefix)}
            own = {k.removeprefix(prefix): x for k, x in own.items()}
            new.append(_restore(own, node, shapes))
        elif key in saved:
            new.append(_from_host(key, saved.pop(key), node))
        else:
            raise ValueError(f"tree: expected a leaf {key!r} as in like, found none")
    if saved:
        raise ValueError(f"tree: expected only the leaves of like, found {min(saved)!r}")
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(new))


def _is_shampoo(x) -> bool:
    return isinstance(x, ShampooState)


def _is_box(x) -> bool:
    """Whether a node wraps one array, as the variables of flax.nnx do."""
    if isinstance(x, tuple | list | dict | None) or jax.tree_util.all_leaves([x]):
        return False
    return len(jax.tree.leaves(x)) == 1


def _unboxed(tree):
    return jax.tree.map(lambda x: jax.tree.leaves(x)[0] if _is_box(x) else x, tree, is_leaf=_is_box)


def _key(path) -> str:
    """Name a leaf in a way that does not change when a file turns tuples into lists or dicts."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shapes(params) -> dict[str, Shape]:
    named = zip(record.leaf_paths(params), jax.tree.leaves(params))
    return {path: tuple(getattr(x, "shape", ())) for path, x in named}


def _is_key(x) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _to_host(x) -> np.ndarray:
    """Return a copy on this host; an array of several processes is gathered by all of them."""
    x = jax.random.key_data(x) if _is_key(x) else x
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.array(jax.device_get(x))


def _from_host(name: str, saved, like):
    """Return a leaf outside of `ShampooState` as `like` is: shape, dtype and devices."""
    if _is_key(like):
        data = _from_host(name, saved, jax.random.key_data(like))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like))
    saved = np.asarray(saved)
    if saved.shape != np.shape(like):
        raise ValueError(f"tree: expected {name!r} of shape {np.shape(like)}, found {saved.shape}")
    if not isinstance(like, jax.Array):
        return type(like)(saved.item()) if np.ndim(like) == 0 else np.array(saved)
    return _put(np.array(saved, like.dtype), like)


def _put(x: np.ndarray, like: jax.Array) -> jax.Array:
    """Place an array as `like`; one that is free to move (not committed) stays so."""
    if not like.is_fully_addressable:
        return jax.make_array_from_callback(x.shape, like.sharding, lambda index: x[index])
    return jax.device_put(x, like.sharding if like.committed else None)


def _pools(state: ShampooState) -> tuple[PoolState, ...]:
    return state.pools if isinstance(state.pools, tuple) else ()


def _listed(state: ShampooState, shapes: dict[str, Shape]) -> list[tuple[int, LeafBlocks]]:
    """List (index of the pool, blocks) of a state, checked against the parameters."""
    listed = []
    for i, pool in enumerate(_pools(state)):
        if pool.last_refresh.ndim != 1:
            found = pool.last_refresh.shape[:-1]
            raise ValueError(f"state: expected that of one model, found a batch of {found}")
        listed += [(i, blocks) for blocks in record.blocks(pool.record)]
    for _, b in listed:
        if shapes.get(b.path) != b.shape:
            found = f"shape {shapes[b.path]}" if b.path in shapes else f"only {sorted(shapes)}"
            raise ValueError(f"params: expected {b.path} of shape {b.shape}, found {found}")
    return listed


def _whole(pool: PoolState) -> PoolState:
    """Return a pool, on the host, whose factors are whole matrices."""
    return pool._replace(
        factors=tuple(
            np.array(unpack(jnp.asarray(x), root.shape[-1])) if x.shape != root.shape else x
            for x, root in zip(pool.factors, pool.roots)
        )
    )


def _as_stored(pool: PoolState, like: PoolState) -> PoolState:
    """Undo `_whole`."""
    both = zip(pool.factors, like.factors)
    return pool._replace(
        factors=tuple(
            np.asarray(pack(jnp.asarray(x))) if x.shape != y.shape else x for x, y in both
        )
    )


def _arrays(pool: PoolState) -> dict[str, np.ndarray]:
    paths = jax.tree_util.tree_leaves_with_path(pool)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in paths}


def _place(moment: str, x: np.ndarray, pool: PoolState, b: LeafBlocks) -> tuple:
    """Index the blocks `b` in one array of the pool, padding left out."""
    field, _, rest = moment.partition(".")
    if x.ndim == 0 or x.shape[0] != pool.last_refresh.shape[0]:
        return (...,)
    if field in ("factors", "roots", "spectra"):
        dims = [k for k, e in enumerate(b.exponents) if e != 0]
        side = slice(0, b.sizes[dims[int(rest)]])
        return (b.rows, *(side,) * (x.ndim - 1))
    if x.ndim == 1 + len(b.sizes):
        return (b.rows, *(slice(0, size) for size in b.sizes))
    return (b.rows,)


def _described(state: ShampooState, listed: list[tuple[int, LeafBlocks]]) -> dict[str, Any]:
    """Return what decides the blocks, as arrays; 0 stands for None, what is () is left out."""
    pools = _pools(state)
    options = record.options(pools[0].record) if pools else {}
    return {
        **{name: np.asarray(options[name] or 0) for name in BLOCK_OPTIONS if options},
        "shapes": {b.path: np.asarray(b.shape) for _, b in listed if b.shape},
        "axes": {b.path: np.asarray(b.axes) for _, b in listed},
        "exponents": {b.name: np.asarray(b.exponents) for _, b in listed if b.exponents},
    }


def _canonical(state: ShampooState, shapes: dict[str, Shape]) -> dict:
    state = jax.tree.map(_to_host, state)
    listed, blocks = _listed(state, shapes), {}
    pools = [_whole(pool) for pool in _pools(state)]
    for i, b in listed:
        pool = pools[i]
        blocks[b.name] = {k: np.array(x[_place(k, x, pool, b)]) for k, x in _arrays(pool).items()}
    return {
        "count": np.asarray(state.count),
        "plan": _described(state, listed),
        "blocks": blocks,
    }


def _restore(saved: dict[str, Any], like: ShampooState, shapes: dict[str, Shape]) -> ShampooState:
    """Fill the pools of `like` from the leaves of a canonical form, named by their keys."""
    listed = _listed(like, shapes)
    _check_plan(saved, _described(like, listed), {b.name for _, b in listed})
    # Every number is overwritten but those of padding rows, which stay as a fresh state has them.
    own_pools = _pools(like)
    pools = [_whole(jax.tree.map(_to_host, pool)) for pool in own_pools]
    for i, b in listed:
        arrays = _arrays(pools[i])
        prefix = f"blocks/{b.name}/"
        own = {k.removeprefix(prefix): x for k, x in saved.items() if k.startswith(prefix)}
        _check_moments(b.name, set(own), set(arrays))
        for moment, x in arrays.items():
            _fill(x, _place(moment, x, pools[i], b), own[moment], moment)
    count: Any = np.asarray(saved["count"], np.int32)
    stored: Any = tuple(map(_as_stored, pools, own_pools)) or _to_host(like.pools)
    return jax.tree.map(_put, ShampooState(count, stored), like)


def _fill(x: np.ndarray, place: tuple, value, moment: str) -> None:
    expected, found = np.asarray(value), x[place]
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        field = moment.partition(".")[0]
        options = {"factors": "factor_dtype", "graft": "grafting"}
        options |= {"filtered": "mu_dtype", "momentum": "mu_dtype"}
        option = options.get(field, "params")
        raise ValueError(
            f"{option}: expected {moment} of {expected.dtype}{list(expected.shape)} as in the "
            f"checkpoint, found {found.dtype}{list(found.shape)}"
        )
    x[place] = expected


def _check_plan(saved: dict[str, Any], expected: dict[str, Any], names: set[str]) -> None:
    """Refuse another option that decides the blocks, other parameters or other exponents."""
    for name in BLOCK_OPTIONS:
        if name in expected and f"plan/{name}" in saved:
            own, found = int(expected[name]), int(saved[f"plan/{name}"])
            if own != found:
                raise ValueError(
                    f"{name}: expected {found or None} as in the checkpoint, found {own or None}"
                )
    blocks = {key.split("/", 1)[1].rsplit("/", 1)[0] for key in saved if key.startswith("blocks/")}
    mine, theirs = ({name.rsplit("@", 1)[0] for name in own} for own in (names, blocks))
    if mine != theirs:
        raise ValueError(
            f"params: expected {sorted(theirs - mine)} of the checkpoint too and only those, "
            f"found {sorted(mine - theirs)} beyond them"
        )
    _check_equal("params", "shapes", mine, saved, expected)
    _check_equal("dimension_numbers", "axes", mine, saved, expected)
    _check_equal("exponents", "exponents", names, saved, expected)


def _check_equal(option: str, what: str, names: set[str], saved: dict, expected: dict) -> None:
    for name in sorted(names):
        own = np.asarray(expected[what].get(name, ()))
        found = np.asarray(saved.get(f"plan/{what}/{name}", ()))
        if found.shape != own.shape or not np.allclose(found, own, rtol=1e-6):
            raise ValueError(
                f"{option}: expected {what} {found.tolist()} of {name} as in the checkpoint, "
                f"found {own.tolist()}"
            )


def _check_moments(name: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        field = min(found ^ expected).partition(".")[0]
        raise ValueError(
            f"{_OPTION_OF[field]}: expected a state with the moments {sorted(found)} of {name}, "
            f"as in the checkpoint, found {sorted(expected)}"
        )
