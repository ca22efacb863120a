"""A recommender with drawn parameters, for tests of serving: it costs no training."""

import jax
import numpy as np

from nxtpost_jax.evaluation.scoring import encode_catalogue
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.recommender import Recommender


def drawn(config, content, *, num_items=None, histories=None):
    """Set up without `fit`; `histories` has the columns that the model shall read."""
    recommender = Recommender(config, content, num_items=num_items)
    model = recommender.model
    histories = {"items": np.zeros((1, 2), np.int32)} if histories is None else histories
    key = jax.random.key(0)
    shapes = jax.eval_shape(model.init, key, histories, recommender.content)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
    recommender._replace(params, Catalogue.of(encode_catalogue(model, params, recommender.content)))
    return recommender
