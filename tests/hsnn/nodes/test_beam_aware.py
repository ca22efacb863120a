import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import recall
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.search import brute_force, search_levels
from hsnn_jax.lists.index import build_index, pack
from hsnn_jax.monn.scorers import dot, init_mol, mol
from hsnn_jax.nodes.beam_aware import RouteConfig, beam_loss, fit_routes, node_shares
from hsnn_jax.nodes.kmeans import kmeans

SHARES = np.array([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])
LEFT = np.array([[10, 1, 5, 3], [4, 4, 0, 2]])


def test_loss_is_the_cross_entropy_of_the_nodes_that_are_asked():
    scores = np.array([[0.3, -1.0, 2.0, 1.0], [1.0, 0.5, 9.0, -2.0]])
    # Of user 0 nodes 2 and 3 lead and 0, 1 are wanted; of user 1, who may get nothing of node 2,
    # nodes 0 and 1 lead and 3 is wanted.
    logits = scores + np.log(np.maximum(LEFT, 1))
    own = logits[0] - np.log(np.exp(logits[0]).sum())
    other = logits[1, [0, 1, 3]] - np.log(np.exp(logits[1, [0, 1, 3]]).sum())
    expected = -(SHARES[0] @ own + other[2]) / 2
    found = beam_loss(jnp.asarray(scores), jnp.asarray(SHARES), left=jnp.asarray(LEFT), num_asked=2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nodes_beyond_the_beam_get_no_gradient():
    scores = jnp.asarray([[4.0, 3.0, 2.0, 1.0]])
    shares = jnp.asarray([[0.0, 1.0, 0.0, 0.0]])
    gradient = jax.grad(beam_loss)(scores, shares, left=jnp.ones((1, 4)), num_asked=2)
    assert (np.asarray(gradient[0, :2]) != 0).all()
    np.testing.assert_array_equal(gradient[0, 2:], 0.0)


def test_the_best_order_is_by_wanted_items_an_item_listed():
    shares, left = jnp.asarray(SHARES[:1]), jnp.asarray(LEFT[:1])
    scores = jnp.log(jnp.maximum(shares, 1e-30) / left)
    gradient = jax.grad(beam_loss)(scores, shares, left=left, num_asked=4)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    assert jnp.argmax(scores) == 1  # a quarter of what is wanted, for the price of one item


def test_shares_count_what_the_lists_hold():
    items = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]], np.float32)
    index = build_index(items, np.array([[0.0], [5.0]], np.float32), reserve=1)
    shares = node_shares(index, jnp.asarray([[0, 2, 3, -1], [5, -1, -1, -1], [4, 5, -1, -1]]))
    np.testing.assert_allclose(shares, [[1 / 3, 2 / 3], [0, 0], [0, 1]])  # row 5 is free


def turned(params, users, items):
    """Score by another direction than the users' own."""
    return dot(None, users @ params, items)


@pytest.fixture(scope="module")
def problem():
    """Users whose likes lie where an orthogonal map, which the scorer knows, sends them."""
    rng = np.random.default_rng(0)
    leaves = rng.normal(size=(64, 16))
    items = leaves[rng.integers(0, 64, 2000)] + 0.3 * rng.normal(size=(2000, 16))
    items = jnp.asarray(items / np.linalg.norm(items, axis=1, keepdims=True), jnp.float32)
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(16, 16)))[0], jnp.float32)
    users = items[rng.integers(0, 2000, 1200)] + 0.2 * rng.normal(size=(1200, 16))
    users = jnp.asarray(users @ turn.T, jnp.float32)
    index = build_index(items, kmeans(items, 64, key=jax.random.key(0)), slack=1.3)
    exact = brute_force(turned, turn, items=items, users=users, k=20).ids
    return items, turn, users, index, np.asarray(exact)


TRAIN, REST = slice(0, 1000), slice(1000, 1200)


def found_by(problem, level, budget=200):
    """Return the recall of the exact 20 of the users that did not train."""
    items, turn, users, index, exact = problem
    last = Level(turned, turn, users[REST], pack(index, items))
    answer = search_levels((level, last), (index,), k=20, budgets=(budget,))
    assert (answer.items_scored <= budget).all()
    return recall(answer.ids, exact[REST])


def test_routes_find_what_the_scorer_likes(problem):
    _, _, users, index, exact = problem
    routes, losses = fit_routes(
        dot,
        None,
        users=users[TRAIN],
        features=index.nodes,
        wanted=exact[TRAIN],
        index=index,
        tx=optax.adam(1e-2),
        config=RouteConfig(budget=200, steps=400),
        key=jax.random.key(1),
    )
    assert losses[-1] < losses[0] - 0.5
    assert found_by(problem, Level(dot, None, users[REST], index.nodes)) < 0.3
    assert found_by(problem, routes.level(dot, None, users=users[REST])) > 0.8


def test_crosses_say_what_vectors_do_not(problem):
    _, _, _, index, exact = problem
    # A noisy sight of where the wanted items are, and noise alone.
    crosses = np.random.default_rng(1).normal(size=(1200, 64, 2)).astype(np.float32)
    crosses[:, :, 0] = 0.1 * crosses[:, :, 0] + 4 * node_shares(index, jnp.asarray(exact))
    blind = jnp.ones((1200, 1))
    routes, _ = fit_routes(
        dot,
        None,
        users=blind[TRAIN],
        features=jnp.zeros((64, 1)),
        wanted=exact[TRAIN],
        index=index,
        tx=optax.adam(3e-2),
        config=RouteConfig(budget=200, steps=300),
        key=jax.random.key(1),
        crosses=crosses[TRAIN],
        exclude=np.full((1000, 1), -1),
    )
    weights = np.asarray(routes.weights["crosses"])
    assert weights[0] > 10 * abs(weights[1])
    assert (
        found_by(problem, routes.level(dot, None, users=blind[REST], crosses=crosses[REST])) > 0.8
    )


def test_a_model_routes_by_features_of_nodes_and_keeps_its_own(problem):
    _, _, users, index, exact = problem
    mol_params = init_mol(jax.random.key(3), 16, item_width=16)
    kept = jax.tree.map(np.array, mol_params)
    features = {"vectors": index.nodes, "node": jnp.arange(64)}

    def scorer(params, users, items):
        return mol(params, users, items["vectors"])

    routes, losses = fit_routes(
        scorer,
        mol_params,
        users=users[TRAIN],
        features=features,
        wanted=exact[TRAIN],
        index=index,
        tx=optax.adam(1e-2),
        config=RouteConfig(budget=200, steps=100, batch_size=64),
        key=jax.random.key(1),
    )
    assert losses[-1] < losses[0]
    level = routes.level(scorer, mol_params, users=users[REST])
    jax.tree.map(np.testing.assert_array_equal, level.params["scorer"], kept)
    learned = routes.nodes["features"]
    np.testing.assert_array_equal(learned["node"], features["node"])
    assert np.abs(learned["vectors"] - features["vectors"]).max() > 0.01
    untrained = Level(scorer, mol_params, users[REST], features)
    assert found_by(problem, level) > found_by(problem, untrained) + 0.1


def test_bad_input(problem):
    _, _, users, index, exact = problem

    def fit(features=index.nodes, wanted=exact, **options):
        config = RouteConfig(budget=200, steps=1)
        options |= {"config": config, "key": jax.random.key(0)}
        fit_routes(
            dot,
            None,
            users=users,
            features=features,
            wanted=wanted,
            index=index,
            tx=optax.adam(1e-2),
            **options,
        )

    with pytest.raises(ValueError, match=r"wanted: expected 1200 rows, .*, found \[3, "):
        fit(wanted=exact[:3])
    with pytest.raises(ValueError, match="exclude: expected 1200 rows"):
        fit(exclude=exact[0])
    with pytest.raises(ValueError, match="features: expected 64 nodes, found 3"):
        fit(features=jnp.zeros((3, 16)))
    with pytest.raises(ValueError, match=r"crosses: expected shape \[1200, 64, C\], found"):
        fit(crosses=jnp.zeros((1200, 3, 1)))
    with pytest.raises(ValueError, match="budget: expected a number > 0, found 0"):
        RouteConfig(budget=0)
