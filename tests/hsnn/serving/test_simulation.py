"""A simulated search finds what the search itself finds, and knows what the program knows."""

import numpy as np

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.descent.recall import expected_recall
from hsnn_jax.serving import simulation
from hsnn_jax.serving.calibration import exact_scores
from tests.hsnn.planted import clusters, users_near

ITEMS, _ = clusters(0, items=1500, width=8, num_clusters=20, noise=0.6)
USERS, _ = users_near(1, ITEMS, users=12, noise=0.8)


def test_a_simulation_is_the_search_itself():
    retriever = Retriever(LTIConfig(num_nodes=24, kmeans_iterations=3))
    retriever.build_index(ITEMS)
    now = retriever._now
    scored = exact_scores(now, retriever._models, users=USERS)
    tail = type(now.tail)(*map(np.asarray, now.tail))
    for allowed in (np.arange(1500), np.arange(0, 1500, 7)):
        for budget in (90, 200, 500):
            options = {} if allowed.size == 1500 else {"allowed": allowed}
            asked = retriever._asked(now, USERS, k=10, **options)
            found = retriever._find(now, asked, switch=False)(budget)
            for user in range(len(USERS)):
                one = simulation._One(scored, user, allowed, 10)
                known, k, recall = one.searched(tail, budget)
                assert known.unseen == found.unseen[user]
                assert known.found == (found.scores[user] > -np.inf).sum()
                exact = -np.sort(-scored.items[user][allowed])[:10]
                there = (found.scores[user] >= exact[-1] - 1e-6).sum() / 10
                assert recall == there
                batch = type(known)(*(np.asarray(each)[None] for each in known))
                raw = expected_recall(tail.weights, batch, k=k, xp=np)
                own = np.interp(raw, tail.raw, tail.mapped)[0] if known.unseen else 1.0
                np.testing.assert_allclose(found.recall[user], own, atol=2e-3)


def test_ties_take_no_more_places_than_are_left():
    scored = simulation.Scored(
        items=np.array([[3.0, 2.0, 2.0, 1.0]]),
        nodes=np.array([[0.0, 1.0]]),
        node_of=np.array([0, 1, 1, 1]),
        counts=np.array([1, 3]),
        unit=np.ones((1, 1)),
    )
    one = simulation._One(scored, 0, np.arange(4), 2)
    np.testing.assert_array_equal(one.recall_at(np.array([1, 2])), [0.5, 1.0])
    assert one.nodes_at(3) == 1 and one.nodes_at(4) == 2
