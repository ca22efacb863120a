"""All that table 1 compares, of one seed: rivals, and HSNN trained together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.harness.run_folder import Run
from experiments.retrieval.kept_gain import NAMES, SLACK, TWO_TOWER
from experiments.retrieval.rivals import Asked, Rival
from experiments.retrieval.score_rivals import (
    cross_features,
    fit_weights,
    untrained_rivals,
    with_crosses,
    with_markov,
)
from experiments.retrieval.searchers import HSNN, Model
from experiments.retrieval.vector_rivals import faiss_rivals, reranked_rival, several_rival
from experiments.studies.tables.brute import Trained, scorers_of
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.distilled import distilled
from experiments.studies.tables.joint import Joint, joint_name
from experiments.studies.tables.served import model_of, vectors_of
from experiments.tasks.rated_events import parts_of
from hsnn_jax.monn.network import MoNNScorer
from hsnn_jax.nodes.kmeans import kmeans

NODES = (1, 2, 0.5, 4)  # of the configured number, what validation chooses from
FITTED = 4000  # training pairs that the weights of crosses are fitted on
NEGATIVES = 128  # items beside each


def contenders(
    run: Run,
    trained: Mapping[str, Trained],
    asked: Sequence[Asked],
    *,
    best: str,
    config: TablesConfig,
    mesh: Mesh,
) -> list[Rival]:
    """List all rivals of one seed and the rows of HSNN, in the order of the table.

    Args:
      run: whose folder keeps what they train.
      trained: the models of the seed, by size.
      asked: requests whose users they have encoded.
      best: of the sizes, the model that finds most on validation.
      config: of the tables.
      mesh: that trains.
    """
    models = {name: model_of(own, asked) for name, own in trained.items()}
    examples, crosses = trained[TWO_TOWER].scorer.examples, config.crosses or ()
    two_tower, largest, seed = models[TWO_TOWER], config.largest, trained[TWO_TOWER].seed
    budget = config.budget(examples.num_items)
    vectors, encode = vectors_of(two_tower)
    orderers = [models[name] for name in dict.fromkeys((largest, best))]
    ann = functools.partial(
        faiss_rivals,
        vectors,
        encode,
        budget=budget,
        seed=seed,
        flops=two_tower.user_flops,
        excluded=round(float((asked[0].requests.exclude >= 0).sum(axis=1).mean())),
    )
    found = ann(model=None)
    larger = [size for size in trained if size not in (TWO_TOWER, "S")]
    together = [("S", TWO_TOWER), ("S", "S"), *((size, "S") for size in larger)]
    found += [_joint(run, trained, sizes, config) for sizes in together]
    found += [_apart(models, (largest, fine), config, seed) for fine in (TWO_TOWER, "S")]
    for model in orderers:
        found += [*ann(model=model), reranked_rival(two_tower, model, budget=budget)]
        found.append(several_rival(model, budget=budget))
    fit = functools.partial(_weights, trained, crosses=crosses)
    found += [*untrained_rivals(examples), with_markov(two_tower, examples)]
    found.append(with_crosses(two_tower, models[largest], crosses=crosses, weights=fit))
    training = {"crosses": crosses, "config": scorers_of(config, examples), "mesh": mesh}
    found += [distilled(run, name, trained[largest], **training) for name in (TWO_TOWER, "S")]
    return found


def _node_counts(config: TablesConfig, num_items: int) -> list[int]:
    most = max(2, num_items // 4)
    return list(dict.fromkeys(min(most, max(2, round(n * config.nodes))) for n in NODES))


def _joint(
    run: Run, trained: Mapping[str, Trained], sizes: tuple[str, str], config: TablesConfig
) -> Rival:
    own = trained[sizes[0]]
    examples = own.scorer.examples
    budget = config.budget(examples.num_items)
    name = joint_name(sizes)
    settings: dict[str, tuple[Callable[[], Any], int]] = {
        f"{nodes} nodes": (
            functools.partial(Joint, name, run, examples, sizes, nodes, config, own.seed),
            budget,
        )
        for nodes in _node_counts(config, examples.num_items)
    }
    return Rival(name, settings, model=NAMES[sizes[0]])


def _apart(
    models: Mapping[str, Model], sizes: tuple[str, str], config: TablesConfig, seed: int
) -> Rival:
    """Return levels whose models were trained apart, over k-means nodes of the items' model."""
    coarse, fine = (models[size] for size in sizes)
    vectors = np.asarray(fine.items["vectors"]).reshape(len(fine.items["vectors"]), -1)
    name = f"HSNN ({coarse.name}, {fine.name}), trained apart, k-means nodes"

    def made(nodes: int) -> HSNN:
        found = kmeans(jnp.asarray(vectors), nodes, key=jax.random.key(seed))
        return HSNN(name, fine, vectors, np.asarray(found), slack=SLACK, router=coarse)

    budget = config.budget(len(vectors))
    counts = _node_counts(config, len(vectors))
    settings = {f"{n} nodes": (functools.partial(made, n), budget) for n in counts}
    return Rival(name, settings, reads=(coarse.name, fine.name), model=coarse.name)


def _weights(
    trained: Mapping[str, Trained], statistic: int, *, crosses: tuple[str, ...]
) -> np.ndarray:
    """Fit the weights of crosses beside the two tower's logits, on training pairs."""
    two_tower, *_, reader = trained.values()
    examples = reader.scorer.examples
    rng = np.random.default_rng([reader.seed, 37])
    liked = examples.liked(0)
    rows = rng.choice(liked, min(FITTED, len(liked)), replace=False)
    models, base, features = (two_tower, reader), [], []
    items = [own.scorer.encode_all(own.params) for own in models]
    for part in parts_of(rows):
        batch, own = examples.histories(part), examples.items[part]
        drawn = rng.integers(0, examples.num_items, (len(part), NEGATIVES))
        ids = np.concatenate([own[:, None], drawn], axis=1)
        users = [m.scorer.encode(m.params, batch) for m in models]
        logits = _logits(two_tower, users[0], jax.tree.map(lambda x, at=ids: x[at], items[0]))
        attributes = {name: items[1]["attributes"][name][ids] for name in crosses}
        read = cross_features(users[1]["counts"], attributes, crosses, statistic)
        # A negative that is the user's own item says nothing.
        again = (ids == own[:, None]) & (np.arange(ids.shape[1]) > 0)[None, :]
        base.append(np.where(again, -1e9, np.asarray(logits)))
        features.append(np.asarray(read))
    base, features = (np.concatenate(parts)[: len(rows)] for parts in (base, features))
    return fit_weights(base, features)


def _logits(own: Trained, users: Any, items: Any) -> jax.Array:
    return MoNNScorer(own.scorer.config, "next")(own.params, users, items)
