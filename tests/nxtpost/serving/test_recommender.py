import chex
import jax
import numpy as np
import optax
import pytest

from nxtpost_jax.evaluation import scoring
from nxtpost_jax.events.content import ContentSet
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.events.splits import Queries, leave_one_out
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training.objective import Objective
from nxtpost_jax.training.post_to_post import pretrain
from tests.nxtpost.small_recommender import drawn

N = 24
FAST = optax.adam(1e-2)  # shared, so that one compiled step serves most tests
TINY = NxtPostConfig(d_model=16, num_layers=1, max_len=8, id_embedding=True, dropout=0.0)


def cycles(num_users=64, length=7, step=1, num_items=N):
    """Every user walks round the items in order, each from a place of its own."""
    items = (np.arange(num_users)[:, None] + step * np.arange(length)[None, :]) % num_items
    return Sequences.from_events(np.repeat(np.arange(num_users), length), items.ravel())


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
    traced = scoring.top_items._cache_size()
    fitted.recommend([[5, 6, 7, 8]] * 8, 4)
    fitted.recommend([[5, 6, 9]] * 7, 4)
    assert scoring.top_items._cache_size() == traced


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


def drawn_content(kind, rows=N, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "none":
        return None
    if kind == "vectors":
        return circle(rng.random(rows) * N)
    mask = rng.random((rows, 2)) < 0.5
    images = ContentSet(rng.normal(size=(rows, 2, 3)), mask)
    return {"text": rng.normal(size=(rows, 5)), "images": images}


@pytest.mark.parametrize("kind", ["none", "vectors", "channels"])
def test_a_saved_recommender_answers_the_same(tmp_path, kind):
    """With items that came and went; saved twice, the second time over the first."""
    recommender = drawn(TINY, drawn_content(kind), num_items=N)
    recommender.save(tmp_path / "saved")
    recommender.remove_items([3, 7, 8])
    if kind != "none":
        recommender.add_items(drawn_content(kind, 2, seed=1), [100, 7])
    recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    histories = [[1, 2, 8]] if kind == "none" else [[1, 100, 8]]
    for a, b in zip(recommender.recommend(histories, 20), loaded.recommend(histories, 20)):
        np.testing.assert_array_equal(a, b)
    assert loaded.catalogue.next_id == recommender.catalogue.next_id
    loaded.add_items(ids=[3])
    assert 3 in loaded.recommend(histories, 20, items=[3]).ids


def test_what_is_no_saved_recommender_is_refused(fitted, tmp_path):
    with pytest.raises(ValueError, match="expected a saved recommender, found no such file"):
        Recommender.load(tmp_path)
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(ValueError, match=r"or a recommender, found letter\.txt"):
        fitted.save(tmp_path)
    fitted.save(tmp_path / "new")
    header = tmp_path / "new" / "recommender.json"
    header.write_text(header.read_text().replace('"version": 2', '"version": 99'))
    with pytest.raises(ValueError, match="expected version 2, found 99"):
        Recommender.load(tmp_path / "new")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(5), r"content: expected real numbers of shape \[n, d\], found .* \(5,\)"),
        (np.array([["a"]]), "content: expected real numbers"),
        (np.ones((N + 1, 3)), f"content: expected {N} rows, one an item, found {N + 1}"),
        (np.where(np.eye(N) > 0, np.nan, 1), "content: row 0 has NaN or infinity"),
        (
            np.ones((N, 2)) * (np.arange(N) != 7)[:, None],
            r"content: item 7 has none \(row 7 is all zeros",
        ),
        (None, "content: expected a matrix when id_embedding is off"),
    ],
)
def test_bad_content_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Recommender(NxtPostConfig(), content, num_items=N)


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
        ([[1, N]], 2, f"histories: expected item ids of the catalogue, found {N}"),
        ([[1], []], 2, "histories: number 1 is empty"),
        ([1, 2], 2, "histories: expected a list of item ids per user, found 1 as number 0"),
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
    with pytest.raises(ValueError, match="expected Sequences with times"):
        recommender.recommend([[1, 2]], 2)
    assert recommender.recommend(timed, 2).ids.shape == (8, 2)


def test_nothing_works_before_fit():
    with pytest.raises(ValueError, match="expected a fitted one"):
        Recommender(TINY, num_items=N).recommend([[1]], 1)


def test_unknown_training_items_are_refused():
    with pytest.raises(ValueError, match=r"sequences: expected item ids in \[0, 5\), found"):
        Recommender(TINY, num_items=5).fit(cycles(), epochs=1)


def test_unordered_training_events_are_refused():
    with pytest.raises(ValueError, match="sequences: expected the oldest event first"):
        Recommender(TINY, num_items=5).fit(Sequences([1, 2], [0, 2], times=[2.0, 1]), epochs=1)


def test_the_objective_is_what_is_trained():
    """Other losses find the pattern too; `num_negatives` beside an objective is refused."""
    recommender = Recommender(TINY, num_items=N, tx=FAST)
    objective = Objective(negatives="mixed", num_negatives=16, logq=True)
    recommender.fit(cycles(), epochs=20, batch_size=32, objective=objective)
    assert recommender.recommend([[3, 4, 5]], 1).ids.tolist() == [[6]]
    with pytest.raises(ValueError, match="num_negatives: expected it within the objective"):
        recommender.fit(cycles(), epochs=1, objective=objective, num_negatives=4)


@pytest.fixture(scope="module")
def by_content():
    """Content that places the items on a circle, and a model that walks round it."""
    recommender = Recommender(TINY, circle(np.arange(N)), tx=FAST)
    recommender.fit(cycles(), epochs=8, batch_size=32, num_negatives=16)
    return recommender


def circle(places):
    angles = 2 * np.pi * np.asarray(places, float) / N
    return np.stack([f(w * angles) for w in (1, 2, 3) for f in (np.cos, np.sin)], axis=1)


def answers(recommender, histories=([0, 1, 2], [9, 10], [20, 21, 22])):
    return recommender.recommend(list(histories), 5)


def test_adding_and_removing_items_undo_each_other(by_content):
    before = answers(by_content)
    ids = by_content.add_items(circle([2.5, 11.2, 7.7]))
    assert ids.tolist() == list(range(N, N + 3))
    assert np.isin(answers(by_content).ids, ids).any()
    by_content.remove_items(ids)
    for a, b in zip(before, answers(by_content)):
        np.testing.assert_array_equal(a, b)
    by_content.remove_items([3, 11])
    assert not np.isin(answers(by_content).ids, [3, 11]).any()
    by_content.add_items(ids=[11, 3])
    for a, b in zip(before, answers(by_content)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_an_added_item_is_its_content(by_content):
    """Of two items of equal content only the trained one has an id vector."""
    (new,) = by_content.add_items(circle([5]))
    params = jax.tree.map(np.asarray, by_content.params)
    params["post_tower"]["id_embedding"] = np.zeros_like(params["post_tower"]["id_embedding"])
    vectors = scoring.encode_catalogue(by_content.model, params, by_content.content)
    slots = by_content.catalogue.slots("ids", [new, 5])
    added, trained = np.asarray(by_content.catalogue.vectors)[slots]
    np.testing.assert_allclose(added, vectors[5], atol=1e-6)
    assert np.abs(added - trained).max() > 1e-3
    by_content.remove_items([new])


def test_items_come_and_go_without_a_retrace(by_content):
    answers(by_content)
    by_content.remove_items(by_content.add_items(circle([1])))
    traced = scoring.top_items._cache_size(), scoring.nearest_items._cache_size()
    for _ in range(3):
        ids = by_content.add_items(circle([1.5]))
        answers(by_content)
        by_content.remove_items(ids)
        answers(by_content)
    assert (scoring.top_items._cache_size(), scoring.nearest_items._cache_size()) == traced


def test_removed_filtered_and_seen_items_never_come_back(by_content):
    rng = np.random.default_rng(0)
    removed = by_content.add_items(circle([3.3]))
    by_content.remove_items(removed)
    for _ in range(10):
        histories = [rng.integers(0, N, rng.integers(1, 6)) for _ in range(3)]
        filter = rng.random(N) < 0.6
        items = rng.choice(N, 12, replace=False)
        ids, cosines = by_content.recommend(histories, 8, filter=filter, items=items)
        assert ((ids == PAD) == np.isneginf(cosines)).all()
        for row, history in zip(ids, histories):
            allowed = set(np.flatnonzero(filter)) & set(items) - set(history)
            found = set(row) - {PAD}
            assert found <= allowed
            assert len(found) == min(len(allowed), 8)
            assert not found & set(removed)
        vectors = by_content.embed_users(histories)
        stored = by_content.search(vectors, 8, seen=histories, filter=filter, items=items)
        np.testing.assert_array_equal(stored.ids, ids)
        np.testing.assert_allclose(stored.scores, cosines, atol=1e-6)


def test_a_removed_item_is_left_out_of_histories(by_content):
    by_content.remove_items([4])
    with_it, without = by_content.embed_users([[2, 4, 3], [2, 3]])
    np.testing.assert_allclose(with_it, without, atol=1e-6)
    with pytest.raises(ValueError, match="histories: number 0 is empty"):
        by_content.recommend([[4]], 2)
    by_content.add_items(ids=[4])
    with_it, _ = by_content.embed_users([[2, 4, 3], [2, 3]])
    assert np.abs(with_it - without).max() > 1e-3


def test_similar_items_are_the_nearest(by_content):
    ids, cosines = by_content.similar_items([6, 23], 3)
    vectors = np.asarray(by_content.catalogue.vectors)[by_content.catalogue.slots("ids", range(N))]
    for row, item in enumerate((6, 23)):
        scores = vectors @ vectors[item]
        scores[item] = -np.inf
        assert ids[row].tolist() == np.argsort(-scores)[:3].tolist()
        np.testing.assert_allclose(cosines[row], np.sort(scores)[::-1][:3], atol=1e-6)


def test_evaluation_follows_the_catalogue(by_content):
    queries = leave_one_out(cycles(9)).test
    plain = by_content.evaluate(queries, bootstrap=0)
    ids = by_content.add_items(circle([30.5, 31.5]))
    by_content.remove_items([1])
    now = by_content.evaluate(queries, bootstrap=0, coverage=True, popularity=np.arange(N))
    counts = np.arange(N) + 1.0
    weights = 1 / np.sqrt(counts[queries.targets])
    gains = np.where(now.ranks <= 10, 1 / np.log2(now.ranks + 1), 0)
    assert now["debiased_ndcg@10"] == pytest.approx(weights @ gains / weights.sum())
    for row, target in enumerate(queries.targets):
        order, _ = by_content.recommend([queries.histories[row]], len(by_content.catalogue))
        assert now.ranks[row] == order[0].tolist().index(target) + 1
    only = by_content.evaluate(queries, bootstrap=0, candidates=np.unique(queries.targets))
    assert (only.ranks <= now.ranks).all() and only.ranks.max() <= len(np.unique(queries.targets))
    by_content.add_items(ids=[1])
    by_content.remove_items(ids)
    after = by_content.evaluate(queries, bootstrap=0)
    np.testing.assert_array_equal(after.ranks, plain.ranks)


def test_what_was_removed_before_fit_is_trained_on_by_nobody():
    """Items that occur only in refused events stay where they were drawn, at zero."""
    recommender = Recommender(
        TINY, circle(np.arange(N)), tx=FAST, event_filter=lambda s: s.items != 5
    )
    recommender.remove_items([9])
    recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    table = np.asarray(recommender.params["post_tower"]["id_embedding"])
    untrained = np.flatnonzero(~table.any(axis=1))
    assert untrained.tolist() == [5, 9]
    ids, _ = recommender.recommend([[7, 8]], N - 1, exclude_seen=False)
    assert sorted(ids[0]) == sorted(set(range(N)) - {9})
    same = recommender.embed_users([[7, 5, 8], [7, 9, 8], [7, 8]])
    np.testing.assert_allclose(same, same[[2, 2, 2]], atol=1e-6)


def test_a_backfill_serves_users_without_events(by_content):
    def backfill(histories):
        assert histories.lengths.tolist() == [0]
        return Sequences([3, 4], [0, 2])

    by_content.backfill = backfill
    ids, cosines = by_content.recommend([[]], 4)
    by_content.backfill = None
    expected = by_content.recommend([[3, 4]], 4, exclude_seen=False)
    np.testing.assert_array_equal(ids, expected.ids)
    np.testing.assert_array_equal(cosines, expected.scores)


def test_a_path_is_content_of_a_channel_too(tmp_path):
    np.save(tmp_path / "text.npy", drawn_content("vectors"))
    channels = {"text": tmp_path / "text.npy", "video": drawn_content("vectors", seed=1)}
    assert Recommender(TINY, channels).num_items == N


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.add_items(np.ones((2, 5))), r"content: expected one item's as content \[\[6"),
        (lambda r: r.add_items(np.full((1, 6), np.nan)), "content: row 0 has NaN or infinity"),
        (lambda r: r.add_items(np.zeros((1, 6))), "content: item 0 has none"),
        (lambda r: r.add_items({"text": np.ones((1, 6))}), "content: expected one item's as"),
        (lambda r: r.add_items(np.ones((1, 6)), [3]), "ids: expected new ones, found 3"),
        (lambda r: r.add_items(np.ones((2, 6)), [50, 50]), "ids: expected each once, found 50"),
        (lambda r: r.add_items(ids=[3]), "ids: expected removed items of the start .* found 3"),
        (lambda r: r.add_items(), "ids: expected removed items of the start .* found none"),
        (lambda r: r.remove_items([77]), "ids: expected item ids of the catalogue, found 77"),
        (lambda r: r.similar_items([77], 2), "ids: expected item ids of the catalogue, found 77"),
        (lambda r: r.similar_items([7], N), f"k: expected 1 to {N - 1}"),
        (lambda r: r.recommend([[1]], 2, items=[77]), "items: expected item ids of the catalogue"),
        (lambda r: r.recommend([[1]], 2, filter=[1]), r"filter: expected bool\[n\], found int64"),
        (
            lambda r: r.recommend([[1]], 2, filter=np.ones(N - 1, bool)),
            rf"filter: expected bool\[M\] with M above {N - 1}, the highest id, found {N - 1}",
        ),
        (lambda r: r.search(np.ones((2, 3)), 2), r"vectors: expected shape \[B, 16\], found"),
        (lambda r: r.search(np.full((1, 16), np.nan), 2), "vectors: expected finite numbers"),
        (lambda r: r.search(np.ones((1, 16)), 2, seen=[[1], [2]]), "seen: expected 1 histories"),
        (lambda r: r.search(np.ones((1, 16)), 2, seen=[[77]]), "seen: expected item ids of the"),
        (
            lambda r: r.evaluate(leave_one_out(cycles(9)).test, candidates=[77]),
            "candidates: expected item ids of the catalogue, found 77",
        ),
    ],
)
def test_a_refused_call_changes_nothing(by_content, call, message):
    before = answers(by_content)
    with pytest.raises(ValueError, match=message):
        call(by_content)
    for a, b in zip(before, answers(by_content)):
        np.testing.assert_array_equal(a, b)


def test_items_known_by_id_cannot_be_added(fitted):
    with pytest.raises(ValueError, match="content: expected None where items are known by id"):
        fitted.add_items(np.ones((1, 3)))


def test_fit_refuses_a_catalogue_with_added_items():
    recommender = Recommender(TINY, circle(np.arange(N)), tx=FAST)
    recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    recommender.remove_items([2, 3])
    recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    assert not np.isin(recommender.recommend([[0, 1]], 5).ids, [2, 3]).any()
    recommender.add_items(circle([1.5]))
    with pytest.raises(ValueError, match=f"expected no added items at fit, found {N}"):
        recommender.fit(cycles(), epochs=1)
    assert len(answers(recommender).ids) == 3


def test_an_item_of_which_nothing_is_known_is_never_found():
    """Item 7 has no content and no training event, 8 has an id vector, 9 has content."""
    content = circle(np.arange(N))
    content[[7, 8]] = 0
    walks = cycles()
    keep = ~np.isin(walks.items, [7, 9])
    users = np.repeat(np.arange(len(walks)), walks.lengths)[keep]
    recommender = Recommender(TINY, content, tx=FAST)
    recommender.fit(
        Sequences.from_events(users, walks.items[keep]), epochs=1, batch_size=32, num_negatives=16
    )
    ids, cosines = recommender.recommend([[1, 2]], N, exclude_seen=False)
    assert sorted(ids[0]) == [PAD, *(item for item in range(N) if item != 7)]
    assert (cosines[0] < 0).any()  # a score of zero would have beaten these
    queries = Queries(Sequences.from_events([0, 0], [1, 2]), [7], [0])
    assert recommender.evaluate(queries, seen_filter=False, bootstrap=0).ranks.tolist() == [N]


def test_an_empty_validation_history_is_refused_before_training():
    queries = Queries(Sequences(np.zeros(0), [0, 0]), [7], [0])
    records = []
    with pytest.raises(ValueError, match="validation: number 0 is empty"):
        Recommender(TINY, num_items=N).fit(
            cycles(), epochs=1, validation=queries, log=records.append
        )
    assert not records
