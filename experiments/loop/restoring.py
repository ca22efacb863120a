"""Go on from a checkpoint on the devices that there are now.

Parameters, and all of an optimizer's state that has their shapes, do not depend on the number of
devices. Shampoo's blocks lie in pools that are padded to it: they are read as they were laid out
before, and laid out anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh

import shampoo_jax
from experiments.loop.checkpoints import Checkpoints
from experiments.loop.schedule import Progress
from experiments.loop.train_step import InitParams, TrainState, counters, init_opt_state


def laid_out_before(
    init_params: InitParams,
    tx: optax.GradientTransformation,
    *,
    record: Mapping[str, Any],
    mesh: Mesh,
) -> optax.OptState | None:
    """Return the shapes of a checkpoint's optimizer state; None where they are those of the mesh.

    Must not be called under a mesh: jax lets no other one be traced for there.

    Args:
        init_params: maps a key to the parameters.
        tx: the optimizer.
        record: of the checkpoint, see `Checkpoints.read_record`.
        mesh: of now.
    """
    axes = record["axes"]
    if axes == dict(mesh.shape):
        return None
    kinds = (AxisType.Auto,) * len(axes)
    before = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=kinds)
    params = jax.eval_shape(init_params, jax.random.key(0))
    with jax.sharding.use_abstract_mesh(before):
        return jax.eval_shape(tx.init, params)


def restore(
    checkpoints: Checkpoints,
    tx: optax.GradientTransformation,
    *,
    layout: TrainState,
    progress: Progress,
    before: optax.OptState | None,
) -> TrainState:
    """Return the state of the newest checkpoint.

    Args:
        checkpoints: they have one.
        tx: the optimizer.
        layout: shapes and places of the state here.
        progress: of the checkpoint.
        before: see `laid_out_before`.
    """
    step = progress.step
    params = checkpoints.restore_params(step, like=layout.params)
    if before is None or _shapes(before) == _shapes(layout.opt_state):
        opt_state = checkpoints.restore_opt_state(step, like=layout.opt_state)
    else:
        shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), before)
        saved = checkpoints.restore_opt_state(step, like=shapes)
        canonical = shampoo_jax.to_canonical(saved, layout.params)
        fresh = init_opt_state(tx, params, layout=layout)
        opt_state = shampoo_jax.from_canonical(canonical, fresh, params=layout.params)
    skipped = progress.skipped, progress.skipped_in_a_row
    average = layout.average
    if average is not None:
        average = checkpoints.restore_params(step, like=average, name="average")
    counts = counters(layout, step=step, skipped=skipped)
    return TrainState(params, opt_state, *counts, average=average)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]
