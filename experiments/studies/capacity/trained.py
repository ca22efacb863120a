"""Models that the commands train, at their own sizes, for what each `--layout` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import shampoo_jax
from experiments.data.characters import Text
from experiments.harness.provenance import DataName
from experiments.loop.train_step import Loss
from experiments.studies.capacity.case import AnyMesh, Case, Laid
from experiments.studies.capacity.models import RATE, by_rows, lay_training
from experiments.tasks.characters import character_task
from nxtpost_jax import NxtPost, NxtPostConfig, Objective
from nxtpost_jax.training.task import TowerLoss

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adamw": lambda: optax.adamw(RATE),
    "shampoo": lambda: shampoo_jax.shampoo(RATE),
}
Arrays = Mapping[str, tuple[tuple[int, ...], Any]]  # shape behind the rows, dtype


def trained(
    name: str,
    *,
    init_params: Callable[[jax.Array], Any],
    loss: Loss,
    rows: int,
    arrays: Arrays,
    layout: str,
    optimizer: str,
) -> Case:
    """Return a step as the training loop compiles it, `rows` examples over all devices."""

    def lay(mesh: AnyMesh) -> Laid:
        batch = {key: by_rows(mesh, (rows, *dims), dtype) for key, (dims, dtype) in arrays.items()}
        return lay_training(
            mesh,
            init_params=init_params,
            loss=loss,
            batch=batch,
            layout=layout,
            tx=OPTIMIZERS[optimizer](),
        )

    return Case(name=f"{name}, {optimizer}", layout=layout, about=f"{rows} rows", lay=lay)


def characters(layout: str, optimizer: str, *, tiny: bool) -> Case:
    """Return the Transformer over characters of `shampoo_ablation characters`."""
    codes = np.zeros(1000, np.int32)
    text = Text(DataName("<none>", ""), 98, codes, codes, codes)
    length = 16 if tiny else 64
    sizes = {"width": 64, "layers": 1} if tiny else {"width": 128, "layers": 3}
    task = character_task(text, length=length, batch_size=32, **sizes)
    arrays: Arrays = {key: ((length,), np.int32) for key in ("inputs", "labels")}
    how = {"init_params": task.init_params, "loss": task.loss, "rows": 32, "arrays": arrays}
    return trained("characters", **how, layout=layout, optimizer=optimizer)


def sequences(layout: str, optimizer: str, *, tiny: bool) -> Case:
    """Return NxtPost of the command `nxtpost`: content joined to ids, as many as MovieLens-1M's."""
    config = NxtPostConfig.default(**({"d_model": 16, "max_len": 16} if tiny else {}))
    items, content, length = 3712, 128, config.max_len  # a multiple of 8 and more
    model = NxtPost(config, items)
    vectors = jnp.zeros((items, content))
    loss = TowerLoss(model, Objective(), vectors, jnp.arange(items, dtype=jnp.int32), None)
    arrays: Arrays = {
        "items": ((length,), np.int32),
        "labels": ((length,), np.int32),
        "times": ((length,), np.float32),
        "users": ((), np.int32),
    }

    def init_params(key: jax.Array) -> Any:
        example = {name: jnp.zeros((1, *dims), dtype) for name, (dims, dtype) in arrays.items()}
        return model.init(key, example, vectors)["params"]

    how = {"init_params": init_params, "loss": loss, "rows": 128, "arrays": arrays}
    return trained("nxtpost", **how, layout=layout, optimizer=optimizer)
