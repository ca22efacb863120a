"""Beam-aware training: what a scorer reads of nodes, learned so that the beam finds the best items.

A node's centroid or representative item says what lies near it, not what a scorer likes below it,
nor how many items it costs to look. Routes are features and biases of the nodes of an index whose
lists stay as they are, learned from the exact answers of a scorer to some users:

1. the share of a user's best items that a node lists is what the node's score should say;
2. asked are the nodes that a beam of twice the budget would visit, and those that list something
   wanted: the order of the others makes no difference;
3. the loss is the cross entropy of the shares with softmax(score + log(items of the node that the
   user may get)). At its minimum exp(score) is in proportion to the wanted items an item listed:
   the order in which a budget of items buys most of them.

Source: after Zhuo et al. 2020, "Learning Optimal Tree Models under Beam Search", which trains the
nodes of a tree on those that the beam visits, with targets from the scorer's own best leaf below a
node. The loss is ours.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from hsnn_jax.chunks import num_rows
from hsnn_jax.descent.beam import Array, open_counts, remaining, slots_of
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.search import brute_force_levels
from hsnn_jax.lists.checks import as_features, as_rows
from hsnn_jax.lists.index import Index
from hsnn_jax.monn.scorers import score_all
from hsnn_jax.nodes.fit import check_finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouteConfig:
    """How routes are learned.

    Attributes:
      budget: most items to score, of the searches to come.
      reach: the nodes asked are those that this many budgets afford.
      steps: of training.
      batch_size: users a step.
    """

    budget: int
    reach: float = 2.0
    steps: int = 1000
    batch_size: int = 256

    def __post_init__(self):
        for name in ("budget", "reach", "steps", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a number > 0, found {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class RouteScorer:
    """A scorer of nodes: another scorer's output scaled, a bias a node, and a sum over crosses.

    Attributes:
      scorer: see `search`.
    """

    scorer: Any

    @property
    def shares_items(self) -> bool:
        """Whether items [1, m, ...] may be shared by all users."""
        return getattr(self.scorer, "shares_items", False)

    def __call__(self, params: Any, users: Any, nodes: Any) -> jax.Array:
        """Return float [B, m]; see `Routes.level` for what is read."""
        scores = self.scorer(params["scorer"], users["features"], nodes["features"])
        scores = jnp.exp(params["log_scale"]) * scores + nodes["bias"]
        if "crosses" not in params:
            return scores
        crosses = jnp.take_along_axis(users["crosses"], nodes["node"][:, :, None], axis=1)
        return scores + crosses @ params["crosses"]


class Routes(NamedTuple):
    """What was learned of one index and its K nodes."""

    weights: dict  # "log_scale" float32 [], and with crosses "crosses" float32 [C]
    nodes: dict  # "features", a pytree of [K, ...], "bias" float32 [K], with crosses "node" int32

    def level(
        self,
        scorer: Callable,
        params: Any,
        *,
        users: Any,
        crosses: Array | None = None,
    ) -> Level:
        """Return the level of nodes of a search.

        Args:
          scorer, params: those of `fit_routes`.
          users: pytree of [B, ...], what the scorer reads.
          crosses: float [B, K, C], see `fit_routes`.
        """
        users = {"features": users} | ({} if crosses is None else {"crosses": crosses})
        return Level(RouteScorer(scorer), self.weights | {"scorer": params}, users, self.nodes)


def node_shares(index: Index, wanted: jax.Array) -> jax.Array:
    """Return the share of the wanted items that each node lists, float32 [B, K].

    Args:
      index: see `Index`.
      wanted: int [B, W], -1 after; those in no list count nowhere.
    """
    node = slots_of(index, wanted).node  # K, out of range, where it is in no list
    rows = jnp.arange(wanted.shape[0])[:, None]
    hits = jnp.zeros((wanted.shape[0], index.nodes.shape[0])).at[rows, node].add(1.0, mode="drop")
    return hits / jnp.maximum(jnp.sum(hits, axis=1, keepdims=True), 1)


def beam_loss(
    scores: jax.Array, shares: jax.Array, *, left: jax.Array, num_asked: int
) -> jax.Array:
    """Compute the mean loss of B users, points 2 and 3 of the module's text.

    Args:
      scores: float [B, K] of all nodes.
      shares: float [B, K] from `node_shares`; a row of zeros adds nothing.
      left: int [B or 1, K], the items of a node that the user may get; a node with none is not
        asked.
      num_asked: static; so many of the best nodes are asked, besides those with a share.
    """
    may_get = left > 0
    scores = jnp.where(may_get, scores, -jnp.inf)
    least = jax.lax.top_k(jax.lax.stop_gradient(scores), num_asked)[0][:, -1:]
    asked = may_get & ((scores >= least) | (shares > 0))
    # Finite, so that a share of 0 times the logarithm is 0, and so is its gradient.
    logits = jnp.where(asked, scores + jnp.log(jnp.maximum(left, 1)), jnp.finfo(jnp.float32).min)
    return -jnp.mean(jnp.sum(shares * jax.nn.log_softmax(logits), axis=1))


def fit_routes(
    scorer: Callable,
    params: Any,
    *,
    users: Any,
    features: Any,
    wanted: ArrayLike,
    index: Index,
    tx: optax.GradientTransformation,
    config: RouteConfig,
    key: jax.Array,
    crosses: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
) -> tuple[Routes, list[float]]:
    """Learn the routes of an index from exact answers.

    Args:
      scorer, params: of the nodes, see `search`; the parameters stay as they are.
      users: pytree of [U, ...], what the scorer reads.
      features: pytree of [K, ...], what it reads of nodes: where routes begin. Arrays of integers
        stay as they are.
      wanted: int [U, W], the rows of the items that an exact search gives each user, -1 after.
      index: its lists stay as they are.
      tx: any optax transform.
      config: see `RouteConfig`.
      key: PRNG key of the batches.
      crosses: optional float [U, K, C], features of each user and node, such as how many items of
        the node follow on what the user met; the score adds a weighted sum of them.
      exclude: optional int [U, E], what the users did not ask for, -1 for padding.

    Returns:
      (`Routes`, the mean loss of each tenth of the steps).

    Raises:
      ValueError: users, wanted, crosses, exclude and features do not fit together.
      FloatingPointError: training diverged: a loss or a route is NaN or infinite.
    """
    data = {
        "users": as_features("users", users),
        "wanted": as_rows("wanted", wanted),
        "crosses": None if crosses is None else as_features("crosses", crosses),
        "exclude": None if exclude is None else as_rows("exclude", exclude),
    }
    _check(data, features, index)
    data = jax.tree.map(jnp.asarray, data)
    start = _start(scorer, params, data, features)
    mean = float(jnp.mean(index.counts))
    num_asked = math.ceil(config.reach * config.budget / max(mean, 1))
    step = functools.partial(
        _step,
        scorer=scorer,
        tx=tx,
        num_asked=min(index.nodes.shape[0], max(2, num_asked)),
        batch_size=config.batch_size,
    )
    step = jax.jit(step, donate_argnums=0)
    learned, fixed = _split(start)
    state, losses = (jax.tree.map(jnp.copy, learned), tx.init(learned)), []
    for i in range(config.steps):
        drawn = jax.random.fold_in(key, i)
        # One at a time: see fit.py.
        state, loss = jax.block_until_ready(step(state, fixed, params, index, data, drawn))
        losses.append(loss)
    check_finite("loss and routes", (losses, state[0]), step=config.steps)
    losses = np.array_split(np.asarray(jax.device_get(losses)), min(10, config.steps))
    return _join(state[0], fixed), [float(part.mean()) for part in losses]


def fit_routes_to_exact(
    nodes: Level,
    items: Level,
    *,
    index: Index,
    tx: optax.GradientTransformation,
    k: int,
    config: RouteConfig,
    key: jax.Array,
    exclude: Array | None = None,
) -> tuple[Routes, list[float]]:
    """Find the exact best items of the users first, then `fit_routes` to them.

    Args:
      nodes: the level whose scorer and features routes begin with.
      items: the level that says what is best; its features are rows, no `Tiles`.
      index: its lists stay as they are.
      tx, config, key: see `fit_routes`.
      k: items that a search is to find.
      exclude: optional int [U, E], rows, -1 for padding.
    """
    exact = brute_force_levels((nodes, items), (index,), k=k, exclude=exclude)
    return fit_routes(
        nodes.scorer,
        nodes.params,
        users=nodes.users,
        features=nodes.features,
        wanted=exact.ids,
        index=index,
        tx=tx,
        config=config,
        key=key,
        exclude=exclude,
    )


def _start(scorer, params, data, features) -> Routes:
    """Begin with the scorer's own output, scaled so that a user's scores spread by 1."""
    first = jax.tree.map(lambda x: x[:256], data["users"])
    features = jax.tree.map(jnp.asarray, features)
    spread = jnp.mean(jnp.std(score_all(scorer, params, users=first, items=features), axis=1))
    num_nodes = num_rows(features)
    weights = {"log_scale": -jnp.log(jnp.where(spread > 0, spread, 1.0))}
    nodes = {"features": features, "bias": jnp.zeros(num_nodes)}
    if data["crosses"] is not None:
        weights["crosses"] = jnp.zeros(data["crosses"].shape[2])
        nodes["node"] = jnp.arange(num_nodes, dtype=jnp.int32)
    return Routes(weights, nodes)


def _split(routes: Routes) -> tuple[Routes, Routes]:
    """Return the floats, which are learned, and the rest; None where the other has something."""

    def part(floats: bool) -> Routes:
        return jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) == floats else None, routes
        )

    return part(True), part(False)


def _join(learned: Routes, fixed: Routes) -> Routes:
    """Undo `_split`."""
    return jax.tree.map(
        lambda x, other: other if x is None else x, learned, fixed, is_leaf=lambda x: x is None
    )


def _step(state, fixed, params, index, data, key, *, scorer, tx, num_asked, batch_size):
    learned, opt_state = state
    rows = jax.random.randint(key, (batch_size,), 0, num_rows(data["wanted"]))
    batch = jax.tree.map(lambda x: x[rows], data)
    (left,) = remaining(
        (index,), open_counts((index,), None), allowed=None, exclude=batch["exclude"]
    )
    shares = node_shares(index, batch["wanted"])

    def loss(learned):
        routes = _join(learned, fixed)
        crosses = batch["crosses"]
        level = routes.level(scorer, params, users=batch["users"], crosses=crosses)
        scores = score_all(level.scorer, level.params, users=level.users, items=level.features)
        return beam_loss(scores, shares, left=left, num_asked=num_asked)

    value, gradients = jax.value_and_grad(loss)(learned)
    updates, opt_state = tx.update(gradients, opt_state, learned)
    return (optax.apply_updates(learned, updates), opt_state), value


def _check(data, features, index):
    rows, num_nodes = num_rows(data["users"]), index.nodes.shape[0]
    for name in ("wanted", "exclude"):
        shape = np.shape(data[name])
        if data[name] is not None and (len(shape) != 2 or shape[0] != rows):
            raise ValueError(f"{name}: expected {rows} rows, one per user, found {list(shape)}")
    if num_rows(features) != num_nodes:
        raise ValueError(f"features: expected {num_nodes} nodes, found {num_rows(features)}")
    shape = np.shape(data["crosses"])
    if data["crosses"] is not None and (len(shape) != 3 or shape[:2] != (rows, num_nodes)):
        raise ValueError(f"crosses: expected shape [{rows}, {num_nodes}, C], found {list(shape)}")
