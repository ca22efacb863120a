"""What is known of items at a moment: codes of counts, of counts of late, and of age."""

import threading

import numpy as np
import pytest

from nxtpost_jax import Sequences
from nxtpost_jax.events import trends as module
from nxtpost_jax.events.trends import DAY, WINDOW, Trends, trend_table

N = 12


def drawn_log(seed=0, days=90, count=600):
    rng = np.random.default_rng(seed)
    born = rng.uniform(0, 0.9 * days * DAY, N)
    items = rng.integers(0, N, count)
    times = born[items] + rng.exponential(9 * DAY, count)
    return Sequences.from_events(rng.integers(0, 20, count), items, times=times)


def codes_of_item(log, item, start):
    """What the events before a step say of an item."""
    times = log.times[log.items == item]
    before = times[times < start]
    late = before[before >= start - WINDOW * DAY]
    counts = [round(8 * np.log2(1 + len(events))) for events in (before, late)]
    if not len(before):
        return [*counts, 0]
    return [*counts, 8 + round(8 * np.log2(1 + (start - before.min()) / 3600))]


def codes_by_hand(log, start):
    """The same of all items."""
    return np.transpose([codes_of_item(log, item, start) for item in range(N)])


def test_each_moment_knows_what_happened_before_its_day():
    log = drawn_log()
    table = trend_table(log, N)
    for number, start in enumerate(table.starts_M):
        np.testing.assert_array_equal(table.known_3xMxN[:, number], codes_by_hand(log, start))
    assert (table.known_3xMxN[:, 0] == 0).all()
    moments = table.moments(log.times)
    starts = table.starts_M[moments]
    assert ((starts <= log.times) & (log.times < starts + DAY)).all()
    assert table.moments(np.array([-1e9]))[0] == 0


def test_no_event_of_a_day_or_after_it_changes_what_the_day_knows():
    log = drawn_log()
    table = trend_table(log, N)
    later = np.where(log.times >= table.starts_M[40], log.times + 7 * DAY, log.times)
    moved = Sequences(log.items, log.offsets, times=later)
    other = Trends.of(moved).table(table.starts_M[: 40 + 1], N)
    np.testing.assert_array_equal(table.known_3xMxN[:, : 40 + 1], other.known_3xMxN)


@pytest.mark.parametrize("parts", [4096, 3])
def test_counted_live_is_what_the_whole_log_says(parts, monkeypatch):
    monkeypatch.setattr(module, "_PARTS", parts)
    log = drawn_log()
    order = np.argsort(log.times)
    items, times = log.items[order], log.times[order]
    first = 200
    live = Trends(items[:first], times[:first])
    for event in range(first, len(items)):
        live.add(items[event : event + 1], times[event : event + 1])
        start = np.floor(times[event] / DAY) * DAY
        assert live.now == start
        np.testing.assert_array_equal(live.known_3xN(N), codes_by_hand(log, start))
    table = live.table(np.array([times[300]]), N)  # and of any time before
    start = np.floor(times[300] / DAY) * DAY
    np.testing.assert_array_equal(table.known_3xMxN[:, 0], codes_by_hand(log, start))


def test_late_and_new_items_and_threads_lose_no_event():
    log = drawn_log()
    live = Trends.of(log)
    before = live.known_3xN(N).copy()
    live.add(np.array([N + 2]), np.array([live.now - 40 * DAY]))  # late, and of a new item
    np.testing.assert_array_equal(live.known_3xN(N), before)  # until the step is over
    events = np.full(50, 3), np.full(50, np.nan)  # now
    work = [threading.Thread(target=live.add, args=events) for _ in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    live.add(np.array([0]), np.array([live.now + DAY]))
    known = live.known_3xN(N + 3)
    assert known.shape == (3, N + 3)
    assert known[2, N + 2] == 8 + round(8 * np.log2(1 + 41 * 24))
    counted = int((log.items == 3).sum()) + 200
    assert known[0, 3] == round(8 * np.log2(1 + counted))
    assert len(live.events()[0]) == len(log.items) + 202


def test_before_any_event_nothing_is_known():
    empty = Trends(np.zeros(0, np.int32), np.zeros(0))
    np.testing.assert_array_equal(empty.known_3xN(N), np.zeros((3, N)))
    assert empty.now == 0
    early = Trends(np.array([1]), np.array([-9 * DAY - 1]))
    assert early.now == -10 * DAY  # before 1970
    empty.add(np.array([1]), np.array([5 * DAY + 7]))
    empty.add(np.array([2]), np.array([6 * DAY]))
    age = 8 + round(8 * np.log2(1 + 24 - 7 / 3600))
    np.testing.assert_array_equal(empty.known_3xN(4)[:, 1], [8, 8, age])
    assert not empty.known_3xN(4)[:, [0, 2, 3]].any()


def test_large_tables_stand_for_several_days_each(monkeypatch):
    monkeypatch.setattr(module, "_TABLE", 3 * N * 10)
    log = drawn_log()
    table = trend_table(log, N)
    assert len(table.starts_M) <= 10
    for number, start in enumerate(table.starts_M):
        np.testing.assert_array_equal(table.known_3xMxN[:, number], codes_by_hand(log, start))


def test_times_are_needed():
    log = Sequences([1, 2], [0, 2])
    with pytest.raises(ValueError, match=r"^events: expected times, which trends are counted by"):
        trend_table(log, N)
    with pytest.raises(ValueError, match=r"^events: expected times, which trends are counted by"):
        Trends.of(log)
