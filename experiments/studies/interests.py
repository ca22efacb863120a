"""Task interests: users of several interests on a planted tree, where one inner product is too few.

A user has several interests, each a noisy sight of an item, and likes what is nearest to any of
them. The two tower and the MoNNs read the same features; the truth is known. Then HSNN: what it
keeps of a MoNN's gain, and at which share of the cost.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.data.drawn import planted_tree
from experiments.harness.plots import draw_curves, read_curves
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.loop.training import TrainResult
from experiments.retrieval.kept_gain import (
    NAMES,
    TWO_TOWER,
    RoutesTraining,
    Served,
    check_models,
    kept_table,
    measure_kept,
    serve_monn,
)
from experiments.retrieval.nodes import learned_nodes
from experiments.retrieval.searchers import truth_of
from experiments.retrieval.training import softmax_of, train_scorer
from hsnn_jax.cost_curves import recall
from hsnn_jax.descent.search import brute_force
from hsnn_jax.monn.config import SIZES, Features, MoNNConfig, preset
from hsnn_jax.monn.network import (
    MoNNScorer,
    encode_items,
    encode_users,
    init_monn,
    item_vectors,
    user_vectors,
)
from hsnn_jax.monn.scorers import dot

K = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterestsConfig:
    """Users of several interests."""

    items: int = 16_000
    """items of the planted tree"""
    leaves: int = 400
    """of the tree"""
    width: int = 16
    """of the items' vectors"""
    interests: int = 3
    """of a user"""
    likes: int = 8
    """items nearest to an interest that the user likes"""
    users: int = 20_000
    """who train"""
    asking: int = 1000
    """users who ask in the test; half as many select"""
    models: tuple[str, ...] = ("XS", "S")
    """two tower (XS, always first), and MoNNs of the paper's sizes"""
    steps: int = 3000
    """training steps at most"""
    evaluate_every: int = 500
    """steps between evaluations of the validation users"""
    batch_size: int = 256
    """pairs a step"""
    negatives: int = 128
    """items drawn uniformly that all pairs of a step share"""
    rate: float = 4e-3
    """peak learning rate of Adam; it falls to a twentieth by a cosine"""
    nodes: int = 256
    """nodes of HSNN's index"""
    index_steps: int = 500
    """steps of LTI"""
    index_rate: float = 5e-4
    """learning rate of LTI"""

    def __post_init__(self) -> None:
        check_models(self.models, SIZES, flag="--interests.models")


class Group(NamedTuple):
    """Users: their interests float32 [B, m, d], and what they like, int [B, m * likes]."""

    interests: np.ndarray
    liked: np.ndarray

    def features(self, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """Return the fields of a MoNN's user side: each interest is one."""
        return {f"interest_{k}": self.interests[rows, k] for k in range(self.interests.shape[1])}


def draw_users(
    item_vectors_nxd: np.ndarray, count: int, *, config: InterestsConfig, seed: list[int]
) -> Group:
    """Draw users whose interests are near items of their own choice."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(item_vectors_nxd), (count, config.interests))
    noise = rng.normal(size=(*chosen.shape, config.width)) * 0.4 / np.sqrt(config.width)
    interests = (item_vectors_nxd[chosen] + noise).astype(np.float32)
    near = brute_force(
        dot,
        None,
        items=jnp.asarray(item_vectors_nxd),
        users=jnp.asarray(interests.reshape(-1, config.width)),
        k=config.likes,
    ).ids
    return Group(interests, np.asarray(near).reshape(count, -1))


def distinct(liked: np.ndarray) -> np.ndarray:
    """Return each row's distinct ids, -1 in place of a repetition."""
    ordered = np.sort(liked, axis=1)
    again = np.pad(ordered[:, 1:] == ordered[:, :-1], ((0, 0), (1, 0)))
    return np.where(again, -1, ordered)


def model_config(size: str, config: InterestsConfig) -> MoNNConfig:
    """Configure a model on the users' interests and the items' vectors."""
    user = Features(dense={f"interest_{k}": config.width for k in range(config.interests)})
    return preset(size, user=user, item=Features(dense={"vector": config.width}))


class Drawn(NamedTuple):
    """One seed's items, float32 [n, d], and the users who train, select and ask."""

    items: np.ndarray
    training: Group
    validation: Group
    asking: Group


def draw_data(config: InterestsConfig, seed: int) -> Drawn:
    """Draw the tree and its users."""
    items = planted_tree(
        items=config.items, users=1, width=config.width, leaves=config.leaves, seed=seed
    ).items
    sizes = (config.users, max(1, config.asking // 2), config.asking)
    groups = (
        draw_users(items, n, config=config, seed=[seed, part]) for part, n in enumerate(sizes)
    )
    return Drawn(items, *groups)


def train_model(
    run: Run,
    monn: MoNNConfig,
    *,
    drawn: Drawn,
    config: InterestsConfig,
    stage: str,
    seed: int,
    mesh: Mesh,
) -> TrainResult:
    """Train one model; the parameters with the best recall of the validation users."""
    vectors, scorer = jnp.asarray(drawn.items), MoNNScorer(monn)
    num_items, liked = len(drawn.items), drawn.training.liked
    wanted = distinct(drawn.validation.liked)

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        rows = rng.integers(0, len(liked), config.batch_size)
        columns = rng.integers(0, liked.shape[1], config.batch_size)
        return drawn.training.features(rows) | {"liked": liked[rows, columns]}

    def loss(params, batch, key):
        liked, features = batch["liked"], {k: v for k, v in batch.items() if k != "liked"}
        negatives = jax.random.randint(key, (config.negatives,), 0, num_items)
        value = softmax_of(
            scorer,
            params,
            users=encode_users(monn, params, features=features),
            own=encode_items(monn, params, features={"vector": vectors[liked]}),
            others=encode_items(monn, params, features={"vector": vectors[negatives]}),
            own_ids=liked,
            other_ids=negatives,
        )
        return value, {}

    def evaluate(params):
        encoded = encode_users(monn, params, features=drawn.validation.features())
        catalogue = encode_items(monn, params, features={"vector": vectors})
        found = brute_force(scorer, params, items=catalogue, users=encoded, k=min(K, num_items))
        return {f"recall@{K}": recall(found.ids, wanted)}

    return train_scorer(
        run,
        loss,
        stage=stage,
        init_params=lambda key: init_monn(key, monn),
        draw=draw,
        tx=optax.adam(optax.cosine_decay_schedule(config.rate, config.steps, 0.05)),
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        evaluate=evaluate,
        select=f"recall@{K}",
        seed=seed,
        mesh=mesh,
    )


def serve_model(
    name: str,
    monn: MoNNConfig,
    *,
    params: Any,
    drawn: Drawn,
    config: InterestsConfig,
    learners: int,
    seed: int,
) -> Served:
    """Encode the users who ask, and learn nodes and routes on the users who trained."""
    users, asking, side = drawn.training, drawn.asking, {"vector": jnp.asarray(drawn.items)}
    learning = users.features(slice(learners))
    features = {f: np.concatenate([x, learning[f]]) for f, x in asking.features().items()}
    vectors = np.asarray(item_vectors(monn, params, features=side))
    return serve_monn(
        name,
        MoNNScorer(monn),
        params=params,
        users=encode_users(monn, params, features=features),
        items=encode_items(monn, params, features=side),
        asking=np.full((len(asking.liked), 1), -1, np.int32),
        learning=np.full((len(users.liked[:learners]), 1), -1, np.int32),
        truth=distinct(asking.liked),
        vectors=vectors,
        nodes=learned_nodes(
            np.asarray(user_vectors(monn, params, features=users.features())),
            vectors,
            positives=users.liked[:, 0],
            nodes=config.nodes,
            steps=config.index_steps,
            rate=config.index_rate,
            seed=seed,
        ),
    )


def run_interests(
    run: Run, config: InterestsConfig, *, routes: RoutesTraining, seeds: Sequence[int], mesh: Mesh
) -> Outcome:
    """Train every model on the users of every seed, then search by all."""
    drawn_by = functools.lru_cache(maxsize=1)(functools.partial(draw_data, config))

    def served(size: str, seed: int) -> Served:
        drawn, monn = drawn_by(seed), model_config(size, config)
        both = {"drawn": drawn, "config": config, "seed": seed}
        result = train_model(run, monn, stage=f"{size}-{seed}", mesh=mesh, **both)
        params = jax.device_get(result.params)
        return serve_model(NAMES[size], monn, params=params, learners=routes.users, **both)

    k = min(K, config.items)
    curves = measure_kept(served, config.models, routes=routes, k=k, seeds=seeds)
    return _outcome(run, curves, config, seeds, k=k)


def _outcome(run: Run, curves, config: InterestsConfig, seeds: Sequence[int], *, k: int) -> Outcome:
    plain = [own["exact"][0] for own in curves[NAMES[TWO_TOWER]]]
    table, figures = kept_table(curves, plain, num_items=config.items, k=k)
    lines = read_curves(run.folder)
    shown = {NAMES[size]: lines[f"{size}-{seeds[0]}"] for size in config.models}
    return Outcome(
        title="Users of several interests, simulated",
        intro=f"Simulated: {config.items:,} unit vectors around {config.leaves} leaves of a "
        f"planted tree. A user has {config.interests} interests and likes the {config.likes} items "
        "nearest to each.",
        protocol={"data": "simulated planted tree", "selection": f"validation recall@{K}"},
        metrics=figures,
        baselines={f"two tower/recall@{K}": float(np.mean([truth_of(p).mean() for p in plain]))},
        tables=[table],
        panels=[
            functools.partial(
                draw_curves,
                curves=shown,
                against="step",
                metric=f"recall@{K}",
                label=f"validation recall@{K}",
            )
        ],
    )
