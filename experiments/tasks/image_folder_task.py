"""Classification of images that stay on disk: loss, evaluation, and the batches of an epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.data.image_reader import ImageReader, Wanted
from experiments.loop.sharding import shard_batch
from experiments.loop.train_step import Loss, Params
from experiments.models.resnet import ResNet
from experiments.tasks.images import rows_of_steps

# Mean and deviation of ImageNet's pixels by channel, as is common for all photographs.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
TOP = 5


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Classifier:
    """A network on uint8 pixels.

    Attributes:
      model: the network.
      side: of the squares that it sees.
      label_smoothing: share of the labels' mass that is spread over all classes in training.
    """

    model: ResNet
    side: int
    label_smoothing: float

    def init_params(self, key: jax.Array) -> Params:
        """Draw parameters."""
        return self.model.init(key, jnp.zeros((1, self.side, self.side, 3)))

    def logits(self, params: Params, pixels: jax.Array) -> jax.Array:
        """Return f32[B, K] of uint8 [B, side, side, 3]."""
        x = (pixels.astype(jnp.float32) - MEAN[None, None, None]) / DEVIATION[None, None, None]
        return cast(jax.Array, self.model.apply(params, x))

    @property
    def loss(self) -> Loss:
        """Cross entropy with smoothed labels."""

        def loss(params, batch, key) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            del key
            labels = jax.nn.one_hot(batch["labels"], self.model.classes)
            labels = optax.smooth_labels(labels, self.label_smoothing)
            logits = self.logits(params, batch["images"])
            return jnp.mean(optax.softmax_cross_entropy(logits, labels)), {}

        return loss

    def scorer(
        self, reader: ImageReader, labels: np.ndarray, *, batch_size: int, mesh: Mesh
    ) -> Callable[[Params], dict[str, float]]:
        """Return what scores parameters on all files of a reader, in their order.

        Figures are "loss", without smoothing, "top_1" and "top_5": shares of the images whose class
        is the first, or among the first five, by logit.
        """
        rows = np.arange(len(labels))
        chunks = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]

        @jax.jit
        def sums_of(params, batch) -> jax.Array:
            logits = self.logits(params, batch["images"])
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
            _, best = jax.lax.top_k(logits, min(TOP, self.model.classes))
            hits = best == batch["labels"][:, None]
            figures = jnp.stack([entropy, hits[:, 0], hits.any(axis=1)])
            return jnp.sum(jnp.where(batch["real"] > 0, figures, 0), axis=1)

        def score(params: Params) -> dict[str, float]:
            sums = np.zeros(3)
            wanted = (Wanted(_padded(chunk, batch_size), None) for chunk in chunks)
            for chunk, batch in zip(chunks, reader.batches(wanted)):
                real = np.arange(batch_size) < len(chunk)
                whole = shard_batch({**batch, "real": real.astype(np.float32)}, mesh)
                sums += np.asarray(sums_of(params, whole))
            return dict(zip(("loss", "top_1", "top_5"), (sums / len(rows)).tolist()))

        return score


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last row up to a size: one program serves all chunks."""
    return np.pad(rows, (0, size - len(rows)), mode="edge")


def epoch_of(
    reader: ImageReader, files: int, *, batch_size: int, seed: int
) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
    """Return the batches of an epoch by its number: all images, but for what fills no batch.

    Order and crops are functions of the seed, the epoch and the step.
    """
    steps = files // batch_size

    def batches(epoch: int) -> Iterator[dict[str, np.ndarray]]:
        drawn = rows_of_steps(files, batch_size, first=epoch * steps, count=steps, seed=seed)
        wanted = (Wanted(rows, [(seed, step, int(row), 1) for row in rows]) for step, rows in drawn)
        return reader.batches(wanted)

    return batches
