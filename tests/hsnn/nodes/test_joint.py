"""Joint training of all levels: the loss by hand, its gradients, and the search it trains."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax import LTIConfig
from hsnn_jax.descent.search import brute_force_levels, search_levels
from hsnn_jax.lists.index import take_rows
from hsnn_jax.lists.levels import build_levels, representatives_of_items, residual_nodes
from hsnn_jax.lists.living import padded
from hsnn_jax.monn import i2if
from hsnn_jax.monn import network as monn
from hsnn_jax.monn.config import Features, MoNNConfig, TowerConfig
from hsnn_jax.monn.ensemble import init_ensemble
from hsnn_jax.nodes.joint import JointConfig, encode_levels, init_joint, joint_loss, request_levels
from hsnn_jax.nodes.lti import lti_loss

PAIRS, ITEMS, USERS = 6, 30, 4
TOWER = TowerConfig(field_width=4, dense_fields=3, num_layers=1, hidden=8, attention_width=4)
SIDES = dict(
    user=Features(dense={"taste": 5}),
    item=Features(dense={"text": 4}),
    tasks=("click", "buy"),
    width=4,
    user_tower=TOWER,
    item_tower=TOWER,
    interaction_tower=TOWER,
    num_interaction=1,
    crosses=("category",),
)
MODELS = (
    MoNNConfig(num_user=3, num_item=2, overarch="mol", **SIDES),
    MoNNConfig(num_user=1, num_item=2, overarch="dot", **SIDES),
)
INDEX = LTIConfig(num_nodes=(3,), total_steps=10, alpha_max=2.0, warmup_steps=0, logit_scale=1.0)
CONFIG = JointConfig(models=MODELS, index=INDEX, level_weights=(0.5, 2.0), index_weight=0.7)


def drawn_users(rng, rows):
    counts = rng.integers(0, 4, (rows, 7)).astype(np.float32)
    table = i2if.DenseTable(counts, counts.sum(axis=1), None)
    return {"taste": rng.normal(size=(rows, 5)).astype(np.float32)}, {"category": table}


def drawn_items(rng, rows):
    features = {"text": rng.normal(size=(rows, 4)).astype(np.float32)}
    return features, {"category": rng.integers(0, 7, (rows, 1)).astype(np.int32)}


@functools.cache
def batch(seed=0):
    rng = np.random.default_rng(seed)
    items, ids = drawn_items(rng, ITEMS), rng.integers(0, ITEMS, PAIRS)
    near = take_rows(items, rng.integers(0, ITEMS, PAIRS))
    return {
        "users": drawn_users(rng, PAIRS),
        "items": take_rows(items, ids),
        "representatives": (near,),
        "labels": jnp.asarray([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1]], jnp.float32),
        "item_ids": jnp.asarray(ids),
    }


@functools.cache
def params():
    """Parameters as `init_joint` lays them out, quicker to draw."""
    init = functools.partial(init_joint, config=CONFIG, item_features=batch()["items"][0])
    shapes, rng = jax.eval_shape(init, jax.random.key(0)), np.random.default_rng(1)
    drawn = jax.tree.map(lambda x: (0.5 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    return drawn | {"ensemble": init_ensemble(2) | {"bias": jnp.asarray([0.1, -0.2])}}


@functools.partial(jax.jit, static_argnames="config")
def value_and_grad(params, batch, config):
    loss = functools.partial(joint_loss, step=5, config=config)
    return jax.value_and_grad(loss, has_aux=True)(params, batch)


def direct(params, level, users, items):
    """The logits [rows, T] of one level's model, by its own training path."""
    given = jax.tree.map(lambda x: padded(np.asarray(x), USERS * ITEMS, value=0), (users, items))
    rows = len(users[0]["taste"])
    return np.asarray(_direct(params["models"][level], *given, level=level), float)[:rows]


@functools.partial(jax.jit, static_argnames="level")
def _direct(params, users, items, *, level):
    return monn.logits(
        MODELS[level],
        params,
        user_features=users[0],
        item_features=items[0],
        counts=users[1],
        attributes=items[1],
    )


def test_the_loss_is_the_levels_cross_entropy_and_the_index_loss():
    (value, metrics), _ = value_and_grad(params(), batch(), CONFIG)
    given, ensemble = batch(), jax.tree.map(np.asarray, params()["ensemble"])
    reads = (*given["representatives"], given["items"])
    outputs = [direct(params(), n, given["users"], item) for n, item in enumerate(reads)]
    expected, labels = [], np.asarray(given["labels"], float)
    for level in range(2):
        logit = np.tensordot(ensemble["weights"][level, : level + 1], outputs[: level + 1], 1)
        p = 1 / (1 + np.exp(-logit - ensemble["bias"][level]))
        expected.append(-(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean())
    np.testing.assert_allclose(metrics["level_losses"], expected, rtol=1e-4)
    last = MODELS[-1], params()["models"][-1]
    index_batch = {
        "users": monn.user_vectors(*last, features=given["users"][0]),
        "positives": monn.item_vectors(*last, features=given["items"][0]),
        "positive_ids": given["item_ids"],
        "weights": given["labels"][:, 0],
    }
    index_loss, _ = jax.jit(functools.partial(lti_loss, step=5, config=INDEX))(
        {"nodes": params()["nodes"]}, index_batch, key=None
    )
    np.testing.assert_allclose(metrics["index_loss"], index_loss, rtol=1e-4)
    total = np.dot((0.5, 2.0), expected) + 0.7 * float(index_loss)
    np.testing.assert_allclose(value, total, rtol=1e-4)


def test_without_an_ensemble_a_level_has_its_own_output_and_without_a_weight_no_index_loss():
    alone = {name: own for name, own in params().items() if name != "ensemble"}
    (value, metrics), gradients = value_and_grad(
        alone, batch(), dataclasses.replace(CONFIG, index_weight=0.0)
    )
    given, labels = batch(), np.asarray(batch()["labels"], float)
    reads = (*given["representatives"], given["items"])
    logits = [direct(alone, n, given["users"], item) for n, item in enumerate(reads)]
    expected = [(np.logaddexp(0, own) - labels * own).mean() for own in logits]
    np.testing.assert_allclose(metrics["level_losses"], expected, rtol=1e-4)
    np.testing.assert_allclose(value, np.dot((0.5, 2.0), expected), rtol=1e-4)
    assert set(metrics) == {"level_losses"} and silent(gradients["nodes"])


def silent(gradients):
    return [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradients)
        if not float(jnp.abs(g).max()) > 0
    ]


def test_gradients_reach_every_parameter_of_every_level():
    _, gradients = value_and_grad(params(), batch(), CONFIG)
    assert silent(gradients) == []
    lower = np.abs(np.asarray(gradients["ensemble"]["weights"])) > 0
    np.testing.assert_array_equal(lower, np.tri(2, dtype=bool))


def test_the_index_loss_reaches_towers_and_nodes_through_the_soft_assignment():
    # Of the index loss only the supervised part is left, which knows the items by their codes.
    index = dataclasses.replace(INDEX, reconstruction_weight=0.0, balance_weight=0.0)
    config = dataclasses.replace(CONFIG, index=index, level_weights=(0.0, 0.0))
    _, gradients = value_and_grad(params(), batch(), config)
    *coarse, last = gradients["models"]
    for tower in ("user_tower", "item_tower"):
        assert silent(last[tower]) == []
    assert silent(gradients["nodes"]) == []
    others = coarse, gradients["ensemble"], last["overarch"]
    assert len(silent(others)) == len(jax.tree.leaves(others))


def test_the_interaction_error_trains_the_nodes_towers_towards_the_items():
    config = dataclasses.replace(
        CONFIG, interaction_weight=3.0, index_weight=0.0, level_weights=(0.0, 0.0)
    )
    (value, metrics), gradients = value_and_grad(params(), batch(), config)
    np.testing.assert_allclose(value, 3 * metrics["interaction_mse"], rtol=1e-5)
    assert silent(gradients["models"][0]["interaction_tower"]) == []
    last = gradients["models"][-1], gradients["nodes"]  # the items' tower is the target
    assert len(silent(last)) == len(jax.tree.leaves(last))


def test_a_mask_hides_labels_from_levels_and_index():
    config = dataclasses.replace(CONFIG, index=dataclasses.replace(INDEX, loss="bce"))
    mask = jnp.ones((PAIRS, 2), bool).at[0].set(False)
    given = batch() | {"mask": mask}
    found = []
    for hidden in (jnp.nan, 1.0):
        labels = batch()["labels"].at[0].set(hidden)
        found.append(value_and_grad(params(), given | {"labels": labels}, config))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert silent(found[0][1]["nodes"]) == []
    shown = value_and_grad(params(), given | {"mask": mask.at[0].set(True)}, config)
    for name in ("level_losses", "index_loss"):
        assert not np.allclose(shown[0][1][name], found[0][0][1][name])


@pytest.mark.long
def test_training_lowers_the_loss_and_the_trained_levels_serve():
    """The whole of HSNN: start, joint steps, nested indexes, encoded levels, search."""
    rng = np.random.default_rng(3)
    items, ids = drawn_items(rng, ITEMS), rng.integers(0, ITEMS, PAIRS)
    vectors = monn.item_vectors(MODELS[-1], params()["models"][-1], features=items[0])
    trained = params() | {"nodes": (vectors[:3],)}

    def indexes_of(trained):
        nodes, parents = residual_nodes(trained["nodes"])
        vectors = monn.item_vectors(MODELS[-1], trained["models"][-1], features=items[0])
        return build_levels(vectors, nodes, parents=parents), vectors

    near = representatives_of_items(*indexes_of(trained))
    given = batch() | {
        "items": take_rows(items, ids),
        "representatives": tuple(take_rows(items, rows[ids]) for rows in near),
    }
    tx = optax.adam(0.03)
    state, losses = tx.init(trained), []
    for _ in range(12):
        (value, _), gradients = value_and_grad(trained, given, CONFIG)
        updates, state = jax.jit(tx.update)(gradients, state)
        trained = optax.apply_updates(trained, updates)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]

    indexes, _ = indexes_of(trained)
    features = encode_levels(MODELS, trained["models"], indexes=indexes, items=items)
    users = drawn_users(rng, USERS)
    levels = request_levels(MODELS, trained["models"], features=features, users=users, task="buy")
    options = dict(ensemble=trained["ensemble"])
    whole = brute_force_levels(levels, indexes, k=5, **options)
    found = search_levels(levels, indexes, k=5, budgets=[ITEMS], **options)
    np.testing.assert_array_equal(found.ids, whole.ids)
    np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-4, atol=1e-5)
    # The best items are those of the training path's logits.
    near = representatives_of_items(*indexes_of(trained))
    pairs = jax.tree.map(lambda x: np.repeat(x, ITEMS, axis=0), users)
    weights, total = trained["ensemble"]["weights"][1], float(trained["ensemble"]["bias"][1])
    for level, rows in enumerate((*near, np.arange(ITEMS))):
        logits = direct(trained, level, pairs, take_rows(items, np.tile(rows, USERS)))
        total = total + float(weights[level]) * logits[:, 1].reshape(USERS, ITEMS)
    order = np.argsort(-total, axis=1)[:, :5]
    np.testing.assert_array_equal(found.ids, order)
    best = np.take_along_axis(total, order, axis=1)
    np.testing.assert_allclose(found.scores, best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(models=MODELS[1:]), r"one of the items, found 1 with num_nodes=\(3,\)"),
        (dict(level_weights=(1.0,)), "level_weights: expected 2 entries, found 1"),
        (dict(index_weight=-1.0), "index_weight: expected a number >= 0, found -1.0"),
        (
            dict(models=(dataclasses.replace(MODELS[0], tasks=("click",)), *MODELS[1:])),
            "models: expected the same tasks, found",
        ),
        (
            dict(
                models=(dataclasses.replace(MODELS[0], width=5), *MODELS[1:]),
                interaction_weight=1.0,
            ),
            r"interaction towers of one output, found .*\[\(1, 4\), \(1, 5\)\]",
        ),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_bad_batches():
    with pytest.raises(ValueError, match=r"representatives: expected 1 entries, .*, found 0"):
        value_and_grad(params(), batch() | {"representatives": ()}, CONFIG)
    with pytest.raises(ValueError, match=r"labels: expected shape \[6, 2\], .* found \[6\]"):
        value_and_grad(params(), batch() | {"labels": batch()["labels"][:, 0]}, CONFIG)
