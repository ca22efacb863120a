"""A retriever of three levels with a model each, and what it must answer, the slow way."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.lists.levels import nodes_of_items
from hsnn_jax.lists.living import padded
from hsnn_jax.monn import i2if
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.config import Features, MoNNConfig, TowerConfig

ITEMS, RESERVE, USERS, K = 32, 6, 4, 5


ROWS, PAIRS = ITEMS + RESERVE, USERS * (ITEMS + RESERVE)


TOWER = TowerConfig(field_width=4, dense_fields=2, num_layers=1, hidden=8, attention_width=4)


SIDES = dict(
    user=Features(dense={"taste": 5}),
    item=Features(dense={"text": 4}, sparse={"brand": 6}),
    tasks=("click", "buy"),
    width=3,
    user_tower=TOWER,
    item_tower=TOWER,
    interaction_tower=TOWER,
)


# The coarse model alone reads crosses; the two others are one program.
COARSE = MoNNConfig(
    num_user=2, num_item=2, num_interaction=1, crosses=("category",), overarch="mol", **SIDES
)


FINE = MoNNConfig(num_user=1, num_item=1, num_interaction=0, overarch="dot", **SIDES)


MODELS = (COARSE, FINE, FINE)


CONFIG = LTIConfig(num_nodes=(2, 3), total_steps=2, kmeans_iterations=3, num_negatives=8)


ENSEMBLE = {
    "weights": jnp.asarray([[1.0, 0, 0], [0.4, 0.7, 0], [0.5, -0.3, 0.8]]),
    "bias": jnp.asarray([0.1, -0.2, 0.3]),
}


@functools.cache
def params():
    rng = np.random.default_rng(0)

    def drawn(model):
        shapes = jax.eval_shape(lambda key: monn.init_monn(key, model), jax.random.key(0))
        return jax.tree.map(lambda x: (0.5 * rng.normal(size=x.shape)).astype(x.dtype), shapes)

    return {"models": tuple(drawn(model) for model in MODELS), "ensemble": ENSEMBLE}


def drawn_items(seed, rows):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(rows, 4)).astype(np.float32)
    features = {"text": text, "brand": rng.integers(0, 6, rows)}
    return features, {"category": rng.integers(-1, 7, (rows, 2))}


@functools.cache
def users():
    rng = np.random.default_rng(9)
    counts = rng.integers(0, 4, (USERS, 7)).astype(np.float32)
    table = i2if.DenseTable(counts, counts.sum(axis=1), None)
    taste = rng.normal(size=(USERS, 5)).astype(np.float32)
    return {"taste": taste}, {"category": table}


def one_by_one(ids, items):
    """What the models read of each item, by the caller's id."""
    return {int(i): jax.tree.map(lambda x, n=n: x[n], items) for n, i in enumerate(ids)}


@functools.cache
def first():
    items, ids = drawn_items(0, ITEMS), 100 + 3 * np.arange(ITEMS)
    # As after joint training: nodes around two items.
    vectors = vectors_of(items)
    nodes = jnp.asarray(vectors[[3, 4]]), jnp.asarray(vectors[[0, 1, 2]] - vectors.mean(axis=0))
    given = params() | {"nodes": nodes}
    retriever = Retriever(CONFIG, model=MODELS, params=given, task="buy")
    retriever.build_index(items, item_ids=ids, reserve=RESERVE)
    return retriever, one_by_one(ids, items)


def built():
    """A retriever of three levels that a test may change, and its items."""
    retriever, truth = first()
    return copy.copy(retriever), dict(truth)  # states are never changed in place


@functools.partial(jax.jit, static_argnames="model")
def _logits(of_model, users, items, *, model):
    given = {"user_features": users[0], "item_features": items[0]}
    if model.crosses:
        given |= {"counts": users[1], "attributes": items[1]}
    return monn.logits(model, of_model, **given)


def logits(level, items, task=1):
    """Return the logits [B, n] of all pairs by the training path of a level's model."""
    rows = len(items[0]["text"])
    pairs = jax.tree.map(lambda x: np.repeat(x, rows, axis=0), users())
    items = jax.tree.map(lambda x: np.concatenate([x] * USERS), items)
    # Of one shape whatever the number of items.
    pairs, items = jax.tree.map(lambda x: padded(x, PAIRS, value=0), (pairs, items))
    found = _logits(params()["models"][level], pairs, items, model=MODELS[level])
    return np.asarray(found, float)[: USERS * rows, task].reshape(USERS, rows)


def vectors_of(items):
    rows = len(items[0]["text"])
    whole = jax.tree.map(lambda x: padded(x, 2 * ITEMS, value=0), items[0])
    halves = (jax.tree.map(lambda x, n=n: x[n : n + ITEMS], whole) for n in (0, ITEMS))
    of_model = params()["models"][-1]
    return np.concatenate([monn.item_vectors(FINE, of_model, features=half) for half in halves])[
        :rows
    ]


def expected_scores(retriever, truth):
    """Return (ids [n], scores [B, n]) of the ensemble: nodes read as the nearest item below."""
    ids = np.array(sorted(truth))
    items = jax.tree.map(lambda *rows: np.stack(rows), *[truth[i] for i in ids.tolist()])
    vectors, rows = vectors_of(items), np.array([list(retriever.ids).index(i) for i in ids])
    weights = np.asarray(ENSEMBLE["weights"], float)[-1]
    scores = float(ENSEMBLE["bias"][-1]) + weights[-1] * logits(2, items)
    of_items = jax.device_get(nodes_of_items(retriever.indexes))
    for level, (index, node_of) in enumerate(zip(retriever.indexes, of_items)):
        node_of, near = node_of[rows], np.zeros(len(ids), int)
        for node in np.unique(node_of):
            below = np.flatnonzero(node_of == node)
            gaps = np.linalg.norm(vectors[below] - np.asarray(index.nodes)[node], axis=1)
            near[below] = below[gaps.argmin()]
        read = jax.tree.map(lambda x, near=near: x[near], items)
        scores += weights[level] * logits(level, read)
    return ids, scores


def check_answers(retriever, truth):
    """A full budget finds the best of what is there by hand, whatever happened before."""
    ids, scores = expected_scores(retriever, truth)
    order = np.argsort(-scores, axis=1)[:, :K]
    answer = retriever.search(users(), K)
    np.testing.assert_array_equal(answer.ids, ids[order])
    best = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(answer.scores, best, rtol=1e-4, atol=1e-5)
    return answer


def updated(retriever, truth, kind, size, seed):
    """Add, remove or change some items of both."""
    seed += 50  # the first items have seed 0
    rng = np.random.default_rng(seed)
    if kind == "add":
        size = min(size, ROWS - len(truth))
        ids = rng.choice(np.setdiff1d(np.arange(100), list(truth)), size, replace=False)
        items = drawn_items(seed, size)
        retriever.add(items, ids)
        return truth | one_by_one(ids, items)
    ids = rng.choice(sorted(truth), min(size, len(truth) - K), replace=False)
    if kind == "remove":
        retriever.remove(ids)
        return {i: item for i, item in truth.items() if i not in ids}
    items = drawn_items(seed, len(ids))
    retriever.reassign(items, ids)
    return truth | one_by_one(ids, items)
