"""Values that a cast or a square would falsify are refused where they enter."""

import jax
import numpy as np
import optax
import pytest

from hsnn_jax import EMA, LTIConfig, NaturalHierarchy, Retriever, RouteConfig
from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.lists.assignment import assign
from hsnn_jax.lists.checks import as_features, as_vectors
from hsnn_jax.lists.index import build_index
from hsnn_jax.monn import i2if
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.beam_aware import fit_routes
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.kmeans import kmeans

CONFIG = LTIConfig(num_nodes=4, kmeans_iterations=3, total_steps=2)
TX = optax.sgd(0.1)


def drawn(seed, rows=40):
    return np.random.default_rng(seed).normal(size=(rows, 8))


def spoilt(kind):
    """Vectors of which row 3 cannot be held."""
    vectors = drawn(1)
    if kind == "a float64 beyond float32":
        vectors[3, 0] = 1e39
    elif kind == "squares beyond float32":
        vectors = vectors.astype(np.float32)
        vectors[3] = 1e19
    else:
        vectors[3, 5] = np.nan
    return vectors


KINDS = {
    "a float64 beyond float32": "expected finite values, found NaN or inf in row 3",
    "squares beyond float32": r"expected lengths up to 1e\+15, found 2.83e\+19 in row 3",
    "NaN": "expected finite values, found NaN or inf in row 3",
}


def built():
    retriever = Retriever(CONFIG)
    retriever.build_index(drawn(0), reserve=50)
    return retriever


def searched_at_nodes(vectors):
    retriever = Retriever(CONFIG)
    retriever.nodes = vectors[:4]
    retriever.build_index(drawn(0))


def learned_by(learner, vectors):
    learner.learn(drawn(0), vectors, positives=np.arange(40), key=jax.random.key(0))


ENTRIES = {
    "item_vectors": [
        lambda v: Retriever(CONFIG).build_index(v),
        lambda v: Retriever(CONFIG).fit_nodes(drawn(0), v, positives=np.arange(40), tx=TX),
        lambda v: build_index(v, drawn(0, 4)),
        lambda v: learned_by(NaturalHierarchy(groups=[np.arange(40) % 4]), v),
        lambda v: learned_by(EMA(num_nodes=4, steps=1), v),
        lambda v: fit_index(
            drawn(0), v, positives=np.arange(40), tx=TX, config=CONFIG, key=jax.random.key(0)
        ),
    ],
    "user_vectors": [
        lambda v: Retriever(CONFIG).fit_nodes(v, drawn(0), positives=np.arange(40), tx=TX)
    ],
    "users": [lambda v: built().search(v, 2), lambda v: built().frontier(v, 2, budgets=[9])],
    "vectors": [
        lambda v: built().add(v, 100 + np.arange(40)),
        lambda v: built().reassign(v, np.arange(40)),
        lambda v: assign(v, drawn(0, 4), capacity=10),
        lambda v: kmeans(v, 4, key=jax.random.key(0)),
    ],
    "nodes": [
        lambda v: assign(drawn(0), v, capacity=1),
        lambda v: build_index(drawn(0), v),
        searched_at_nodes,
    ],
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "entry"), [(name, entry) for name, entries in ENTRIES.items() for entry in entries]
)
def test_vectors_that_cannot_be_held_are_refused_wherever_they_enter(name, entry, kind):
    with pytest.raises(ValueError, match=f"^{name}: {KINDS[kind]}"):
        entry(spoilt(kind))


def test_what_a_search_can_hold_is_taken():
    vectors = (1e14 * drawn(0)).astype(np.float32)
    retriever = Retriever(CONFIG)
    retriever.build_index(vectors)
    answer = retriever.search(vectors, 1, budget=40)
    best = (vectors.astype(float) @ vectors.T.astype(float)).argmax(axis=1)
    np.testing.assert_array_equal(answer.ids[:, 0], best)
    assert np.isfinite(answer.scores).all()
    assert as_vectors("x", np.ones((2, 3), np.float16)).dtype == np.float32


FAR = "a float64 beyond float32"


def searched(users=None, items=None):
    users, items = (drawn(0) if x is None else x for x in (users, items))
    index = build_index(drawn(0), drawn(0, 4))
    return search(dot, None, index=index, items=items, users=users, k=1, budget=40)


def one_user(**features):
    return as_features("users", {"taste": np.ones((1, 2), np.float32)} | features)


BEYOND = 2**32 + 3  # in 32 bits, 3


def routes(wanted, **options):
    return fit_routes(
        dot,
        None,
        users=drawn(0),
        features=drawn(0, 4).astype(np.float32),
        wanted=wanted,
        index=build_index(drawn(0), drawn(0, 4)),
        tx=TX,
        config=RouteConfig(budget=9, steps=1),
        key=jax.random.key(0),
        **options,
    )


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: one_user(brand=np.array([BEYOND])), r"\['brand'\]: expected integers within 32"),
        (lambda: one_user(age=np.array([1e39])), r"users\['age'\]: expected finite values"),
        (lambda: one_user(name=np.array(["a"])), r"users\['name'\]: expected numbers, found"),
        (lambda: i2if.count_dense(np.array([[BEYOND]]), 9), "values: expected keys below 2"),
        (lambda: i2if.count_sparse(np.array([[BEYOND]]), 9), "values: expected keys below 2"),
        (
            lambda: i2if.lookup(i2if.count_dense(np.array([[3]]), 9), np.array([[[BEYOND]]])),
            "values: expected keys below 2",
        ),
        (
            lambda: brute_force(
                dot, None, items=drawn(0), users=drawn(0), k=1, exclude=np.full((40, 1), BEYOND)
            ),
            f"exclude: expected integers within 32 bits, found {BEYOND}",
        ),
        (
            lambda: routes(np.full((40, 1), BEYOND)),
            "wanted: expected integers within 32 bits",
        ),
        (
            lambda: routes(np.zeros((40, 1), int), crosses=np.full((40, 4, 1), 1e39)),
            "crosses: expected finite values",
        ),
        (
            lambda: NaturalHierarchy(groups=[np.full(40, BEYOND)]).learn(
                drawn(0), drawn(0), positives=np.arange(40), key=jax.random.key(0)
            ),
            "groups: expected integers within 32 bits",
        ),
        (
            lambda: brute_force(dot, None, items=drawn(0), users=spoilt(FAR), k=1),
            "users: expected finite values, found NaN or inf in row 3",
        ),
        (
            lambda: brute_force(dot, None, items={"v": spoilt(FAR)}, users=drawn(0), k=1),
            r"items\['v'\]: expected finite values, found NaN or inf in row 3",
        ),
        (lambda: searched(users=spoilt(FAR)), "users: expected finite values, found NaN or inf"),
        (lambda: searched(items=spoilt(FAR)), "items: expected finite values, found NaN or inf"),
        (
            lambda: built().add(drawn(1, 1), np.array([2**63 + 5], np.uint64)),
            "ids: expected integers below 2",
        ),
    ],
)
def test_what_a_cast_would_change_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
