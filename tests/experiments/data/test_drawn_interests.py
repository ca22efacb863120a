"""The simulated log: what is liked is near an interest, and the log alone shows it."""

import numpy as np
import pytest

from experiments.data.drawn_interests import drawn_interests
from experiments.tasks.rated_events import make_examples

SIZES = {"users": 200, "items": 150, "leaves": 15, "branches": 3, "interests": 2, "events": 40}


@pytest.fixture(scope="module")
def drawn():
    return drawn_interests(**SIZES, noise=0.05, seed=0)


def test_no_item_is_met_twice_and_the_draws_are_of_the_seed(drawn):
    log = drawn.interactions
    assert log.n_users == 200 and log.n_events == 200 * 40
    assert len(np.unique(log.users * 1000 + log.items)) == log.n_events
    again, other = (drawn_interests(**SIZES, noise=0.05, seed=seed) for seed in (0, 1))
    assert again.interactions.sha256 == log.sha256 != other.interactions.sha256


def test_what_is_liked_is_of_the_larger_utility(drawn):
    log, liked = drawn.interactions, drawn.interactions.weights > 3
    utility = drawn.utility[log.users, log.items]
    assert liked.mean() == pytest.approx(0.5, abs=0.01)
    # Noise of .05 turns few labels over.
    assert np.mean(liked == (utility > np.median(utility))) > 0.85
    assert utility[liked].min() > np.quantile(utility[~liked], 0.5)


def test_a_users_interests_are_leaves_of_the_tree(drawn):
    examples = make_examples(drawn.interactions)
    assert sum(name.startswith("leaf") for name in examples.genre_names) <= 15
    names = np.array(examples.genre_names)[examples.genres]
    leaf = np.where(np.char.startswith(names[:, 0], "leaf"), names[:, 0], names[:, 1])
    best = [leaf[np.argsort(-row)[:3]] for row in drawn.utility.astype(float)]
    # The best items lie in few leaves, of which a user has two.
    assert np.mean([len(set(own)) for own in best]) < 2
