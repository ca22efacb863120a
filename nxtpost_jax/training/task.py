"""What there is to train: parameters to begin with, a loss, and batches.

`Recommender.fit`'s own loop, the experiments' loop and a loop of yours train by one `Task`. Whoever
takes its keys (`init_key`, and `step_key` of a step's number over all epochs) and its batches gets
the same losses up to rounding, and to the bit where loss and update are one compiled step that
closes over the loss, on one device.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.arrays import Array
from nxtpost_jax.events import batches as rows
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.trends import times_of, trend_table
from nxtpost_jax.towers.model import NxtPost, count_items
from nxtpost_jax.training import losses
from nxtpost_jax.training.negatives import log_popularity
from nxtpost_jax.training.objective import Objective


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("content", "candidates", "log_popularity", "trends"),
    meta_fields=("model", "objective"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class TowerLoss:
    """Compute a batch's loss; a pytree of the arrays that it reads, so an argument of `jit`.

    Losses of equal arrays are equal, so that their steps are compiled once.

    Attributes:
      model: the towers.
      objective: losses and negatives.
      content: of all items, on the device, or None.
      candidates: int32[M], the items that occur in training.
      log_popularity: f32[num_items], or None where the objective reads none.
      trends: uint8[3, M, num_items], see `losses.loss`, or None where the model reads none.
    """

    model: NxtPost
    objective: Objective
    content: Content
    candidates: Array
    log_popularity: Array | None
    trends: Array | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TowerLoss) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @functools.cached_property
    def _identity(self) -> tuple:
        arrays = (self.content, self.candidates, self.log_popularity, self.trends)
        return self.model, self.objective, digest_of_arrays(arrays)

    def __call__(
        self, params: Any, batch: Mapping[str, Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Give the loss f32[] and its parts, see `losses.loss`."""
        return losses.loss(
            self.model,
            params,
            batch=batch,
            content=self.content,
            key=key,
            objective=self.objective,
            candidates=self.candidates,
            log_popularity=self.log_popularity,
            trends=self.trends,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Hold what a loop trains by; `task` makes one.

    Attributes:
      model: the towers.
      sequences: training events.
      loss: from (params, batch, key) to f32[] and a dict of f32[], pure: for `value_and_grad`.
      batch_size, buckets: see `batches.batch_shapes`.
      seed: draws parameters, order, negatives and dropout.
      start: what parameters as drawn are replaced by; None to begin with these.
      moments: int32[n_events], the moment of each event; None where the model reads no trends.
    """

    model: NxtPost
    sequences: Sequences
    loss: TowerLoss
    batch_size: int
    buckets: int
    seed: int
    start: Callable[[Any], Any] | None = None
    moments: np.ndarray | None = None

    @property
    def content(self) -> Content:
        """Give the content of all items, on the device, or None."""
        return self.loss.content

    @property
    def objective(self) -> Objective:
        """Give the losses and negatives."""
        return self.loss.objective

    @property
    def init_key(self) -> jax.Array:
        """Give the key that `init` takes."""
        return jax.random.split(jax.random.key(self.seed))[0]

    def step_key(self, step: int | jax.Array) -> jax.Array:
        """Give the key of a step, counted from 0 over all epochs, that the loss takes."""
        return jax.random.fold_in(self._steps_key, step)

    @functools.cached_property
    def _steps_key(self) -> jax.Array:
        return jax.random.split(jax.random.key(self.seed))[1]

    def init(self, key: jax.Array) -> Any:
        """Draw parameters, or give those to go on from."""
        example = {name: array[:1] for name, array in next(self.batches(0)).items()}
        drawn = _draw(self.model, key, example, self.content)
        return drawn if self.start is None else self.start(drawn)

    def batches(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield an epoch's batches, see `batches.train_batches`; a function of seed and epoch."""
        num_labels = self.objective.num_labels
        return rows.train_batches(
            self.sequences,
            epoch=epoch,
            seed=self.seed,
            num_labels=num_labels,
            moments=self.moments,
            **self._rows,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Count the batches of an epoch."""
        return rows.steps_per_epoch(self.sequences, **self._rows)

    @property
    def batch_shapes(self) -> list[tuple[int, int]]:
        """List the shapes (rows, inputs a row) that batches have."""
        return list(rows.batch_shapes(self.sequences, **self._rows))

    @property
    def _rows(self) -> dict[str, int]:
        return {
            "max_len": self.model.config.max_len,
            "batch_size": self.batch_size,
            "buckets": self.buckets,
        }


def task(
    model: NxtPost,
    sequences: Sequences,
    *,
    content: Content = None,
    objective: Objective | None = None,
    batch_size: int = 128,
    buckets: int = 1,
    seed: int = 0,
    start: Callable[[Any], Any] | None = None,
) -> Task:
    """Pose the training of both towers.

    Args:
      model: the towers.
      sequences: training events; negatives come from the items that occur in them.
      content: of all items, see `content`, or None.
      objective: losses and negatives; `Objective()` when None.
      batch_size, buckets: see `batches.batch_shapes`.
      seed: draws parameters, order, negatives and dropout.
      start: replaces parameters as drawn, such as by those to go on from.

    Raises:
      ValueError: an item is beyond the content or the ids, for an objective that counts items; or
        the model reads trends and there are no times. What `batches` refuses is refused where these
        are made.
    """
    objective = Objective() if objective is None else objective
    popularity = None
    if objective.logq:
        popularity = jnp.asarray(log_popularity(sequences, count_items(model, content)))
    trends = moments = None
    if model.config.trends:
        step = model.config.trend_step
        table = trend_table(sequences, count_items(model, content), step=step)
        trends, moments = jnp.asarray(table.known_3xMxN), table.moments(times_of(sequences))
    loss = TowerLoss(
        model,
        objective,
        jax.tree.map(jnp.asarray, content),
        jnp.asarray(np.unique(sequences.items)),
        popularity,
        trends,
    )
    return Task(model, sequences, loss, batch_size, buckets, seed, start, moments)


def digest_of_arrays(*trees: Any) -> str:
    """Compute a short SHA-256 of arrays, with their shapes and dtypes."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


@functools.partial(jax.jit, static_argnums=0)
def _draw(model, key, example, content):
    return model.init(key, example, content)["params"]
