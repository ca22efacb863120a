"""The learned numbers that attention adds for the distance of two events."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax import NxtPost, NxtPostConfig
from nxtpost_jax.towers.blocks import attention, causal_attention
from nxtpost_jax.towers.relative import Places, RelativeBias, whole_seconds
from tests.nxtpost.configurations import L, N, drawn_histories, set_up

DAY = 86_400.0


def test_each_head_adds_the_numbers_of_positions_and_of_powers_of_two_of_seconds():
    module = RelativeBias(num_heads=2, num_positions=4, times=True)
    seconds = np.array([[0, 1, 4, 100]], np.uint32)
    places = Places(jnp.arange(4)[None], jnp.asarray(seconds))
    rng = np.random.default_rng(0)
    positions, times = rng.normal(size=(4, 2)), rng.normal(size=(32, 2))
    params = {"positions": positions, "times": times}
    found = np.asarray(module.apply({"params": params}, places, places))
    for query in range(4):
        for key in range(query + 1):
            between = int(seconds[0, query] - seconds[0, key])
            expected = positions[query - key] + times[(between + 1).bit_length() - 1]
            np.testing.assert_allclose(found[0, :, query, key], expected, rtol=1e-6)


def test_attention_in_chunks_adds_to_each_pair_its_own_number():
    length = 130  # three chunks of queries
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, length, 2, 4)).astype(np.float32)
    gaps = rng.exponential(DAY, (2, length)).astype(np.float32)
    seconds = jnp.cumsum(whole_seconds(gaps), axis=1, dtype=jnp.uint32)
    places = Places(jnp.arange(length)[None], seconds)
    module = RelativeBias(num_heads=2, num_positions=length, times=True)
    params = {"positions": rng.normal(size=(length, 2)), "times": rng.normal(size=(32, 2))}

    def bias(queries, keys):
        return module.apply({"params": params}, queries, keys)

    visible = np.tril(np.ones((length, length), bool))[None, None]
    expected = attention(q, k, v, visible, bias_BxHxLxM=bias(places, places))
    found = causal_attention(q, k, v, bias=bias, places=places)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_numbers_of_zero_are_no_bias_and_others_are_one():
    histories = drawn_histories([L, 3])
    plain, params = set_up(NxtPostConfig.sasrec(d_model=8, max_len=L, num_layers=1), histories)
    config = NxtPostConfig.sasrec(d_model=8, max_len=L, num_layers=1, relative_bias="both")
    biased, more = set_up(config, histories)
    own = {"positions": jnp.zeros((L, 1)), "times": jnp.zeros((32, 1))}

    def states(model, numbers):
        tower = {**params["user_tower"], **numbers}
        return model.apply({"params": {**params, "user_tower": tower}}, histories)

    expected = states(plain, {})
    np.testing.assert_array_equal(states(biased, {"relative_bias_0": own}), expected)
    other = {"relative_bias_0": more["user_tower"]["relative_bias_0"]}
    assert np.abs(states(biased, other) - expected).max() > 1e-3


def test_the_time_between_counts_to_the_second_after_many_years():
    """A sum of seconds in float32 would have lost those of the last event."""
    config = NxtPostConfig.sasrec(d_model=8, max_len=4, num_layers=1, relative_bias="time")
    gaps = np.array([[0, 30 * 365 * DAY, 1, 0]], np.float32)
    histories = {"items": np.arange(4, dtype=np.int32)[None], "times": gaps}
    model, params = set_up(config, histories)
    encode = jax.jit(lambda rows: model.apply({"params": params}, rows)[0, -1])
    later = histories | {"times": gaps + np.array([[0, 0, 2, 0]], np.float32)}
    assert np.abs(encode(histories) - encode(later)).max() > 1e-4


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"^relative_bias: expected 'none' or .*, found 'all'$"):
        NxtPostConfig(relative_bias="all")


def test_times_that_are_read_must_be_there():
    model = NxtPost(NxtPostConfig.sasrec(d_model=8, max_len=L, relative_bias="time"), N)
    histories = {"items": drawn_histories([L])["items"]}
    with pytest.raises(ValueError, match="expected 'times', which relative_bias='time' reads"):
        model.init(jax.random.key(0), histories)
