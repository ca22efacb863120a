import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.programs import nearest

D = 3


def drawn(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def found(catalogue, k=None):
    """All items by a search, best first."""
    left_out = np.full((1, 1), PAD)
    k = catalogue.num_slots if k is None else k
    size = min(k, catalogue.num_slots)
    slots, _ = nearest(drawn(1, 9), catalogue.items, left_out_BxE=left_out, k=size)
    ids = catalogue.ids_of(slots)[0]
    return ids[ids != PAD].tolist()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 20), max_size=6)), max_size=8),
    st.sampled_from([0, 4]),
)
def test_any_adding_and_removing_leaves_what_a_dictionary_holds(calls, recent):
    expected = dict(enumerate(drawn(4)))
    catalogue = Catalogue.of(drawn(4), capacity=5, recent=recent)
    gone = set()
    for number, (add, ids) in enumerate(calls):
        ids = sorted(ids - set(expected) if add else ids & set(expected))[::-1]
        if add:
            rows = drawn(len(ids), number + 1)
            catalogue = catalogue.add(rows, ids)
            expected |= dict(zip(ids, rows))
            gone -= set(ids)
        else:
            catalogue = catalogue.remove(ids)
            for item in ids:
                del expected[item]
            gone |= set(ids)
        assert len(catalogue) == len(expected)
        assert catalogue.removed.tolist() == sorted(gone)
        ids = np.array(list(expected), int)
        slots = catalogue.slots("ids", ids)
        np.testing.assert_array_equal(catalogue.ids_of(slots), ids)
        if len(ids):
            np.testing.assert_array_equal(
                np.asarray(catalogue.vectors)[slots], list(expected.values())
            )
        query = drawn(1, 9)[0]
        order = sorted(expected, key=lambda item: -float(query @ expected[item]))
        assert found(catalogue) == order


def test_items_come_and_go_without_a_retrace_until_the_capacity_doubles():
    catalogue, traces = Catalogue.of(drawn(4), capacity=8, recent=2), []

    @jax.jit
    def search(items):
        traces.append(tuple(len(part) for part in items))
        return sum(part.sum() for part in items)

    for number in range(6):
        search(catalogue.items)
        catalogue = catalogue.add(drawn(2, number), [100 + number, 200 + number])
        search(catalogue.items)
        catalogue = catalogue.remove([100 + number, 200 + number])
        assert len(catalogue) == 4
    assert traces == [(8, 8, 2, 2)]
    before = found(catalogue)
    catalogue = catalogue.add(drawn(5, 5))
    search(catalogue.items)
    assert traces == [(8, 8, 2, 2), (16, 16, 2, 2)]
    assert [item for item in found(catalogue) if item in before] == before


def test_an_add_copies_the_recent_segment_alone():
    """Until it is full; then its items are in the base, and the next ones have room."""
    catalogue = Catalogue.of(drawn(100), recent=4)
    base, present, recent, _ = catalogue.items
    for number in range(4):
        catalogue = catalogue.add(drawn(1, number))
        assert catalogue.items.vectors_SxD is base and catalogue.items.present_S is present
        assert catalogue.items.recent_RxD.shape == recent.shape
    assert catalogue.slots("ids", [103]) >= len(base)
    catalogue = catalogue.add(drawn(1, 9))
    assert catalogue.items.vectors_SxD is not base
    assert catalogue.items.vectors_SxD.shape == base.shape
    assert (catalogue.slots("ids", [100, 103]) < len(base)).all()
    assert catalogue.slots("ids", [104]) >= len(base)
    assert sorted(found(catalogue)) == list(range(105))


def test_new_ids_follow_all_that_ever_were():
    catalogue = Catalogue.of(drawn(3)).add(drawn(2))
    assert catalogue.sorted_ids.tolist() == [0, 1, 2, 3, 4]
    catalogue = catalogue.remove([4]).add(drawn(1))
    assert catalogue.sorted_ids.tolist() == [0, 1, 2, 3, 5]
    catalogue = catalogue.add(drawn(1), [4]).add(drawn(0))
    assert catalogue.sorted_ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_add_and_remove_are_inverse():
    catalogue = Catalogue.of(drawn(6))
    before = found(catalogue)
    catalogue = catalogue.add(drawn(3, 4), [50, 7, 2_000_000_000])
    catalogue = catalogue.remove([7, 50, 2_000_000_000])
    assert found(catalogue) == before
    catalogue = catalogue.remove([2]).add(drawn(6)[2:3], [2])
    assert found(catalogue) == before


def test_a_catalogue_in_use_never_changes():
    """Arrays that somebody holds outlive any adding, removing and growing."""
    catalogue = Catalogue.of(drawn(10), capacity=11, recent=2).add(drawn(1, 3))
    items, before = catalogue.items, found(catalogue)
    catalogue.remove([3, 10]).add(drawn(1, 1)).add(drawn(2, 5)).add(drawn(40, 2))
    np.testing.assert_array_equal(np.asarray(items.vectors_SxD)[:10], drawn(10))
    np.testing.assert_array_equal(items.recent_RxD, [*drawn(1, 3), [0, 0, 0]])
    assert found(catalogue) == before and len(catalogue) == 11
    with pytest.raises(ValueError, match="read-only"):
        catalogue.ids[0] = 7


def test_a_revision_grows_when_an_item_comes_back():
    catalogue = Catalogue.of(drawn(4))
    same = catalogue.add(drawn(1)).remove([4, 2])
    assert same.revision == catalogue.revision
    assert same.add(drawn(1), [2]).revision == catalogue.revision + 1


def test_a_restored_catalogue_is_the_same_slot_by_slot():
    catalogue = Catalogue.of(drawn(4), capacity=6, recent=2)
    catalogue = catalogue.remove([1, 3]).add(drawn(1, 2), [30])
    kept = {name: getattr(catalogue, name) for name in ("vectors", "ids", "removed")}
    copy = Catalogue.restore(**kept, recent=2)
    for name in ("vectors", "ids", "removed", "sorted_ids", "next_id"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(catalogue, name))
    for one, other in zip(copy.items, catalogue.items):
        np.testing.assert_array_equal(one, other)
    assert copy.slots("ids", [30, 0]).tolist() == catalogue.slots("ids", [30, 0]).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.add(drawn(1), [2]), "ids: expected new ones, found 2 in the catalogue"),
        (lambda c: c.add(drawn(2), [8, 8]), "ids: expected each once, found 8 repeated"),
        (lambda c: c.add(drawn(2), [8]), "ids: expected 2, one per item, found 1"),
        (lambda c: c.add(drawn(9)[:, :2]), r"vectors: expected shape \[m, 3\], found \[9, 2\]"),
        (lambda c: c.add(drawn(1), [-1]), "ids: expected whole numbers from 0 .* found -1"),
        (lambda c: c.add(drawn(1), [2**31]), "ids: expected whole numbers from 0 .* found 2147"),
        (lambda c: c.add(drawn(1), ["a"]), "ids: expected whole numbers .* found 'a'"),
        (lambda c: c.remove([0, 9]), "ids: expected item ids of the catalogue, found 9"),
        (lambda c: c.remove([0, 0]), "ids: expected each once, found 0 repeated"),
        (lambda c: Catalogue.of(drawn(2), [1]), "ids: expected 2, one per vector, found 1"),
        (lambda c: Catalogue.of(drawn(2), capacity=1), "capacity: expected at least 2, found 1"),
    ],
)
def test_a_refused_call_changes_nothing(call, message):
    catalogue = Catalogue.of(drawn(4), capacity=5, recent=0)
    before, vectors = found(catalogue), np.asarray(catalogue.vectors)
    with pytest.raises(ValueError, match=message):
        call(catalogue)
    assert found(catalogue) == before
    assert len(catalogue.ids) == 5
    np.testing.assert_array_equal(catalogue.vectors, vectors)
    assert not len(catalogue.removed)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_by_id_come_to_their_slots(count):
    """Ids beyond the values have none, nor have free slots."""
    catalogue = Catalogue.of(drawn(3), capacity=5, recent=2).remove([0])
    values = np.arange(10, 10 + count)
    expected = [values[item] if 0 <= item < count else 0 for item in catalogue.ids]
    np.testing.assert_array_equal(catalogue.by_slot(values), expected)


def test_a_base_that_is_just_full_does_not_double():
    catalogue = Catalogue.of(drawn(3), capacity=5, recent=0).add(drawn(2))
    assert catalogue.num_slots == 5
    assert catalogue.add(drawn(1)).num_slots == 10
    assert Catalogue.of(drawn(1), capacity=1, recent=0).num_slots == 1


@pytest.mark.parametrize("count, recent", [(3, 64), (2000, 128), (40_000, 1024)])
def test_the_recent_segment_is_a_sixteenth_within_bounds(count, recent):
    assert len(Catalogue.of(drawn(count)).recent.ids) == recent
