"""The residual network: what a block begins as, shapes, and which images meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.resnet import PreActivationBlock, ResNet


@pytest.mark.parametrize(("stem_stride", "side"), [(1, 8), (2, 8), (1, 6)])
def test_logits_have_a_row_per_image(stem_stride, side):
    model = ResNet(classes=7, width=8, stem_stride=stem_stride)
    images = jnp.ones((3, side, side, 2))
    assert model.apply(model.init(jax.random.key(0), images), images).shape == (3, 7)


def test_resnet_8_has_eight_layers_with_weights_on_the_long_way():
    model = ResNet(width=8)
    params = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))["params"]
    names = [
        "/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    kernels = [name for name in names if name.endswith("kernel")]
    assert sum("shortcut" not in name for name in kernels) == 8
    assert sum("shortcut" in name for name in kernels) == 2  # where width and side change


def test_a_block_whose_last_convolution_is_zero_is_the_identity():
    block = PreActivationBlock(8)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 8))
    params = block.init(jax.random.key(0), x)
    params["params"]["conv_2"]["kernel"] = jnp.zeros((3, 3, 8, 8))
    np.testing.assert_array_equal(block.apply(params, x), x)


def test_an_image_is_classified_alone():
    model = ResNet(width=8)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    params = model.init(jax.random.key(0), images)
    whole, alone = model.apply(params, images), model.apply(params, images[2:3])
    np.testing.assert_allclose(whole[2:3], alone, rtol=1e-4, atol=1e-5)
