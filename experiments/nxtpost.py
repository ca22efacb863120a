"""NxtPost on any interactions: baselines, AdamW and Shampoo, selected on validation, tested once.

    python -m experiments.nxtpost --data FILE --preset sasrec            # ids only
    python -m experiments.nxtpost --data FILE --preset sasrec-short      # ids, short histories
    python -m experiments.nxtpost --data FOLDER --preset default         # content joined to ids
    python -m experiments.nxtpost --data FOLDER --preset paper           # content alone

Each optimizer trains from `--seeds` seeds. The epoch is selected by validation NDCG@10; the test
split is ranked once a seed, after all training, among all items. `--model.d-model 128`,
`--objective.loss gbce` and the like change one field of the preset. Without `--data` the
interactions are library calls in Python source (docs/data.md).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import optax
from jax.sharding import Mesh

import nxtpost_jax
import shampoo_jax
from experiments.harness.errors import bad_input, exit_on_input_error
from experiments.harness.options import Options, parse, select_devices
from experiments.harness.report import (
    Table,
    draw_curves,
    print_table,
    read_curves,
    signed,
    write_report,
)
from experiments.harness.results import check_keep, finish, log_test_evaluation
from experiments.harness.run_folder import Run, open_run
from experiments.loop.sharding import make_mesh
from experiments.loop.training import TrainResult
from experiments.studies.path_report import NAMES, best_validation, first_at
from experiments.tasks.next_item import (
    Evaluate,
    Problem,
    baseline_figures,
    data_name,
    figures_of,
    ndcg_difference,
    pose,
    read_interactions,
    score,
    score_baselines,
    train_nxtpost,
)
from nxtpost_jax import Metrics, NxtPost, NxtPostConfig, Objective

OPTIMIZERS = {"adamw": "NxtPost, AdamW", "shampoo": "NxtPost, Shampoo"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NxtPostOptions(Options):
    """Train NxtPost and rank each user's next item among all items."""

    optimizer: Literal["adamw", "shampoo", "both"] = "both"
    """who trains"""
    seeds: int = 1
    """seeds, from --seed on"""
    epochs: int = 100
    """passes over the training data at most"""
    patience: int = 10
    """evaluations in a row without a new best that end a training"""
    evaluate_every: int = 2
    """epochs between evaluations of the validation split"""
    batch_size: int = 128
    """windows of histories a step"""
    buckets: int = 3
    """widths of rows, each half the next: short histories share narrow rows, more of them a step"""
    adamw_rate: float = 1e-3
    """peak learning rate of AdamW"""
    shampoo_rate: float = 2e-3
    """peak learning rate of Shampoo"""
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rate after the first epoch's warm-up: constant, or falling to 0 at the last epoch"""
    weight_decay: float = 0.0
    """decoupled decay of both optimizers"""
    content_dim: int = 128
    """features of the text embeddings; 0 leaves content out"""
    model: NxtPostConfig = dataclasses.field(default_factory=NxtPostConfig.default)
    """the towers"""
    objective: Objective = dataclasses.field(default_factory=Objective)
    """the training objective"""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"seeds": 1, "epochs": 1, "patience": 1, "evaluate_every": 1}
        least |= {"batch_size": 1, "buckets": 1}
        for name, smallest in (least | {"content_dim": 0, "weight_decay": 0}).items():
            if getattr(self, name) < smallest:
                flag = f"--{name.replace('_', '-')}"
                raise bad_input(flag, expected=f"at least {smallest}", found=getattr(self, name))
        for name in ("adamw_rate", "shampoo_rate"):
            if not getattr(self, name) > 0:
                flag = f"--{name.replace('_', '-')}"
                raise bad_input(flag, expected="a number above 0", found=getattr(self, name))

    @property
    def all_seeds(self) -> range:
        """The seeds to train from."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers that train."""
        return tuple(OPTIMIZERS) if self.optimizer == "both" else (self.optimizer,)


TRAINED = "all training is finished"  # why the test split is looked at
# Quick to compile and to train; the smoke presets of this family of experiments.
SMOKE = {
    "epochs": 2,
    "evaluate_every": 1,
    "buckets": 1,
    "model": NxtPostConfig.default(max_len=16, d_model=32, d_ff=32, num_layers=1),
    "objective": Objective(num_negatives=64),
}
PRESETS = {
    "default": NxtPostOptions(),
    # Rates, batch, dropout and cosine were chosen by validation NDCG@10 on MovieLens-1M.
    "sasrec": NxtPostOptions(
        content_dim=0,
        epochs=24,
        patience=24,
        schedule="cosine",
        batch_size=64,
        adamw_rate=1e-2,
        shampoo_rate=1.2e-2,
        model=NxtPostConfig.sasrec(
            similarity="cosine", temperature=0.05, dropout=0.2, id_dropout=0.0
        ),
        objective=Objective(loss="full_softmax"),
    ),
    # Many items and short histories: chosen by validation NDCG@10 on Amazon Beauty.
    "sasrec-short": NxtPostOptions(
        content_dim=0,
        epochs=40,
        patience=40,
        evaluate_every=4,
        schedule="cosine",
        adamw_rate=4e-3,
        shampoo_rate=1.2e-2,
        model=NxtPostConfig.sasrec(
            similarity="cosine", temperature=0.05, max_len=50, dropout=0.5, id_dropout=0.0
        ),
        objective=Objective(num_negatives=512),
    ),
    "paper": NxtPostOptions(
        model=NxtPostConfig.paper(),
        objective=Objective(negatives="in_batch", long_weight=1.0, num_labels=5),
    ),
    "smoke": NxtPostOptions(**SMOKE),
}


def make_optimizer(name: str, options: NxtPostOptions, *, steps_per_epoch: int):
    """Build an optimizer: one epoch of linear warm-up, then the schedule of the options.

    A constant rate leaves the number of epochs open, which validation decides.
    """
    peak = options.adamw_rate if name == "adamw" else options.shampoo_rate
    start, total = peak / steps_per_epoch, options.epochs * steps_per_epoch
    if options.schedule == "constant" or options.epochs == 1:
        schedule = optax.linear_schedule(start, peak, steps_per_epoch)
    else:
        schedule = optax.warmup_cosine_decay_schedule(start, peak, steps_per_epoch, total)
    make = optax.adamw if name == "adamw" else shampoo_jax.shampoo
    return make(schedule, b1=0.9, b2=0.95, weight_decay=options.weight_decay)


def train_all(
    run: Run, problem: Problem, options: NxtPostOptions, *, mesh: Mesh
) -> dict[str, list[tuple]]:
    """Train every optimizer from every seed: (model, result) by optimizer."""
    return {
        name: train_seeds(
            run, problem, options.model, options, optimizer=name, stage=name, mesh=mesh
        )
        for name in options.optimizers
    }


def train_seeds(
    run: Run, problem: Problem, config: NxtPostConfig, options: NxtPostOptions, *, stage: str, **how
) -> list[tuple[NxtPost, TrainResult]]:
    """Train one model from every seed of the options; the rest is `train_one`'s."""
    return [
        train_one(run, problem, config, options, stage=f"{stage}-{seed}", seed=seed, **how)
        for seed in options.all_seeds
    ]


def train_one(
    run: Run,
    problem: Problem,
    config: NxtPostConfig,
    options: NxtPostOptions,
    *,
    optimizer: str,
    stage: str,
    seed: int,
    mesh: Mesh,
    evaluate: Evaluate | None = None,
) -> tuple[NxtPost, TrainResult]:
    """Train one model as the options say; see `train_nxtpost`."""
    rows = {"batch_size": options.batch_size, "buckets": options.buckets}
    steps = nxtpost_jax.steps_per_epoch(problem.split.train, max_len=config.max_len, **rows)
    return train_nxtpost(
        run,
        problem,
        config,
        stage=stage,
        tx=make_optimizer(optimizer, options, steps_per_epoch=steps),
        objective=options.objective,
        epochs=options.epochs,
        patience=options.patience,
        **rows,
        evaluate_every=options.evaluate_every,
        seed=seed,
        mesh=mesh,
        evaluate=evaluate,
    )


def training_table(results: Mapping[str, Sequence[TrainResult]]) -> Table:
    """Compare the optimizers by when they reach the first one's best validation figure."""
    first = next(iter(results))
    target = float(np.median([best_validation(r) for r in results[first]]))

    def median(values) -> float | None:
        values = [v for v in values if v is not None]
        return float(np.median(values)) if values else None

    def row(name: str) -> list:
        own = results[name]
        reached = [first_at(r, target=target) or {} for r in own]
        return [
            OPTIMIZERS[name],
            median(best_validation(r) for r in own),
            median(r.get("epoch") for r in reached),
            median(r.get("seconds") for r in reached),
            f"{sum(bool(r) for r in reached)} of {len(own)}",
            median(r.best_epoch for r in own),
            median(r.seconds for r in own),
            median(r.compile_seconds for r in own),
        ]

    return Table(
        title="Training",
        columns=(
            "optimizer",
            "best validation NDCG@10",
            "epoch of the target",
            "seconds to it",
            "seeds that reach it",
            "best epoch",
            "seconds",
            "compile s",
        ),
        baselines=[row(first)],
        rows=[row(name) for name in results if name != first],
        note=f"Medians over seeds. The target, {target:.4f}, is the median best validation "
        f"NDCG@10 of {OPTIMIZERS[first]}. Seconds leave out compilation and evaluation.",
    )


def ranking_table(
    baselines: Mapping[str, Metrics], models: Mapping[str, Sequence[Metrics]]
) -> Table:
    """Lay out the test figures: baselines, then the median of each optimizer's seeds."""
    figures = ("hr@10", "ndcg@10", "mrr")
    best = max(baselines, key=lambda name: baselines[name]["ndcg@10"])

    def cells(runs: Sequence[Metrics]) -> list:
        medians = [float(np.median([m[f] for m in runs])) for f in figures]
        return [*medians, runs[0].standard_errors["ndcg@10"]]

    def row(name: str) -> list:
        runs = models[name]
        middle = sorted(runs, key=lambda m: m["ndcg@10"])[(len(runs) - 1) // 2]
        difference, error = ndcg_difference(middle, baselines[best])
        values = [m["ndcg@10"] for m in runs]
        return [
            OPTIMIZERS[name],
            *cells(runs),
            f"{min(values):.4f} to {max(values):.4f}",
            signed(difference, error),
        ]

    return Table(
        title="Test split, ranked among all items",
        columns=("", "HR@10", "NDCG@10", "MRR", "s.e.", "NDCG@10 of seeds", f"above {best}"),
        baselines=[[NAMES[n], *cells([m]), None, None] for n, m in baselines.items()],
        rows=[row(name) for name in models],
        note="Medians over seeds; s.e. over users; the last column is paired by user, for the "
        "median seed.",
    )


@exit_on_input_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Train, select, test, report."""
    options, arguments = parse("nxtpost", PRESETS, argv)
    check_keep(options.keep)
    mesh = make_mesh(select_devices(options.devices))
    interactions = read_interactions(options.data)
    problem = pose(interactions, content_dim=options.content_dim, seed=options.seed)
    data = data_name(interactions)
    with open_run("nxtpost", options, arguments=arguments, data=data) as run:
        trained = train_all(run, problem, options, mesh=mesh)
        test = problem.split.test
        log_test_evaluation(run, keep=options.keep, reason=TRAINED)
        baselines = score_baselines(problem, test, max_len=options.model.max_len)
        models = {
            name: [score(problem, model, result.params, test) for model, result in own]
            for name, own in trained.items()
        }
        results = {name: [result for _, result in own] for name, own in trained.items()}
        _report(run, problem, options, baselines, models, results, mesh=mesh)


def _report(run: Run, problem: Problem, options, baselines, models, results, *, mesh: Mesh) -> None:
    summary = run.write_summary(
        protocol=problem.protocol.asdict(),
        metrics=figures_of(models, options.all_seeds),
        baselines=baseline_figures(baselines),
        seeds=options.all_seeds,
        devices=list(mesh.devices.flat),
    )
    tables = [ranking_table(baselines, models), training_table(results)]
    for table in tables:
        print_table(table)
    lines = read_curves(run.folder)
    curves = {OPTIMIZERS[n]: lines[f"{n}-{options.seed}"] for n in results}
    # Against steps: seconds, which the table has, also count what else the machine did.
    draw = functools.partial(draw_curves, curves=curves, against="step")
    panels = [
        functools.partial(draw, metric="loss", label="training loss", smooth=8),
        functools.partial(draw, metric="ndcg@10", label="validation NDCG@10"),
    ]
    write_report(
        run,
        title=f"NxtPost on {problem.protocol.data}",
        intro=f"Preset {options.preset}; loss {options.objective.loss}. "
        f"{problem.protocol.describe()}",
        summary=summary,
        tables=tables,
        panels=panels,
    )
    finish(run, keep=options.keep)


if __name__ == "__main__":
    main()
