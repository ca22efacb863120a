"""A MoNN over frozen vectors of users and items, added to their inner product.

logit(u, v) = scale <u, v> + gain * MoNN(u, v), with a gain of 0 at first: training starts from the
two tower and departs from it where the MoNN helps on the training pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.run_folder import Run
from experiments.searchers import Model, Requests, rerank, user_tower_flops
from experiments.training import TrainResult, train
from hsnn_jax.frontier import recall
from hsnn_jax.monn import MoNNScorer, encode_items, encode_users, init_monn
from hsnn_jax.monn_config import Features, MoNNConfig, preset
from hsnn_jax.multi_task import sampled_softmax
from hsnn_jax.scorers import dot, score_all
from hsnn_jax.search import brute_force

CANDIDATES = 200  # of the inner product, that a validation re-ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoNNTraining:
    """Training of a MoNN on vectors that stay as they are."""

    sizes: tuple[str, ...] = ("S", "L")
    """sizes of the paper: XS, S, M, L or XL"""
    steps: int = 300
    """training steps at most"""
    evaluate_every: int = 60
    """steps between evaluations of the validation split"""
    batch_size: int = 256
    """pairs a step"""
    negatives: int = 128
    """items drawn uniformly that all pairs of a step share"""
    hard_negatives: int = 32
    """more of them, drawn from what the inner product puts on top for users of the step"""
    rate: float = 1e-3
    """learning rate"""


@dataclasses.dataclass(frozen=True)
class Residual:
    """The inner product plus a MoNN; a scorer of `search`, hashable."""

    config: MoNNConfig
    shares_items: ClassVar[bool] = True

    @property
    def __name__(self) -> str:
        """What an artefact records of a scorer."""
        return "dot_plus_monn"

    def __call__(self, params, users, items):
        """Return float [B, m]; users and items hold "vector" and "monn"; see `MoNNScorer`."""
        plain = dot(None, users["vector"], items["vector"])
        deep = MoNNScorer(self.config)(params["monn"], users["monn"], items["monn"])
        return params["scale"] * plain + params["gain"] * deep

    def users(self, params, vectors):
        """Encode user vectors [B, d]."""
        deep = encode_users(self.config, params["monn"], {"vector": vectors})
        return {"vector": vectors, "monn": deep}

    def items(self, params, vectors):
        """Encode item vectors [n, d]."""
        deep = encode_items(self.config, params["monn"], {"vector": vectors})
        return {"vector": vectors, "monn": deep}


def residual(size: str, width: int) -> Residual:
    """Return the scorer of one of the paper's sizes over vectors of a width."""
    features = Features(dense={"vector": width})
    return Residual(preset(size, user=features, item=features))


def as_model(name: str, scorer: Residual, params, item_vectors) -> Model:
    """Encode the items."""
    params = jax.device_get(params)
    items = scorer.items(params, jnp.asarray(item_vectors))
    users = scorer.users(params, jnp.asarray(item_vectors[:1]))
    encode_users = jax.jit(scorer.users)
    return Model(
        name,
        scorer,
        params,
        items,
        lambda vectors: encode_users(params, jnp.asarray(vectors)),
        lambda vectors: scorer.items(params, jnp.asarray(vectors)),
        user_tower_flops(MoNNScorer(scorer.config), params["monn"], users["monn"], items["monn"]),
    )


class Questions(NamedTuple):
    """What validation asks: the wanted items, int [q, w], -1 after, among the best k."""

    requests: Requests
    wanted: np.ndarray
    k: int


def train_residual(
    run: Run,
    scorer: Residual,
    item_vectors,
    batches: Callable[[int, int], Iterable[dict[str, Any]]],
    config: MoNNTraining,
    *,
    tx: optax.GradientTransformation,
    questions: Questions,
    temperature: float,
    stage: str,
    seed: int,
    mesh: Mesh,
) -> TrainResult:
    """Train on pairs; select by validation recall of re-ranked candidates.

    Args:
      run: holds curves and checkpoints.
      scorer: from `residual`.
      item_vectors: float32 [n, d].
      batches: the epoch and a number of steps to that many batches, of "users" float32 [b, d]
        and the ids of what they took, "items" int32 [b].
      config: sizes of batches and negatives.
      tx: the optimizer.
      questions: of validation.
      temperature: of the inner product, to begin with.
      stage, seed, mesh: see `training.train`.
    """
    vectors = jnp.asarray(item_vectors)
    steps = min(config.evaluate_every, config.steps)

    def init_params(key):
        scale = jnp.asarray(1 / temperature)
        monn = init_monn(key, scorer.config)
        return {"scale": scale, "gain": jnp.zeros(()), "monn": monn}

    def loss(params, batch, key):
        negatives = _negatives(vectors, batch, key, config)
        users = scorer.users(params, batch["users"])
        own = scorer.items(params, vectors[batch["items"]])
        others = scorer.items(params, vectors[negatives])
        value = softmax_of(scorer, params, users, own, others, batch["items"], negatives)
        return value, {"gain": params["gain"]}

    return train(
        run,
        stage=stage,
        init_params=init_params,
        loss=loss,
        tx=tx,
        batches=lambda epoch: batches(epoch, steps),
        epochs=max(1, math.ceil(config.steps / steps)),
        steps_per_epoch=steps,
        seed=seed,
        mesh=mesh,
        evaluate=_validation(scorer, vectors, questions),
        select=f"recall@{questions.k}",
        opt_state_sharding=shampoo_jax.state_sharding,
    )


def softmax_of(scorer, params, users, own, others, own_ids, other_ids, *, log_expected=None):
    """Return the mean sampled softmax of B users' items among N that all of them share.

    Args:
      scorer, params: see `hsnn_jax.search`.
      users, own: encoded, pytrees of [B, ...].
      others: encoded items, a pytree of [N, ...].
      own_ids, other_ids: int [B], [N]; a user's item among the others is no negative.
      log_expected: float [n_items], log of how often each is drawn into the N, up to a constant;
        None for uniform draws. Subtracted from all logits, it leaves to them the items' own odds,
        whatever the draws (Jean et al. 2015, "On Using Very Large Target Vocabulary").
    """
    positive = scorer(params, users, jax.tree.map(lambda x: x[:, None], own))[:, 0]
    negative = score_all(scorer, params, users, others)
    if log_expected is not None:
        positive = positive - log_expected[own_ids]
        negative = negative - log_expected[None, other_ids]
    kept = own_ids[:, None] != other_ids[None, :]
    return sampled_softmax(positive, negative, kept_BxN=kept)


def _negatives(item_vectors, batch, key, config: MoNNTraining):
    """Draw shared negatives: uniform ones, and ones near to users of the batch."""
    keys = jax.random.split(key, 3)
    num_items = item_vectors.shape[0]
    uniform = jax.random.randint(keys[0], (config.negatives,), 0, num_items)
    if not config.hard_negatives:
        return uniform
    users = batch["users"][: config.hard_negatives]
    pool = jax.random.randint(keys[1], (min(4096, num_items),), 0, num_items)
    scores = users @ item_vectors[pool].T
    top = jax.lax.top_k(scores, min(16, pool.size))[1]
    pick = jax.random.randint(keys[2], (users.shape[0],), 0, top.shape[1])
    return jnp.concatenate([uniform, pool[jnp.take_along_axis(top, pick[:, None], axis=1)[:, 0]]])


def _validation(scorer: Residual, item_vectors, questions: Questions):
    """Return a function from parameters to the recall at k, the best by inner product re-ranked."""
    requests, wanted, k = questions
    users, count = jnp.asarray(requests.users), min(CANDIDATES, item_vectors.shape[0])
    exclude = jnp.asarray(requests.exclude)
    candidates = brute_force(dot, None, item_vectors, users, count, exclude=exclude).ids
    # As arguments: XLA would fold vectors that it holds as constants.
    users_of, items_of = jax.jit(scorer.users), jax.jit(scorer.items)

    def evaluate(params):
        encoded, items = users_of(params, users), items_of(params, item_vectors)
        model = Model("", scorer, params, items, None, None)
        found = rerank(model, encoded, candidates, min(k, count))
        return {f"recall@{k}": recall(found, wanted)}

    return evaluate
