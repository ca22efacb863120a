"""Small recommenders for tests of serving: drawn parameters cost no training, cycles little."""

import jax
import numpy as np
import optax

from nxtpost_jax.evaluation.scoring import encode_catalogue
from nxtpost_jax.events.content import ContentSet
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPostConfig

N = 24
FAST = optax.adam(1e-2)  # shared, so that one compiled step serves most tests
TINY = NxtPostConfig(d_model=16, num_layers=1, max_len=8, id_embedding=True, dropout=0.0)


def untrained(task, **plan):
    """Serve by drawn parameters where `fit` is wanted, not what it trains: no step is compiled."""
    del plan
    return task.init(task.init_key), []


def drawn(config, content, *, num_items=None, histories=None):
    """Set up without `fit`; `histories` has the columns that the model shall read."""
    recommender = Recommender(config, content, num_items=num_items)
    model = recommender.model
    histories = {"items": np.zeros((1, 2), np.int32)} if histories is None else histories
    key = jax.random.key(0)
    shapes = jax.eval_shape(model.init, key, histories, recommender.content)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
    recommender._served.replace(
        params, Catalogue.of(encode_catalogue(model, params, content=recommender.content))
    )
    return recommender


def cycles(num_users=64, length=7, step=1, num_items=N):
    """Every user walks round the items in order, each from a place of its own."""
    items = (np.arange(num_users)[:, None] + step * np.arange(length)[None, :]) % num_items
    return Sequences.from_events(np.repeat(np.arange(num_users), length), items.ravel())


def circle(places):
    angles = 2 * np.pi * np.asarray(places, float) / N
    return np.stack([f(w * angles) for w in (1, 2, 3) for f in (np.cos, np.sin)], axis=1)


def drawn_content(kind, rows=N, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "none":
        return None
    if kind == "vectors":
        return circle(rng.random(rows) * N)
    mask = rng.random((rows, 2)) < 0.5
    images = ContentSet(rng.normal(size=(rows, 2, 3)), mask)
    return {"text": rng.normal(size=(rows, 5)), "images": images}
