"""The models whose steps are planned: Transformers, ResNet-50, NxtPost. Shapes alone, no array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import shampoo_jax
from experiments.loop.parameter_average import Weight, exponential
from experiments.loop.sharding import rules_of
from experiments.loop.train_step import Loss, make_step, specs_of, state_layout
from experiments.models.decoder import Decoder
from experiments.studies.capacity.case import AnyMesh, Case, Laid, bytes_per_device
from experiments.studies.capacity.trace import flops_per_device
from experiments.studies.image_options import Images, network, optimizer
from nxtpost_jax import NxtPost, NxtPostConfig, Objective
from nxtpost_jax.towers.model import apply
from nxtpost_jax.training.task import TowerLoss
from shampoo_jax import Blocks, Sharding, dimension_numbers

RATE = 1e-3


def by_rows(mesh: AnyMesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Return a shape whose first dimension is dealt over the devices."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)


def lay_training(
    mesh: AnyMesh,
    *,
    init_params: Callable[[jax.Array], Any],
    loss: Loss,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    layout: str,
    tx: optax.GradientTransformation,
    gathered: Callable[[str], int] = lambda path: 1,
    least: float = Sharding().gather_bytes,
    average: Weight | None = None,
) -> Laid:
    """Lay a training step out over a mesh, as the training loop does.

    Args:
      mesh: in context.
      init_params, loss, batch: of the model.
      layout: name of one of `sharding.LAYOUTS`.
      tx: the optimizer.
      gathered: see `Laid`.
      least: bytes in parts from which on the optimizer is told so, see `specs_of`.
      average: of the parameters, see `train`.
    """
    rules, averaged = rules_of(layout), average is not None
    state = state_layout(init_params, tx, mesh=mesh, rules=rules, averaged=averaged)  # pyright: ignore[reportArgumentType]  # an abstract mesh does
    specs = specs_of(state, least=least)
    step = make_step(loss, tx, seed=0, param_specs=specs, average=average)
    return Laid(step, state, batch, gathered=gathered)


def transformer(
    name: str,
    *,
    layout: str,
    width: int,
    layers: int,
    heads: int,
    length: int,
    vocabulary: int,
    rows: int,
    block_size: int,
    gather_bytes: int = Sharding().gather_bytes,
) -> Case:
    """Return a causal Transformer trained by Shampoo, `rows` sequences per device.

    Gradients in parts are whole `gather_bytes` at a time. The layers are scanned and recomputed;
    arithmetic is float32. Parameters in parts are gathered layer by layer, once forward and once
    backward.
    """
    model = Decoder(vocabulary, width, layers, heads, length, axis="data")

    def init_params(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, length), jnp.int32))

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, dict]:
        del key
        logits: Any = model.apply(params, batch["inputs"])
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return jnp.mean(entropy), {}

    tx = shampoo_jax.shampoo(
        RATE,
        blocks=Blocks(block_size=block_size),
        dimension_numbers=dimension_numbers.stacked("layers"),
        sharding=Sharding(gather_bytes=gather_bytes),
    )

    def lay(mesh: AnyMesh) -> Laid:
        shape = (rows * mesh.size, length)
        batch = {key: by_rows(mesh, shape, np.int32) for key in ("inputs", "labels")}
        laid = lay_training(
            mesh,
            init_params=init_params,
            loss=loss,
            batch=batch,
            layout=layout,
            tx=tx,
            gathered=lambda path: 2 if "/layers/" in path else 1,
            least=0,
        )
        return dataclasses.replace(laid, gather_bytes=gather_bytes)

    about = (
        f"{layers} layers of width {width}, {heads} heads, {vocabulary:,} tokens in all, "
        f"{rows} x {length} per device, blocks of {block_size}"
    )
    return Case(name=name, layout=layout, about=about, lay=lay)


def residual(name: str, *, layout: str, options: Images, classes: int, rows: int) -> Case:
    """Return a residual network trained by its recipe, `rows` images per device."""
    classifier = network(options, classes=classes)
    side = options.side

    def lay(mesh: AnyMesh) -> Laid:
        shape = (rows * mesh.size, side, side, 3)
        batch = {
            "images": by_rows(mesh, shape, np.uint8),
            "labels": by_rows(mesh, shape[:1], np.int32),
        }
        return lay_training(
            mesh,
            init_params=classifier.init_params,
            loss=classifier.loss,
            batch=batch,
            layout=layout,
            tx=optimizer(options, steps_per_epoch=1000),
            average=exponential(options.average),
        )

    about = f"{options.model}, {rows} images of {side} pixels per device, blocks of 128"
    return Case(name=name, layout=layout, about=about, lay=lay)


def recommender(
    name: str,
    *,
    config: NxtPostConfig,
    items: int,
    content: int,
    rows: int,
    negatives: int,
) -> Case:
    """Return NxtPost on content alone, the catalogue dealt by rows, negatives of the batch.

    Args:
      name: of the case.
      config: of the towers.
      items: of the catalogue.
      content: width of an item's content vector, float32.
      rows: histories per device.
      negatives: that a batch shares.
    """
    model = NxtPost(config)
    objective = Objective(negatives="in_batch", num_negatives=negatives)
    length = config.max_len

    def init_params(key: jax.Array) -> Any:
        example = {
            "items": jnp.zeros((1, length), jnp.int32),
            "times": jnp.zeros((1, length), jnp.float32),
        }
        return model.init(key, example, jnp.zeros((1, content)))["params"]

    def lay(mesh: AnyMesh) -> Laid:
        shape = (rows * mesh.size, length)
        batch = {key: by_rows(mesh, shape, np.int32) for key in ("items", "labels")}
        batch["times"] = by_rows(mesh, shape, np.float32)
        batch["users"] = by_rows(mesh, shape[:1], np.int32)
        catalogue = by_rows(mesh, (items, content), np.float32)
        tx = shampoo_jax.shampoo(RATE)

        def step(state: Any, batch: Any, catalogue: Any) -> Any:
            # In-batch negatives read no candidates.
            loss = TowerLoss(model, objective, catalogue, jnp.zeros(1, jnp.int32), None)
            return make_step(loss, tx, seed=0)(state, batch)

        state = state_layout(init_params, tx, mesh=mesh)  # pyright: ignore[reportArgumentType]  # an abstract mesh does
        # Every device looks all ids up in its part of the catalogue, and the sum over devices is
        # everyone's: of inputs and labels whole batches, and the negatives, which all encode whole.
        # The post tower's gradients are summed twice, as of inputs and as of labels.
        ids = shape[0] * length
        found = 4.0 * content * (2 * ids + negatives) + 4.0 * negatives * (config.d_model + 2)
        found += bytes_per_device(state.params["post_tower"])
        whole = _post_flops(model, state.params, negatives, content) * (1 - 1 / mesh.size)
        return Laid(
            step,
            state,
            batch,
            (catalogue,),
            moved={"all-reduce": found, "all-gather": 3 * 4.0 * ids},
            further_flops=whole,
            growing=2 * 4.0 * content * rows * length,
        )

    about = (
        f"{config.num_layers} layers of width {config.d_model}, {rows} histories of {length} per "
        f"device, {items:.0e} items of content {content}, {negatives:,} shared negatives"
    )
    return Case(name=name, layout="catalogue by rows", about=about, lay=lay)


def _post_flops(model: NxtPost, params: Any, items: int, content: int) -> float:
    """Count what encoding items and the gradients of their encoding take."""

    def total(params: Any, rows: jax.Array) -> jax.Array:
        return jnp.sum(apply(model, params, rows, method="encode_items"))

    rows = jax.ShapeDtypeStruct((items, content), jnp.float32)
    return traced_flops(jax.grad(total), params, rows)


def traced_flops(function: Callable[[Any, Any], Any], params: Any, given: Any) -> float:
    """Count a function's products on one device, by shapes."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, given))
    return flops_per_device(jax.make_jaxpr(function)(*shapes).jaxpr, 1)
