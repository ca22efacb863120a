"""Requests of all sizes run few programs, and `warm_up` compiles them before they come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.serving import side
from hsnn_jax.serving.sizes import batch_size, power_of_two, repeated, width
from tests.hsnn.planted import clusters, users_near
from tests.hsnn.serving.test_retriever import model_inputs, modelled

COMPILED = "/jax/core/compile/backend_compile_duration"
ITEMS, _ = clusters(0, items=90, width=8, num_clusters=6, noise=0.6)
USERS, _ = users_near(1, ITEMS, users=40, noise=0.5)


@pytest.fixture
def compilations():
    """What is compiled from here on, one entry each."""
    found, listening = [], [True]

    def listen(event, duration, **_):
        if listening and event == COMPILED:
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    listening.clear()  # listeners are forgotten all at once or not at all


def built():
    retriever = Retriever(LTIConfig(num_nodes=6, kmeans_iterations=3))
    retriever.build_index(ITEMS)
    return retriever


def mixed(seed, largest):
    """Numbers of users, and k, budgets and exclusions of all sizes."""
    rng = np.random.default_rng(seed)
    for _ in range(25):
        count = int(rng.integers(1, largest + 1))
        options = {"k": int(rng.integers(1, 17))}
        if rng.random() < 0.5:
            options["exclude"] = rng.integers(-1, 90, (count, int(rng.integers(0, 17))))
        if rng.random() < 0.7:
            options["budget"] = rng.integers(1, 120, count if rng.random() < 0.5 else ())
        yield count, options


def test_a_warm_retriever_compiles_nothing_for_mixed_requests(compilations):
    retriever = built()
    retriever.warm_up(k=10, batch=range(1, 9), exclude=5)
    warm = len(compilations)
    assert warm > 0  # the event is the right one
    for count, options in mixed(0, 8):
        found = retriever.search(USERS[:count], **options)
        assert found.ids.shape == found.scores.shape == (count, options["k"])
        assert found.items_scored.shape == (count,)
    assert len(compilations) == warm


def test_padding_changes_no_answer():
    retriever = built()
    whole = retriever.search(USERS, 16, budget=60)
    for count, k in ((1, 1), (3, 5), (33, 16)):
        found = retriever.search(USERS[:count], k, budget=60)
        np.testing.assert_array_equal(found.ids, whole.ids[:count, :k])
        np.testing.assert_allclose(found.scores, whole.scores[:count, :k], rtol=1e-5)
        for name in ("items_scored", "unseen", "flops", "nodes_scored"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[:count])
    point = retriever.frontier(USERS[:33], 5, budgets=[60])[0]
    assert point.items_scored == whole.items_scored[:33].mean()


def test_a_model_is_warmed_up_by_a_user(compilations):
    retriever, _ = modelled()
    users, _ = model_inputs(9, 7, 1)
    retriever.warm_up(jax.tree.map(lambda x: x[:2], users), k=3, batch=[1, 7])
    warm = len(compilations)
    for part in (slice(1), slice(5, 6), slice(5), slice(7)):
        retriever.search(jax.tree.map(lambda x, part=part: x[part], users), 4)
    assert len(compilations) == warm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(k=0, batch=1), "k: expected integers >= 1, found 0"),
        (dict(k=1, batch=[]), r"batch: expected integers >= 1, found \[\]"),
        (dict(k=1, batch=[1.5]), r"batch: expected integers >= 1, found \[1.5\]"),
        (dict(k=1, batch=1, exclude=[4, -1]), r"exclude: expected integers >= 0, found \[4, -1\]"),
        (dict(k=1, batch=1, users=np.zeros((0, 8))), "users: expected at least one, found none"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        built().warm_up(options.pop("users", None), **options)


def test_sizes_are_few_and_near():
    sizes = [batch_size(n) for n in range(1, 2000)]
    assert all(n <= size < max(1.5 * n, n + 16) for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) == 18
    assert [width(n) for n in (0, 1, 16, 17, 100)] == [16, 16, 16, 32, 128]
    assert [power_of_two(n) for n in (0, 1, 2, 3, 9)] == [1, 1, 2, 4, 16]
    tree = {"a": jnp.arange(3), "b": np.eye(3)}
    padded = repeated(tree, 5)
    assert padded["a"].tolist() == [0, 1, 2, 2, 2]
    np.testing.assert_array_equal(padded["b"][3:], np.eye(3)[[2, 2]])


def test_a_warm_retriever_compiles_nothing_for_adds_and_merges(compilations, monkeypatch):
    monkeypatch.setattr(side, "SIZE", 8)
    retriever = Retriever(LTIConfig(num_nodes=6, kmeans_iterations=3))
    retriever.build_index(ITEMS, reserve=60)
    retriever.warm_up(k=10, batch=[1, 4], exclude=5)
    before, warm = retriever.search(USERS[:4], 5), len(compilations)
    for number in range(25):
        retriever.add(-ITEMS[number : number + 1], [100 + number])
        retriever.search(USERS[: 1 + 3 * (number % 2)], 1 + number % 16, budget=5 + number)
        retriever.search(USERS[:4], 10, exclude=np.full((4, 3), 100 + number))
    retriever.add(-ITEMS[30:50], np.arange(200, 220))
    assert len(compilations) == warm
    assert retriever.ids.size == 150
    np.testing.assert_array_equal(before.ids, retriever.search(USERS[:4], 5, allowed=range(90)).ids)


def test_a_model_compiles_for_the_first_item_that_is_added_alone(compilations):
    retriever, _ = modelled()
    users, more = model_inputs(9, 4, 4)
    retriever.warm_up(users, k=3, batch=4)
    items = [jax.tree.map(lambda x, i=i: x[i : i + 1], more) for i in range(4)]
    retriever.add(items[0], [1000])
    warm = len(compilations)
    for number, item in enumerate(items[1:], start=1):
        retriever.add(item, [1000 + number])
        assert retriever.search(users, 3).ids.shape == (4, 3)
    assert retriever.stats()["items"] == 36
    assert len(compilations) == warm
