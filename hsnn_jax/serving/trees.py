"""Nested dicts and tuples of arrays under names that a file can hold."""

from typing import Any

import jax
import jax.numpy as jnp

_MOST_MISSING = 64  # empty parts of a tuple


def flatten(prefix: str, tree: Any) -> dict[str, Any]:
    """Return {prefix and path: array} of nested dicts and tuples.

    Raises:
      ValueError: there is something else, such as a None within, or a key is no string, has a "/"
        or starts with "[".
    """
    flat = {}
    for path, value in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None):
        if value is None and not path:
            break  # nothing at all
        if value is None:
            place = jax.tree_util.keystr(path)
            raise ValueError(f"{prefix}{place}: expected an array, found None")
        flat["/".join([prefix, *(_name(prefix, entry, path) for entry in path)])] = value
    return flat


def _name(prefix, entry, path):
    if isinstance(entry, jax.tree_util.SequenceKey):
        return f"[{entry.idx}]"
    key = getattr(entry, "key", None)
    if isinstance(key, str) and "/" not in key and not key.startswith("["):
        return key
    raise ValueError(
        f"{prefix}: expected nested dicts with plain string keys, or tuples, found {path}"
    )


def unflatten(prefix: str, arrays: dict[str, Any]) -> Any:
    """Return what `flatten` was given, {} where there is nothing.

    An empty part of a tuple comes back as None, if there is something after it.
    """
    tree = {}
    for name, value in arrays.items():
        first, *keys = name.split("/")
        if first != prefix or not keys:
            continue
        inner = tree
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = jnp.asarray(value)
    return _with_tuples(tree)


def _with_tuples(tree):
    if not isinstance(tree, dict):
        return tree
    tree = {key: _with_tuples(value) for key, value in tree.items()}
    if tree and all(key.startswith("[") for key in tree):
        size = 1 + max(int(key[1:-1]) for key in tree)
        if size > len(tree) + _MOST_MISSING:
            raise ValueError(f"arrays: expected a tuple's parts, found one at {size - 1}")
        return tuple(tree.get(f"[{i}]") for i in range(size))
    return tree
