"""Every way to configure the towers, at tiny shapes, and drawn inputs for them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.events.content import ContentSet
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig

N, C, L = 30, 12, 6
RICH = NxtPostConfig(
    d_model=8,
    num_heads=2,
    max_len=L,
    id_embedding=True,
    num_actions=3,
    num_surfaces=2,
    static_sizes=(4, 3),
    pooling="mean",
)
_CHANGES = {
    "gated mean": {},
    "gated last": {"pooling": "last"},
    "gated attention": {"pooling": "attention"},
    "transformer attention, relative bias": {
        "block": "transformer",
        "pooling": "attention",
        "relative_bias": "both",
    },
    "inner product, concatenated time, weighted actions": {
        "similarity": "dot",
        "temperature": 1.0,
        "time_concat": True,
        "action_weights": (0.5, 1.0, 2.0),
    },
}
CONFIGS = {name: dataclasses.replace(RICH, **changes) for name, changes in _CHANGES.items()}
CONFIGS["paper"] = NxtPostConfig.paper(d_model=8, max_len=L, num_layers=1)
CONFIGS["sasrec"] = NxtPostConfig.sasrec(d_model=8, max_len=L, num_layers=1)
CONFIGS["default"] = NxtPostConfig.default(d_model=8, max_len=L, num_layers=1)


def drawn_histories(lengths, width=L, seed=0):
    rng = np.random.default_rng(seed)
    valid = np.arange(width)[None, :] < np.array(lengths)[:, None]
    gaps = rng.exponential(1e3, valid.shape)
    gaps[:, 0] = 0
    return {
        "items": np.where(valid, rng.integers(0, N, valid.shape), PAD).astype(np.int32),
        "times": np.where(valid, gaps, 0).astype(np.float32),
        "actions": np.where(valid, rng.integers(0, 3, valid.shape), 0).astype(np.int32),
        "surfaces": np.where(valid, rng.integers(0, 2, valid.shape), 0).astype(np.int32),
        "static": rng.integers(-1, 3, (len(lengths), 2)).astype(np.int32),
    }


def drawn_content(rows=N, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, C)), jnp.float32)


def drawn_channels(rows=N, seed=2):
    """Text that every item has, images and a video that some lack."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, 4)) < 0.5
    mask[0] = False
    video = rng.normal(size=(rows, 3)).astype(np.float32)
    video[::2] = 0
    images = ContentSet(rng.normal(size=(rows, 4, 5)).astype(np.float32), mask)
    return {"text": np.asarray(drawn_content(rows)), "images": images, "video": video}


def set_up(config, histories, content=None):
    """Draw parameters, none of them zero; with content where a configuration needs some."""
    model = NxtPost(config, N)
    content = drawn_content() if content is None and not config.id_embedding else content
    shapes = jax.eval_shape(model.init, jax.random.key(0), histories, content)["params"]
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(centre + 0.3 * rng.normal(size=leaf.shape), jnp.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)
