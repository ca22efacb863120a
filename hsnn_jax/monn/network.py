"""MoNN, the modular neural network: user, item and interaction towers under an OverArch.

The user tower runs once a request (`encode_users`), the item tower once an item
(`encode_items`), and `MoNNScorer` does the rest for a pair; it is what `search` and
`brute_force` take as their scorer.

Source: arXiv 2408.06653v3, Modular Neural Network.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hsnn_jax.chunks import by_chunks
from hsnn_jax.monn import i2if
from hsnn_jax.monn.config import Features, MoNNConfig
from hsnn_jax.monn.overarch import OVERARCHES
from hsnn_jax.monn.scorers import count_flops, pair_flops
from hsnn_jax.monn.towers import Tower


class MoNN(nn.Module):
    """The network. The functions below and `MoNNScorer` apply it."""

    config: MoNNConfig

    def setup(self) -> None:
        c = self.config
        self.user_tower = Tower(c.user, c.user_tower, c.num_user, c.width)
        self.item_tower = Tower(c.item, c.item_tower, c.num_item, c.width)
        if c.num_interaction:
            crosses = Features(dense={name: _num_statistics(c) for name in c.crosses})
            tower = c.interaction_tower
            self.interaction_tower = Tower(crosses, tower, c.num_interaction, c.width)
        self.overarch = OVERARCHES[c.overarch](c)

    def __call__(
        self, user_features: Any, item_features: Any, counts: Any = None, attributes: Any = None
    ) -> jax.Array:
        """Return the logits [B, T] of B pairs; see `logits`."""
        users = self.encode_users(user_features, counts)
        items = self.encode_items(item_features, attributes)
        return self.score(users, jax.tree.map(lambda x: x[:, None], items))[:, 0]

    def encode_users(self, features: Any, counts: Any = None) -> dict:
        encoded = self.overarch.user(self.user_tower(features))
        return encoded | self._of_crosses("counts", counts)

    def encode_items(self, features: Any, attributes: Any = None) -> dict:
        encoded = self.overarch.item(self.item_tower(features))
        return encoded | self._of_crosses("attributes", attributes)

    def item_vectors(self, features: Any) -> jax.Array:
        return self.item_tower(features)

    def user_vectors(self, features: Any) -> jax.Array:
        mean_BxD = jnp.mean(self.user_tower(features), axis=1)
        return jnp.tile(mean_BxD, (1, self.config.num_item))

    def interact(self, users: Any, items: Any) -> jax.Array:
        """Return the interaction tower's vectors [B, m, n, d] of encoded users and items."""
        crosses, read = {}, _num_statistics(self.config)
        rows: tuple[int, ...] = ()
        for name in self.config.crosses:
            features = i2if.lookup(users["counts"][name], items["attributes"][name])
            rows = features.shape[:2]
            # Not the plain count: its logarithm says the same at a scale that a network takes.
            features = features[..., 1 : 1 + read]
            if features.shape[-1] < read:
                raise ValueError(
                    f"counts[{name!r}]: expected a table with recency, found one without"
                )
            crosses[name] = features.reshape(-1, read)
        vectors = self.interaction_tower(crosses)
        return vectors.reshape(*rows, *vectors.shape[1:])

    def score(self, users: Any, items: Any) -> jax.Array:
        """Return the logits [B, m, T] of encoded users [B, ...] and items [B, m, ...]."""
        pairs = self.interact(users, items) if self.config.num_interaction else None
        return self.overarch(users, items, pairs)

    def _of_crosses(self, argument, given):
        names = self.config.crosses
        missing = set(names) - set(given or ())
        if missing:
            raise ValueError(f"{argument}: expected {sorted(missing)}, found {sorted(given or ())}")
        return {argument: {name: given[name] for name in names}} if names else {}


def init_monn(key: jax.Array, config: MoNNConfig) -> dict:
    """Draw the parameters of a MoNN; no data is needed."""
    return _init(key, config=config)


@functools.partial(jax.jit, static_argnames="config")
def _init(key, *, config):
    user, item, counts, attributes = _examples(config)
    return MoNN(config).init(key, user, item, counts, attributes)["params"]


@functools.partial(jax.jit, static_argnames="config")
def encode_users(config: MoNNConfig, params: Any, *, features: Any, counts: Any = None) -> dict:
    """Run the user tower, once a request.

    Args:
      config: static.
      params: from `init_monn`.
      features: dict of [B, ...], see `Features`.
      counts: {cross: `i2if.DenseTable` or `i2if.SparseTable` of the users [B]}.

    Returns:
      A pytree of [B, ...], the `users` of `MoNNScorer`.

    Raises:
      ValueError: a feature or the counts of a cross are missing or have a wrong shape.
    """
    return _apply(config, params, features, counts, method="encode_users")


@functools.partial(jax.jit, static_argnames="config")
def encode_items(config: MoNNConfig, params: Any, *, features: Any, attributes: Any = None) -> dict:
    """Run the item tower, once an item, in chunks of bounded size.

    Args:
      config: static.
      params: from `init_monn`.
      features: dict of [n, ...], see `Features`.
      attributes: {cross: int [n, A], the values of each item, padded with -1}.

    Returns:
      A pytree of [n, ...], the `items` of `MoNNScorer`.

    Raises:
      ValueError: a feature or the attributes of a cross are missing or have a wrong shape.
    """
    encode = functools.partial(_apply, config, params, method="encode_items")
    return by_chunks(encode, _tower_values(config), features, attributes)


@functools.partial(jax.jit, static_argnames="config")
def item_vectors(config: MoNNConfig, params: Any, *, features: Any) -> jax.Array:
    """Return the item tower's vectors side by side, float [n, num_item * width].

    These are what an index is learned on.
    """
    apply = functools.partial(_apply, config, params, method="item_vectors")
    vectors = by_chunks(apply, _tower_values(config), features)
    return vectors.reshape(vectors.shape[0], -1)


@functools.partial(jax.jit, static_argnames="config")
def user_vectors(config: MoNNConfig, params: Any, *, features: Any) -> jax.Array:
    """Return the mean of the user tower's vectors, once for each of an item's vectors.

    Its inner product with `item_vectors` is the mean over the user's vectors of the sum over the
    item's: the two-tower reading of the two sides, by which nodes are learned.

    Returns:
      float [B, num_item * width].
    """
    return _apply(config, params, features, method="user_vectors")


def logits(
    config: MoNNConfig,
    params: Any,
    *,
    user_features: Any,
    item_features: Any,
    counts: Any = None,
    attributes: Any = None,
) -> jax.Array:
    """Compute the logits of B pairs, float [B, T], from features: the training path.

    See `encode_users` and `encode_items` for the arguments, all of B rows.
    """
    return _apply(config, params, user_features, item_features, counts, attributes)


def interactions(config: MoNNConfig, params: Any, *, users: Any, items: Any) -> jax.Array:
    """Compute the interaction tower's vectors, float [B, m, num_interaction, width].

    Args:
      config, params: of a MoNN with crosses.
      users, items: encoded, [B, ...] and [B, m, ...].
    """
    return _apply(config, params, users, items, method="interact")


@dataclasses.dataclass(frozen=True)
class MoNNScorer:
    """Score encoded users and items by one task's logit; for `search` and `brute_force`.

    Attributes:
      config: of the MoNN.
      task: one of its tasks; the first by default.

    Raises:
      ValueError: there is no such task.
    """

    config: MoNNConfig
    task: str | None = None
    shares_items: ClassVar[bool] = True

    def __post_init__(self):
        if self.task is not None and self.task not in self.config.tasks:
            raise ValueError(f"task: expected one of {self.config.tasks}, found {self.task!r}")

    @property
    def __name__(self):
        """What an artefact records of a scorer."""
        return f"monn_{self.config.overarch}_{self.task or self.config.tasks[0]}"

    def __call__(self, params: Any, users: Any, items: Any) -> jax.Array:
        """Return float [B, m].

        Args:
          params: from `init_monn`.
          users: from `encode_users`, [B, ...].
          items: from `encode_items`, gathered to [B, m, ...], or [1, m, ...] for all users.
        """
        task = 0 if self.task is None else self.config.tasks.index(self.task)
        return _apply(self.config, params, users, items, method="score")[..., task]


def module_flops(config: MoNNConfig) -> dict[str, float]:
    """Count the floating-point operations of one user, one item and one pair.

    By XLA's cost model; lists of ids and of attribute values have one entry. "user" includes
    what the scorer computes once a user.
    """
    params = jax.eval_shape(functools.partial(_init, config=config), jax.random.key(0))
    user, item, counts, attributes = _examples(config)
    scorer = MoNNScorer(config)

    def encode_user(params, features, counts):
        return encode_users(config, params, features=features, counts=counts)

    def encode_item(params, features, attributes):
        return encode_items(config, params, features=features, attributes=attributes)

    users = jax.eval_shape(encode_user, params, user, counts)
    items = jax.eval_shape(encode_item, params, item, attributes)
    per_user, per_pair = pair_flops(scorer, params, users=users, items=items)
    return {
        "user": count_flops(encode_user, params, user, counts) + per_user,
        "item": count_flops(encode_item, params, item, attributes),
        "pair": per_pair,
    }


def _apply(config, params, *arguments, method=None) -> Any:
    return MoNN(config).apply({"params": params}, *arguments, method=method)


def _num_statistics(config):
    """Return how many of `i2if.STATISTICS` the interaction tower reads of a cross."""
    return len(i2if.STATISTICS) - 1 - (not config.recency)


def _tower_values(config):
    """Estimate the values that the item tower holds for a row."""
    tower = config.item_tower
    fields = len(config.item.dense) * tower.dense_fields + len(config.item.sparse)
    return fields**2 * tower.field_width + config.num_item * config.width


def _examples(config):
    """Return inputs of one row: features of user and item, counts, attributes."""
    one = jnp.zeros((1, 1))
    table = i2if.DenseTable(one, jnp.zeros(1), one if config.recency else None)
    return (
        *(_example(features) for features in (config.user, config.item)),
        {name: table for name in config.crosses},
        {name: jnp.zeros((1, 1), jnp.int32) for name in config.crosses},
    )


def _example(features):
    dense = {name: jnp.zeros((1, width)) for name, width in features.dense}
    return dense | {name: jnp.zeros(1, jnp.int32) for name, _ in features.sparse}
