import datetime

import numpy as np
import pytest

from nxtpost_jax.evaluation.baselines import recent_popularity
from nxtpost_jax.evaluation.ranking import evaluate
from nxtpost_jax.events.columns import logged_seconds, seconds, whole_numbers
from nxtpost_jax.events.sequences import Sequences, pad_histories
from nxtpost_jax.events.splits import Queries, by_user, global_time, hold_out_items, with_targets

BIG = 2**32 + 5  # 5 in int32
INTEGERS = r"expected whole numbers from 0 to 2\^31 - 1"
HALF_PAST = datetime.datetime(2023, 1, 1, 0, 30)
HERE = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    "values",
    [
        [7, 0, 2**31 - 1],
        [7.0, 0.0, 2.0**31 - 1],
        np.array([7, 0, 2**31 - 1], np.uint64),
        np.array([7, 0, 2**31 - 1], object),
    ],
)
def test_whole_numbers_are_read_whatever_their_type(values):
    read = whole_numbers("items", values)
    assert read.dtype == np.int32 and read.tolist() == [7, 0, 2**31 - 1]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([BIG], BIG),
        (np.array([2**63 + 5], np.uint64), 2**63 + 5),
        ([2**70], 2**70),
        ([10**400], 10**50),
        ([1, -1], -1),
        ([1.5], 1.5),
        ([np.nan], "nan"),
        ([1e300], r"1e\+300"),
        (np.array([1, 1.5], object), 1.5),
        (np.array([3, None], object), "None"),
        ([True], "True"),
        (["7"], "'7'"),
        (np.array(["2023-01-01"], "M8[D]"), "datetime"),
    ],
)
def test_no_other_number_is_taken_for_an_id(values, found):
    with pytest.raises(ValueError, match=rf"items: {INTEGERS}.*, found {found}"):
        whole_numbers("items", values)


def queries(**changes):
    given = {"histories": Sequences([1], [0, 1]), "targets": [2], "users": [0]} | changes
    return Queries(**given)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("users", lambda: Sequences.from_events([BIG], [0])),
        ("items", lambda: Sequences.from_events([0, 0], np.array([BIG, 6]))),
        ("items", lambda: Sequences([BIG], [0, 1])),
        ("actions", lambda: Sequences.from_events([0], [0], actions=[BIG])),
        ("surfaces", lambda: Sequences.from_events([0], [0], surfaces=[BIG])),
        ("static", lambda: Sequences([0], [0, 1], static=[[BIG]])),
        ("targets", lambda: queries(targets=[BIG])),
        ("users", lambda: queries(users=[BIG])),
        (
            "validation_users",
            lambda: by_user(Sequences([0, 1], [0, 2]), validation_users=[BIG], test_users=[]),
        ),
        ("items", lambda: hold_out_items(Sequences([0, 1], [0, 2]), [BIG])),
        ("items", lambda: with_targets(queries(), [BIG])),
        (
            "candidates",
            lambda: evaluate(lambda _: np.zeros((1, 9)), queries(), max_len=1, candidates=[BIG]),
        ),
    ],
)
def test_ids_never_wrap(name, call):
    expected = "whole numbers from -1" if name == "static" else "whole numbers from 0"
    with pytest.raises(ValueError, match=rf"{name}: expected {expected} to .* found {BIG}"):
        call()


def test_offsets_are_whole():
    with pytest.raises(ValueError, match=r"offsets: expected whole numbers .* found 0.5"):
        Sequences([1, 2], [0, 0.5, 2])


def test_a_user_per_id_up_to_the_largest_but_not_per_hash():
    assert Sequences.from_events([5], [0]).lengths.tolist() == [0, 0, 0, 0, 0, 1]
    hashes = np.array([0x1234_5678_9ABC_DEF0, 77])
    with pytest.raises(ValueError, match=rf"users: {INTEGERS}, found {hashes[0]}"):
        Sequences.from_events(hashes, [1, 2])
    with pytest.raises(
        ValueError, match=r"users: expected ids below 1000000 for 2 events .* 1000000"
    ):
        Sequences.from_events([1, 1_000_000], [1, 2])
    dense = np.unique(hashes, return_inverse=True)[1]
    assert Sequences.from_events(dense, [1, 2]).items.tolist() == [2, 1]
    assert len(Sequences.from_events([1_000_000], [1], num_users=1_000_001)) == 1_000_001


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (np.array(["2023-01-01T00", "2023-01-01T01"], "M8[ns]"), [1672531200, 1672534800]),
        (np.array(["2023-01-01T00", "2023-01-01T01"], "M8[h]"), [1672531200, 1672534800]),
        (np.array(["1969", "2023"], "M8[Y]"), [-31536000, 1672531200]),
        (np.array([1, 90], "m8[m]"), [60, 5400]),
        ([HALF_PAST, HALF_PAST.replace(tzinfo=HERE)], [1672533000, 1672525800]),
        ([datetime.date(2023, 1, 1)], [1672531200]),
        (["2023-01-01T00:30:00Z", "2023-01-01 00:30:00+02:00"], [1672533000, 1672525800]),
        (
            ["2023-01-01", "2023-01-01 00:30", "2023-01-01T00:00:00.5"],
            [1672531200, 1672533000, 1672531200.5],
        ),
        ([1.5, 2], [1.5, 2]),
        (np.array([1, 2.5], object), [1, 2.5]),
        ([], []),
    ],
)
def test_moments_of_any_kind_are_seconds(times, expected):
    read = seconds("times", times)
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 1662984066080], "seconds since 1970, found 1662984066080, which looks like milli"),
        ([1.66e15], r"seconds since 1970, found 1.66e\+15, which looks like microseconds"),
        ([1.66e18], r"seconds since 1970, found 1.66e\+18, which looks like nanoseconds"),
        ([-2e11], r"seconds since 1970, found -200000000000, which looks like milliseconds"),
        (["31/01/2023"], "seconds since 1970 or datetimes such as .*, found '31/01/2023'"),
        (["20230101"], "seconds since 1970 or datetimes such as .*, found '20230101'"),
        (["2023-02-30"], "seconds since 1970 or datetimes such as .*, found '2023-02-30'"),
        ([2, 10**400], "seconds since 1970, found a number beyond float64"),
        ([HALF_PAST, None], "seconds since 1970 or datetimes, found None"),
        (np.array(["2023", "NaT"], "M8[Y]"), "moments, found NaT"),
    ],
)
def test_other_moments_are_refused_by_name(times, message):
    with pytest.raises(ValueError, match=f"times: expected {message}"):
        seconds("times", times)


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_a_column_of_finer_moments_says_so_itself(per_second, dtype):
    moments = np.array([1662984066, 1662984067]) * per_second
    read = logged_seconds("ts", moments.astype(dtype))
    np.testing.assert_allclose(read, [1662984066, 1662984067], rtol=0, atol=1e-6)


def test_mixed_units_are_refused():
    for mixed in ([5, 1662984066080], [1662984066080, 1662984066080000]):
        with pytest.raises(
            ValueError, match=r"ts: expected seconds since 1970, found .*looks like"
        ):
            logged_seconds("ts", mixed)


def test_events_are_sorted_by_datetimes_and_lie_seconds_apart():
    times = np.array(["2023-01-01T02", "2023-01-01T00", "2023-01-01T01"], "M8[ns]")
    sequences = Sequences.from_events([0, 0, 0], [2, 0, 1], times=times)
    assert sequences.items.tolist() == [0, 1, 2]
    assert np.diff(sequences.times).tolist() == [3600, 3600]
    assert pad_histories(sequences, 3)["times"].tolist() == [[0, 3600, 3600]]
    with pytest.raises(ValueError, match=r"times: expected .* looks like milliseconds"):
        Sequences.from_events([0], [1], times=[1662984066080])
    with pytest.raises(ValueError, match="order: expected finite numbers"):
        Sequences.from_events([0], [1], order=[np.nan])


def test_moments_are_cut_and_asked_for_by_datetimes():
    days = np.array(["2023-01-01", "2023-01-02", "2023-01-03", "2023-01-04"], "M8[D]")
    sequences = Sequences.from_events([0, 0, 0, 0], [4, 5, 6, 7], times=days)
    split = global_time(
        sequences,
        validation_from=datetime.datetime(2023, 1, 2),
        test_from=np.datetime64("2023-01-03T12"),
    )
    assert split.train.items.tolist() == [4]
    assert split.validation.targets.tolist() == [5] and split.test.targets.tolist() == [7]
    with pytest.raises(ValueError, match=r"test_from: expected .* looks like milliseconds"):
        global_time(sequences, validation_from=0, test_from=1662984066080)
    scores = recent_popularity(sequences, 9, window=datetime.timedelta(days=2))
    asked = {"max_len": 4, "bootstrap": 0, "seen_filter": False}
    ranks = evaluate(scores, split.test, query_times=[np.datetime64("2023-01-04")], **asked).ranks
    assert ranks.tolist() == [9]  # items 5 and 6 count, the target itself not yet
    with pytest.raises(ValueError, match="query_times: expected 1, found 2"):
        evaluate(scores, split.test, query_times=[0, 0], **asked)
