"""Live users outlive a save and a load."""

import uuid

import numpy as np
import pytest

from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.serving.kept_users import restored, stored
from nxtpost_jax.serving.live_users import Event
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.small_recommender import FAST, TINY, N, cycles, drawn, drawn_content, untrained

NAMES = ["ann", 7, uuid.UUID(int=5), -3, "7", 2**70]


def users():
    """Of every mixture of columns, one without an event."""
    rng = np.random.default_rng(0)
    kept = {}
    for number, name in enumerate(NAMES):
        count = 3 * number % 5
        columns = {"times": np.arange(count) + 0.25, "actions": np.arange(count)}
        given = {key: values for key, values in columns.items() if number & 1 or key == "actions"}
        static = [[number, -1]] if number & 2 else None
        items = rng.integers(0, N, count)
        kept[name] = Sequences(items, [0, count], static=static, **given)
    return kept


@pytest.mark.parametrize("names", [NAMES, NAMES[:1], [3, 1], ["b", "a"]])
def test_events_are_the_same(names):
    kept = dict(zip(names, users().values()))
    back = restored(stored(kept))
    assert list(back) == names
    for name, events in kept.items():
        for column in ("items", "offsets", "times", "actions", "surfaces", "static"):
            one, other = getattr(events, column), getattr(back[name], column)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", [("a", 1), None, "", True, 0.5])
def test_a_name_that_no_folder_holds_is_refused(name, tmp_path):
    recommender = drawn(TINY, drawn_content("vectors"))
    recommender.save(tmp_path / "saved")
    recommender.update(name, 3)
    with pytest.raises(ValueError, match=r"users: expected whole numbers, texts .*, found "):
        recommender.save(tmp_path / "saved")
    assert len(Recommender.load(tmp_path / "saved")._live) == 0
    recommender.forget_user(name)
    recommender.save(tmp_path / "saved")


def test_loaded_users_go_on(tmp_path):
    recommender = drawn(TINY, drawn_content("vectors"))
    for number in range(12):
        recommender.update(number % 3, (5 * number) % N)
    recommender.add(drawn_content("vectors", 1, seed=2), [77])
    recommender.update(0, 77)
    recommender.remove([15])
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    for user in range(3):
        one, other = (each.recommend_user(user, 5) for each in (recommender, loaded))
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        vectors = [each.update(user, 4) for each in (recommender, loaded)]
        np.testing.assert_allclose(*vectors, atol=1e-5)
    with pytest.raises(ValueError, match="history: expected none for user 0, found a second one"):
        loaded.update(0, 1, history=[[2]])


def test_users_of_a_table_keep_their_names_and_columns(tmp_path):
    walks = cycles(num_users=24)
    table = {"user": np.repeat(np.arange(24), 7), "item": [f"i{n}" for n in walks.items]}
    table["time"] = np.tile(np.arange(7.0), 24)
    recommender = Recommender(TINY, tx=FAST)
    recommender.fit(table, epochs=1, loop=untrained)
    for moment, item in enumerate(("i1", "i2", "i5")):
        recommender.update("ann", Event(item, time=moment))
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    ids = [each.recommend_user("ann", 5).ids for each in (recommender, loaded)]
    np.testing.assert_array_equal(*ids)
    assert not {"i1", "i2", "i5"} & set(ids[1][0])
    with pytest.raises(ValueError, match="event: expected time to be one, as before"):
        loaded.update("ann", "i3")
