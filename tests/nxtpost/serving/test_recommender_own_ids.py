"""A recommender of a table: the caller's ids go in and come out, by every method."""

import dataclasses
import threading
import uuid

import jax
import numpy as np
import pytest

from nxtpost_jax.serving.live_users import Event
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPostConfig
from tests.nxtpost.small_recommender import FAST, TINY, N, untrained

TIMELESS = dataclasses.replace(TINY, time_features=False)  # so that lists of ids are histories
WALK = 7
NAMES = {
    "texts": [f"film {n:02}" for n in range(N)],
    "numbers": [2**40 + 3 * n for n in range(N)],
    "uuids": [uuid.UUID(int=n) for n in range(N)],
}


def stranger_to(names):
    """An id of the same kind that no event has."""
    strangers = {"str": "a film of tomorrow", "int": 5, "UUID": uuid.UUID(int=999)}
    return strangers[type(names[0]).__name__]


def walks(names, num_users=64):
    """Every user walks round the items in order, each from a place of its own.

    The rows run backwards: it is the times that say where to.
    """
    times = np.arange(num_users * WALK)[::-1]
    users, steps = np.divmod(times, WALK)
    places = (users + steps) % N
    return {
        "user_id": [f"user {user}" for user in users],
        "item_id": [names[place] for place in places],
        "timestamp": times,
        "event": ["buy" if place % 2 else "view" for place in places],
    }


def fit(recommender, table, **options):
    recommender.fit(table, epochs=30, batch_size=32, num_negatives=16, **options)
    return recommender


@pytest.fixture(scope="module", params=NAMES)
def names(request):
    return NAMES[request.param]


@pytest.fixture(scope="module")
def fitted(names):
    return fit(Recommender(TIMELESS, tx=FAST), walks(names))


def test_recommendations_continue_the_pattern(fitted, names):
    histories = [names[:3], names[9:13]]
    ids, scores = answer = fitted.recommend(histories, 3)
    assert ids.shape == scores.shape == (2, 3)
    assert [row[0] for row in ids.tolist()] == [names[3], names[13]]
    assert answer.pairs(0)[0] == (names[3], scores[0, 0])
    assert type(answer.pairs(0)[0][0]) is type(names[0])
    assert set(fitted.items.tolist()) == set(names)


def test_one_is_as_good_as_many(fitted, names):
    one, many = fitted.recommend(names[:3], 2), fitted.recommend([names[:3]], 2)
    assert one.ids.tolist() == many.ids.tolist() and len(one.ids) == 1
    ids, scores = one
    assert ids.shape == scores.shape == (1, 2)
    assert fitted.similar(names[4], 2).ids.tolist() == fitted.similar([names[4]], 2).ids.tolist()
    (only,) = fitted.recommend(names[:3], 1, allowed=names[7]).ids.ravel().tolist()
    assert only == names[7]
    best = fitted.recommend(names[:3], 1).ids.item()
    assert fitted.recommend(names[:3], 1, exclude=[best]).ids.item() != best


def test_histories_and_what_followed_are_ranked_by_own_ids(fitted, names):
    histories, followed = [names[:3], names[9:13]], [names[3], names[13]]
    metrics = fitted.evaluate(histories, followed, ks=(1,))
    assert metrics.ranks.tolist() == [1, 1] and metrics["hr@1"] == 1
    assert fitted.evaluate(histories, followed[::-1]).ranks.min() > 1
    for given, message in (
        (followed[:1], "targets: expected 2 ids, one per history, found 1"),
        (None, "targets: expected the id that followed each history, found None"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.evaluate(histories, given)
    with pytest.raises(ValueError, match="targets: expected item ids"):
        fitted.evaluate(histories, [names[3], stranger_to(names)])


def test_what_is_excluded_may_be_padded_as_answers_are(fitted, names):
    answer = fitted.recommend([names[: N - 1], names[:3]], 2, exclude_seen=True)
    blank = answer.ids[0, 1]
    assert answer.pairs(0) == [(names[-1], answer.scores[0, 0])]
    assert answer.ids.tolist()[0] == [names[-1], blank] and blank in (-1, "", None)
    again = fitted.recommend([names[: N - 1], names[:3]], 2, exclude=answer.ids)
    assert again.pairs(0) == [] and again.ids[1, 0] not in answer.ids[1].tolist()


def test_a_table_of_histories_has_a_row_per_user(fitted, names):
    table = {
        "user_id": ["bob", "ann", "bob", "bob"],
        "item_id": [names[2], names[9], names[0], names[1]],
        "timestamp": [30, 5, 10, 20],
    }
    answer = fitted.recommend(table, 2)
    assert answer.users.tolist() == ["bob", "ann"]
    assert answer.ids[0].tolist() == fitted.recommend(names[:3], 2).ids[0].tolist()
    columns = answer.columns()
    assert columns["user"].tolist() == ["bob", "bob", "ann", "ann"]
    assert columns["item"].tolist() == answer.ids.ravel().tolist()
    assert columns["rank"].tolist() == [1, 2, 1, 2]
    nameless = fitted.recommend([names[: N - 1], names[:1]], 2).columns()
    assert nameless["query"].tolist() == [0, 1, 1]  # no padding


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_an_answer_is_a_frame(library):
    pytest.importorskip(library)
    fitted = fit(Recommender(TIMELESS, tx=FAST), walks(NAMES["texts"]))
    table = {"user_id": ["ann"], "item_id": [NAMES["texts"][1]]}
    frame = fitted.recommend(table, 2).frame(library)
    names = frame.column_names if library == "pyarrow" else list(frame.columns)
    assert names == ["user", "item", "rank", "score"] and frame.shape == (2, 4)


def test_an_unknown_item_is_named_or_skipped_and_counted(fitted, names):
    stranger = stranger_to(names)
    histories = [names[:3], [names[0], stranger, names[1], names[2], stranger]]
    for call in (
        lambda: fitted.recommend(histories, 2),
        lambda: fitted.embed_users(histories),
        lambda: fitted.similar(stranger, 2),
        lambda: fitted.remove(stranger),
        lambda: fitted.update("zoe", stranger),
        lambda: fitted.recommend([names[:3]], 2, allowed=[stranger]),
        lambda: fitted.recommend([names[:3]], 2, exclude=[[stranger]]),
        lambda: fitted.recommend({"user": ["ann"], "item": [stranger]}, 2),
    ):
        with pytest.raises(ValueError, match=f"expected item ids .* found '?{stranger}'?$"):
            call()
    answer = fitted.recommend(histories, 2, unknown="skip", exclude=[[stranger], []])
    assert answer.skipped.tolist() == [0, 2]
    assert answer.ids[0].tolist() == answer.ids[1].tolist()
    table = {"user": ["ann", "bob", "ann"], "item": [stranger, names[0], names[1]]}
    assert fitted.recommend(table, 2, unknown="skip").skipped.tolist() == [1, 0]
    with pytest.raises(ValueError, match="histories: expected at least one item or a backfill"):
        fitted.recommend([stranger], 2, unknown="skip")
    for no_list, found in (("film 01", "'film 01'"), (7, "int"), ([*names[:1], names], "")):
        with pytest.raises(ValueError, match=f"histories: expected a list of item .* {found}"):
            fitted.recommend(no_list, 2)
    with pytest.raises(ValueError, match="unknown: expected 'refuse' or 'skip', found 'drop'"):
        fitted.recommend(histories, 2, unknown="drop")


def test_items_go_and_come_back_by_their_ids(names):
    recommender = fit(Recommender(TIMELESS, tx=FAST), walks(names))
    best = recommender.recommend(names[:3], 1).ids.item()
    recommender.remove(best)
    assert best not in recommender.recommend(names[:3], N - 4).ids.ravel().tolist()
    assert recommender.recommend([*names[:3], best], 1).skipped.tolist() == [0]  # known, and gone
    with pytest.raises(ValueError, match=f"ids: expected item ids .* found '?{best}'?"):
        recommender.similar(best, 1)
    assert recommender.add(ids=best).tolist() == [best]
    assert recommender.recommend(names[:3], 1).ids.item() == best
    with pytest.raises(ValueError, match=r"ids: expected .* found"):
        recommender.add(ids=[best])
    with pytest.raises(ValueError, match=f"ids: expected each once, found {best} repeated"):
        recommender.remove([best, best])


def test_live_users_meet_items_by_their_ids(fitted, names):
    fitted.update("ann", names[0], history=[names[22:24]])
    vector = fitted.update("ann", Event(names[1]))
    expected = fitted.embed_users([*names[22:24], *names[:2]])
    np.testing.assert_allclose(vector, expected[0], atol=1e-5)
    assert fitted.recommend_user("ann", 1).ids.item() == names[2]
    fitted.forget_user("ann")


def test_ids_survive_saving(fitted, names, tmp_path):
    fitted.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    table = {"user_id": ["ann", "bob"], "item_id": [names[3], names[5]]}
    for ask in (lambda r: r.recommend(table, 5), lambda r: r.similar(names[2], 5)):
        one, other = ask(fitted), ask(loaded)
        assert one.ids.tolist() == other.ids.tolist()
        np.testing.assert_array_equal(one.scores, other.scores)
    loaded.remove(names[0])
    loaded.save(tmp_path / "saved")
    assert names[0] not in Recommender.load(tmp_path / "saved").items.tolist()


def test_actions_are_read_by_their_names_where_a_config_has_some(tmp_path):
    names = NAMES["texts"]
    config = NxtPostConfig(
        d_model=16, num_layers=1, max_len=8, id_embedding=True, time_features=False, num_actions=2
    )
    recommender = Recommender(config, tx=FAST)
    recommender.fit(walks(names), epochs=1, loop=untrained)
    table = {"user": ["ann"], "item": [names[1]], "event": ["buy"]}
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    for reader in (recommender, loaded):
        bought = reader.recommend(table, 3)
        viewed = reader.recommend(table | {"event": ["view"]}, 3)
        assert (bought.scores != viewed.scores).any()
        vector = reader.update("ann", Event(names[1], action="buy"))
        np.testing.assert_allclose(vector, reader.embed_users(table)[0], atol=1e-5)
        with pytest.raises(ValueError, match="event: expected an action of training, found 'sell'"):
            reader.update("ann", Event(names[1], action="sell"))
        with pytest.raises(ValueError, match=r"action: expected one .* found 'sell'"):
            reader.recommend(table | {"event": ["sell"]}, 3)
    with pytest.raises(ValueError, match="histories: expected Sequences or a table with actions"):
        recommender.recommend(names[:3], 3)
    few = NxtPostConfig(id_embedding=True, num_actions=1)
    with pytest.raises(ValueError, match="num_actions: expected at least 2, the actions of the lo"):
        Recommender(few).fit(walks(names))


def test_a_table_sizes_a_recommender_without_any_option():
    recommender = Recommender()
    assert repr(recommender) == "Recommender(unfitted)"
    with pytest.raises(ValueError, match="recommender: expected a fitted one"):
        recommender.recommend(["film 01"], 1)
    with pytest.raises(ValueError, match="recommender: expected a fitted one or num_items"):
        _ = recommender.num_items
    recommender.fit(walks(NAMES["texts"], 4), epochs=1, loop=untrained)
    assert repr(recommender) == f"Recommender({WALK + 3} items by ids, fitted)"
    assert recommender.model.config.max_len == 16
    assert len(recommender.recommend([["film 01"], ["film 02"]], 2).pairs(1)) == 2


@pytest.mark.long
def test_weights_of_one_change_no_bit_and_others_do():
    table = walks(NAMES["texts"], 16)
    fitted = {}
    for name, weights in (("none", None), ("one", 1.0), ("half", np.arange(16 * 7) % 2)):
        column = {} if weights is None else {"weight": np.broadcast_to(weights, 16 * 7)}
        recommender = Recommender(TIMELESS, tx=FAST)
        recommender.fit(table | column, epochs=1, batch_size=8, num_negatives=16)
        fitted[name] = jax.tree.leaves(recommender.params)
    for one, none in zip(fitted["one"], fitted["none"]):
        np.testing.assert_array_equal(one, none)
    assert any((np.asarray(a) != b).any() for a, b in zip(fitted["half"], fitted["none"]))


def test_sequences_size_a_recommender_too():
    recommender = Recommender()
    recommender.fit([[0, 1, 2], [1, 2, 3]], epochs=1, loop=untrained)
    assert recommender.num_items == 4
    assert recommender.recommend([[0, 1]], 2).ids.dtype == np.int32


def test_numbered_items_are_read_from_a_table_too():
    table = walks(list(range(N)))
    recommender = fit(Recommender(TIMELESS, num_items=N, tx=FAST), table)
    assert recommender.recommend([0, 1, 2], 1).ids.item() == 3
    assert recommender.recommend(table, 1).users.tolist()[:2] == ["user 63", "user 62"]
    with pytest.raises(ValueError, match=r"item: expected item ids in \[0, 5\), found"):
        Recommender(TIMELESS, num_items=5).fit(table)


def test_a_second_table_replaces_the_first_ones_items():
    names = NAMES["texts"]
    recommender = fit(Recommender(TIMELESS, tx=FAST), walks(names))
    recommender.remove(names[5])
    recommender.update("ann", names[0])
    later = [*names[:12], *(f"new {n}" for n in range(12))]
    fit(recommender, walks(later))
    assert set(recommender.items.tolist()) == set(later) - {names[5]}
    assert recommender.recommend(["new 0", "new 1"], 1).ids.item() == "new 2"
    # an old item is known and gone, as a removed one is; a user keeps what is left
    assert recommender.recommend([*names[20:], "new 0", "new 1"], 1).ids.item() == "new 2"
    assert recommender.recommend_user("ann", 1).ids.item() == names[1]
    fit(recommender, walks(names))
    assert set(recommender.items.tolist()) == set(names) - {names[5]}
    with pytest.raises(ValueError, match="item: expected texts as the other ids, found 7"):
        recommender.fit({"user": [1], "item": [7]})


def test_columns_are_named_once_and_then_known(tmp_path):
    names = NAMES["texts"]
    table = walks(names, 8)
    table["who"] = table.pop("user_id")
    recommender = Recommender(TIMELESS, tx=FAST)
    with pytest.raises(
        ValueError, match=r"columns: expected a column for the user .* found item_id"
    ):
        recommender.fit(table)
    recommender.fit(table, columns={"user": "who"}, epochs=1, loop=untrained)
    recommender.save(tmp_path / "saved")
    for reader in (recommender, Recommender.load(tmp_path / "saved")):
        assert reader.recommend(table, 1).users.tolist()[0] == "user 7"
    with pytest.raises(ValueError, match="columns: expected None beside sequences"):
        recommender.fit([[1]], columns={"user": "who"})


def test_readers_of_own_ids_see_no_half_added_item():
    """An answer names what it found, whatever comes and goes meanwhile."""
    names = NAMES["texts"]
    recommender = fit(Recommender(TIMELESS, tx=FAST), walks(names))
    stop, broken = threading.Event(), []

    def ask():
        while not stop.is_set():
            found = recommender.recommend(names[:3], N - 1, exclude_seen=False)  # one may be away
            broken.extend(item for item, _ in found.pairs(0) if not item)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(30):
        recommender.remove(names[number % N])
        recommender.add(ids=names[number % N])
    stop.set()
    for thread in threads:
        thread.join()
    assert not broken
