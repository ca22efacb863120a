"""Shampoo against AdamW on scikit-learn's handwritten digits: steps and seconds to one accuracy.

    python -m experiments.digits              # about half a minute on 2 CPU cores
    python -m experiments.digits --preset search    # the learning rates, a few minutes

1,797 real images of 8 x 8 pixels, split once into 1,077 for training, 360 for validation and 360
for the test. An optimizer's figure is the first evaluation at which the validation accuracy
reaches the target; seconds are training alone, without compilation and evaluation. The test split
is scored once, with the last parameters. Data and model are small: what a step costs here says
little about large models, how many steps are needed says more.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import shampoo_jax
from experiments.bench.digits_model import Mlp
from experiments.data.digits import digit_images
from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.options import ManySeeds, WithLayout, check_least
from experiments.harness.plots import Draw, draw_curves, draw_lines, read_curves
from experiments.harness.report import Table
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome, Setting, Study
from experiments.loop.training import TrainResult, train
from shampoo_jax import Blocks

BATCH_SIZE = 128
STEPS_BETWEEN_EVALUATIONS = 4  # an "epoch" of the loop; one pass over the data is 8.4 steps
MODEL = Mlp(width=256, depth=2)

OptimizerFactory = Callable[[float], optax.GradientTransformation]
FACTORIES: dict[str, OptimizerFactory] = {
    "adamw": functools.partial(optax.adamw, b1=0.9, b2=0.99, weight_decay=1e-2),
    "shampoo": functools.partial(
        shampoo_jax.shampoo, b1=0.9, b2=0.99, weight_decay=1e-2, blocks=Blocks(block_size=256)
    ),
}
# The best of GRID by steps to the target, as `--preset search` found (medians of seeds 0 to 2):
#   rate     3e-4  1e-3  3e-3  1e-2  3e-2  1e-1     (none: not within 160 steps)
#   adamw    none   156    80    48    56  none
#   shampoo  none    88    56    32    32  none
LEARNING_RATES = {"adamw": 1e-2, "shampoo": 3e-2}
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(ManySeeds, WithLayout):
    """Compare optimizers on handwritten digits."""

    epochs: int = 40
    """evaluations of the validation split, four steps apart"""
    seeds: int = 3
    """number of seeds, from --seed on; the table shows their medians"""
    target: float = 0.97
    """validation accuracy to reach"""
    learning_rates: tuple[float, ...] = ()
    """try these instead of the chosen learning rates"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, epochs=1)


PRESETS = {
    "default": Digits(),
    "smoke": Digits(epochs=3, seeds=1, target=0.5),
    "search": Digits(learning_rates=GRID),
}


@dataclasses.dataclass(frozen=True)
class Split:
    """Images in [0, 1], float32 [N, 64], and labels, int32 [N]."""

    images: np.ndarray
    labels: np.ndarray


@functools.cache
def load_splits() -> tuple[Split, Split, Split]:
    """Return the training, validation and test splits: the same ones each time."""
    digits = digit_images()
    training, validation, test = (
        Split((part.images.reshape(-1, 64) / 16.0).astype(np.float32), part.labels)
        for part in (digits.training, digits.validation, digits.test)
    )
    return training, validation, test


@dataclasses.dataclass(frozen=True)
class DigitsRow:
    """One optimizer's figures, medians over seeds; None where most seeds missed the target."""

    optimizer: str
    steps: float | None
    seconds: float | None
    validation_accuracy: float
    test_accuracy: float | None


def run_digits(
    run: Run,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    mesh: Mesh,
    epochs: int = PRESETS["default"].epochs,
    seeds: Sequence[int] = (0, 1, 2),
    target: float = PRESETS["default"].target,
    score_test: bool = True,
) -> list[DigitsRow]:
    """Train the perceptron with every optimizer and seed; stages are "digits-NAME-SEED"."""
    rows = []
    for name, tx in optimizers.items():
        results = [
            _train(run, f"digits-{name}-{seed}", tx, mesh=mesh, epochs=epochs, seed=seed)
            for seed in seeds
        ]
        rows.append(_summarize(name, results, target=target, score_test=score_test))
    return rows


def _train(
    run: Run,
    stage: str,
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh,
    epochs: int,
    seed: int,
) -> TrainResult:
    training, validation, _ = load_splits()
    return train(
        run,
        stage=stage,
        init_params=lambda key: MODEL.init(key, training.images[:1]),
        loss=cross_entropy,
        tx=tx,
        batches=lambda epoch: _batches(training, epoch=epoch, seed=seed),
        epochs=epochs,
        steps_per_epoch=STEPS_BETWEEN_EVALUATIONS,
        seed=seed,
        mesh=mesh,
        evaluate=lambda params: {"accuracy": float(accuracy(params, validation))},
        checkpoint_every=epochs * STEPS_BETWEEN_EVALUATIONS + 1,  # short enough to start again
        log_every=1,
    )


def _batches(split: Split, *, epoch: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng([seed, epoch])
    for rows in np.split(
        rng.permutation(len(split.labels))[: STEPS_BETWEEN_EVALUATIONS * BATCH_SIZE],
        STEPS_BETWEEN_EVALUATIONS,
    ):
        yield {"images": split.images[rows], "labels": split.labels[rows]}


def _logits(params: dict, images: jax.Array) -> jax.Array:
    return cast(jax.Array, MODEL.apply(params, images))


def cross_entropy(
    params: dict, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the mean cross entropy of a batch."""
    del key
    logits = _logits(params, batch["images"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean(), {}


@jax.jit
def _correct(params: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(_logits(params, images).argmax(-1) == labels)


def accuracy(params: dict, split: Split) -> jax.Array:
    """Return the share of images that are classified correctly."""
    return _correct(params, split.images, split.labels)


def _summarize(
    name: str, results: Sequence[TrainResult], *, target: float, score_test: bool
) -> DigitsRow:
    _, _, test = load_splits()
    reached = [first_reaching(result.history, target=target) for result in results]
    test_accuracies = [float(accuracy(r.params, test)) for r in results if score_test]
    return DigitsRow(
        optimizer=name,
        steps=_median([record["step"] if record else None for record in reached]),
        seconds=_median([record["seconds"] if record else None for record in reached]),
        validation_accuracy=statistics.median(r.history[-1]["accuracy"] for r in results),
        test_accuracy=statistics.median(test_accuracies) if score_test else None,
    )


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median where None is worse than any number."""
    median = statistics.median(math.inf if value is None else value for value in values)
    return median if math.isfinite(median) else None


def first_reaching(
    history: Sequence[Mapping[str, float]], *, target: float
) -> Mapping[str, float] | None:
    """Return the first record whose accuracy is at least the target, or None."""
    return next((record for record in history if record["accuracy"] >= target), None)


def table_of(rows: Sequence[DigitsRow], *, target: float, seeds: Sequence[int]) -> Table:
    """Lay the rows out with AdamW as the baseline."""
    cells = {row.optimizer: [_shown(row.optimizer), *dataclasses.astuple(row)[1:]] for row in rows}
    baselines = [row for name, row in cells.items() if name.startswith("adamw")]
    return Table(
        title=f"Digits: to {target:.0%} validation accuracy",
        columns=("optimizer", "steps", "seconds", "validation", "test accuracy"),
        baselines=baselines,
        rows=[row for row in cells.values() if row not in baselines],
        note=f"Medians of {len(seeds)} seed(s). Seconds leave out compilation and evaluation.",
    )


def _shown(optimizer: str) -> str:
    """Return what tables call an optimizer, or one at a learning rate, "adamw@0.01"."""
    name, _, rate = optimizer.partition("@")
    return f"{OPTIMIZERS[name]} at {rate}" if rate else OPTIMIZERS[name]


def figures(rows: Sequence[DigitsRow]) -> tuple[dict[str, float], dict[str, float]]:
    """Flatten the rows to metrics and baselines named OPTIMIZER/FIGURE."""
    flat = {
        f"{row.optimizer}/{name}": value
        for row in rows
        for name, value in dataclasses.asdict(row).items()
        if name != "optimizer"
    }
    baselines = {name: value for name, value in flat.items() if name.startswith("adamw")}
    return {name: flat[name] for name in flat if name not in baselines}, baselines


def panels_of(run: Run, *, seed: int, target: float) -> list[Draw]:
    """Draw one seed's accuracy by step with the step that reaches the target, and its loss."""
    lines = read_curves(run.folder)
    stages = {name: f"digits-{name}-{seed}" for name in FACTORIES}
    curves = {OPTIMIZERS[name]: lines[s] for name, s in stages.items() if s in lines}
    if not curves:  # of a search, which trains at many learning rates
        return []
    draw = functools.partial(draw_curves, curves=curves)
    accuracy = {"metric": "accuracy", "label": "validation accuracy", "target": target}
    loss = {"label": "training loss", "smooth": 8, "log": True}
    return [
        functools.partial(draw, against="step", **accuracy),
        functools.partial(draw, against="seconds", **loss),
    ]


def search_panels(figures: Figures) -> list[Draw]:
    """Draw the steps to the target by learning rate, where several were tried."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for (name, rate), (steps,) in pick(figures, "(.+)@(.+)/steps").items():
        curves.setdefault(OPTIMIZERS[name], []).append((float(rate), steps))
    draw = functools.partial(draw_lines, x_label="learning rate", y_label="steps to the target")
    return [functools.partial(draw, curves=curves, log_x=True)] if curves else []


def choose_optimizers(learning_rates: Sequence[float]) -> dict[str, optax.GradientTransformation]:
    """Build each optimizer with its chosen learning rate, or with each of those given."""
    if not learning_rates:
        return {name: make(LEARNING_RATES[name]) for name, make in FACTORIES.items()}
    return {
        f"{name}@{rate:g}": make(rate)
        for name, make in FACTORIES.items()
        for rate in learning_rates
    }


def measure(setting: Setting[Digits]) -> Outcome:
    """Compare the optimizers."""
    options = setting.options
    score_test = not options.learning_rates  # a search looks at validation only
    if score_test:
        setting.look_at_test("test accuracy of the last parameters")
    rows = run_digits(
        setting.run,
        choose_optimizers(options.learning_rates),
        mesh=setting.mesh,
        epochs=options.epochs,
        seeds=options.all_seeds,
        target=options.target,
        score_test=score_test,
    )
    metrics, baselines = figures(rows)
    return Outcome(
        title="Optimizers on handwritten digits",
        intro="scikit-learn's digits, a perceptron with two hidden layers of 256.",
        protocol={"split": "1,077 / 360 / 360, fixed", "target": options.target},
        metrics=metrics,
        baselines=baselines,
        tables=[table_of(rows, target=options.target, seeds=options.all_seeds)],
        panels=panels_of(setting.run, seed=options.seed, target=options.target),
        found=found(rows, target=options.target),
    )


def found(rows: Sequence[DigitsRow], *, target: float) -> str:
    """Say in how many steps each optimizer reaches the target."""
    steps = [
        f"{_shown(r.optimizer)} in {r.steps:g}" if r.steps else f"{_shown(r.optimizer)} never"
        for r in rows
    ]
    return f"Steps to {target:.0%} validation accuracy: {', '.join(steps)}."


STUDY = Study(
    name="digits",
    about="Shampoo against AdamW on handwritten digits",
    minutes=0.5,
    claim="Shampoo reaches the target accuracy in fewer steps than AdamW.",
    presets=PRESETS,
    claim_panels=search_panels,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
