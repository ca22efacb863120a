"""Task interests: users of several interests on a planted tree, where one inner product is too few.

A user has several interests, each a noisy sight of an item, and likes what is nearest to any of
them. The two tower and the MoNNs read the same features; the truth is known. Then HSNN: what it
keeps of a MoNN's gain, and at which share of the cost.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.data.drawn import planted_tree
from experiments.harness.errors import bad_input
from experiments.harness.report import draw_curves, read_curves
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.loop.training import train
from experiments.retrieval.kept_gain import RoutesTraining, Served, kept_table, rows_of, serve
from experiments.retrieval.nodes import learned_nodes
from experiments.retrieval.residual_monn import softmax_of
from experiments.retrieval.searchers import Requests, monn_model
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
        if set(self.models) - set(SIZES) or self.models[:1] != ("XS",):
            expected = f"XS, then some of {', '.join(SIZES)}"
            found = ", ".join(self.models) or "none"
            raise bad_input("--interests.models", expected=expected, found=found)


class Group(NamedTuple):
    """Users: their interests float32 [B, m, d], and what they like, int [B, m * likes]."""

    interests: np.ndarray
    liked: np.ndarray

    def features(self, rows=slice(None)) -> dict[str, np.ndarray]:
        """Return the fields of a MoNN's user side: each interest is one."""
        return {f"interest_{k}": self.interests[rows, k] for k in range(self.interests.shape[1])}


def draw_users(item_vectors_nxd, count: int, config: InterestsConfig, *, seed: list[int]) -> Group:
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


def train_model(
    run: Run,
    monn: MoNNConfig,
    items: np.ndarray,
    users: Group,
    asking: Group,
    config: InterestsConfig,
    *,
    stage: str,
    seed: int,
    mesh: Mesh,
):
    """Train one model; the parameters with the best recall of the validation users."""
    vectors, scorer = jnp.asarray(items), MoNNScorer(monn)
    steps = min(config.evaluate_every, config.steps)

    def batches(epoch):
        rng = np.random.default_rng([seed, epoch])
        for _ in range(steps):
            rows = rng.integers(0, len(users.liked), config.batch_size)
            columns = rng.integers(0, users.liked.shape[1], config.batch_size)
            yield users.features(rows) | {"liked": users.liked[rows, columns]}

    def loss(params, batch, key):
        liked, features = batch["liked"], {k: v for k, v in batch.items() if k != "liked"}
        negatives = jax.random.randint(key, (config.negatives,), 0, len(items))
        encoded = encode_users(monn, params, features=features)
        own = encode_items(monn, params, features={"vector": vectors[liked]})
        others = encode_items(monn, params, features={"vector": vectors[negatives]})
        return softmax_of(scorer, params, encoded, own, others, liked, negatives), {}

    wanted = distinct(asking.liked)

    def evaluate(params):
        encoded = encode_users(monn, params, features=asking.features())
        catalogue = encode_items(monn, params, features={"vector": vectors})
        found = brute_force(scorer, params, items=catalogue, users=encoded, k=min(K, len(items)))
        return {f"recall@{K}": recall(found.ids, wanted)}

    return train(
        run,
        stage=stage,
        init_params=lambda key: init_monn(key, monn),
        loss=loss,
        tx=optax.adam(optax.cosine_decay_schedule(config.rate, config.steps, 0.05)),
        batches=batches,
        epochs=max(1, config.steps // steps),
        steps_per_epoch=steps,
        seed=seed,
        mesh=mesh,
        evaluate=evaluate,
        select=f"recall@{K}",
    )


def served(
    name: str,
    monn: MoNNConfig,
    params,
    items: np.ndarray,
    users: Group,
    asking: Group,
    config: InterestsConfig,
    *,
    learners: int,
    seed: int,
) -> Served:
    """Encode the users who ask, and learn nodes and routes on the users who trained."""
    deep, side = MoNNScorer(monn), {"vector": jnp.asarray(items)}
    features = users.features(slice(learners))
    features = {name: np.concatenate([x, features[name]]) for name, x in asking.features().items()}
    encoded = encode_users(monn, params, features=features)
    place = np.arange(jax.tree.leaves(encoded)[0].shape[0])[:, None]
    requests = Requests(place, np.full((len(place), 1), -1, np.int32))
    asked = len(asking.liked)
    catalogue = encode_items(monn, params, features=side)
    vectors = np.asarray(item_vectors(monn, params, features=side))
    return Served(
        model=monn_model(name, deep, params, encoded, catalogue, rows_of(encoded)),
        requests=requests.rows(slice(asked)),
        truth=distinct(asking.liked),
        vectors=vectors,
        nodes=learned_nodes(
            np.asarray(user_vectors(monn, params, features=users.features())),
            vectors,
            users.liked[:, 0],
            nodes=config.nodes,
            steps=config.index_steps,
            rate=config.index_rate,
            seed=seed,
        ),
        learners=requests.rows(slice(asked, None)),
    )


def run_interests(
    run: Run, config: InterestsConfig, routes: RoutesTraining, *, seeds, mesh: Mesh
) -> Outcome:
    """Train every model on the users of every seed, then search by all."""
    curves: dict[str, list] = {size: [] for size in config.models}
    for seed in seeds:
        drawn = planted_tree(
            items=config.items, users=1, width=config.width, leaves=config.leaves, seed=seed
        ).items
        sizes = (config.users, max(1, config.asking // 2), config.asking)
        draw = functools.partial(draw_users, drawn, config=config)
        train_part, validation, test = (
            draw(count, seed=[seed, part]) for part, count in enumerate(sizes)
        )
        two_tower = None
        for size in config.models:
            monn = model_config(size, config)
            result = train_model(
                run,
                monn,
                drawn,
                train_part,
                validation,
                config,
                stage=f"{size}-{seed}",
                seed=seed,
                mesh=mesh,
            )
            params = jax.device_get(result.params)
            own = served(
                size,
                monn,
                params,
                drawn,
                train_part,
                test,
                config,
                learners=routes.users,
                seed=seed,
            )
            two_tower = two_tower or own
            k = min(K, config.items)
            curves[size].append(serve(own, two_tower, k, routes, seed=seed))
            print(f"seed {seed}, {size}: done", flush=True)
    return _outcome(run, curves, config, seeds)


def _outcome(run: Run, curves, config: InterestsConfig, seeds) -> Outcome:
    names = {"XS": "two tower"} | {size: f"MoNN {size}" for size in config.models[1:]}
    plain = [own["exact"][0] for own in curves["XS"]]
    table, figures = kept_table(
        {names[size]: own for size, own in curves.items()}, plain, num_items=config.items, k=K
    )
    lines = read_curves(run.folder)
    shown = {names[size]: lines[f"{size}-{seeds[0]}"] for size in config.models}
    return Outcome(
        title="Users of several interests, simulated",
        intro=f"Simulated: {config.items:,} unit vectors around {config.leaves} leaves of a "
        f"planted tree. A user has {config.interests} interests and likes the {config.likes} items "
        "nearest to each.",
        protocol={"data": "simulated planted tree", "selection": f"validation recall@{K}"},
        metrics=figures,
        baselines={f"two tower/recall@{K}": float(np.mean([p.truth.mean() for p in plain]))},
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
