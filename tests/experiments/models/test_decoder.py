"""The scanned Transformer: causal, layers apart, the same with its batch dealt."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models.decoder import Decoder

SIZES = {"vocabulary": 11, "width": 8, "layers": 3, "heads": 2, "length": 6}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (4, 6)))


def drawn(**options):
    model = Decoder(**SIZES, **options)
    return model, model.init(jax.random.key(0), TOKENS)


def test_a_position_sees_nothing_that_follows():
    model, params = drawn()
    later = TOKENS.at[:, 4:].set(0)
    one, other = model.apply(params, TOKENS), model.apply(params, later)
    np.testing.assert_allclose(one[:, :4], other[:, :4], atol=1e-6)
    assert np.abs(one[:, 4:] - other[:, 4:]).max() > 1e-3


def test_layers_are_a_stack_of_different_draws_that_all_act():
    model, params = drawn()
    up = params["params"]["layers"]["up"]["kernel"]
    assert up.shape == (3, 8, 32)
    assert np.abs(up[0] - up[1]).max() > 1e-2
    gradient = jax.grad(lambda p: jnp.sum(model.apply(p, TOKENS) ** 2))(params)
    of_layers = gradient["params"]["layers"]["up"]["kernel"]
    assert np.all(np.abs(of_layers).max(axis=(1, 2)) > 0)


def test_a_dealt_batch_gives_the_same_logits():
    model, params = drawn()
    dealt = Decoder(**SIZES, axis="data")
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        found = jax.jit(dealt.apply)(params, TOKENS)
    np.testing.assert_allclose(found, model.apply(params, TOKENS), atol=1e-5)
    assert found.sharding.spec[0] == "data"
