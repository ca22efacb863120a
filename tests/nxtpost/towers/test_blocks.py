import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax.towers.blocks import attention, causal_attention, dropout


class Dropout(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x):
        return dropout(self, x, self.rate)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_drops_the_rate(rate):
    x = jnp.ones((100, 10, 30))  # 30 is no multiple of the four bytes of a word
    y = Dropout(rate).apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert abs(float((y == 0).mean()) - rate) < 0.01
    assert abs(float(y.mean()) - 1) < 0.02
    kept = np.unique(np.asarray(y)[np.asarray(y) > 0])
    np.testing.assert_allclose(kept, 256 / (256 - round(256 * rate)))


def test_no_rate_needs_no_key():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x), x)


def test_attention_equals_a_loop_over_positions():
    B, L, H, K = 2, 5, 3, 4
    q, k, v = np.random.default_rng(0).normal(size=(3, B, L, H, K))
    expected = np.zeros((B, L, H, K))
    for b, t, h in np.ndindex(B, L, H):
        logits = k[b, : t + 1, h] @ q[b, t, h] / np.sqrt(K)
        weights = np.exp(logits) / np.exp(logits).sum()
        expected[b, t, h] = weights @ v[b, : t + 1, h]
    out = causal_attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_hidden_positions_have_no_weight():
    B, L, M, H, K = 2, 3, 5, 2, 4
    rng = np.random.default_rng(0)
    q = rng.normal(size=(B, L, H, K))
    k, v = rng.normal(size=(2, B, M, H, K))
    visible = rng.random((B, 1, L, M)) < 0.5
    visible[..., 0] = True
    expected = np.zeros((B, L, H, K))
    for b, t, h in np.ndindex(B, L, H):
        seen = visible[b, 0, t]
        weights = np.exp(k[b, seen, h] @ q[b, t, h] / np.sqrt(K))
        expected[b, t, h] = weights @ v[b, seen, h] / weights.sum()
    out = attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), visible)
    np.testing.assert_allclose(out, expected, atol=1e-5)
