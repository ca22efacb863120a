"""Models that score what a retriever is given: a MoNN, or towers and a scorer of the caller's."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from hsnn_jax.chunks import by_chunks, values_of
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.scorers import count_flops


@dataclasses.dataclass(frozen=True)
class Towers:
    """A model of your own: two towers, and the scorer of what they return.

    All are pure functions that jax can trace, of Flax modules say. A tower encodes each row by
    itself, since rows are encoded in parts; it is compiled for every new number of rows.

    Attributes:
      users: users(params, inputs) is what the scorer reads of users, a pytree of [B, ...]. `inputs`
        are the users that a retriever is given, any pytree of [B, ...].
      items: items(params, inputs) is the same of items, [n, ...].
      scorer: scorer(params, users, items) is float [B, m], of items gathered to [B, m, ...]; if it
        has a true attribute `shares_items`, also of items [1, m, ...] that all users share.
      user_vectors: user_vectors(params, inputs) is float [B, d], which `fit_nodes` and a `Pool`
        read. By default what `users` returns, which is one array then.
      item_vectors: item_vectors(params, inputs) is float [n, d], by which items are listed; with
        the same default.
      nodes: nodes(params, vectors) is what the scorer reads of nodes at float [K, d]. By default a
        node is scored as the item nearest to it.
      name: that a saved retriever is told by; the scorer's by default.
    """

    users: Callable[[Any, Any], Any]
    items: Callable[[Any, Any], Any]
    scorer: Callable[[Any, Any, Any], jax.Array]
    user_vectors: Callable[[Any, Any], jax.Array] | None = None
    item_vectors: Callable[[Any, Any], jax.Array] | None = None
    nodes: Callable[[Any, Any], Any] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.scorer.__name__)

    @functools.cached_property
    def encoders(self) -> "Encoders":
        """The towers as a retriever runs them."""
        item_vectors = self.item_vectors or functools.partial(_as_vectors, "items", self.items)
        user_vectors = self.user_vectors or functools.partial(_as_vectors, "users", self.users)
        return Encoders(
            inputs=lambda given: given,
            users=jax.jit(self.users),
            items=jax.jit(functools.partial(_in_chunks, self.items)),
            user_vectors=jax.jit(user_vectors),
            item_vectors=jax.jit(functools.partial(_in_chunks, item_vectors)),
            nodes=None if self.nodes is None else jax.jit(self.nodes),
            scorer=self.scorer,
        )


Model = MoNNConfig | Towers


class Encoders(NamedTuple):
    """What a retriever runs of a model; functions of (parameters, inputs), compiled."""

    inputs: Callable[[Any], Any]  # of what is given, in one form
    users: Callable[[Any, Any], Any]
    items: Callable[[Any, Any], Any]
    user_vectors: Callable[[Any, Any], jax.Array]
    item_vectors: Callable[[Any, Any], jax.Array]
    nodes: Callable[[Any, Any], Any] | None
    scorer: Callable[[Any, Any, Any], jax.Array]


def encoders_of(model: Model, task: str | None) -> Encoders:
    """Return what a retriever runs; equal arguments give the same functions, compiled once.

    Args:
      model: towers; or a MoNN, whose inputs are (features, crosses), or features alone.
      task: of the MoNN's; the first by default.

    Raises:
      ValueError: there is no such task, or one of towers.
    """
    if isinstance(model, MoNNConfig):
        return _of_monn(model, task)
    if task is not None:
        raise ValueError(f"task: expected none of a model of your own, found {task!r}")
    return model.encoders


@functools.lru_cache(maxsize=64)
def _of_monn(config, task):
    def users(params, inputs):
        features, counts = sides(inputs)
        return monn.encode_users(config, params, features=features, counts=counts)

    def items(params, inputs):
        features, attributes = sides(inputs)
        return monn.encode_items(config, params, features=features, attributes=attributes)

    def user_vectors(params, inputs):
        return monn.user_vectors(config, params, features=sides(inputs)[0])

    def item_vectors(params, inputs):
        return monn.item_vectors(config, params, features=sides(inputs)[0])

    scorer = monn.MoNNScorer(config, task)
    return Encoders(_in_one_form, users, items, user_vectors, item_vectors, None, scorer)


def sides(inputs: Any) -> tuple[Any, Any]:
    """Return (features, crosses or None) of users or items of a MoNN."""
    features, *crosses = inputs if isinstance(inputs, tuple) else (inputs,)
    return features, crosses[0] if crosses else None


def _in_one_form(given):
    features, crosses = sides(given)
    return (features,) if crosses is None else (features, crosses)


def _as_vectors(side, tower, params, inputs):
    found = tower(params, inputs)
    if not isinstance(found, jax.Array) or found.ndim != 2:
        name = f"{side.removesuffix('s')}_vectors"
        shapes = jax.tree.map(lambda x: ", ".join(map(str, ("n", *x.shape[1:]))), found)
        raise ValueError(f"{name}: expected them, since {side} returns no [n, d], found {shapes}")
    return found


def _in_chunks(tower, params, inputs):
    """Run a tower on a part of the rows at a time, so that its work stays bounded."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, inputs))
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), inputs)
    width = values_of(1, flops=count_flops(tower, shapes[0], one))
    return by_chunks(functools.partial(tower, params), width, inputs)
