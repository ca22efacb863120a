"""Gradients, parameters and decay masks, brought to one list of leaves."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from shampoo_jax.record import leaf_names, leaf_paths


class Aligned(NamedTuple):
    """The leaves that the state has, in the order of the tree.

    Attributes:
      gradients: arrays, zeros where the gradient is missing.
      present: whether a leaf has a gradient.
      paths: of the leaves.
      names: that lead to them.
      dtypes: that the updates must have.
      kept: for every leaf of the tree, whether it is one of these.
      treedef: of the parameters, or of the updates where there are none.
    """

    gradients: list[jax.Array]
    present: tuple[bool, ...]
    paths: list[str]
    names: list[tuple[str, ...]]
    dtypes: list[Any]
    kept: list[bool]
    treedef: Any

    def of(self, tree: Any) -> list[Any]:
        """Return what belongs to these leaves in another tree of the same structure."""
        return self.pick(self.treedef.flatten_up_to(tree))

    def specs(self, tree: Any) -> list[P]:
        """Return the specs of these leaves, found by their paths in a tree of PartitionSpecs.

        Raises:
          ValueError: a leaf has none.
        """
        specs = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, P))
        by_path = {jax.tree_util.keystr(path): spec for path, spec in specs}
        for path in self.paths:
            if not isinstance(by_path.get(path), P):
                found = by_path.get(path, "none")
                raise ValueError(f"param_specs{path}: expected a PartitionSpec, found {found}")
        return [by_path[path] for path in self.paths]

    def pick(self, values: Sequence[Any]) -> list[Any]:
        """Return the values of these leaves among those of all."""
        return [x for x, keep in zip(values, self.kept, strict=True) if keep]

    def tree(self, values: Sequence[Any]) -> Any:
        """Put one value per leaf into the whole tree, None elsewhere."""
        left = iter(values)
        return jax.tree.unflatten(self.treedef, [next(left) if k else None for k in self.kept])


def align(updates: Any, params: Any, known: Collection[str]) -> Aligned:
    """Return the leaves that have a gradient, or whose path is `known` to the state.

    A tree may hold more: a module's functions, integers or frozen arrays have no gradient and were
    left out when the state was made.

    Raises:
      ValueError: a gradient of another shape than its parameter.
    """
    whole = updates if params is None else params
    paths = leaf_paths(whole)
    weights, treedef = jax.tree.flatten(whole)
    gradients = treedef.flatten_up_to(updates)
    kept = [g is not None or path in known for g, path in zip(gradients, paths)]
    every = zip(gradients, weights, paths, leaf_names(whole), kept)
    for path, g, w in zip(paths, gradients, weights):
        if g is not None and jnp.shape(g) != jnp.shape(w):
            expected = f"shape {jnp.shape(w)} as its parameter"
            raise ValueError(f"updates{path}: expected {expected}, found {jnp.shape(g)}")
    rows = [(g, w, path, names) for g, w, path, names, keep in every if keep]
    return Aligned(
        gradients=[jnp.zeros_like(w) if g is None else jnp.asarray(g) for g, w, *_ in rows],
        present=tuple(g is not None for g, *_ in rows),
        paths=[path for *_, path, _ in rows],
        names=[names for *_, names in rows],
        dtypes=[jnp.result_type(w) for _, w, *_ in rows],
        kept=kept,
        treedef=treedef,
    )


def _is_function(mask: Any) -> bool:
    """Whether a mask is to be called; a module that holds bools may be callable, and is not."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(callable(x) for x in leaves)


def decay_flags(params: Any, mask: optax.MaskOrFn) -> Any:
    """Return the tree of the parameters with a bool per leaf: whether decay applies."""
    tree = True if mask is None else mask(params) if _is_function(mask) else mask
    return jax.tree.map(lambda m, part: jax.tree.map(lambda _: bool(m), part), tree, params)


def masked_weights(own: Aligned, params: Any, mask: optax.MaskOrFn) -> list[jax.Array]:
    """Return the parameters of the leaves, zero where decay does not apply."""
    weights = own.of(params)
    if mask is None:
        return weights
    flags = own.pick(jax.tree.leaves(decay_flags(params, mask)))
    return [w if decays else jnp.zeros_like(w) for w, decays in zip(weights, flags)]
