from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax.events.content import ContentSet, check, num_rows, present, take
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from tests.nxtpost.configurations import N, drawn_channels, drawn_content, drawn_histories

KEY = jax.random.key(0)
CONFIG = NxtPostConfig(d_model=8, max_len=6, num_layers=1)


def set_up(content, config=CONFIG):
    """Post tower parameters, none of them zero, and a function from content to vectors."""
    model = NxtPost(config, N)

    def encode(params, content, ids=None):
        return model.apply({"params": params}, content, ids, method="encode_items")

    init = jax.eval_shape(lambda key: model.init(key, content, method="encode_items"), KEY)
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree.map(draw, init["params"]), jax.jit(encode)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def dense(layer, x):
    y = x @ np.asarray(layer["kernel"], np.float64)
    return y + np.asarray(layer["bias"], np.float64) if "bias" in layer else y


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def slow_adapter(tower, prefix, x):
    hidden = gelu(dense(tower[f"{prefix}adapter_hidden"], x))
    return dense(tower[f"{prefix}adapter_skip"], x) + dense(tower[f"{prefix}adapter_out"], hidden)


def slow_item(tower, channels, item):
    """The fused vector of one item, channel by channel and vector by vector in float64."""
    adapted, scores = [], []
    for name, channel in channels.items():
        prefix = f"{name}_"
        if isinstance(channel, ContentSet):
            there = [v for v, m in zip(channel.vectors[item], channel.mask[item]) if m]
            if not there:
                continue
            mapped = [
                dense(tower[f"{prefix}set_out"], gelu(dense(tower[f"{prefix}set_hidden"], unit(v))))
                for v in there
            ]
            x = np.mean(mapped, axis=0)
        else:
            if not channel[item].any():
                continue
            x = unit(channel[item].astype(np.float64))
        adapted.append(slow_adapter(tower, prefix, x))
        scores.append(dense(tower[f"{prefix}score"], adapted[-1])[0])
    weights = np.exp(scores) / np.exp(scores).sum()
    return unit(weights @ np.array(adapted))


def test_channels_are_fused_as_a_loop_over_them_does():
    content = drawn_channels()
    assert (~content["images"].mask.any(axis=1)).any() and (content["video"] == 0).all(1).any()
    params, encode = set_up(content)
    expected = [slow_item(params["post_tower"], content, item) for item in range(N)]
    np.testing.assert_allclose(encode(params, content), expected, atol=1e-5)


def test_a_set_alone_is_pooled_over_what_is_there():
    """Order, width and what stands at masked places change nothing; a vector does."""
    images = drawn_channels()["images"]
    params, encode = set_up(images)
    base = encode(params, images)
    order = [2, 0, 3, 1]
    garbage = np.where(images.mask[..., None], images.vectors, 99)
    wider = ContentSet(
        np.pad(garbage[:, order], ((0, 0), (0, 2), (0, 0)), constant_values=7.0),
        np.pad(images.mask[:, order], ((0, 0), (0, 2))),
    )
    np.testing.assert_allclose(encode(params, wider), base, atol=1e-6)
    full = images.mask.any(axis=1)
    np.testing.assert_array_equal(np.abs(base).max(axis=1) > 0, full)
    other = ContentSet(images.vectors + 1, images.mask)
    assert np.abs(encode(params, other) - base)[full].max(axis=1).min() > 1e-4


def test_a_missing_channel_has_neither_weight_nor_gradient():
    content = drawn_channels()
    params, encode = set_up(content)
    only_text = content | {
        "images": ContentSet(content["images"].vectors, np.zeros((N, 4), bool)),
        "video": np.zeros((N, 3), np.float32),
    }
    tower = params["post_tower"]
    expected = unit(slow_adapter(tower, "text_", unit(np.float64(content["text"]))))
    np.testing.assert_allclose(encode(params, only_text), expected, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda params: encode(params, only_text)[:, 0].sum()))(params)
    for name, layer in gradient["post_tower"].items():
        size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(layer))
        # One present channel has weight 1 whatever its score.
        assert np.isfinite(size) and (size > 0) == name.startswith("text_adapter"), name


def test_nothing_at_all_gives_zeros_and_a_finite_gradient():
    content = jax.tree.map(np.zeros_like, drawn_channels())
    params, encode = set_up(content)
    np.testing.assert_array_equal(encode(params, content), 0)
    gradient = jax.jit(jax.grad(lambda params: encode(params, content).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_one_named_channel_is_the_array_itself():
    content = drawn_content()
    params, encode = set_up(content)
    named_params, _ = set_up({"text": content})
    assert jax.tree.structure(params) == jax.tree.structure(named_params)
    np.testing.assert_array_equal(encode(params, content), encode(params, {"text": content}))
    assert set(params["post_tower"]) == {"adapter_hidden", "adapter_skip", "adapter_out"}


def test_users_are_encoded_from_channels_both_ways():
    """Gathered after the towers in a small catalogue, and before them in a large one."""
    content, histories = drawn_channels(), drawn_histories([6, 3])
    large = jax.tree.map(lambda x: np.concatenate([x] * 9), content)
    model = NxtPost(CONFIG)
    params = jax.jit(model.init)(KEY, histories, content)["params"]
    ids = [np.arange(40) % N]
    apply = jax.jit(partial(model.apply, deterministic=True, method="encode_batch"))
    encoded = [apply({"params": params}, histories, ids, content=rows) for rows in (content, large)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *encoded)


def test_take_clips_and_keeps_the_structure():
    content = drawn_channels()
    ids = np.array([[PAD, 3], [N - 1, N + 4]])
    taken = jax.jit(take)(content, ids)
    clipped = np.array([[0, 3], [N - 1, N - 1]])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[clipped]), taken, content)
    assert num_rows(content) == N and take(None, ids) is None


def test_a_vector_of_zeros_under_a_true_mask_is_absent():
    vectors = np.zeros((2, 1, 3), np.float32)
    vectors[1] = 1
    channel = ContentSet(vectors, np.ones((2, 1), bool))
    np.testing.assert_array_equal(present(channel), [False, True])


def test_checked_content_is_float32_and_bool():
    content = check({"b": np.ones((3, 2)), "a": ContentSet(np.ones((3, 1, 2), int), [[True]] * 3)})
    assert list(content) == ["a", "b"]
    assert content["b"].dtype == content["a"].vectors.dtype == np.float32
    assert content["a"].mask.dtype == bool
    assert check(None) is None
    assert check(np.zeros((2, 3)), allow_missing=True).shape == (2, 3)
    assert check(np.ones((2, 3)), num_items=2).shape == (2, 3)


ONES, SETS = np.ones((3, 2)), ContentSet(np.ones((3, 4, 2)), np.ones((3, 4), bool))
NAN = np.where(np.arange(3)[:, None] == 1, np.nan, ONES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(3), r"content: expected real numbers of shape \[n, d\], found float64 of shape"),
        (np.array([["a"]]), "content: expected real numbers"),
        (NAN, "content: expected finite numbers, found NaN or infinity in row 1"),
        ({}, "content: expected at least one channel"),
        ({"a/b": ONES}, "content: expected a word as a channel's name, found 'a/b'"),
        ({"a": ONES, "b": ONES[:2]}, r"content\['b'\]: expected 3 rows, one per item, found 2"),
        ({"a": SETS._replace(vectors=ONES)}, r"content\['a'\].vectors: expected .* \[n, s, d\]"),
        ({"a": SETS._replace(mask=ONES)}, r"content\['a'\].mask: expected bool of shape \(3, 4\)"),
        (
            SETS._replace(vectors=np.full((3, 4, 2), np.inf)),
            r"content\.vectors: expected finite numbers, .* in row 0",
        ),
        (
            np.array([[1.0], [0.0]]),
            r"content: expected some .* no id embedding, found none of item 1",
        ),
        (
            {"a": np.eye(3)[:, :1], "b": SETS._replace(mask=np.eye(3, 4, dtype=bool) * False)},
            r"content: expected some .*, found none of item 1",
        ),
    ],
)
def test_bad_content_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        check(content)


def test_another_number_of_items_is_refused():
    with pytest.raises(ValueError, match="content: expected 5 rows, one per item, found 3"):
        check(ONES, num_items=5)
