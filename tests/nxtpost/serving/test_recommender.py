import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest

from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.events.splits import leave_one_out
from nxtpost_jax.serving import programs
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training.objective import Objective
from nxtpost_jax.training.post_to_post import pretrain
from tests.nxtpost.small_recommender import FAST, TINY, N, circle, cycles


@pytest.fixture(scope="module")
def fitted():
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    recommender.fit(cycles(), epochs=30, batch_size=32, num_negatives=16)
    return recommender


def test_pretraining_gives_the_post_tower_its_start():
    def towers(pretrain_epochs):
        recommender = Recommender(TINY, num_items=N, tx=optax.sgd(0.0))  # fit itself moves nothing
        recommender.fit(cycles(8), epochs=1, batch_size=8, pretrain_epochs=pretrain_epochs)
        return recommender.params

    plain, started = towers(0), towers(1)
    expected, _ = pretrain(NxtPost(TINY, N), cycles(8), epochs=1, seed=0)
    chex.assert_trees_all_close(started["post_tower"], expected)
    chex.assert_trees_all_close(started["user_tower"], plain["user_tower"])
    with pytest.raises(ValueError, match="pretrain_epochs: expected at least 0, found -1"):
        towers(-1)


def test_rows_in_buckets_are_learned_from_too():
    short = [[u % N, (u + 1) % N] for u in range(24)]
    sequences = Sequences(
        np.concatenate([*short, *cycles(16).items.reshape(16, -1)]),
        np.r_[np.arange(0, 48, 2), np.arange(48, 48 + 17 * 7, 7)],
    )
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    records = recommender.fit(sequences, epochs=30, batch_size=8, num_negatives=16, buckets=2)
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]


def test_an_obvious_pattern_is_learned():
    split = leave_one_out(cycles())
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    records = recommender.fit(
        split.train,
        epochs=30,
        batch_size=32,
        num_negatives=16,
        validation=split.validation,
        validate_every=10,
    )
    assert [r["epoch"] for r in records if "ndcg@10" in r] == [9, 19, 29]
    assert records[-1]["loss"] < 0.1 * records[0]["loss"]
    assert recommender.evaluate(split.test, ks=(1,))["hr@1"] > 0.98


def test_recommendations_continue_the_pattern(fitted):
    ids, scores = fitted.recommend([[0, 1, 2], [9, 10, 11, 12], [23]], 5)
    assert ids[:, 0].tolist() == [3, 13, 0]
    assert ids.shape == scores.shape == (3, 5)
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    assert (np.diff(scores, axis=1) <= 0).all()
    assert not set(ids[1]) & {9, 10, 11, 12}


def test_seen_items_come_back_when_asked(fitted):
    history = list(range(N - 2))
    ids, scores = fitted.recommend([history], N)
    assert set(ids[0, :2]) == {N - 2, N - 1}
    assert (ids[0, 2:] == PAD).all() and np.isneginf(scores[0, 2:]).all()
    ids, _ = fitted.recommend([history], N, exclude_seen=False)
    assert sorted(ids[0]) == list(range(N))


def test_a_history_gets_the_same_answer_in_any_company(fitted):
    alone, _ = fitted.recommend([[4, 5, 6]], 3)
    together, _ = fitted.recommend([[1], [4, 5, 6], list(range(20))], 3)
    np.testing.assert_array_equal(alone[0], together[1])


def test_requests_of_similar_size_are_traced_once(fitted):
    fitted.recommend([[1, 2, 3]] * 5, 4)
    traced = programs.encoded_users._cache_size()
    fitted.recommend([[5, 6, 7, 8]] * 8, 4)
    fitted.recommend([[5, 6, 9]] * 7, 4)
    assert programs.encoded_users._cache_size() == traced


def test_the_best_validated_epoch_is_kept():
    """A learning rate that wrecks the model after the first epochs does not cost it them."""
    split = leave_one_out(cycles())
    rate = optax.piecewise_constant_schedule(1e-2, {60: 1e4})
    recommender = Recommender(TINY, num_items=N, tx=optax.adam(rate))
    records = recommender.fit(
        split.train, epochs=33, batch_size=32, num_negatives=16, validation=split.validation
    )
    figures = [record["ndcg@10"] for record in records]
    assert figures[-1] < max(figures)
    assert recommender.evaluate(split.validation)["ndcg@10"] == pytest.approx(max(figures))


def test_an_item_never_trained_on_is_recommended_by_its_content():
    """Content places the items on a circle; one user group never meets the last item."""
    angles = 2 * np.pi * np.arange(N) / N
    waves = np.arange(1, 5)
    content = np.concatenate(
        [np.cos(angles[:, None] * waves[None, :]), np.sin(angles[:, None] * waves[None, :])], axis=1
    )
    cold = N // 2
    items = np.concatenate([np.arange(cold + 1, N), np.arange(cold)])  # the circle, cut there
    walks = np.lib.stride_tricks.sliding_window_view(items, 6)
    train = Sequences.from_events(np.repeat(np.arange(len(walks)), 6), walks.ravel())
    assert cold not in train.items
    recommender = Recommender(TINY, content, tx=optax.adam(3e-3))
    recommender.fit(train, epochs=150, batch_size=len(walks), num_negatives=16)
    ids, _ = recommender.recommend([[cold - 3, cold - 2, cold - 1]], 3)
    assert cold in ids[0]
    assert not np.asarray(recommender.params["post_tower"]["id_embedding"][cold]).any()


def test_two_fits_of_one_seed_are_equal():
    def params():
        recommender = Recommender(TINY, num_items=N, tx=FAST)
        recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16, seed=3)
        return recommender.params

    for a, b in zip(jax.tree.leaves(params()), jax.tree.leaves(params())):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(5), r"content: expected real numbers of shape \[n, d\], found .* \(5,\)"),
        (np.array([["a"]]), "content: expected real numbers"),
        (np.ones((N + 1, 3)), f"content: expected {N} rows, one per item, found {N + 1}"),
        (
            np.where(np.eye(N) > 0, np.nan, 1),
            "content: expected finite numbers, found NaN or infinity in row 0",
        ),
        (
            np.ones((N, 2)) * (np.arange(N) != 7)[:, None],
            "content: expected some of every item .* found none of item 7",
        ),
        (None, "content: expected a matrix when id_embedding is off"),
    ],
)
def test_bad_content_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Recommender(NxtPostConfig(), content, num_items=N)


@pytest.mark.parametrize("by_id", [False, True])
def test_a_row_of_nan_is_an_item_without_content(by_id, tmp_path):
    """It is known, so histories may hold it; without an id nothing finds it."""
    content = circle(np.arange(N))
    content[[5, 6]] = np.nan
    config = dataclasses.replace(TINY, id_embedding=by_id)
    recommender = Recommender(config, content, tx=FAST)
    recommender.fit(cycles(16), epochs=1, batch_size=16, num_negatives=16)
    answer = recommender.recommend([[4, 5]], N, exclude_seen=False)
    found = sorted(item for item, _ in answer.pairs(0))
    assert found == [item for item in range(N) if by_id or item not in (5, 6)]
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved").recommend([[4, 5]], N, exclude_seen=False)
    np.testing.assert_array_equal(loaded.ids, answer.ids)
    content[7, 0] = np.nan
    with pytest.raises(ValueError, match=r"content: expected finite numbers, found NaN .* row 7"):
        Recommender(config, content)
    blank = Recommender(config, {"text": circle(np.arange(N)), "video": np.full((N, 2), np.nan)})
    assert blank.num_items == N  # one channel is enough


def test_content_is_read_from_a_file(tmp_path):
    content = np.random.default_rng(0).normal(size=(N, 5))
    np.save(tmp_path / "content.npy", content)
    np.testing.assert_allclose(
        Recommender(TINY, tmp_path / "content.npy").content, content, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("histories", "k", "message"),
    [
        ([[1, 2]], N + 1, f"k: expected 1 to {N}, the catalogue's size, found {N + 1}"),
        ([[1, 2]], 0, f"k: expected 1 to {N}"),
        ([[1, 2]], "3", f"k: expected 1 to {N}, the catalogue's size, found '3'"),
        ([[1, 2]], 2.0, f"k: expected 1 to {N}"),
        ([[1, N]], 2, f"histories: expected item ids of the catalogue, found {N}"),
        (
            [[1], []],
            2,
            "histories: expected at least one item or a backfill, found none in number 1",
        ),
        ([1, [2]], 2, "histories: expected a list of item ids per user, found 1 as number 0"),
        (7, 2, "histories: expected a list of item ids per user, found int"),
        ([["i5"]], 2, "histories: expected whole numbers .* found 'i5'"),
        ([np.array([2**32 + 1])], 2, "histories: expected whole numbers .* found 4294967297"),
        ([[1.5]], 2, r"histories: expected whole numbers from 0 to 2\^31 - 1, found 1.5"),
        ([], 2, "histories: expected at least one, found none"),
        ([[1, -1]], 2, r"histories: expected whole numbers from 0 to 2\^31 - 1, found -1"),
        (
            Sequences([1, 2], [0, 2], times=[2.0, 1]),
            2,
            "histories: expected the oldest event first, .* in number 0",
        ),
        (Sequences([1], [0, 1], times=[np.inf]), 2, "histories: expected finite times, found inf"),
    ],
)
def test_bad_requests_are_refused(fitted, histories, k, message):
    with pytest.raises(ValueError, match=message):
        fitted.recommend(histories, k)


def test_a_model_trained_with_times_asks_for_them():
    events = cycles(8)
    timed = Sequences(events.items, events.offsets, np.arange(len(events.items)) * 60.0)
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    recommender.fit(timed, epochs=1, batch_size=8, num_negatives=16)
    with pytest.raises(ValueError, match="expected Sequences or a table with times"):
        recommender.recommend([[1, 2]], 2)
    assert recommender.recommend(timed, 2).ids.shape == (8, 2)


def test_an_optimizer_is_none_by_name():
    with pytest.raises(ValueError, match=r"tx: expected an optax transformation .* found 'adam'"):
        Recommender(TINY, num_items=N, tx="adam")


def test_lists_of_items_are_trained_on_too():
    lists = [walk.tolist() for walk in cycles(8).items.reshape(8, -1)]
    params = []
    for sequences in (lists, cycles(8)):
        recommender = Recommender(TINY, num_items=N, tx=FAST)
        recommender.fit(sequences, epochs=1, batch_size=8, num_negatives=16)
        params.append(recommender.params)
    chex.assert_trees_all_equal(*params)
    with pytest.raises(ValueError, match="events: expected a list of item ids per user"):
        recommender.fit([0, [1]], epochs=1)


def test_it_is_shown_in_one_line(fitted):
    assert repr(fitted) == f"Recommender({N} items by ids, fitted)"
    both = Recommender(TINY, circle(np.arange(N)))
    assert repr(both) == f"Recommender({N} items by content [[6]] and ids, unfitted)"
    queries = leave_one_out(cycles()).test
    for shown in (fitted.catalogue, cycles(1000), queries, fitted.evaluate(queries, bootstrap=0)):
        assert len(repr(shown)) < 200 and "array" not in repr(shown)
    assert repr(cycles(1000)) == "Sequences(1,000 users, 7,000 events)"
    timed = Sequences([1], [0, 1], times=[2.0], static=[[3]])
    assert repr(timed) == "Sequences(1 users, 1 events, times, static)"


def test_parameters_of_another_loop_are_served(fitted):
    other = Recommender(TINY, num_items=N)
    other.adopt(fitted.params)
    histories = [[1, 2, 3], [4]]
    np.testing.assert_array_equal(
        other.recommend(histories, 3).ids, fitted.recommend(histories, 3).ids
    )
    before = other.recommend(histories, 3).ids
    with pytest.raises(ValueError, match="params: expected those of this model, found others: "):
        other.adopt({"post_tower": {}, "user_tower": {}})
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), fitted.params)
    with pytest.raises(FloatingPointError):
        other.adopt(broken)
    np.testing.assert_array_equal(other.recommend(histories, 3).ids, before)


def test_nothing_works_before_fit():
    with pytest.raises(ValueError, match="expected a fitted one"):
        Recommender(TINY, num_items=N).recommend([[1]], 1)


def test_unknown_training_items_are_refused():
    with pytest.raises(ValueError, match=r"events: expected item ids in \[0, 5\), found"):
        Recommender(TINY, num_items=5).fit(cycles(), epochs=1)


def test_unordered_training_events_are_refused():
    with pytest.raises(ValueError, match="events: expected the oldest event first"):
        Recommender(TINY, num_items=5).fit(Sequences([1, 2], [0, 2], times=[2.0, 1]), epochs=1)


def test_the_objective_is_what_is_trained():
    """Other losses find the pattern too; `num_negatives` beside an objective is refused."""
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    objective = Objective(negatives="mixed", num_negatives=16, logq=True)
    recommender.fit(cycles(), epochs=20, batch_size=32, objective=objective)
    assert recommender.recommend([[3, 4, 5]], 1).ids.tolist() == [[6]]
    with pytest.raises(ValueError, match="num_negatives: expected it within the objective"):
        recommender.fit(cycles(), epochs=1, objective=objective, num_negatives=4)
