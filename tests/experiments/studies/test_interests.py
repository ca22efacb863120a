"""Users of several interests."""

import numpy as np

from experiments.data.drawn import planted_tree
from experiments.studies.interests import InterestsConfig, distinct, draw_users


def test_users_like_what_is_nearest_to_any_of_their_interests():
    config = InterestsConfig(width=8, interests=2, likes=3)
    items = planted_tree(items=60, users=1, width=8, leaves=6, seed=0).items
    drawn = draw_users(items, 5, config=config, seed=[0])
    for interests, liked in zip(drawn.interests, drawn.liked):
        expected = np.argsort(-interests @ items.T, axis=1)[:, :3].ravel()
        np.testing.assert_array_equal(liked, expected)
    assert drawn.features([1, 2])["interest_1"].shape == (2, 8)
    np.testing.assert_array_equal(distinct(np.array([[3, 1, 3]])), [[1, 3, -1]])
