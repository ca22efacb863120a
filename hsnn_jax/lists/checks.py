"""What items must be like to enter an index: vectors, ids and features."""

import jax
import numpy as np


def check_vectors(name, vectors, *, width=None, empty=False) -> None:
    """Raise a ValueError unless vectors are finite [rows, width], with rows unless `empty`."""
    if vectors.ndim != 2 or (vectors.shape[0] == 0 and not empty):
        raise ValueError(f"{name} must have shape [rows >= 1, d], got shape {vectors.shape}")
    if width is not None and vectors.shape[1] != width:
        raise ValueError(f"{name} must have width {width}, got shape {vectors.shape}")
    finite = np.isfinite(np.asarray(vectors)).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got NaN or inf in row {np.argmin(finite)}")


def check_ids(name, ids, size) -> None:
    """Raise a ValueError unless ids are `size` distinct integers >= 0."""
    if ids.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got shape {ids.shape}")
    if not size:
        return
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got dtype {ids.dtype}")
    if ids.min() < 0:
        raise ValueError(f"{name} must be >= 0, got {ids.min()}")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} must be distinct, got {values[np.argmax(counts)]} twice or more")


def check_features(features, held, size):
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
            raise ValueError(f"features{path} must be {wanted}, got {got}")
    return features


def _described(tree, shape_of):
    """Return {path: what the array there is}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{x.dtype} {shape_of(x)}" for path, x in leaves}
