"""A MoNN over frozen vectors of users and items, added to their inner product.

logit(u, v) = scale <u, v> + gain * MoNN(u, v), with a gain of 0 at first: training starts from the
two tower and departs from it where the MoNN helps on the training pairs.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from experiments.hsnn_graph import K, Towers
from experiments.hsnn_pairs import PairProblem
from experiments.run_folder import Run
from experiments.searchers import Model, rerank
from experiments.training import TrainResult, train
from hsnn_jax.frontier import recall
from hsnn_jax.monn import MoNNScorer, encode_items, encode_users, init_monn, module_flops
from hsnn_jax.monn_config import Features, MoNNConfig, preset
from hsnn_jax.multi_task import sampled_softmax
from hsnn_jax.scorers import dot, pair_flops, score_all
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
    """learning rate of Adam"""


@dataclasses.dataclass(frozen=True)
class Residual:
    """The inner product plus a MoNN; a scorer of `search`, hashable."""

    config: MoNNConfig

    @property
    def __name__(self) -> str:
        """What an artefact records of a scorer."""
        return "dot_plus_monn"

    def __call__(self, params, users, items):
        """Return float [B, m]; users and items hold "vector" and "monn"."""
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
    items = scorer.items(params, jnp.asarray(item_vectors))
    users = scorer.users(params, jnp.asarray(item_vectors[:1]))
    deep = MoNNScorer(scorer.config)
    once = pair_flops(deep, params["monn"], users["monn"], items["monn"])[0]
    return Model(
        name,
        scorer,
        params,
        items,
        lambda vectors: scorer.users(params, jnp.asarray(vectors)),
        lambda vectors: scorer.items(params, jnp.asarray(vectors)),
        # The tower alone: a search counts itself what the scorer does once a user.
        module_flops(scorer.config)["user"] - once,
    )


def train_residual(
    run: Run,
    problem: PairProblem,
    towers: Towers,
    config: MoNNTraining,
    *,
    size: str,
    temperature: float,
    seed: int,
    mesh: Mesh,
) -> tuple[Model, TrainResult]:
    """Train on the training pairs; select by validation recall of re-ranked candidates.

    Both are on vectors that know nothing of validation; the model that is returned scores the
    vectors that serve.
    """
    vectors = tuple(map(jnp.asarray, towers.trained))
    scorer = residual(size, vectors[1].shape[1])
    steps = min(config.evaluate_every, config.steps)

    def init_params(key):
        scale = jnp.asarray(1 / temperature)
        monn = init_monn(key, scorer.config)
        return {"scale": scale, "gain": jnp.zeros(()), "monn": monn}

    def batches(epoch):
        return problem.train.batches(steps, config.batch_size, seed=[seed, epoch, 1])

    def loss(params, batch, key):
        negatives = _negatives(vectors, batch, key, config)
        users = scorer.users(params, vectors[0][batch["users"]])
        own = scorer.items(params, vectors[1][batch["items"]])
        others = scorer.items(params, vectors[1][negatives])
        positive = scorer(params, users, jax.tree.map(lambda x: x[:, None], own))[:, 0]
        negative = score_all(scorer, params, users, others)
        kept = batch["items"][:, None] != negatives[None, :]
        return sampled_softmax(positive, negative, kept_BxN=kept), {"gain": params["gain"]}

    result = train(
        run,
        stage=f"monn-{size}-{seed}",
        init_params=init_params,
        loss=loss,
        tx=optax.adam(config.rate),
        batches=batches,
        epochs=max(1, math.ceil(config.steps / steps)),
        steps_per_epoch=steps,
        seed=seed,
        mesh=mesh,
        evaluate=_validation(problem, scorer, vectors, seed=seed),
        select=f"recall@{K}",
    )
    params = jax.device_get(result.params)
    return as_model(f"MoNN {size}", scorer, params, towers.served[1]), result


def _negatives(vectors, batch, key, config: MoNNTraining):
    """Draw shared negatives: uniform ones, and ones near to users of the batch."""
    keys = jax.random.split(key, 3)
    num_items = vectors[1].shape[0]
    uniform = jax.random.randint(keys[0], (config.negatives,), 0, num_items)
    if not config.hard_negatives:
        return uniform
    users = vectors[0][batch["users"][: config.hard_negatives]]
    pool = jax.random.randint(keys[1], (min(4096, num_items),), 0, num_items)
    scores = users @ vectors[1][pool].T
    top = jax.lax.top_k(scores, min(16, pool.size))[1]
    pick = jax.random.randint(keys[2], (users.shape[0],), 0, top.shape[1])
    return jnp.concatenate([uniform, pool[jnp.take_along_axis(top, pick[:, None], axis=1)[:, 0]]])


def _validation(problem: PairProblem, scorer: Residual, vectors, *, seed: int):
    rows = problem.users_with(problem.validation, most=1000, seed=seed)
    seen, wanted = problem.train.padded(rows), problem.validation.padded(rows)
    users, count = vectors[0][rows], min(CANDIDATES, problem.num_items)
    candidates = brute_force(dot, None, vectors[1], users, count, exclude=jnp.asarray(seen)).ids
    encode = jax.jit(lambda params: (scorer.users(params, users), scorer.items(params, vectors[1])))

    def evaluate(params):
        encoded, items = encode(params)
        model = Model("", scorer, params, items, None, None)
        found = rerank(model, encoded, candidates, min(K, count))
        return {f"recall@{K}": recall(found, wanted)}

    return evaluate
