"""Scorers of rated events: a two tower, MoNNs and MoL on the same features, and their training.

Every model has two tasks: "like", cross entropy on rated events, measured by NE; and "next", a
sampled softmax of the next liked item, measured by recall@50 among all unseen items.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.harness.errors import bad_input
from experiments.harness.run_folder import Run
from experiments.loop.train_step import Loss
from experiments.loop.training import TrainResult
from experiments.retrieval.kept_gain import NAMES, TWO_TOWER, Served, check_models, serve_monn
from experiments.retrieval.nodes import learned_nodes
from experiments.retrieval.training import softmax_of, train_scorer
from experiments.tasks.rated_events import PART, Examples, check_halves, parts_of, user_side
from hsnn_jax.cost_curves import recall_by_user
from hsnn_jax.descent.search import brute_force
from hsnn_jax.lists.index import Index
from hsnn_jax.monn.calibration import normalised_entropy
from hsnn_jax.monn.config import MoNNConfig, preset
from hsnn_jax.monn.losses import binary_cross_entropy
from hsnn_jax.monn.network import (
    MoNNScorer,
    encode_items,
    encode_users,
    init_monn,
    item_vectors,
    user_vectors,
)

K = 50
TASKS = ("like", "next")
CROSSES = ("genre", "follows")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScorersConfig:
    """Models, and how they train."""

    models: tuple[str, ...] = ("XS", "S", "M", "L", "MoL")
    """two tower (XS, always first), S, M, L, XL of the paper, MoL without interaction tower"""
    steps: int = 4000
    """training steps at most"""
    evaluate_every: int = 500
    """steps between evaluations of the validation split"""
    batch_size: int = 256
    """events a step: half of them rated ones, half liked ones whose item is to be retrieved"""
    negatives: int = 128
    """items that all events of a step share"""
    popular: float = 0.5
    """share of them that are drawn as often as items are liked, the rest uniformly"""
    rate: float = 2e-3
    """peak learning rate of Adam; it falls to a twentieth by a cosine"""
    warmup: int = 150
    """steps in which it rises from 0, a tenth of all steps at most"""
    clip: float = 1.0
    """norm that gradients are clipped to; inf for none"""
    like_weight: float = 1.0
    """weight of the cross entropy beside the sampled softmax"""
    users: int = 2000
    """users, drawn by seed, whose next item is retrieved"""
    events: int = 50_000
    """events, drawn by seed, of which NE is taken"""
    nodes: int = 64
    """nodes of HSNN's index where the scorer itself scores them"""
    two_tower_nodes: int = 512
    """nodes where the two tower does, at the price of an inner product each"""
    index_steps: int = 500
    """steps of LTI"""
    index_rate: float = 5e-4
    """learning rate of LTI"""
    pairs: int = 50_000
    """liked training events that LTI draws from"""

    def __post_init__(self) -> None:
        check_models(self.models, NAMES, flag="--scorers.models")
        if not 0 <= self.popular < 1:
            found = str(self.popular)
            raise bad_input("--scorers.popular", expected="a share in [0, 1)", found=found)
        check_halves(self.batch_size, flag="--scorers.batch-size")


def model_config(
    name: str, examples: Examples, *, crosses: tuple[str, ...] = CROSSES
) -> MoNNConfig:
    """Configure one of `NAMES` on the features of the examples; MoNNs read the crosses too."""
    sides = {"user": examples.user_fields, "item": examples.item_fields, "tasks": TASKS}
    if name == "MoL":
        return MoNNConfig(num_user=8, num_item=4, width=40, overarch="dot_mol", **sides)
    if name == TWO_TOWER:
        return preset(name, **sides)
    return preset(name, crosses=crosses, recency=True, overarch="dot_mol", **sides)


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A trained model on one part.

    Attributes:
      logits, labels: of the events, in the order drawn.
      hits: of users, 1 where the next item is among the best 50.
    """

    logits: np.ndarray
    labels: np.ndarray
    hits: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """A model's functions on the examples' features."""

    config: MoNNConfig
    examples: Examples

    @functools.cached_property
    def encode(self) -> Callable[..., Any]:
        """Compile `users` once for all evaluations."""
        return jax.jit(self.users)

    @functools.cached_property
    def encode_all(self) -> Callable[..., Any]:
        """Compile `items` of the whole catalogue."""
        return jax.jit(self.items)

    def users(self, params: Any, batch: Mapping[str, Any]) -> Any:
        """Encode the users of a batch from `Examples.histories`."""
        features, counts = self._user_side(batch)
        counts = counts if self.config.crosses else None
        return encode_users(self.config, params, features=features, counts=counts)

    def _user_side(self, batch):
        examples = self.examples
        genres, followers = jnp.asarray(examples.genres), jnp.asarray(examples.followers)
        names = examples.genre_names
        return user_side(batch, genres, num_genres=len(names), followers=followers)

    def items(self, params: Any, ids: jax.Array | None = None) -> Any:
        """Encode items, all by default."""
        features, attributes = self.examples.item_side()
        if ids is not None:
            features, attributes = jax.tree.map(lambda x: x[ids], (features, attributes))
        attributes = attributes if self.config.crosses else None
        return encode_items(self.config, params, features=features, attributes=attributes)

    def loss(
        self, params: Any, batch: Mapping[str, jax.Array], *, key: jax.Array, config: ScorersConfig
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the sum of both tasks' losses of a batch that `train_model` draws."""
        users, own = self.users(params, batch), self.items(params, batch["items"])
        both = users, own, batch["items"], batch["labels"]
        rated, liked = (_every_other(both, first) for first in (0, 1))
        like, following = (MoNNScorer(self.config, task) for task in TASKS)
        users, own, _, labels = rated
        own = jax.tree.map(lambda x: x[:, None], own)
        cross_entropy = jnp.mean(binary_cross_entropy(like(params, users, own)[:, 0], labels))
        ids, log_expected = self.negatives(key, config)
        users, own, own_ids, _ = liked
        softmax = softmax_of(
            following,
            params,
            users=users,
            own=own,
            others=self.items(params, ids),
            own_ids=own_ids,
            other_ids=ids,
            log_expected=log_expected,
        )
        loss = config.like_weight * cross_entropy + softmax
        return loss, {"cross_entropy": cross_entropy, "softmax": softmax}

    def negatives(self, key: jax.Array, config: ScorersConfig) -> tuple[jax.Array, jax.Array]:
        """Draw ids; return them and the log of how often each item is drawn, up to a constant."""
        num_items, likes = self.examples.num_items, self.likes
        popular = int(config.popular * config.negatives)
        keys = jax.random.split(key)
        rows = jax.random.randint(keys[0], (popular,), 0, len(likes))
        uniform = jax.random.randint(keys[1], (config.negatives - popular,), 0, num_items)
        odds = num_items * np.bincount(likes, minlength=num_items) / len(likes)
        share = popular / config.negatives
        ids = jnp.concatenate([jnp.asarray(likes)[rows], uniform])
        return ids, jnp.asarray(np.log(share * odds + 1 - share), jnp.float32)

    @functools.cached_property
    def likes(self) -> np.ndarray:
        """Return the items of liked training events, one an event."""
        return self.examples.items[self.examples.liked(0)]

    def draw(
        self, part: int, config: ScorersConfig, *, seed: int, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw events of a part, and events before which up to `most` users ask for the next."""
        rng = np.random.default_rng([seed, 11])
        rows, asked = self.examples.rows(part), self.examples.next_liked(part)
        rows = np.sort(rng.choice(rows, min(config.events, len(rows)), replace=False))
        asked = np.sort(rng.choice(asked, min(most, len(asked)), replace=False))
        return rows, asked

    def score(
        self, params: Any, part: int, *, config: ScorersConfig, seed: int, most: int
    ) -> Scored:
        """Score drawn events of a part, and retrieve the next items of up to `most` users."""
        examples = self.examples
        rows, asked = self.draw(part, config, seed=seed, most=most)
        hits = recall_by_user(self.best(params, asked), examples.items[asked][:, None])
        return Scored(self.like_logits(params, rows), examples.labels[rows], hits)

    def like_logits(self, params: Any, rows: np.ndarray) -> np.ndarray:
        """Return the logits of the events `rows`, float32 [len(rows)], that their item is liked."""
        items = self.encode_all(params)
        logits = [
            _like(params, users, _rows(items, self.examples.items[part]), config=self.config)
            for part, users in self._encoded(params, rows)
        ]
        return np.concatenate(list(map(np.asarray, logits)))[: len(rows), 0]

    def best(self, params: Any, rows: np.ndarray) -> np.ndarray:
        """Return the best K items before the events `rows`, unseen ones, int32 [len(rows), K]."""
        items, seen = self.encode_all(params), self.examples.seen(rows)
        padded = np.pad(seen, ((0, -len(seen) % PART), (0, 0)), mode="edge")
        found = []
        for number, (_, users) in enumerate(self._encoded(params, rows)):
            answer = brute_force(
                MoNNScorer(self.config, "next"),
                params,
                items=items,
                users=users,
                k=min(K, self.examples.num_items),
                exclude=jnp.asarray(padded[number * PART :][:PART]),
            )
            found.append(np.asarray(answer.ids))
        return np.concatenate(found)[: len(rows)]

    def serve(
        self, params: Any, config: ScorersConfig, *, name: str, seed: int, most: int, learners: int
    ) -> Served:
        """Encode the test users who ask, and learn nodes on liked training events.

        Args:
          params, config: of the model.
          name: in tables.
          seed: of the draws.
          most: users who ask.
          learners: training events before which users ask what routes are learned from.
        """
        examples = self.examples
        _, asked = self.draw(2, config, seed=seed, most=most)
        rng = np.random.default_rng([seed, 12])
        every = examples.liked(0)
        liked = rng.choice(every, min(config.pairs, len(every)), replace=False)
        learning = np.sort(rng.choice(every, min(learners, len(every)), replace=False))
        rows = np.concatenate([asked, learning])
        users = jax.tree.map(lambda x: x[: len(rows)], self.encoded(params, rows))
        vectors = np.asarray(item_vectors(self.config, params, features=examples.item_side()[0]))
        return serve_monn(
            name,
            MoNNScorer(self.config, "next"),
            params=params,
            users=users,
            items=self.encode_all(params),
            asking=examples.seen(asked),
            learning=examples.seen(learning),
            truth=examples.items[asked][:, None],
            vectors=vectors,
            nodes=learned_nodes(
                self._user_vectors(params, liked),
                vectors,
                positives=examples.items[liked],
                nodes=config.two_tower_nodes if self.config.overarch == "dot" else config.nodes,
                steps=config.index_steps,
                rate=config.index_rate,
                seed=seed,
            ),
            crosses=followers_by_node if "follows" in self.config.crosses else None,
        )

    def _user_vectors(self, params, rows) -> np.ndarray:
        @jax.jit
        def vectors(batch):
            return user_vectors(self.config, params, features=self._user_side(batch)[0])

        parts = [vectors(self.examples.histories(part)) for part in parts_of(rows)]
        return np.concatenate(parts)[: len(rows)]

    def encoded(self, params: Any, rows: np.ndarray) -> Any:
        """Encode the users before events; the last one repeats up to a whole number of parts."""
        users = [users for _, users in self._encoded(params, rows)]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *users)

    def _encoded(self, params, rows):
        """Yield (events, their encoded users) in parts."""
        for part in parts_of(rows):
            yield part, self.encode(params, self.examples.histories(part))


def followers_by_node(index: Index, users: Any) -> jax.Array:
    """Return how many followers of what each user liked a node lists, and how recent the latest.

    Args:
      index: of K nodes.
      users: encoded, with the cross "follows".

    Returns:
      float32 [B, K, 2]: log(1 + count), and the recency.
    """
    table, num_nodes = users["counts"]["follows"], index.nodes.shape[0]
    node = index.positions // index.lists.shape[1]
    counts = jax.ops.segment_sum(table.counts.T, node, num_nodes).T
    recency = jax.ops.segment_max(table.recency.T, node, num_nodes).T
    # An empty node's maximum is -inf.
    return jnp.stack([jnp.log1p(counts), jnp.maximum(recency, 0)], axis=-1)


def _every_other(batch, first):
    return jax.tree.map(lambda x: x[first::2], batch)


def _rows(items, ids):
    return jax.tree.map(lambda x: x[ids][:, None], items)


@functools.partial(jax.jit, static_argnames="config")
def _like(params, users, items, *, config):
    return MoNNScorer(config, "like")(params, users, items)


def optimizer(config: ScorersConfig) -> optax.GradientTransformation:
    """Return Adam on a cosine. Without warm-up a MoNN may start so badly that it stays behind."""
    warmup, steps = min(config.warmup, config.steps // 10), max(config.steps, 1)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.rate, warmup, steps, end_value=0.05 * config.rate
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate))


def train_model(
    run: Run,
    scorer: Scorer,
    *,
    config: ScorersConfig,
    stage: str,
    seed: int,
    mesh: Mesh,
    loss: Loss | None = None,
) -> TrainResult:
    """Train one model, by its own loss by default; the parameters with the best recall."""
    examples, half = scorer.examples, config.batch_size // 2
    rated, liked = examples.rows(0), examples.liked(0)

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        # In turns, so that a shard of the batch has both kinds.
        chosen = np.stack([rng.choice(rows, half) for rows in (rated, liked)], axis=1).ravel()
        batch = examples.histories(chosen)
        return batch | {"items": examples.items[chosen], "labels": examples.labels[chosen]}

    def evaluate(params):
        scored = scorer.score(params, 1, config=config, seed=seed, most=1000)
        ne = normalised_entropy(scored.logits, scored.labels)
        return {f"recall@{K}": float(scored.hits.mean()), "ne": ne}

    def own_loss(params, batch, key):
        return scorer.loss(params, batch, key=key, config=config)

    return train_scorer(
        run,
        loss or own_loss,
        stage=stage,
        init_params=lambda key: init_monn(key, scorer.config),
        draw=draw,
        tx=optimizer(config),
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        evaluate=evaluate,
        select=f"recall@{K}",
        seed=seed,
        mesh=mesh,
    )
