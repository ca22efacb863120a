"""Items that come and go, and those that a request allows or leaves out."""

import jax
import numpy as np
import pytest

from nxtpost_jax.evaluation import scoring
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.events.splits import Queries, leave_one_out
from nxtpost_jax.serving import programs
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.small_recommender import FAST, TINY, N, circle, cycles, drawn, drawn_content


@pytest.fixture(scope="module")
def by_content():
    """Content that places the items on a circle, and a model that walks round it."""
    recommender = Recommender(TINY, circle(np.arange(N)), tx=FAST)
    recommender.fit(cycles(), epochs=8, batch_size=32, num_negatives=16)
    return recommender


def answers(recommender, histories=([0, 1, 2], [9, 10], [20, 21, 22])):
    return recommender.recommend(list(histories), 5)


def test_adding_and_removing_items_undo_each_other(by_content):
    before = answers(by_content)
    ids = by_content.add(circle([2.5, 11.2, 7.7]))
    assert ids.tolist() == list(range(N, N + 3))
    assert np.isin(answers(by_content).ids, ids).any()
    by_content.remove(ids)
    for a, b in zip(before, answers(by_content)):
        np.testing.assert_array_equal(a, b)
    by_content.remove([3, 11])
    assert not np.isin(answers(by_content).ids, [3, 11]).any()
    by_content.add(ids=[11, 3])
    for a, b in zip(before, answers(by_content)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_an_added_item_is_its_content(by_content):
    """Of two items of equal content only the trained one has an id vector."""
    (new,) = by_content.add(circle([5]))
    params = jax.tree.map(np.asarray, by_content.params)
    params["post_tower"]["id_embedding"] = np.zeros_like(params["post_tower"]["id_embedding"])
    vectors = scoring.encode_catalogue(by_content.model, params, content=by_content.content)
    slots = by_content.catalogue.slots("ids", [new, 5])
    added, trained = np.asarray(by_content.catalogue.vectors)[slots]
    np.testing.assert_allclose(added, vectors[5], atol=1e-6)
    assert np.abs(added - trained).max() > 1e-3
    by_content.remove([new])


def test_items_come_and_go_without_a_retrace(by_content):
    answers(by_content)
    by_content.remove(by_content.add(circle([1])))
    traced = programs.encoded_users._cache_size(), programs.nearest._cache_size()
    for _ in range(3):
        ids = by_content.add(circle([1.5]))
        answers(by_content)
        by_content.remove(ids)
        answers(by_content)
    assert (programs.encoded_users._cache_size(), programs.nearest._cache_size()) == traced


def test_removed_excluded_and_seen_items_never_come_back(by_content):
    rng = np.random.default_rng(0)
    removed = by_content.add(circle([3.3]))
    by_content.remove(removed)
    for _ in range(10):
        histories = [rng.integers(0, N, rng.integers(1, 6)) for _ in range(3)]
        own = np.where(rng.random((3, 5)) < 0.4, PAD, rng.integers(0, N, (3, 5)))
        items = rng.choice(N, 12, replace=False)
        # A removed item may be named anywhere.
        options = {"allowed": [*items, *removed], "exclude": np.c_[own, [*removed] * 3]}
        ids, cosines = by_content.recommend(histories, 8, **options)
        assert ((ids == PAD) == np.isneginf(cosines)).all()
        for row, history, excluded in zip(ids, histories, own):
            allowed = set(items) - set(history) - set(excluded)
            found = set(row) - {PAD}
            assert found <= allowed
            assert len(found) == min(len(allowed), 8)
            assert not found & set(removed)
        vectors = by_content.embed_users(histories)
        both = [[*history, *excluded] for history, excluded in zip(histories, own)]
        stored = by_content.search(vectors, 8, allowed=items, exclude=both)
        np.testing.assert_array_equal(stored.ids, ids)
        np.testing.assert_allclose(stored.scores, cosines, atol=1e-6)


def test_a_removed_item_is_left_out_of_histories(by_content):
    by_content.remove([4])
    with_it, without = by_content.embed_users([[2, 4, 3], [2, 3]])
    np.testing.assert_allclose(with_it, without, atol=1e-6)
    with pytest.raises(
        ValueError,
        match="histories: expected at least one item or a backfill, found none in number 0",
    ):
        by_content.recommend([[4]], 2)
    by_content.add(ids=[4])
    with_it, _ = by_content.embed_users([[2, 4, 3], [2, 3]])
    assert np.abs(with_it - without).max() > 1e-3


def test_similar_items_are_the_nearest(by_content):
    ids, cosines = by_content.similar([6, 23], 3)
    vectors = np.asarray(by_content.catalogue.vectors)[by_content.catalogue.slots("ids", range(N))]
    for row, item in enumerate((6, 23)):
        scores = vectors @ vectors[item]
        scores[item] = -np.inf
        assert ids[row].tolist() == np.argsort(-scores)[:3].tolist()
        np.testing.assert_allclose(cosines[row], np.sort(scores)[::-1][:3], atol=1e-6)


def test_evaluation_follows_the_catalogue(by_content):
    queries = leave_one_out(cycles(9)).test
    plain = by_content.evaluate(queries, bootstrap=0)
    ids = by_content.add(circle([30.5, 31.5]))
    by_content.remove([1])
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
    by_content.add(ids=[1])
    by_content.remove(ids)
    after = by_content.evaluate(queries, bootstrap=0)
    np.testing.assert_array_equal(after.ranks, plain.ranks)


def test_what_was_removed_before_fit_is_trained_on_by_nobody():
    """Items that occur only in refused events stay where they were drawn, at zero."""
    recommender = Recommender(
        TINY, circle(np.arange(N)), tx=FAST, event_filter=lambda s: s.items != 5
    )
    recommender.remove([9])
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
        (lambda r: r.add(np.ones((2, 5))), r"content: expected one item's as content \[\[6"),
        (
            lambda r: r.add(np.full((1, 6), np.nan)),
            "content: expected finite numbers, found NaN or infinity in row 0",
        ),
        (
            lambda r: r.add(np.zeros((1, 6))),
            "content: expected some of every item .* found none of item 0",
        ),
        (lambda r: r.add({"text": np.ones((1, 6))}), "content: expected one item's as"),
        (lambda r: r.add(np.ones((1, 6)), [3]), "ids: expected new ones, found 3"),
        (lambda r: r.add(np.ones((2, 6)), [50, 50]), "ids: expected each once, found 50"),
        (lambda r: r.add(ids=[3]), "ids: expected removed items of the start .* found 3"),
        (lambda r: r.add(), "ids: expected removed items of the start .* found none"),
        (lambda r: r.remove([77]), "ids: expected item ids of the catalogue, found 77"),
        (lambda r: r.similar([77], 2), "ids: expected item ids of the catalogue, found 77"),
        (lambda r: r.similar([7], N), f"k: expected 1 to {N - 1}"),
        (lambda r: r.recommend([[1]], 2, allowed=[77]), "allowed: expected item ids of the cat"),
        (
            lambda r: r.recommend([[1]], 2, allowed=np.ones(N, bool)),
            rf"allowed: expected item ids \(np.flatnonzero makes .*\), found bool\[{N}\]",
        ),
        (lambda r: r.recommend([[1]], 2, allowed=["x"]), "allowed: expected whole .* found 'x'"),
        (lambda r: r.recommend([[1]], 2, exclude=[[77]]), "exclude: expected item ids of the cat"),
        (lambda r: r.recommend([[1]], 2, exclude=[[-2]]), "exclude: expected whole .* found -2"),
        (lambda r: r.recommend([[1]], 2, exclude=[3, [4]]), "exclude: expected a list of item ids"),
        (lambda r: r.search(np.ones((2, 3)), 2), r"vectors: expected shape \[B, 16\], found"),
        (lambda r: r.search(np.full((1, 16), np.nan), 2), "vectors: expected finite numbers"),
        (
            lambda r: r.search(np.ones((1, 16)), 2, exclude=[[1], [2]]),
            "exclude: expected 1 lists, one per query, found 2",
        ),
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


def test_items_known_by_id_cannot_be_added():
    fitted = drawn(TINY, None, num_items=N)
    with pytest.raises(ValueError, match="content: expected None where items are known by id"):
        fitted.add(np.ones((1, 3)))


def test_fit_refuses_a_catalogue_with_added_items():
    recommender = Recommender(TINY, circle(np.arange(N)), tx=FAST)
    recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    recommender.remove([2, 3])
    recommender.fit(cycles(), epochs=1, batch_size=32, num_negatives=16)
    assert not np.isin(recommender.recommend([[0, 1]], 5).ids, [2, 3]).any()
    recommender.add(circle([1.5]))
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
    with pytest.raises(
        ValueError, match="validation: expected at least one item or a backfill, found none"
    ):
        Recommender(TINY, num_items=N).fit(
            cycles(), epochs=1, validation=queries, log=records.append
        )
    assert not records


def test_each_query_may_be_allowed_items_of_its_own(by_content):
    """As if each were asked alone; removed items may be named, and a list may be empty."""
    rng = np.random.default_rng(3)
    removed = by_content.add(circle([3.3]))
    by_content.remove(removed)
    histories = [rng.integers(0, N, 4) for _ in range(3)]
    own = [rng.choice(N, count, replace=False) for count in (9, 4, 12)]
    lists = [[*each, *removed] for each in own]
    out = [[own[0][0]], [], [5, 6]]
    together = by_content.recommend(histories, 6, allowed=lists, exclude=out)
    vectors = by_content.embed_users(histories)
    stored = by_content.search(vectors, 6, allowed=lists)
    padded = np.full((3, 13), PAD)
    for row, each in enumerate(lists):
        padded[row, : len(each)] = each
    for row, history in enumerate(histories):
        alone = by_content.recommend([history], 6, allowed=own[row], exclude=[out[row]])
        np.testing.assert_array_equal(together.ids[row], alone.ids[0])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-6)
        alone = by_content.search(vectors[row : row + 1], 6, allowed=own[row])
        np.testing.assert_array_equal(stored.ids[row], alone.ids[0])
    again = by_content.recommend(histories, 6, allowed=padded, exclude=out)
    np.testing.assert_array_equal(again.ids, together.ids)
    nothing = by_content.recommend(histories, 2, allowed=[[1, 2, 3], [], own[2]])
    assert (nothing.ids[1] == PAD).all() and (nothing.ids[2] != PAD).all()
    with pytest.raises(ValueError, match="allowed: expected 3 lists, one per query, found 2"):
        by_content.recommend(histories, 2, allowed=[[1], [2]])
    with pytest.raises(ValueError, match="allowed: expected item ids of the catalogue, found 99"):
        by_content.recommend(histories, 2, allowed=[[1], [99], [2]])
