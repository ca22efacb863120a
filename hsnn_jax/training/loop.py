"""Steps on drawn pairs, a validation every so many, the best parameters kept."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from hsnn_jax.nodes.fit import check_finite
from hsnn_jax.training import progress
from hsnn_jax.training.checkpoint import Checkpoint, Standing, digest_of
from hsnn_jax.training.optimizers import Optimizer, made

Record = dict[str, float]
Log = Callable[[Record], None]
# loss(params, data, rows=int32 [B], key=..., step=...) is a scalar; hashable, so that equal losses
# share what is compiled
Loss = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """How long a model is trained, on what batches, and which parameters are kept.

    Attributes:
      steps: at most.
      batch_size: pairs a step, drawn uniformly.
      negatives: items a step, drawn uniformly, that all its pairs share; without labels alone.
      evaluate_every: steps between validations.
      patience: validations in a row without a new best that end the training; None for all steps.
      validation: share of the pairs that are held out, drawn, `pairs.MOST_HELD_OUT` at most; or
        int [m], their rows.
      k: validation measures the share of held-out items among the best k of all items.
      select: what the best parameters are best by: "recall", the largest of that share; or "loss",
        the least loss of the held-out pairs.
      progress: False for no line; else there is one where stderr is a terminal.
      log: called with the record of every validation.
      checkpoint: a folder; the same call goes on from the last validation in it, to the same bits.

    Raises:
      ValueError: a number is below 1, or there is no such metric.
    """

    steps: int = 2000
    batch_size: int = 256
    negatives: int = 256
    evaluate_every: int = 200
    patience: int | None = 5
    validation: float | ArrayLike = 0.1
    k: int = 10
    select: Literal["recall", "loss"] = "recall"
    progress: bool | None = None
    log: Log | None = None
    checkpoint: str | os.PathLike | None = None

    def __post_init__(self):
        for name in ("steps", "batch_size", "negatives", "evaluate_every", "patience", "k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected a number >= 1, found {value}")
        kinds = get_args(type(self).__annotations__["select"])
        if self.select not in kinds:
            known = " or ".join(map(repr, kinds))
            raise ValueError(f"select: expected {known}, found {self.select!r}")


class _State(NamedTuple):
    params: Any
    opt_state: Any
    step: jax.Array  # int32 []
    total: jax.Array  # float32 []: of the losses since the last validation


def train(
    loss: Loss,
    params: Any,
    *,
    data: Any,
    rows: np.ndarray,
    tx: Optimizer,
    training: Training,
    validate: Callable[[Any, Any], Record],
    key: jax.Array,
    refresh: Callable[[Any, Any], Any] | None = None,
) -> tuple[Any, list[Record]]:
    """Train; return the best validated parameters, and a record per validation.

    A batch depends on the key and the step alone.

    Args:
      loss: see `Loss`.
      params: to begin with; stay as they are.
      data: pytree that the loss reads.
      rows: int [m], of the pairs to train on.
      tx: see `optimizers.made`.
      training: see `Training`.
      validate: from parameters and data to "recall@k" and "validation_loss".
      key: of batches and negatives.
      refresh: from parameters and data to the data of the steps to come, before the first step and
        before every validation.

    Raises:
      ValueError: the checkpoint is of another call or optimizer, or damaged.
      FloatingPointError: training diverged: a loss or a parameter is NaN or infinite.
    """
    word = tx if isinstance(tx, str) else "a transformation"
    tx = made(tx, warmup=min(100, training.steps // 10 + 1))
    zero = jnp.zeros(())
    params = jax.tree.map(jnp.array, params)  # the step donates its state
    state = _State(params, tx.init(params), zero.astype(jnp.int32), zero)
    options = {"loss": loss, "tx": tx, "batch_size": training.batch_size}
    rows_on_device = jnp.asarray(rows, jnp.int32)
    standing, checkpoint = Standing(state), None
    if training.checkpoint is not None:
        arrays = {"data": data, "rows": rows, "params": params, "key": key}
        call = _call(loss, training) | {name: digest_of(own) for name, own in arrays.items()}
        checkpoint = Checkpoint(training.checkpoint, call | {"tx": word})
        standing = checkpoint.resumed(standing)
    data = data if refresh is None else refresh(standing.state.params, data)
    with progress.shown(training.progress, total=training.steps) as show:
        for start, stop in _rounds(training, after=int(standing.state.step)):
            if training.patience is not None and standing.since >= training.patience:
                break
            state, best, best_value, since, records = standing
            for number in range(start, stop):
                state = _step(state, data, rows_on_device, key, **options)
                show(number + 1, _text(records, training))
            mean = float(state.total) / (stop - start)
            check_finite("loss", mean, step=stop)
            check_finite("params", state.params, step=stop)
            state = state._replace(total=jnp.zeros(()))
            data = data if refresh is None else refresh(state.params, data)
            record = {"step": stop, "loss": mean} | validate(state.params, data)
            check_finite("validation", list(record.values()), step=stop)
            if training.log is not None:
                training.log(record)
            value, since = _value(record, training), since + 1
            if value > best_value:
                best, best_value, since = jax.device_get(state.params), value, 0
            standing = Standing(state, best, best_value, since, (*records, record))
            if checkpoint is not None:
                checkpoint.save(standing)
    return standing.best, list(standing.records)


def _call(loss: Loss, training: Training) -> dict[str, Any]:
    """Say what a training is of, beside its arrays."""
    names = ("steps", "batch_size", "negatives", "evaluate_every", "patience", "k", "select")
    # A scorer of the caller's may be told by its address alone, which another process has not.
    said = re.sub(r" at 0x[0-9a-f]+", "", repr(loss))
    return {"loss": said} | {name: getattr(training, name) for name in names}


def _rounds(training: Training, *, after: int) -> Iterator[tuple[int, int]]:
    every = training.evaluate_every
    for start in range(after, training.steps, every):
        yield start, min(start + every, training.steps)


def _value(record, training):
    name = f"recall@{training.k}"
    return record[name] if training.select == "recall" else -record["validation_loss"]


def _text(records, training):
    if not records:
        return ""
    last, name = records[-1], f"recall@{training.k}"
    return f"loss {last['loss']:.4f}  {name} {last[name]:.4f}"


@functools.partial(jax.jit, static_argnames=("loss", "tx", "batch_size"), donate_argnames="state")
def _step(state, data, rows, key, *, loss, tx, batch_size):
    batch_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
    batch = rows[jax.random.randint(batch_key, (batch_size,), 0, rows.shape[0])]
    value, grads = jax.value_and_grad(loss)(
        state.params, data, rows=batch, key=loss_key, step=state.step
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return _State(params, opt_state, state.step + 1, state.total + value)
