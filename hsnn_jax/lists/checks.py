"""What may enter an index or a search: vectors, ids and features, as they will be held.

Values are judged as they are after the cast: a float64 1e39 is finite, and infinite in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

# Distances square lengths and k-means adds the squares up: from about 1e19 on that is infinite
# in float32, and an item that is infinitely far from every node finds no place.
MAX_LENGTH = 1e15


def as_vectors(
    name: str, vectors: ArrayLike, *, width: int | None = None, empty: bool = False
) -> np.ndarray | jax.Array:
    """Return vectors [rows, width] as floats of at least 32 bits; numpy's stay numpy's.

    Args:
      name: of the argument, for errors.
      vectors: numbers of any type.
      width: expected; any by default.
      empty: whether there may be no rows.

    Raises:
      ValueError: these are no numbers, no matrix of this width, not finite, or longer than
        `MAX_LENGTH`.
    """
    if not isinstance(vectors, jax.Array):
        vectors = np.asarray(vectors)
    if not (jnp.issubdtype(vectors.dtype, jnp.number) or vectors.dtype == bool):
        raise ValueError(f"{name}: expected numbers, found dtype {vectors.dtype}")
    shape = f"[rows, {'d' if width is None else width}]"
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        hint = "; a single vector is vector[None]" if vectors.ndim == 1 else ""
        raise ValueError(f"{name}: expected shape {shape}, found {list(vectors.shape)}{hint}")
    if vectors.shape[0] == 0 and not empty:
        raise ValueError(f"{name}: expected at least one row, found none")
    with np.errstate(over="ignore"):
        vectors = vectors.astype(_float_type(vectors.dtype), copy=False)
    if not isinstance(vectors, Tracer):
        _check_lengths(name, np.asarray(vectors))
    return vectors


def _float_type(dtype):
    wide = jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize >= 4
    return jax.dtypes.canonicalize_dtype(dtype) if wide else np.dtype(np.float32)


def _check_lengths(name, vectors):
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", vectors, vectors)
    sound = squares <= MAX_LENGTH**2  # False for NaN too
    if sound.all():
        return
    row = np.argmin(sound)
    if np.isfinite(vectors[row]).all():
        found = np.linalg.norm(vectors[row].astype(np.float64))
        expected, found = f"lengths up to {MAX_LENGTH:g}", f"{found:.3g}"
    else:
        expected, found = "finite values", "NaN or inf"
    raise ValueError(f"{name}: expected {expected}, found {found} in row {row}")


def as_integers(name: str, values: ArrayLike) -> np.ndarray:
    """Return integers as int64 [...].

    Raises:
      ValueError: they are no integers, or beyond 63 bits.
    """
    values = np.asarray(values)
    if values.size == 0:
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected integers, found dtype {values.dtype}, such as "
            f"{values.flat[0].item()!r}"
        )
    if values.dtype == np.uint64 and values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected integers below 2^63, found {values.max()}")
    return values.astype(np.int64)


def as_rows(name: str, rows: ArrayLike) -> np.ndarray | jax.Array:
    """Return integers as int32 [...]; jax's stay jax's.

    Raises:
      ValueError: they are no integers, or beyond 32 bits: a cast would make others of them.
    """
    if isinstance(rows, jax.Array):
        return rows
    rows, limits = as_integers(name, rows), np.iinfo(np.int32)
    beyond = rows[(rows < limits.min) | (rows > limits.max)]
    if beyond.size:
        raise ValueError(f"{name}: expected integers within 32 bits, found {beyond[0]}")
    return rows.astype(np.int32)


def as_features(name: str, features: Any) -> Any:
    """Return a pytree of features [rows, ...] as jax holds them, in 32 bits.

    Args:
      name: of the argument, for errors.
      features: pytree of arrays.

    Raises:
      ValueError: leaves are no numbers, have other numbers of rows, are not finite, or are
        integers beyond 32 bits.
    """
    held = jax.tree_util.tree_map_with_path(
        lambda path, x: _feature(f"{name}{jax.tree_util.keystr(path)}", x), features
    )
    rows = {np.shape(x)[:1] for x in jax.tree.leaves(held)}
    if len(rows) != 1 or rows == {()}:
        found = sorted(shape[0] if shape else "a scalar" for shape in rows)
        raise ValueError(f"{name}: expected features of one number of rows, found {found}")
    return held


def _feature(name, x):
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
    kind = "integers" if jnp.issubdtype(x.dtype, jnp.integer) else "floats"
    if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
        raise ValueError(f"{name}: expected numbers, found dtype {x.dtype}")
    with np.errstate(over="ignore"):
        held = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
    values = np.asarray(held)
    sound = values == x if kind == "integers" else np.isfinite(values)
    if not np.all(sound):
        row = np.argmin(np.asarray(sound).reshape(len(values), -1).all(axis=1))
        expected = "integers within 32 bits" if kind == "integers" else "finite values"
        found = "a larger one" if kind == "integers" else "NaN or inf"
        raise ValueError(f"{name}: expected {expected}, found {found} in row {row}")
    return held


def check_cast(name: str, tree: Any) -> None:
    """Raise a ValueError where numpy arrays are wider than jax holds and a cast would falsify them.

    Args:
      name: of the argument, for errors.
      tree: pytree; what jax holds already is not read.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(x, np.ndarray) and jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype:
            _feature(f"{name}{jax.tree_util.keystr(path)}", x)


def check_encoded(name: str, encoded: Any) -> None:
    """Raise a ValueError unless a model made finite numbers of finite features."""
    for x in jax.tree.leaves(encoded):
        if not len(x):
            continue
        finite = np.isfinite(np.asarray(x)).reshape(len(x), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{name}: expected features of which the model makes finite numbers, found NaN or "
                f"inf of row {np.argmin(finite)}"
            )


def check_features(features: Any, held: Any, *, size: int) -> Any:
    """Return the features of `size` items as numpy arrays.

    Args:
      features: pytree of [size, ...], or None.
      held: pytree of [K, C, ...], what is held of the items already, or None.
      size: number of items.

    Raises:
      ValueError: features are missing, or differ in shape or type from what is held.
    """
    features = jax.tree.map(np.asarray, features)
    expected = _described(held, lambda x: (size, *x.shape[2:]))
    found = _described(features, np.shape)
    for path in sorted(expected | found):
        if expected.get(path) != found.get(path):
            wanted, got = (side.get(path, "none") for side in (expected, found))
            raise ValueError(f"features{path}: expected {wanted}, found {got}")
    return features


def _described(tree, shape_of):
    """Return {path: what the array there is}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{x.dtype} {shape_of(x)}" for path, x in leaves}
