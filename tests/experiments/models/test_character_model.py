"""The causal Transformer over characters."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models.character_model import CharacterModel


def test_a_character_depends_on_earlier_ones_only():
    model = CharacterModel(7, width=8, layers=2, heads=2, length=6)
    inputs = jnp.array([[1, 2, 3, 4, 5, 6]])
    params = model.init(jax.random.key(0), inputs)
    changed = inputs.at[0, 4].set(0)
    before, after = model.apply(params, inputs), model.apply(params, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert jnp.abs(before[:, 4:] - after[:, 4:]).max() > 0
