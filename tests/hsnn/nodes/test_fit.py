"""Training that diverges is told in one line and changes nothing."""

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.nodes.beam_aware import RouteConfig
from hsnn_jax.nodes.em import fit_em
from hsnn_jax.nodes.fit import fit_index
from tests.hsnn.planted import clusters, users_near

CONFIG = LTIConfig(num_nodes=8, total_steps=20, num_negatives=8, kmeans_iterations=2)
DIVERGING = optax.sgd(1e38)
MESSAGE = r"^[a-z ]+: expected finite numbers, found NaN or infinity after step \d+; lower the"


def data():
    items, _ = clusters(0, items=120, width=8, num_clusters=8, noise=0.5)
    users, liked = users_near(1, items, users=40, noise=0.5)
    return items, users, liked


@pytest.mark.parametrize("fit", [fit_index, fit_em])
def test_diverging_nodes_are_refused(fit):
    items, users, liked = data()
    options = {"positives": liked, "config": CONFIG, "key": jax.random.key(0)}
    with pytest.raises(FloatingPointError, match=MESSAGE):
        fit(users, items, tx=DIVERGING, **options)
    fit(users, items, tx=optax.sgd(1e-3), **options)


def test_a_recorded_loss_stops_before_the_last_step():
    items, users, liked = data()
    with pytest.raises(FloatingPointError, match=r"loss: .* after step 5;"):
        fit_index(
            users,
            items,
            positives=liked,
            tx=DIVERGING,
            config=CONFIG,
            key=jax.random.key(0),
            log_every=5,
            telemetry_every=0,
        )


def test_a_retriever_is_as_before_after_a_fit_that_diverged():
    items, users, liked = data()
    retriever = Retriever(CONFIG)
    retriever.fit_nodes(users, items, positives=liked, tx=optax.sgd(1e-3))
    retriever.build_index(items)
    nodes, before = retriever.nodes, retriever.search(users, 5)
    with pytest.raises(FloatingPointError, match=MESSAGE):
        retriever.fit_nodes(users, items, positives=liked, tx=DIVERGING)
    config = RouteConfig(budget=40, steps=4, batch_size=8)
    with pytest.raises(FloatingPointError, match=MESSAGE):
        retriever.fit_routes(users, DIVERGING, k=5, config=config)
    np.testing.assert_array_equal(retriever.nodes, nodes)
    for one, other in zip(retriever.search(users, 5), before):
        np.testing.assert_array_equal(one, other)
