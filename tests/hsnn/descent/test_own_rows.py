"""Users with items of their own get what a search among these alone would find."""

import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.own_rows import search_own_rows
from hsnn_jax.lists.index import build_index, pack
from hsnn_jax.lists.wide import pack_wide
from hsnn_jax.monn.scorers import dot
from tests.hsnn.planted import integers


@pytest.mark.parametrize("layout", [pack, pack_wide, lambda index, x: x])
def test_every_layout_finds_the_best_of_a_users_rows(layout):
    items, users = integers(0, 90, 4), integers(1, 5, 4)
    index = build_index(items, items[:6], slack=1.5)
    rng = np.random.default_rng(2)
    rows = np.stack([rng.choice(90, 80, replace=False) for _ in users]).astype(np.int32)
    rows[:, 70:] = -1
    rows[3] = -1
    level = Level(dot, None, jnp.asarray(users), layout(index, jnp.asarray(items)))
    found = search_own_rows(level, index, rows=rows, k=4)
    for user, own in enumerate(rows):
        own = np.sort(own[own >= 0])
        scores = items[own] @ users[user]
        order = np.lexsort((own, -scores))[:4]
        count = len(order)
        np.testing.assert_array_equal(found.ids[user, :count], own[order])
        np.testing.assert_array_equal(found.scores[user, :count], scores[order])
        assert (np.asarray(found.ids[user, count:]) == -1).all()
    np.testing.assert_array_equal(found.items_scored, (rows >= 0).sum(axis=1))
    np.testing.assert_array_equal(found.unseen, 0)
    np.testing.assert_array_equal(found.recall, 1.0)
