"""A recommender that knows what happened of late."""

import numpy as np
import optax
import pytest

from nxtpost_jax import Event, NxtPostConfig, Queries, Recommender, Sequences, last_times
from nxtpost_jax.events.trends import DAY
from tests.nxtpost.serving.test_warming import compiled

N, DAYS, USERS = 24, 140, 80
WEEKS = np.random.default_rng(3).integers(0, N // 4, DAYS // 7)  # which four everyone takes
FAST = optax.adam(2e-2)  # shared, so that a step is compiled once
CONFIG = NxtPostConfig(
    d_model=16,
    num_layers=1,
    max_len=8,
    dropout=0.0,
    id_embedding=True,
    time_features=False,
    trends=True,
)


def hot(day):
    """The items that everyone takes on a day."""
    return 4 * WEEKS[int(day) // 7] + np.arange(4)


def waves(seed=0):
    """Who takes what is decided by the week alone."""
    rng = np.random.default_rng(seed)
    users, items, times = [], [], []
    for day in range(DAYS):
        for user in rng.choice(USERS, 20, replace=False):
            users.append(user)
            items.append(rng.choice(hot(day)))
            times.append((1000 + day + rng.random()) * DAY)
    return Sequences.from_events(users, items, times=times, num_users=USERS)


def fitted(log=None, epochs=1):
    recommender = Recommender(CONFIG, num_items=N, tx=FAST)
    log = waves() if log is None else log
    recommender.fit(log, epochs=epochs, batch_size=16, num_negatives=32)
    return recommender


@pytest.fixture(scope="module")
def recommender():
    return fitted(epochs=30)


def asked(recommender, **how):
    """The best four for someone whose history tells nothing of late."""
    return set(recommender.recommend([[0, 1]], 4, exclude_seen=False, **how).ids[0].tolist())


def test_what_is_taken_of_late_is_recommended(recommender):
    assert asked(recommender) == set(hot(DAYS - 1).tolist())
    vector = recommender.embed_users([[0, 1]])
    found = recommender.search(vector, 4).ids[0]
    assert set(found.tolist()) == set(hot(DAYS - 1).tolist())


def test_events_that_come_while_a_fit_is_under_way_count_after_it():
    """Those of before the fit count once, by the log that it is given."""
    recommender, log = fitted(), waves()
    recommender.update("early", Event(item=3, time=log.times.max()))
    counts = recommender._served.now.trending.trends
    late = log.times.max() + np.array([1.0, 2.0]) * DAY

    def come(record):
        recommender.update("late", Event(item=7, time=late[record["epoch"]]))

    recommender.update("late", Event(item=1, time=log.times.max()))
    recommender.fit(log, epochs=2, batch_size=16, num_negatives=32, log=come)
    after = recommender._served.now.trending.trends
    assert after is not counts
    items, times = after.events()
    assert len(items) == len(log.items) + 2
    assert items[-2:].tolist() == [7, 7] and times[-2:].tolist() == late.tolist()
    counts.add(np.array([5]), late[1:] + DAY)  # of a request that had taken the state of before
    assert after.events()[0][-1] == 5
    recommender.update("late", Event(item=2, time=late[1] + 2 * DAY))
    assert len(counts.events()[0]) == len(log.items) + 5  # no longer where requests count
    assert after.events()[0][-1] == 2


def with_drawn_tables(seed=0):
    """Fitted, then served by tables that make much of trends."""
    recommender = fitted()
    rng = np.random.default_rng(seed)
    tables = {
        name: rng.normal(size=table.shape).astype(np.float32)
        for name, table in recommender.params["trend_prior"].items()
    }
    recommender.adopt(recommender.params | {"trend_prior": tables})
    return recommender, tables


def raised(tables, items, times, now):
    """What each item's score is raised by on the day of a moment, by hand."""
    start = np.floor(now / DAY) * DAY
    found = np.zeros(N)
    for item in range(N):
        own = times[(items == item) & (times < start)]
        late = (own >= start - 7 * DAY).sum()
        age = 1 + np.log2(1 + (start - own.min()) / 3600) if len(own) else 0
        at = {"total": np.log2(1 + len(own)), "late": np.log2(1 + late), "age": age}
        for name, octaves in at.items():
            places = np.round(8 * octaves) / 8
            found[item] += np.interp(places, np.arange(len(tables[name])), tables[name])
    return found


def test_a_query_is_ranked_by_what_was_known_at_its_moment():
    recommender, tables = with_drawn_tables()
    log = waves()
    ends = log.offsets[1:] - 1
    queries = Queries(log.ranges(log.offsets[:-1], ends), log.items[ends], np.arange(USERS))
    cosines = (
        recommender.embed_users(queries.histories) @ np.asarray(recommender.catalogue.vectors)[:N].T
    )
    for moments in (log.times[ends] - 3 * DAY, last_times(queries.histories)):
        scores = cosines + [raised(tables, log.items, log.times, at) for at in moments]
        own = scores[np.arange(USERS), queries.targets]
        expected = 1 / (scores >= own[:, None]).sum(axis=1)
        found = recommender.evaluate(queries, query_times=moments, seen_filter=False, bootstrap=0)
        np.testing.assert_allclose(found["mrr"], expected.mean(), rtol=1e-4)
    unsaid = recommender.evaluate(queries, seen_filter=False, bootstrap=0)  # the last event's
    assert unsaid.values == found.values


def test_live_events_count_from_the_next_day_on():
    recommender, tables = with_drawn_tables()
    log, day = waves(), (1000 + DAYS) * DAY
    items, times = log.items.tolist(), log.times.tolist()
    histories = [[0, 1], [7, 3, 5]]
    cosines = recommender.embed_users(histories) @ np.asarray(recommender.catalogue.vectors)[:N].T

    def check(now):
        answer = recommender.recommend(histories, N, exclude_seen=False)
        expected = cosines + raised(tables, np.array(items), np.array(times), now)
        found = np.take_along_axis(expected, answer.ids, axis=1)
        np.testing.assert_allclose(answer.scores, found, atol=1e-4)
        np.testing.assert_array_equal(answer.ids, np.argsort(-expected, axis=1))

    check(max(times))
    for number, (item, late) in enumerate([(4, 0.1), (4, 0.2), (9, 0.3), (4, 1.2), (0, 9.5)]):
        recommender.update(number, Event(item, time=day + late * DAY))
        items.append(item)
        times.append(day + late * DAY)
        check(max(times))
    recommender.update("no time", 0)
    items.append(0)
    times.append(np.floor(max(times) / DAY) * DAY)
    check(max(times))


def test_kept_ones_answer_alike_and_go_on(tmp_path):
    recommender = fitted(epochs=30)
    recommender.update("ann", Event(5, time=(1000 + DAYS) * DAY))
    recommender.save(tmp_path / "kept")
    again = Recommender.load(tmp_path / "kept")
    for each in (recommender, again):
        each.update("bea", Event(5, time=(1001 + DAYS) * DAY))
    found, expected = (each.recommend([[0, 1], [7]], 9) for each in (again, recommender))
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    again.fit(waves(seed=1), more=True, epochs=1)
    assert asked(again) == set(hot(DAYS - 1).tolist())


def test_new_items_are_asked_for_and_nothing_is_compiled_twice(recommender):
    recommender.warm_up(rows=2, k=9)
    with compiled() as found:
        recommender.recommend([[0, 1], [7]], 9)
        recommender.recommend([[0, 1]], 9, allowed=[[3, 4, 5, 6]])
        recommender.similar([3], 5)
    assert not found


def test_similar_items_know_no_trend(recommender):
    vectors = np.asarray(recommender.catalogue.vectors)[:N]
    expected = np.argsort(-(vectors @ vectors[7]), kind="stable")
    found = recommender.similar([7], 5).ids[0]
    np.testing.assert_array_equal(found, [item for item in expected if item != 7][:5])


def test_the_best_epoch_is_told_by_what_was_known_then():
    log = waves()
    ends = log.offsets[1:] - 1
    queries = Queries(log.ranges(log.offsets[:-1], ends), log.items[ends], np.arange(USERS))
    recommender = Recommender(CONFIG, num_items=N, tx=FAST)
    how = {"epochs": 4, "batch_size": 16, "num_negatives": 32, "seen_filter": False}
    records = recommender.fit(log, validation=queries, **how)
    now = recommender.evaluate(queries, seen_filter=False, bootstrap=0)
    assert max(record["ndcg@10"] for record in records) == pytest.approx(now["ndcg@10"])


def test_what_cannot_be_is_refused_in_a_line(tmp_path):
    with pytest.raises(ValueError, match=r"^events: expected times, which trends are counted by"):
        fitted(log=Sequences(np.arange(9), [0, 4, 9]))
    with pytest.raises(ValueError, match=r"^trend_step: expected above 0, found 0$"):
        NxtPostConfig(trend_step=0)

    class Nothing:
        pass

    indexed = Recommender(CONFIG, num_items=N, index=Nothing())
    with pytest.raises(ValueError, match=r"^index: expected None beside a model with trends"):
        indexed.fit(waves(), epochs=1)
    recommender = fitted()
    recommender.save(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"^index: expected None beside a model with trends"):
        Recommender.load(tmp_path / "kept", index=Nothing())
