"""init and update lower for GPU and TPU on a CPU machine; they were never run there."""

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.sharding import AxisType

import shampoo_jax
from shampoo_jax import Blocks, Root, Sharding, grafting, orthogonal, roots

PARAMS = {
    "w": jax.ShapeDtypeStruct((40, 24), jnp.float32),
    "b": jax.ShapeDtypeStruct((24,), jnp.float32),
}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("root", [roots.eigh_root, roots.newton_root], ids=["eigh", "newton"])
@pytest.mark.parametrize("devices", [1, 8])
def test_init_and_update_lower(platform, root, devices):
    mesh = jax.make_mesh(
        (devices,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    tx = shampoo_jax.shampoo(
        0.1, blocks=Blocks(block_size=16), root=Root(solver=root), sharding=Sharding(mesh=mesh)
    )
    init = export.export(jax.jit(tx.init), platforms=[platform])(PARAMS)
    state = jax.eval_shape(tx.init, PARAMS)
    update = export.export(jax.jit(tx.update), platforms=[platform])(PARAMS, state, PARAMS)
    assert init.platforms == update.platforms == (platform,)
    text = update.mlir_module()
    # Accelerators refresh the due blocks as one batch, not in the loop that CPU needs.
    assert "lapack" not in text
    assert text.count("stablehlo.all_gather") == (devices > 1)


SPECTRAL = grafting.spectral(orthogonal.polar)
VARIANTS = {
    "soap": lambda **o: shampoo_jax.soap(0.1, **o, root=Root(solver=roots.qr_basis)),
    "kl_shampoo": lambda **o: shampoo_jax.kl_shampoo(0.1, **o),
    "spectral": lambda **o: shampoo_jax.shampoo(0.1, **o, grafting=SPECTRAL),
}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_lower(name, platform):
    tx = VARIANTS[name](blocks=Blocks(block_size=16))
    state = jax.eval_shape(tx.init, PARAMS)
    update = export.export(jax.jit(tx.update), platforms=[platform])(PARAMS, state, PARAMS)
    assert "lapack" not in update.mlir_module()
