"""A MoNN over frozen vectors of users and items, added to their inner product.

logit(u, v) = scale <u, v> + gain * MoNN(u, v), with a gain of 0 at first: training starts from the
two tower and departs from it where the MoNN helps on the training pairs. With lists of neighbours
the MoNN also reads a cross: how many items that the user met have this one in their list.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.harness.run_folder import Run
from experiments.loop.training import TrainResult
from experiments.retrieval.searchers import (
    Array,
    Exact,
    Model,
    Requests,
    dot_model,
    rerank,
    user_tower_flops,
)
from experiments.retrieval.training import Draw, softmax_of, train_scorer
from experiments.tasks.neighbours import count_neighbours
from hsnn_jax.chunks import by_chunks
from hsnn_jax.cost_curves import recall
from hsnn_jax.monn import i2if
from hsnn_jax.monn.config import Features, MoNNConfig, OverArchName, preset
from hsnn_jax.monn.network import MoNNScorer, encode_items, encode_users, init_monn
from hsnn_jax.monn.scorers import dot

CROSS = "neighbours"  # how many items that the user met have this one in their list
CANDIDATES = 200  # of the inner product, that a validation re-ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoNNTraining:
    """Training of a MoNN on vectors that stay as they are."""

    sizes: tuple[str, ...] = ("S", "L")
    """sizes of the paper: XS, S, M, L or XL"""
    overarch: OverArchName = "mlp"
    """how the towers' vectors become a logit; that of XS is "dot\""""
    steps: int = 300
    """training steps at most"""
    evaluate_every: int = 60
    """steps between evaluations of the validation split"""
    batch_size: int = 256
    """pairs a step"""
    negatives: int = 128
    """items drawn uniformly that all pairs of a step share"""
    hard_negatives: int = 0
    """more of them, drawn from what the inner product puts on top for users of the step"""
    rate: float = 3e-3
    """learning rate"""


@dataclasses.dataclass(frozen=True)
class Residual:
    """The inner product plus a MoNN; a scorer of `search`, hashable.

    Attributes:
      config: of the MoNN.
      half_life: of the cross's recency, in items met; None where these have no order.
    """

    config: MoNNConfig
    half_life: float | None = None
    shares_items: ClassVar[bool] = True

    @property
    def __name__(self) -> str:
        """What an artefact records of a scorer."""
        return "dot_plus_monn"

    def __call__(self, params: Any, users: Any, items: Any) -> jax.Array:
        """Return float [B, m]; users and items hold "vector" and "monn"; see `MoNNScorer`."""
        plain = dot(None, users["vector"], items["vector"])
        deep = MoNNScorer(self.config)(params["monn"], users["monn"], items["monn"])
        return params["scale"] * plain + params["gain"] * deep

    def users(self, params: Any, vectors: Array, *, counts: i2if.DenseTable | None = None) -> Any:
        """Encode user vectors [B, d], and with a cross the table of `counts`."""
        crosses = {CROSS: counts} if self.config.crosses else None
        deep = encode_users(
            self.config, params["monn"], features={"vector": vectors}, counts=crosses
        )
        return {"vector": vectors, "monn": deep}

    def counts(self, lists: Array, folds: Array, *, met: Array) -> i2if.DenseTable:
        """Count the neighbours of the items that users met; arguments as in `neighbours_of`.

        With a half-life, what was met is latest first.
        """
        return count_neighbours(lists, folds, items=met, half_life=self.half_life)

    def items(self, params: Any, vectors: Array, *, ids: Array | None = None) -> Any:
        """Encode item vectors [n, d], and with a cross their ids, -1 for what is no item."""
        attributes = {CROSS: jnp.asarray(ids)[:, None]} if self.config.crosses else None
        deep = encode_items(
            self.config, params["monn"], features={"vector": vectors}, attributes=attributes
        )
        return {"vector": vectors, "monn": deep}


def residual(
    size: str,
    width: int,
    *,
    overarch: OverArchName = "mlp",
    cross: bool = False,
    half_life: float | None = None,
) -> Residual:
    """Return the scorer of one of the paper's sizes over vectors of a width; XS is plain "dot"."""
    sides = dict.fromkeys(("user", "item"), Features(dense={"vector": width}))
    if size == "XS":
        return Residual(preset(size, **sides))
    options = {"overarch": overarch, "recency": half_life is not None}
    return Residual(preset(size, crosses=(CROSS,) if cross else (), **options, **sides), half_life)


def as_model(
    name: str,
    scorer: Residual,
    *,
    params: Any,
    item_vectors: Array,
    lists: Array | None = None,
) -> Model:
    """Encode the items; with lists, requests say what their users met.

    A node is no item: its cross is empty.
    """
    params, vectors = jax.device_get(params), jnp.asarray(item_vectors)
    lists = None if lists is None else jnp.asarray(lists)  # once, not in every search
    items = scorer.items(params, vectors, ids=jnp.arange(vectors.shape[0], dtype=jnp.int32))

    def encode_nodes(nodes):
        return scorer.items(params, nodes, ids=jnp.full(nodes.shape[0], -1))

    encode = functools.partial(_encode, scorer, params, lists)
    none = np.full((1, 1), -1, np.int32)
    users = encode(Requests(item_vectors[:1], none, none))
    deep = MoNNScorer(scorer.config)
    flops = user_tower_flops(deep, params["monn"], users=users["monn"], items=items["monn"])
    return Model(name, scorer, params, items, encode, encode_nodes, flops)


def _encode(scorer: Residual, params, lists, requests: Requests):
    """Encode the users of requests, in chunks: with lists, a user has a count of each item."""
    met = None if lists is None else jnp.asarray(requests.met)
    return _encode_users(params, lists, jnp.asarray(requests.users), met, scorer=scorer)


@functools.partial(jax.jit, static_argnames="scorer")
def _encode_users(params, lists, vectors, met, *, scorer):
    if lists is None:
        return scorer.users(params, vectors)

    def of_chunk(vectors, met):
        counts = scorer.counts(lists, jnp.full(met.shape[0], -1), met=met)
        return scorer.users(params, vectors, counts=counts)

    return by_chunks(of_chunk, lists.shape[1] + met.shape[1] * lists.shape[2], vectors, met)


class Questions(NamedTuple):
    """What validation asks: the wanted items, int [q, w], -1 after, among the best k."""

    requests: Requests
    wanted: np.ndarray
    k: int


def train_residual(
    run: Run,
    scorer: Residual,
    *,
    item_vectors: Array,
    draw: Draw,
    config: MoNNTraining,
    tx: optax.GradientTransformation,
    questions: Questions,
    temperature: float,
    stage: str,
    seed: int,
    mesh: Mesh,
    lists: Array | None = None,
    stream: int = 0,
) -> TrainResult:
    """Train on pairs; select by validation recall of re-ranked candidates.

    Args:
      run: holds curves and checkpoints.
      scorer: from `residual`.
      item_vectors: float32 [n, d].
      draw: draws a batch: "users" float32 [b, d] and the ids of what they took, "items" int32
        [b]; with a cross also what else they met, "met" int32 [b, L], -1 after, and "fold"
        int32 [b].
      config: sizes of batches and negatives.
      tx: the optimizer.
      questions: of validation.
      temperature: of the inner product, to begin with.
      stage, seed, mesh, stream: see `train_scorer`.
      lists: int [folds + 1, n, N], for a scorer with a cross.
    """
    vectors = jnp.asarray(item_vectors)
    lists = None if lists is None else jnp.asarray(lists)

    def init_params(key):
        scale = jnp.asarray(1 / temperature)
        monn = init_monn(key, scorer.config)
        return {"scale": scale, "gain": jnp.zeros(()), "monn": monn}

    def loss(params, batch, key):
        negatives = _negatives(vectors, batch, key, config)
        counts = None
        if lists is not None:
            counts = scorer.counts(lists, batch["fold"], met=batch["met"])
        value = softmax_of(
            scorer,
            params,
            users=scorer.users(params, batch["users"], counts=counts),
            own=scorer.items(params, vectors[batch["items"]], ids=batch["items"]),
            others=scorer.items(params, vectors[negatives], ids=negatives),
            own_ids=batch["items"],
            other_ids=negatives,
        )
        return value, {"gain": params["gain"]}

    return train_scorer(
        run,
        loss,
        stage=stage,
        init_params=init_params,
        draw=draw,
        tx=tx,
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        evaluate=_validation(scorer, item_vectors, questions, lists),
        select=f"recall@{questions.k}",
        seed=seed,
        mesh=mesh,
        stream=stream,
    )


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


def _validation(scorer: Residual, item_vectors, questions: Questions, lists):
    """Return a function from parameters to the recall at k, the best by inner product re-ranked."""
    requests, wanted, k = questions
    count = min(CANDIDATES, item_vectors.shape[0])
    candidates = Exact("", dot_model(item_vectors)).search(requests, count, budget=0).ids

    vectors, ids = jnp.asarray(item_vectors), jnp.arange(item_vectors.shape[0], dtype=jnp.int32)
    # As an argument: XLA would fold vectors that it holds as constants.
    items_of = jax.jit(scorer.items)

    def evaluate(params: Any) -> dict[str, float]:
        encode = functools.partial(_encode, scorer, params, lists)
        model = Model("", scorer, params, items_of(params, vectors, ids=ids), encode, None)
        found = rerank(model, encode(requests), candidates=candidates, k=min(k, count))
        return {f"recall@{k}": recall(found, wanted)}

    return evaluate
