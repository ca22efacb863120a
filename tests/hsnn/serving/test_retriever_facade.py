"""What the facade takes and refuses, what it answers, and what is on disk."""

import os

import jax
import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax import folder as folder_files
from hsnn_jax.monn.scorers import mol
from hsnn_jax.serving import artefact
from hsnn_jax.serving.request import default_budget
from tests.hsnn.planted import same_answers
from tests.hsnn.serving.test_retriever import ALL, CONFIG, IDS, built, data


def test_an_answer_is_two_things_and_knows_more():
    _, users, _ = data()
    for batch in (users[:1], users[:2], users):
        answer = built().search(batch, 3, budget=60)
        ids, scores = answer
        assert ids is answer.ids and scores is answer.scores
        assert (
            answer.items_scored.shape
            == answer.flops.shape
            == answer.unseen.shape
            == batch.shape[:1]
        )


def test_pairs_are_of_real_items():
    _, users, _ = data()
    answer = built().search(users, 5, allowed=IDS[:2])
    assert answer.ids.shape == (40, 5)
    pairs = answer.pairs(7)
    assert [i for i, _ in pairs] == answer.ids[7, :2].tolist()
    assert [s for _, s in pairs] == answer.scores[7, :2].tolist()
    assert all(type(i) is int and type(s) is float for i, s in pairs)


def test_without_a_budget_a_part_of_the_items_is_scored():
    retriever = built()
    _, users, _ = data()
    assert default_budget(120, 5) == 110
    answer = retriever.search(users, 5)
    assert (answer.items_scored <= 110).all()
    assert (answer.items_scored + answer.unseen == 120).all()
    assert default_budget(100_000, 10) == 3163
    assert default_budget(100, 90) == 900


@pytest.mark.parametrize("budget", [1, 7, np.r_[np.ones(20, int), np.full(20, 90)]])
def test_a_budget_below_a_list_buys_the_best_list(budget):
    retriever = built()
    _, users, _ = data()
    answer = retriever.search(users, 3, budget=budget)
    best = np.argmax(users @ np.asarray(retriever.index.nodes).T, axis=1)
    first = np.asarray(retriever.index.counts)[best]
    few = np.broadcast_to(budget, 40) < 20
    np.testing.assert_array_equal(answer.items_scored[few], first[few])
    assert (answer.items_scored[~few] > first[~few]).all()


def test_whatever_cannot_be_filled_is_padded():
    _, users, _ = data()
    retriever = built()
    exclude = np.tile(IDS[3:], (40, 1))
    for answer in (
        retriever.search(users, 10, allowed=IDS[:3]),
        retriever.search(users, 10, exclude=exclude),
        retriever.search(users, 10, budget=ALL, exclude=exclude),
    ):
        np.testing.assert_array_equal((answer.ids >= 0).sum(axis=1), 3)
        assert (np.sort(answer.ids[:, :3], axis=1) == np.sort(IDS[:3])).all()
        assert (answer.scores[:, 3:] == -np.inf).all()
    whole = retriever.search(users, 130, budget=ALL)
    assert whole.ids.shape == whole.scores.shape == (40, 130)
    assert ((whole.ids >= 0).sum(axis=1) == 120).all()


def against(users, items, count):
    """The items that the first user likes least."""
    return np.argsort(users[0] @ items.T)[:count]


@pytest.mark.parametrize("which", ["any", "those that the user likes least"])
def test_a_filter_that_the_budget_holds_is_searched_exactly(which):
    items, users, _ = data()
    rows = np.arange(3, 120, 7) if which == "any" else against(users, items, 17)
    exclude = np.tile(IDS[rows[:2]], (40, 1))
    answer = built().search(users, 10, budget=17, allowed=IDS[rows], exclude=exclude)
    left = rows[2:]
    best = left[np.argsort(-(users @ items[left].T), axis=1)[:, :10]]
    np.testing.assert_array_equal(answer.ids, IDS[best])
    np.testing.assert_array_equal(answer.items_scored, 17)
    np.testing.assert_array_equal(answer.nodes_scored, 0)
    np.testing.assert_array_equal(answer.unseen, 0)


def test_an_answer_bounds_what_it_may_have_missed():
    items, users, _ = data()
    retriever, rows = built(), np.arange(0, 120, 2)
    exact = rows[np.argsort(-(users @ items[rows].T), axis=1)[:, :10]]
    missed = []
    for budget in (9, 30, 59, 60):
        answer = retriever.search(users, 10, budget=budget, allowed=IDS[rows])
        found = (IDS[exact][:, :, None] == answer.ids[:, None, :]).any(axis=2)
        missed.append((~found).sum(axis=1))
        assert (missed[-1] <= answer.unseen).all()
    assert (missed[0] > 0).any()
    assert not missed[-1].any()
    assert not answer.unseen.any()


def test_no_users_get_no_answers():
    answer = built().search(np.zeros((0, 8)), 4)
    assert answer.ids.shape == answer.scores.shape == (0, 4)
    assert answer.items_scored.shape == (0,)
    with pytest.raises(ValueError, match=r"users: expected shape \[rows, 8\], found \[0, 7\]"):
        built().search(np.zeros((0, 7)), 4)


@pytest.mark.long
def test_nodes_by_default_follow_the_number_of_items():
    items, users, _ = data()
    for rows, nodes in ((1, 1), (10, 7), (120, 22)):
        retriever = Retriever(LTIConfig(kmeans_iterations=3))
        assert retriever.build_index(items[:rows])["nodes"] == nodes
        assert retriever.search(users, 1).ids.shape == (40, 1)
    mesh = jax.make_mesh((4,), ("lists",))
    retriever = Retriever(LTIConfig(kmeans_iterations=3), mesh=mesh)
    assert retriever.build_index(items)["nodes"] == 24


def test_numbers_of_any_type_are_vectors():
    items, users, _ = data()
    whole = np.round(20 * items).astype(np.int8)
    answers = []
    for given in (whole, whole.astype(np.float32), whole.astype(np.float16), whole.tolist()):
        retriever = Retriever(CONFIG)
        retriever.build_index(given)
        answers.append(retriever.search(np.round(20 * users).astype(np.int8), 3))
    for other in answers[1:]:
        same_answers(answers[0], other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(item_ids=np.r_[IDS[:-1], IDS[0]]), f"item_ids: expected distinct .* {IDS[0]} twice"),
        (dict(item_ids=IDS[:5]), r"item_ids: expected shape \[120\], found \[5\]"),
        (dict(item_ids=IDS - 2000), "item_ids: expected ids >= 0, found -1000"),
        (dict(item_ids=IDS / 2), "item_ids: expected integers, found dtype float64, .* 916.5"),
        (
            dict(item_ids=[[i] for i in IDS.tolist()]),
            "item_ids: expected hashable ids, found",
        ),
        (dict(item_ids=[None, *IDS[1:]]), "item_ids: expected ids, found None"),
        (dict(item_ids=["a", "a", *IDS[2:]]), "item_ids: expected distinct ids, found 'a' twice"),
        (dict(item_ids=["a", 2**63, *IDS[2:]]), "item_ids: expected integers below 2.63, found 9"),
        (dict(item_ids=IDS.astype(np.uint64) + 2**63), "item_ids: expected integers below 2"),
        (dict(seed=jax.random.key(0)), "seed: expected an integer from 0 to .*, found Array"),
        (dict(seed=-1), "seed: expected an integer from 0 to .*, found -1"),
    ],
)
def test_bad_build(options, message):
    items, _, _ = data()
    with pytest.raises(ValueError, match=message):
        Retriever(CONFIG).build_index(items, **options)


def test_more_nodes_than_items_are_refused_by_name():
    items, _, _ = data()
    for nodes in (64, (2, 64)):
        message = "num_nodes: expected at most 10, the number of items, found 64"
        with pytest.raises(ValueError, match=message):
            Retriever(LTIConfig(num_nodes=nodes)).build_index(items[:10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(users=np.zeros((40, 7))), r"users: expected shape \[rows, 8\], found \[40, 7\]"),
        (dict(users=np.zeros(8)), r"users: expected shape .* found \[8\]; a single vector is vec"),
        (dict(users=[["a"] * 8]), "users: expected numbers, found dtype <U1"),
        (dict(k=0), "k: expected an integer >= 1, found 0"),
        (dict(k=2.0), "k: expected an integer >= 1, found 2.0"),
        (dict(budget=0), "budget: expected numbers >= 1, found 0"),
        (dict(budget=0.05), "budget: expected integers, found dtype float64, such as 0.05"),
        (dict(budget=[9, 9]), r"budget: expected a number or shape \[40\], found shape \[2\]"),
        (dict(budget=(9, 9)), "budget: expected 1 entries, one per level of nodes, found 2"),
        (dict(allowed=np.ones(120, bool)), "allowed: expected integers, found dtype bool"),
        (dict(allowed=[[1]]), r"allowed: expected ids of shape \[m\] or \[40, m\], found \[1, 1\]"),
        (dict(exclude=[1]), r"exclude: expected shape \[40, E\], one row per user, found \[1\]"),
        (dict(exclude=np.full((40, 1), "a")), "exclude: expected integers, found dtype <U1"),
    ],
)
def test_bad_search(change, message):
    _, users, _ = data()
    arguments = dict(users=users, k=2) | change
    with pytest.raises(ValueError, match=message):
        built().search(arguments.pop("users"), arguments.pop("k"), **arguments)


def test_a_search_needs_an_index():
    with pytest.raises(ValueError, match="index: expected one, from build_index or load"):
        Retriever(CONFIG).search(np.zeros((1, 8)), 2)


def test_load_refuses_other_scorers_and_folders(tmp_path):
    path = tmp_path / "retriever"
    built().save(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["retriever"]
    with pytest.raises(ValueError, match=r"scorer: expected 'dot', .* found 'mol'"):
        Retriever.load(path, scorer=mol)
    with pytest.raises(ValueError, match="expected the header of a retriever, found: No such file"):
        Retriever.load(tmp_path / "other")
    with pytest.raises(ValueError, match="expected the header of a retriever, found: Not a dir"):
        Retriever.load(path / "arrays.npz")
    (path / "retriever.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match=r"expected format 'hsnn_jax.retriever/12', found 'other'"):
        Retriever.load(path)


def contents(folder):
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_a_save_that_fails_leaves_the_older_folder(tmp_path, monkeypatch):
    path = tmp_path / "retriever"
    built().save(path)
    before = contents(path)
    with pytest.raises(ValueError, match="params: expected nested dicts with plain string keys"):
        built(params={"a/b": np.ones(2)}).save(path)
    other = built()
    other.remove(IDS[:5])
    for stage in ("_json", "_take_place"):
        with monkeypatch.context() as context:
            context.setattr(folder_files, stage, lambda *arguments, **options: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                other.save(path)
        assert contents(path) == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["retriever"]
    rename = os.rename

    def fail_to_take_place(source, target):
        if target == path and source.name == "new":
            raise OSError("no")
        rename(source, target)

    with monkeypatch.context() as context:
        context.setattr(os, "rename", fail_to_take_place)
        with pytest.raises(OSError, match="no"):
            other.save(path)
    assert contents(path) == before
    other.save(path)
    assert Retriever.load(path).stats()["items"] == 115


def damaged(whole, rng):
    """Damaged versions of a file: cut off, with another bit, longer, empty, gone."""
    for size in rng.integers(0, len(whole), 40):
        yield whole[:size]
    for place in rng.integers(0, len(whole), 200):
        yield whole[:place] + bytes([whole[place] ^ 1 << rng.integers(8)]) + whole[place + 1 :]
    yield whole + b"x"
    yield whole + b"\n"
    yield b""
    yield None


@pytest.mark.parametrize("name", ["arrays.npz", "retriever.json"])
def test_a_damaged_folder_raises_a_value_error(tmp_path, name):
    retriever, path = built(), tmp_path / "retriever"
    retriever.save(path)
    file = path / name
    whole = file.read_bytes()
    for version in damaged(whole, np.random.default_rng(0)):
        file.unlink(missing_ok=True)
        if version is not None:
            file.write_bytes(version)
        with pytest.raises(ValueError, match=f"{name}: expected .*, found"):
            artefact.read(path)
    file.write_bytes(whole)
    np.testing.assert_array_equal(artefact.read(path).item_ids, retriever.ids)


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="path: expected a new folder or a saved retriever"):
            built().save(path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_filter_is_exact_for_each_user_whose_budget_holds_it():
    items, users, _ = data()
    rows = against(users, items, 17)
    budget = np.where(np.arange(40) % 2, 17, 16)
    answer = built().search(users, 10, budget=budget, allowed=IDS[rows])
    best = rows[np.argsort(-(users @ items[rows].T), axis=1)[:, :10]]
    held = budget == 17
    np.testing.assert_array_equal(answer.ids[held], IDS[best][held])
    assert not answer.unseen[held].any() and answer.unseen[~held].any()
    assert (answer.nodes_scored == np.where(held, 0, 8)).all()
