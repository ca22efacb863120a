"""The tower network against plain numpy, and its inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hsnn_jax.monn.config import Features, TowerConfig
from hsnn_jax.monn.towers import AttentionFM, Layer, Tower

ROWS, FIELDS, WIDTH = 4, 5, 3


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn_params(module, x):
    return jax.tree.map(np.asarray, jax.jit(module.init)(jax.random.key(1), x)["params"])


def test_afm_is_the_attention_weighted_sum_over_pairs():
    x = drawn(0, ROWS, FIELDS, WIDTH)
    module = AttentionFM(heads=2, attention_width=6)
    params = drawn_params(module, x)
    params["attention"]["bias"] = drawn(2, 6)
    out = jax.jit(module.apply)({"params": params}, x)
    attention, heads = params["attention"], params["heads"]["kernel"]
    for row in range(ROWS):
        pairs = [(i, j) for i in range(FIELDS) for j in range(i + 1, FIELDS)]
        products = [x[row, i] * x[row, j] for i, j in pairs]
        scores = np.array(
            [np.maximum(p @ attention["kernel"] + attention["bias"], 0) @ heads for p in products]
        )
        weights = np.exp(scores) / np.exp(scores).sum(axis=0)
        pooled = sum(w[:, None] * p[None, :] for w, p in zip(weights, products))
        expected = pooled @ params["projection"]["kernel"]
        np.testing.assert_allclose(out[row], expected, rtol=1e-4, atol=1e-5)


def test_the_gates_start_at_one_and_reach_only_their_stream():
    x = drawn(0, ROWS, FIELDS, WIDTH)
    module = Layer(hidden=8, attention_width=4)
    params, apply = drawn_params(module, x), jax.jit(module.apply)
    out = apply({"params": params}, x)
    shifted = params | {"mlp_gate": params["mlp_gate"] + 7.0}  # a softmax: no change
    np.testing.assert_allclose(apply({"params": shifted}, x), out, rtol=1e-5, atol=1e-6)
    # Only the first field is left to the MLP, five times as large.
    closed = params | {"mlp_gate": np.where(np.arange(FIELDS) == 0, 0, -np.float32(1e9))}
    hidden = np.maximum(
        (x[:, :1] * FIELDS).reshape(ROWS, -1) @ params["hidden"]["kernel"][:WIDTH], 0
    )
    mlp = (hidden @ params["mlp"]["kernel"]).reshape(x.shape)
    afm = jax.jit(AttentionFM(FIELDS, 4).apply)({"params": params["afm"]}, x)
    total = x + mlp + np.asarray(afm)
    normal = (total - total.mean(-1, keepdims=True)) / np.sqrt(total.var(-1, keepdims=True) + 1e-6)
    found = apply({"params": closed}, x)
    np.testing.assert_allclose(found, normal, rtol=1e-3, atol=1e-4)


FEATURES = Features(dense={"age": 1, "text": 6}, sparse={"country": 5, "genres": 7})


def inputs(rows=3):
    return {
        "age": drawn(0, rows, 1),
        "text": drawn(1, rows, 6),
        "country": np.arange(rows) % 5,
        "genres": np.array([[1, 2, -1], [3, -1, -1], [6, 2, 1]])[:rows],
        "not_read": np.zeros(rows),
    }


@functools.cache
def tower(**options):
    """Return a jitted function of (params, inputs), and its parameters."""
    module = Tower(FEATURES, TowerConfig(field_width=4, hidden=8, **options), 3, 5)
    given = {name: value for name, value in inputs().items() if name != "not_read"}
    params = jax.jit(module.init)(jax.random.key(0), given)["params"]
    return jax.jit(lambda params, inputs: module.apply({"params": params}, inputs)), params


@pytest.mark.parametrize("num_layers", [0, 1])
def test_a_tower_emits_several_vectors_of_each_row_by_itself(num_layers):
    run, params = tower(num_layers=num_layers)
    out = run(params, inputs())
    assert out.shape == (3, 3, 5)
    alone = run(params, {k: v[1:2] for k, v in inputs().items()})
    np.testing.assert_allclose(alone[0], out[1], rtol=1e-5, atol=1e-6)
    assert sum(name.startswith("layer_") for name in params) == num_layers


def test_every_feature_moves_the_output_and_gets_a_gradient():
    run, params = tower(num_layers=1)
    out = run(params, inputs())
    for name in ("age", "text", "country", "genres"):
        changed = inputs() | {name: inputs()[name][::-1]}
        assert not np.allclose(run(params, changed)[0], out[0])
    gradients = jax.grad(lambda p: jnp.sum(run(p, inputs()) ** 2))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradients))


def test_lists_are_averaged_and_unknown_ids_absent():
    run, params = tower(num_layers=0)

    def with_genres(genres):
        return run(params, inputs() | {"genres": np.asarray(genres)})

    np.testing.assert_allclose(
        with_genres([[2, 1], [1, 1], [5, 5]])[0],
        with_genres([1, 2, 5])[0] / 2 + with_genres([2, 2, 5])[0] / 2,
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        with_genres([[1, 2, -1], [1, 7, 99], [3, -1, -1]])[:2],
        with_genres([[2, 1], [1, 1], [3, 3]])[:2],
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        with_genres([-1, 7, 0])[:2], with_genres([[-1, -1], [8, 9], [0, 0]])[:2]
    )


def test_the_configuration_sets_the_shapes():
    for fields in (1, 3):
        config = TowerConfig(dense_fields=fields, field_width=4, hidden=9, attention_width=5)
        module = Tower(FEATURES, config, 3, 5)
        params = jax.eval_shape(module.init, jax.random.key(0), inputs())["params"]
        assert params["dense_text"]["kernel"].shape == (6, fields * 4)
        assert params["layer_1"]["mlp_gate"].shape == (2 * fields + 2,)
        assert params["layer_1"]["hidden"]["kernel"].shape == ((2 * fields + 2) * 4, 9)
        assert params["layer_1"]["afm"]["attention"]["kernel"].shape == (4, 5)


def test_a_single_field_has_no_pairs():
    features = Features(sparse={"id": 5})
    module = Tower(features, TowerConfig(num_layers=1), 1, 4)
    params = jax.eval_shape(module.init, jax.random.key(0), {"id": np.arange(3)})["params"]
    assert "afm" not in params["layer_0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(age=None), "inputs: expected the feature 'age', found"),
        (
            dict(text=np.zeros((3, 5))),
            r"text: expected a dense feature of shape \[B, 6\], found \[3, 5\]",
        ),
        (
            dict(country=np.zeros(3)),
            r"country: expected a sparse feature of integers .* found float",
        ),
        (dict(genres=np.zeros((3, 1, 1), int)), r"genres: expected a sparse .* shape \[3, 1, 1\]"),
    ],
)
def test_bad_features(change, message):
    run, params = tower(num_layers=1)
    given = {k: v for k, v in (inputs() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        run(params, given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features(), "at least one"),
        (lambda: Features(dense={"a": 0}), r"dense\['a'\]: expected a size > 0, found 0"),
        (lambda: Features(dense={"a": 1}, sparse={"a": 2}), "distinct names"),
        (lambda: TowerConfig(hidden=0), "hidden: expected a number > 0"),
        (lambda: TowerConfig(num_layers=-1), "num_layers: expected a number >= 0"),
    ],
)
def test_bad_configurations(make, message):
    with pytest.raises(ValueError, match=message):
        make()
