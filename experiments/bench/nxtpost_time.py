"""How fast NxtPost trains, evaluates and serves, in parts; `step_time --model nxtpost` runs it.

Drawn data of MovieLens-1M's size (6,040 users, 3,416 items, a million events), 32 content
features an item, width 64, two blocks, rows of 200, batches of 128, 128 shared negatives. The
contestants take turns, a few steps each, so that a noisy machine disturbs all alike:

    bare     forward, backward and update in one jitted function, batches on the device already
    loop     the built-in loop of `Recommender.fit`: batches made on the host, then the same step
    gradient forward and backward alone
    update   the optimizer alone
    input    the batches alone

An epoch in buckets (`batches.batch_shapes`) is the sum of bare steps of its shapes. Serving goes
through `Recommender`, every call from ids of events to ids of items.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import nxtpost_jax
import shampoo_jax
from experiments.harness.report import Table
from experiments.harness.timing import median_seconds, percentiles_ms, seconds_of
from nxtpost_jax import NxtPost, NxtPostConfig, Objective, Recommender, Sequences
from nxtpost_jax.training import steps as training

Batch = dict[str, Any]  # as of `train_batches`, on the host or on the device
OBJECTIVE = Objective(num_negatives=128)
OPTIMIZERS = {"adamw": optax.adamw, "shampoo": shampoo_jax.shampoo}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much data is drawn, the model's sizes, and how long it is timed."""

    users: int = 6040
    """users"""
    items: int = 3416
    """items"""
    median_length: int = 96
    """events of the median user"""
    content: int = 32
    """content features of an item"""
    max_len: int = 200
    """inputs a row"""
    d_model: int = 64
    """width of both towers"""
    batch_size: int = 128
    """rows a step"""
    buckets: int = 3
    """widths of rows in the epoch by buckets"""
    steps: int = 4
    """steps of a turn"""
    turns: int = 5
    """turns that are timed"""
    requests: int = 200
    """single requests, events and inserts that are timed"""
    optimizers: tuple[str, ...] = ("adamw", "shampoo")
    """who trains, AdamW first"""


SMALL = Size(
    users=40,
    items=50,
    median_length=12,
    max_len=8,
    d_model=8,
    batch_size=8,
    steps=1,
    turns=1,
    buckets=1,
    requests=3,
    optimizers=("adamw",),
)


class Setting(NamedTuple):
    """What all measurements share."""

    size: Size
    sequences: Sequences
    content: np.ndarray  # float32 [items, content]
    model: NxtPost


def draw(size: Size, *, seed: int) -> Setting:
    """Draw histories of lognormal lengths, items by a power law, content from a Gaussian."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(size.median_length), 1.0, size.users))
    lengths = np.clip(lengths, 20, 2300).astype(int)
    share = 1 / np.arange(1, size.items + 1) ** 0.8
    items = rng.choice(size.items, lengths.sum(), p=share / share.sum())
    users = np.repeat(np.arange(size.users), lengths)
    config = NxtPostConfig(
        d_model=size.d_model,
        d_ff=size.d_model,
        max_len=size.max_len,
        block="transformer",
        id_embedding=True,
        time_features=False,
    )
    content = rng.normal(size=(size.items, size.content)).astype(np.float32)
    sequences = Sequences.from_events(users, items, num_users=size.users)
    return Setting(size, sequences, content, NxtPost(config, size.items))


class Trainer:
    """Take steps of one optimizer; parameters and state are kept from call to call."""

    def __init__(self, setting: Setting, tx: optax.GradientTransformation):
        self.setting = setting
        size = setting.size
        self.task = nxtpost_jax.task(
            setting.model,
            setting.sequences,
            content=setting.content,
            objective=OBJECTIVE,
            batch_size=size.batch_size,
        )
        self.key = self.task.step_key(0)
        self.where = training.placed(self.task, tx)
        self.stream = batches_of(setting)
        self.resident = jax.device_put(next(self.stream))
        self.state = training.init(self.task, tx)
        self.update_jitted = jax.jit(tx.update)
        self.grads = self.gradient()

    def bare(self, batch: Batch | None = None) -> None:
        """Step on a resident batch."""
        taken = self.resident if batch is None else batch
        self.state, value = self.where.step(self.state, taken, self.key)
        jax.block_until_ready(value)

    def loop(self) -> None:
        """Take a turn's steps on batches that are made on the way."""
        batches = itertools.islice(self.stream, self.setting.size.steps)
        taken = training.taken(self.task, self.state, batches, where=self.where)
        for state, _ in taken:
            self.state = state

    def gradient(self) -> Any:
        """Compute a gradient, as a step does."""
        return _gradient(self.task.loss, self.state.params, self.resident, self.key)

    def update(self) -> tuple[Any, optax.OptState]:
        """Compute an update from a gradient at hand."""
        return self.update_jitted(self.grads, self.state.opt_state, self.state.params)


def batches_of(setting: Setting) -> Iterator[Batch]:
    """Yield batches of epoch after epoch."""
    size = setting.size
    for epoch in itertools.count():
        yield from nxtpost_jax.train_batches(
            setting.sequences,
            max_len=size.max_len,
            batch_size=size.batch_size,
            seed=0,
            epoch=epoch,
        )


@jax.jit
def _gradient(loss, params, batch, key):
    return jax.grad(loss, has_aux=True)(params, batch, key)[0]


def time_training(setting: Setting, optimizers: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Measure every optimizer's steps and their parts; medians of milliseconds a step."""
    size = setting.size
    trainers = {name: Trainer(setting, tx) for name, tx in optimizers.items()}
    times = {name: {} for name in trainers}
    for turn in range(size.turns + 1):
        for name, trainer in trainers.items():
            calls = {
                "bare_ms": [trainer.bare] * size.steps,
                "gradient_ms": [trainer.gradient] * size.steps,
                "update_ms": [trainer.update] * size.steps,
                "input_ms": [functools.partial(next, trainer.stream)] * size.steps,
            }
            found = {
                part: [1e3 * seconds_of(c) for c in repeated] for part, repeated in calls.items()
            }
            found["loop_ms"] = [1e3 * seconds_of(trainer.loop) / size.steps]
            if turn:  # the first turn compiles
                for part, values in found.items():
                    times[name].setdefault(part, []).extend(values)
    rows = {name: {k: float(np.median(v)) for k, v in own.items()} for name, own in times.items()}
    for name, row in rows.items():
        row["sequences/s, bare"] = 1e3 * size.batch_size / row["bare_ms"]
        row["sequences/s"] = 1e3 * size.batch_size / row["loop_ms"]
        row["loop / bare"] = row["bare_ms"] / row["loop_ms"]
        row["input share"] = row["input_ms"] / row["loop_ms"]
        row |= _epochs(setting, trainers[name])
    return rows


def _epochs(setting: Setting, trainer: Trainer) -> dict[str, float]:
    """Add up an epoch's bare steps, all rows of one width and in buckets: seconds."""
    size, seconds = setting.size, {}
    for label, buckets in (("epoch s", 1), ("epoch s, buckets", size.buckets)):
        rows: dict[str, Any] = {"max_len": size.max_len, "batch_size": size.batch_size}
        rows["buckets"] = buckets
        counts = {
            shape: -(-len(windows) // shape[0])
            for shape, windows in nxtpost_jax.batch_shapes(setting.sequences, **rows).items()
        }
        drawn = nxtpost_jax.train_batches(setting.sequences, seed=0, epoch=0, **rows)
        examples = {}
        for batch in drawn:
            examples.setdefault(batch["items"].shape, batch)
            if len(examples) == len(counts):
                break
        total = 0.0
        for shape, batch in examples.items():
            step = functools.partial(trainer.bare, jax.device_put(batch))
            step()  # compiles
            total += counts[shape] * median_seconds(step, repeats=size.turns)
        seconds[label] = total
    return seconds


def time_serving(setting: Setting) -> dict[str, float]:
    """Measure evaluation and the calls of a recommender, all warm."""
    size, sequences = setting.size, setting.sequences
    recommender = Recommender(setting.model.config, setting.content)
    recommender.fit(sequences.select(np.arange(min(64, size.users))), epochs=1, batch_size=64)
    queries = nxtpost_jax.leave_one_out(sequences).test
    calls = {
        "evaluation s": lambda: recommender.evaluate(queries, bootstrap=0),
        "recommend s": lambda: recommender.recommend(queries.histories, 10),
    }
    found = {}
    for name, call in calls.items():
        call()  # compiles
        found[name] = median_seconds(call, repeats=3)
    found["users/s"] = len(queries) / found.pop("recommend s")
    history = [queries.histories[row] for row in range(min(size.requests, len(queries)))]
    for row, events in enumerate(history):
        recommender.update(row, int(events[-1]), history=[events[:-1]])
    timed = {
        "request": lambda row: recommender.recommend([history[row]], 10),
        "event": lambda row: recommender.update(row, int(history[row][0])),
        "insert": lambda row: recommender.add(setting.content[row : row + 1]),
    }
    for name, call in timed.items():
        for row in range(len(history)):  # compiles every width that occurs
            call(row)
        times = [seconds_of(functools.partial(call, row)) for row in range(len(history))]
        found[f"{name} p50 ms"], found[f"{name} p99 ms"] = percentiles_ms(times)
    return {name: float(value) for name, value in found.items()}


TRAINING = (
    "sequences/s, bare",
    "sequences/s",
    "loop / bare",
    "bare_ms",
    "loop_ms",
    "gradient_ms",
    "update_ms",
    "input_ms",
    "input share",
    "epoch s",
    "epoch s, buckets",
)


def measure(size: Size, *, seed: int) -> tuple[dict[str, float], list[Table]]:
    """Draw data, time everything: figures by name, and the tables that show them."""
    setting = draw(size, seed=seed)
    rows = time_training(setting, {name: OPTIMIZERS[name](1e-3) for name in size.optimizers})
    serving = time_serving(setting)
    serving["evaluation / epoch"] = serving["evaluation s"] / rows["adamw"]["epoch s"]
    figures = {f"nxtpost/{o}/{c}": row[c] for o, row in rows.items() for c in TRAINING}
    figures |= {f"nxtpost/serving/{name}": value for name, value in serving.items()}
    cells = {name: [name, *(row[column] for column in TRAINING)] for name, row in rows.items()}
    events = len(setting.sequences.items)
    tables = [
        Table(
            title=f"NxtPost, training: {size.users:,} users, {events:,} events",
            columns=("optimizer", *TRAINING),
            baselines=[cells["adamw"]],
            rows=[cells[name] for name in rows if name != "adamw"],
            note="Milliseconds a step. An epoch is its bare steps.",
        ),
        Table(
            title=f"NxtPost, evaluation and serving: {size.items:,} items",
            columns=("", "value"),
            baselines=[["epoch of AdamW, bare, s", rows["adamw"]["epoch s"]]],
            rows=[[name, value] for name, value in serving.items()],
            note="One warm call each: a request is from a history to 10 ids, an event goes through "
            "the user's cache, an insert is one item from content to findable.",
        ),
    ]
    return figures, tables
