"""Ways to get the nodes of an index, behind one interface.

Ablations of LTI are values of its `LTIConfig`: alpha_exponent=0 keeps the temperature,
warmup_steps=0 leaves out the warm-up, balance_weight=0 the regulariser, dead_after=0 the
replacement of dead nodes; assignment="sinkhorn" balances in place of the softmax.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from hsnn_jax.distance import Distance
from hsnn_jax.lists.checks import as_rows, as_vectors
from hsnn_jax.lists.levels import residual_nodes
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.em import fit_em
from hsnn_jax.nodes.ema import ema_start, ema_update
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.kmeans import kmeans
from hsnn_jax.nodes.lti import init_params, levels_of
from hsnn_jax.nodes.telemetry import Monitor


class LearnedIndex(NamedTuple):
    """What a learner found; `nodes` and `parents` are arguments of `build_levels`."""

    nodes: tuple  # float32 [K_l, d] a level, the coarsest first
    parents: tuple  # a level: int32 [what it lists], the node of each; None for the nearest
    metrics: list[dict[str, float]]


class Learner(Protocol):
    """Anything that learns the nodes from vectors and pairs."""

    def learn(
        self,
        user_vectors: ArrayLike,
        item_vectors: ArrayLike,
        *,
        positives: ArrayLike,
        key: jax.Array,
    ) -> LearnedIndex:
        """Learn the nodes.

        Args:
          user_vectors: float32 [N, d], one a pair.
          item_vectors: float32 [n, d].
          positives: int [N], the item of each pair.
          key: PRNG key; the same key gives the same nodes.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NaturalHierarchy:
    """Groups that are known beforehand: item -> creator -> group. Pairs are not used.

    Attributes:
      groups: int arrays, the coarsest level first: the last holds the group of each item, the
        one before it the group of each of those groups, and so on. A node is the mean of the
        items below it (of all items, where it has none).
    """

    groups: Sequence[Any]

    def learn(
        self,
        user_vectors: ArrayLike,
        item_vectors: ArrayLike,
        *,
        positives: ArrayLike,
        key: jax.Array,
    ) -> LearnedIndex:
        """See `Learner`; raises a ValueError where groups do not fit together."""
        del user_vectors, positives, key
        items = np.asarray(as_vectors("item_vectors", item_vectors))
        parents = tuple(np.asarray(as_rows("groups", group)) for group in self.groups)
        if not parents or parents[-1].shape != items.shape[:1]:
            shape = list(parents[-1].shape) if parents else "none"
            raise ValueError(
                f"groups: expected one per item at the end, shape [{len(items)}], found {shape}"
            )
        nodes, of_item = [], np.arange(len(items), dtype=np.int32)
        for level in reversed(range(len(parents))):
            below = parents[level]
            if of_item.max() >= below.size or below.min() < 0:
                raise ValueError(
                    f"groups[{level}]: expected a group >= 0 of each of {of_item.max() + 1} "
                    f"members, found {below.size} entries with least value {below.min()}"
                )
            of_item = below[of_item]
            nodes.append(_group_means(items, of_item, int(below.max()) + 1))
        return LearnedIndex(tuple(reversed(nodes)), parents, [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class KMeans:
    """k-means on the item vectors, separate from any model. Pairs are not used.

    Attributes:
      num_nodes: of each level, the coarsest first; a coarser level clusters the next one's nodes.
      iterations: Lloyd iterations.
    """

    num_nodes: tuple[int, ...]
    iterations: int = 20

    def learn(
        self,
        user_vectors: ArrayLike,
        item_vectors: ArrayLike,
        *,
        positives: ArrayLike,
        key: jax.Array,
    ) -> LearnedIndex:
        """See `Learner`."""
        del user_vectors, positives
        nodes, vectors = [], as_vectors("item_vectors", item_vectors)
        LTIConfig(num_nodes=tuple(self.num_nodes)).for_items(vectors.shape[0])  # raises
        for level, size in enumerate(reversed(self.num_nodes)):
            level_key = jax.random.fold_in(key, level)
            vectors = kmeans(vectors, size, key=level_key, iterations=self.iterations)
            nodes.append(vectors)
        return LearnedIndex(tuple(reversed(nodes)), (None,) * len(nodes), [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class LTI:
    """Nodes by gradient through soft assignments, of one level or of residual levels.

    The nodes of residual levels are the sums of their codes, see `residual_nodes`.

    Attributes:
      config: see `LTIConfig`.
      tx: any optax transform.
      batch_size, log_every: see `fit_index`.
    """

    config: LTIConfig
    tx: optax.GradientTransformation
    batch_size: int = 512
    log_every: int = 100

    def learn(
        self,
        user_vectors: ArrayLike,
        item_vectors: ArrayLike,
        *,
        positives: ArrayLike,
        key: jax.Array,
    ) -> LearnedIndex:
        """See `Learner`."""
        fitted = fit_index(
            user_vectors,
            item_vectors,
            positives=positives,
            tx=self.tx,
            config=self.config,
            key=key,
            batch_size=self.batch_size,
            log_every=self.log_every,
        )
        nodes, parents = residual_nodes(levels_of(fitted.params["nodes"]))
        return LearnedIndex(nodes, parents, fitted.metrics)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EM:
    """Alternation of hard assignment and training, see `fit_em`.

    Attributes:
      config: see `fit_em`.
      tx: any optax transform.
      rounds, batch_size: see `fit_em`.
    """

    config: LTIConfig
    tx: optax.GradientTransformation
    rounds: int = 10
    batch_size: int = 512

    def learn(
        self,
        user_vectors: ArrayLike,
        item_vectors: ArrayLike,
        *,
        positives: ArrayLike,
        key: jax.Array,
    ) -> LearnedIndex:
        """See `Learner`."""
        fitted = fit_em(
            user_vectors,
            item_vectors,
            positives=positives,
            tx=self.tx,
            config=self.config,
            key=key,
            rounds=self.rounds,
            batch_size=self.batch_size,
        )
        return LearnedIndex((fitted.params["nodes"],), (None,), fitted.metrics)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMA:
    """A codebook of moving averages over batches of the pairs' items. Users are not used.

    Attributes:
      num_nodes: K.
      steps: batches.
      batch_size: items a batch.
      decay: weight of the past, see `ema_update`.
      dead_after: see `ema_update`.
      start: "kmeans" or "random", see `LTIConfig`.
      distance: see `distance.pairwise_distance`.
      log_every: batches between records of telemetry.
    """

    num_nodes: int
    steps: int = 1000
    batch_size: int = 512
    decay: float = 0.99
    dead_after: int = 0
    start: Literal["kmeans", "random"] = "kmeans"
    distance: Distance = "l2"
    log_every: int = 100

    def learn(
        self,
        user_vectors: ArrayLike,
        item_vectors: ArrayLike,
        *,
        positives: ArrayLike,
        key: jax.Array,
    ) -> LearnedIndex:
        """See `Learner`."""
        del user_vectors
        init_key, draw_key = jax.random.split(key)
        items = jnp.asarray(as_vectors("item_vectors", item_vectors))
        positives = jnp.asarray(positives)
        config = LTIConfig(num_nodes=self.num_nodes, start=self.start, distance=self.distance)
        state = ema_start(init_params(init_key, items, config=config)["nodes"], self.batch_size)
        monitor, records = Monitor(items, distance=self.distance), []
        for step in range(self.steps):
            batch_key, dead_key = jax.random.split(jax.random.fold_in(draw_key, step))
            pairs = jax.random.randint(batch_key, (self.batch_size,), 0, positives.size)
            state = ema_update(
                state,
                items[positives[pairs]],
                key=dead_key,
                decay=self.decay,
                dead_after=self.dead_after,
                distance=self.distance,
            )
            if (step + 1) % self.log_every == 0:
                records.append({"step": step + 1} | monitor(state.nodes, None))
        return LearnedIndex((state.nodes,), (None,), records)


def _group_means(items, group, size):
    counts = np.bincount(group, minlength=size)[:, None]
    sums = np.zeros((size, items.shape[1]))
    np.add.at(sums, group, items)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), items.mean(axis=0)[None, :])
    return means.astype(np.float32)
