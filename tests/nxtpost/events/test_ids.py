import sys
import threading
import uuid

import numpy as np
import pytest

from nxtpost_jax.events.ids import OwnIds, flat_ids
from nxtpost_jax.events.sequences import PAD

U1, U2 = uuid.UUID(int=1), uuid.UUID(int=2)
KINDS = {
    "numbers": [2**62, 7, -5, 2**62, 0],
    "texts": ["b", "a", "ß\0", "b", "007"],
    "others": [U1, 5, "5", U1, 2**70],
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_numbered_as_they_come_and_named_back(kind):
    values = KINDS[kind]
    ids = OwnIds()
    assert ids.add("item", values).tolist() == [0, 1, 2, 0, 3]
    assert (ids.kind, len(ids)) == (kind, 4)
    assert ids.codes("item", values[::-1]).tolist() == [3, 0, 2, 1, 0]
    named = ids.take(np.array([[3, 0], [2, PAD]]))
    blank = {"numbers": -1, "texts": "", "others": None}[kind]
    assert named.tolist() == [[values[4], values[0]], [values[2], blank]]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_survive_as_plain_arrays(kind, tmp_path):
    ids = OwnIds()
    ids.add("item", KINDS[kind])
    np.savez(tmp_path / "ids.npz", **ids.stored())
    with np.load(tmp_path / "ids.npz", allow_pickle=False) as arrays:
        restored = OwnIds.restore(dict(arrays))
    assert restored.kind == kind and len(restored) == 4
    order = np.arange(4)
    assert restored.take(order).tolist() == ids.take(order).tolist()
    assert restored.add("item", KINDS[kind][:2]).tolist() == [0, 1]


def test_ids_that_a_folder_cannot_hold_are_refused():
    ids = OwnIds()
    ids.add("item", [("a", 1), ("a", 2)])  # of one length: numpy would make a matrix
    assert ids.codes("item", [("a", 2)]).tolist() == [1]
    with pytest.raises(ValueError, match=r"ids: expected whole numbers, .* found \('a', 1\)"):
        ids.stored()


def test_numbers_and_texts_are_not_mistaken_for_one_another():
    numbers, texts = OwnIds(), OwnIds()
    numbers.add("item", np.array([7.0, 8.0]))  # pandas makes floats of whole numbers
    texts.add("item", np.array(["7", "8"]))
    assert numbers.codes("item", ["7"]).tolist() == [PAD]
    assert numbers.codes("item", [7, np.int32(8), 9]).tolist() == [0, 1, PAD]
    assert texts.codes("item", [7]).tolist() == [PAD]
    assert texts.codes("item", np.array(["8", "9"], object)).tolist() == [1, PAD]
    with pytest.raises(ValueError, match="item: expected numbers as the other ids, found '7'"):
        numbers.add("item", ["7"])
    assert len(numbers) == 2
    assert flat_ids("item", np.array([2**64 - 1], np.uint64))[1].tolist() == [2**64 - 1]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([3, -1], "-1 in row 1"),
        (["a", ""], "'' in row 1"),
        ([U1, None], "None in row 1"),
        (["a", float("nan")], "nan in row 1"),
        (np.array([1.0, np.nan]), "nan"),
        ([1.5], "1.5"),
        ([True], "True"),
        (np.array([True]), "True"),
        (np.array(["2023"], "M8[Y]"), "datetime"),
        ([[1, 2], [3]], "a list"),
        ([[1, 2], [3, 4]], "a list"),
        (np.zeros((2, 2)), r"shape \[2, 2\]"),
    ],
)
def test_what_stands_for_no_id_is_refused(values, found):
    with pytest.raises(ValueError, match=f"item: expected .*, found {found}"):
        OwnIds().add("item", values)


def test_numbers_that_come_again_are_one_id():
    events = np.tile(np.arange(1000)[::-1] + 2**40, 3)
    ids = OwnIds()
    codes = ids.add("item", events)
    assert codes.tolist() == list(range(1000)) * 3 and (ids.take(codes) == events).all()


def test_threads_that_add_at_once_number_no_two_ids_alike():
    ids, codes = OwnIds(), {}
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def add(thread):
        own = [f"{thread} {n}" for n in range(60)]
        codes[thread] = [ids.add("item", [item, "shared"]).tolist() for item in own]

    try:
        threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    own = [pair[0] for pairs in codes.values() for pair in pairs]
    assert len(set(own)) == len(own) == len(ids) - 1
    assert len({pair[1] for pairs in codes.values() for pair in pairs}) == 1
    for thread, pairs in codes.items():
        named = ids.take(np.array([pair[0] for pair in pairs]))
        assert named.tolist() == [f"{thread} {n}" for n in range(60)]
