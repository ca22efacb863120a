"""A fit that goes on: parameters, items and the optimizer's state are kept, new items enter."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPostConfig
from tests.nxtpost.small_recommender import FAST, TINY, N, circle, cycles, drawn_content

TIMELESS = dataclasses.replace(TINY, time_features=False)
HOW = {"batch_size": 32, "num_negatives": 16}


def walks(num_items, *, users=48, length=7):
    """Users who walk round the items "film 0" to "film n-1", each from a place of its own."""
    places = (np.arange(users)[:, None] + np.arange(length)) % num_items
    return {
        "user": np.repeat([f"u{user}" for user in range(users)], length),
        "item": [f"film {place}" for place in places.ravel()],
    }


def id_rows(recommender):
    return np.asarray(recommender.params["post_tower"]["id_embedding"])


def test_going_on_lowers_the_loss_further_than_a_fresh_fit():
    fresh, onward = (Recommender(TINY, num_items=N, tx=FAST) for _ in range(2))
    first = fresh.fit(cycles(), epochs=3, **HOW)
    onward.fit(cycles(), epochs=3, **HOW)
    second = onward.fit(cycles(), epochs=3, more=True, **HOW)
    assert second[0]["loss"] < first[-1]["loss"]
    assert second[-1]["loss"] < 0.8 * first[-1]["loss"]
    assert [record["epoch"] for record in second] == [0, 1, 2]


def test_the_optimizer_goes_on_where_it_stood():
    """Adam's count and moments are kept, with rows for new items; draws are other ones."""
    recommender = Recommender(TIMELESS, tx=FAST)
    recommender.fit(walks(12), epochs=2, **HOW)
    steps = int(recommender._served.now.opt_state[0].count)
    moments = np.asarray(recommender._served.now.opt_state[0].nu["post_tower"]["id_embedding"])
    assert steps > 0 and moments.any()
    recommender.tx = optax.sgd(0.0)  # its state has no leaf in common
    recommender.fit(walks(12), epochs=1, more=True, **HOW)
    recommender.tx = FAST
    recommender.fit(walks(12), epochs=1, **HOW)
    recommender.fit(walks(14), epochs=1, more=True, **HOW)
    state = recommender._served.now.opt_state[0]
    assert int(state.count) == steps  # two epochs, one of each fit
    assert state.nu["post_tower"]["id_embedding"].shape == (14, TIMELESS.d_model)


def test_new_items_of_tomorrow_are_trained_and_found():
    recommender = Recommender(TIMELESS, tx=FAST)
    recommender.fit(walks(12), epochs=10, **HOW)
    before = id_rows(recommender)
    recommender.fit(walks(14), epochs=10, more=True, **HOW)
    after = id_rows(recommender)
    assert after.shape == (14, TIMELESS.d_model) and len(before) == 12
    drawn = np.abs(after[12:]).max()
    assert drawn > 0.05  # 0.02 as drawn
    assert recommender.recommend(["film 10", "film 11"], 1).ids.item() == "film 12"
    assert recommender.recommend(["film 12", "film 13"], 1).ids.item() == "film 0"
    assert set(recommender.items.tolist()) == {f"film {n}" for n in range(14)}


@pytest.mark.long
def test_items_that_came_by_add_get_an_id_row_and_keep_their_ids(tmp_path):
    """After saving too; numbers that nobody has stay nobody's."""
    recommender = Recommender(TINY, circle(np.arange(N - 2)), tx=FAST)
    recommender.fit(cycles(num_items=N - 2), epochs=2, **HOW)
    recommender.add(circle([N - 2, N - 1]), [N - 2, N + 5])
    recommender.remove([3])
    recommender.save(tmp_path / "saved")
    vectors = recommender.catalogue.vectors[recommender.catalogue.slots("ids", [N + 5])]
    for each in (recommender, Recommender.load(tmp_path / "saved", tx=FAST)):
        items = cycles(num_items=N - 1).items
        events = Sequences(np.where(items == 5, N + 5, items), cycles().offsets)
        each.fit(events, epochs=1, more=True, **HOW)
        assert set(each.items.tolist()) == {*range(N - 1), N + 5} - {3}
        assert each.num_items == N + 6 and id_rows(each)[[N - 2, N + 5]].any(axis=1).all()
        assert not id_rows(each)[[N, N + 4]].any()  # nobody's
        assert N + 5 in each.recommend([[4]], N - 1, exclude_seen=False).ids
        now = each.catalogue.vectors[each.catalogue.slots("ids", [N + 5])]
        assert float(now[0] @ vectors[0]) > 0.5  # its content is still what it was
        each.add(ids=[3])
        each.fit(events, epochs=1, more=True, **HOW)
        assert 3 in each.items


@pytest.mark.long
def test_texts_of_tomorrow_are_read_by_the_encoder_of_today():
    texts = {f"film {n}": f"{('storm', 'queen', 'robot')[n % 3]} at sea {n}" for n in range(12)}
    config = NxtPostConfig.default(d_model=16, num_layers=1, max_len=8, time_features=False)
    recommender = Recommender(config, tx=FAST)
    recommender.fit(walks(12), content=texts, epochs=1, **HOW)
    recommender.add({"film 12": "a robot at sea"})
    recommender.fit(walks(14), content={"film 13": "the queen"}, epochs=1, more=True, **HOW)
    assert set(recommender.items.tolist()) == {f"film {n}" for n in range(14)}
    content = np.asarray(recommender.content)
    encoder = recommender._served.now.start.descriptions.only.encoder
    np.testing.assert_allclose(content[12:], encoder(["a robot at sea", "the queen"]), atol=1e-6)
    np.testing.assert_allclose(content[:12], encoder(list(texts.values())), atol=1e-6)
    recommender.add({"film 14": "storm"})  # and on
    with pytest.raises(ValueError, match="content: expected None where items are known by id only"):
        fitted().fit({"user": [0], "item": [1]}, content={1: "x"}, more=True)
    with pytest.raises(ValueError, match=r"content: expected vectors of \d+, found 3"):
        recommender.fit(walks(14), content={"film 1": np.ones(3)}, more=True)


@pytest.mark.long
def test_content_of_channels_grows_too():
    recommender = Recommender(TINY, drawn_content("channels"), tx=FAST)
    recommender.fit(cycles(), epochs=1, **HOW)
    recommender.add(drawn_content("channels", 2, seed=1), [N, N + 1])
    recommender.fit(cycles(num_items=N + 2), epochs=1, more=True, **HOW)
    assert recommender.num_items == N + 2
    assert np.asarray(recommender.content["text"])[N:].any(axis=1).all()


def test_requests_are_answered_by_the_model_before_meanwhile():
    recommender = Recommender(TIMELESS, tx=FAST)
    recommender.fit(walks(12), epochs=1, **HOW)
    before, seen = recommender.recommend(["film 1"], 12, exclude_seen=False), []

    def meanwhile(record):
        now = recommender.recommend(["film 1"], 12, exclude_seen=False)
        seen.append(record["epoch"])
        np.testing.assert_array_equal(now.ids, before.ids)
        np.testing.assert_array_equal(now.scores, before.scores)

    recommender.fit(walks(14), epochs=2, more=True, log=meanwhile, **HOW)
    assert seen == [0, 1]
    assert len(recommender.items) == 14


def test_no_item_enters_between_reading_and_training():
    recommender = fitted()

    class Columns(dict):
        def __getitem__(self, name):
            with pytest.raises(ValueError, match="no fit under way, which would not know the new"):
                recommender.add(circle([1]))
            return super().__getitem__(name)

    table = Columns(user=[0, 0], item=[1, 2])
    recommender.fit(table, epochs=1, more=True, batch_size=8, num_negatives=16)
    recommender.add(circle([1]))  # the fit is over


@pytest.mark.long
def test_going_on_by_shampoo_begins_its_state_anew_where_tables_grow():
    recommender = Recommender(TIMELESS, tx="shampoo")
    first = recommender.fit(walks(12), epochs=2, **HOW)
    same = recommender.fit(walks(12), epochs=1, more=True, **HOW)
    grown = recommender.fit(walks(14), epochs=2, more=True, **HOW)
    assert same[-1]["loss"] < first[-1]["loss"] and np.isfinite(grown[-1]["loss"])


def test_a_vector_of_nan_is_no_content_of_a_fit_that_goes_on():
    """It used to be content as it is; one with some NaN was, too."""
    recommender = Recommender(TIMELESS, tx=FAST)
    vectors = {f"film {n}": vector for n, vector in enumerate(circle(np.arange(12)))}
    recommender.fit(walks(12), content=vectors, epochs=1, **HOW)
    lost = np.full(6, np.nan)
    how = {"epochs": 1, "more": True, **HOW}
    recommender.fit(walks(13), content={"film 12": lost}, **how)
    assert not np.asarray(recommender.content)[12].any()
    lost[0] = 1.0
    with pytest.raises(ValueError, match="content: expected finite numbers, found NaN"):
        recommender.fit(walks(13), content={"film 12": lost}, **how)


def fitted():
    recommender = Recommender(TINY, circle(np.arange(N)), tx=FAST)
    recommender.fit(cycles(8), epochs=1, batch_size=8, num_negatives=16)
    return recommender


@pytest.mark.parametrize(
    ("make", "events", "options", "message"),
    [
        (lambda: Recommender(), [[1, 2]], {}, "more: expected a fitted recommender"),
        (fitted, [[1, N]], {}, f"events: expected item ids of the catalogue, found {N}"),
        (fitted, [[1, 2]], {"pretrain_epochs": 1}, "pretrain_epochs: expected 0 beside more=True"),
        (fitted, [[1, 2]], {"columns": {"user": "x"}}, "columns: expected None beside sequences"),
        (fitted, [[1, 2]], {"content": {1: "x"}}, "content: expected None but beside a table"),
    ],
)
def test_what_cannot_go_on_is_refused(make, events, options, message):
    with pytest.raises(ValueError, match=message):
        make().fit(events, more=True, **options)


def test_columns_that_the_model_reads_are_asked_for():
    times = np.arange(len(cycles().items)) * 60.0
    timed = dataclasses.replace(cycles(), times=times)
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    recommender.fit(timed, epochs=1, **HOW)
    with pytest.raises(ValueError, match="events: expected Sequences or a table with times"):
        recommender.fit(cycles(), more=True)
    plain = Recommender(TINY, num_items=N, tx=FAST)
    plain.fit(cycles(), epochs=1, **HOW)
    plain.fit(timed, epochs=1, more=True, **HOW)  # it reads no times, and goes on without
    assert "gaps" not in plain.params["user_tower"]
    assert jax.tree.structure(plain.params) != jax.tree.structure(recommender.params)


def test_numbers_far_beyond_the_others_are_refused():
    recommender = Recommender(TINY, tx=FAST)
    recommender.fit(cycles(8), epochs=1, batch_size=8, num_negatives=16)
    recommender.fit([[1, N + 3]], epochs=1, more=True, **HOW)  # a new one is fine
    assert recommender.num_items == N + 4 and set(recommender.items) == {*range(14), N + 3}
    with pytest.raises(ValueError, match=r"events: expected item ids below \d+, found 1000000"):
        recommender.fit([[1, 10**6]], more=True)
