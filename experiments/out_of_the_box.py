"""What `Recommender().fit(table)` finds without an option, beside the simple baselines.

    python -m experiments.out_of_the_box --data FOLDER

Each user's last event is kept from the table (whole packages of library calls), and ranked among
all its items. `fit` gets a dict of columns with the log's own ids, and chooses the rest by what it
holds out of the table itself; so do the baselines, which are fitted to the same table. Where items
have texts, a second recommender is given them, too. Users who ask how good the defaults are, ask
this; `recommender.report()` says the same of their own table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments.harness.errors import bad_input
from experiments.harness.figures import (
    Figures,
    baseline_figures,
    figures_of,
    over_seeds_and_users,
    pick,
)
from experiments.harness.names import NAMES
from experiments.harness.options import ManySeeds, WithEvents, check_least
from experiments.harness.plots import Draw, draw_groups
from experiments.harness.report import Table, signed
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.tasks.as_a_table import (
    DEBIAS_POWER,
    Tabled,
    score_baselines,
    score_recommender,
    tabled,
)
from experiments.tasks.next_item import data_name, read_interactions
from experiments.tasks.nxtpost_training import TRAINED
from nxtpost_jax import Metrics, Recommender
from nxtpost_jax.evaluation.metrics import gains

MODELS = {"ids": "fit(table)", "texts": "fit(table, content=texts)"}
ENOUGH = 2  # standard errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutOfTheBox(ManySeeds, WithEvents):
    """Fit recommenders to a table without an option."""

    seeds: int = 3
    """number of seeds, from --seed on"""
    models: tuple[str, ...] = tuple(MODELS)
    """what they are given: ids alone, or texts too where the data has them"""
    epochs: int | None = None
    """passes over the table; chosen by `fit` where not given"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, epochs=1)
        for name in self.models:
            if name not in MODELS:
                raise bad_input("--models", expected=f"some of {', '.join(MODELS)}", found=name)


PRESETS = {"default": OutOfTheBox(), "smoke": OutOfTheBox(seeds=1, models=("ids",), epochs=1)}


@dataclasses.dataclass(frozen=True)
class Ahead:
    """How far the mean of seeds is ahead of a baseline, in NDCG@10, and its standard error."""

    mean: float
    error: float

    @property
    def is_sure(self) -> bool:
        """Whether it is ahead by more than chance."""
        return self.mean >= ENOUGH * self.error


def ahead_of(runs: Sequence[Metrics], baseline: Metrics) -> Ahead:
    """Compare the mean of seeds with a baseline, paired by query; the error is over both."""
    own_SxQ = np.array([gains(run.ranks, "ndcg@10") for run in runs])
    return Ahead(*over_seeds_and_users(own_SxQ - gains(baseline.ranks, "ndcg@10")))


def fit_seeds(
    run: Run, posed: Tabled, name: str, options: OutOfTheBox
) -> Iterator[tuple[Recommender, float]]:
    """Fit a recommender from each seed; a resumed run goes on from the last epoch of each.

    Yields:
      It, and its seconds.
    """
    content = posed.texts if name == "texts" else None
    for seed in options.all_seeds:
        stage = f"{name}-{seed}"
        recommender = Recommender()
        records = recommender.fit(
            posed.table,
            content=content,
            seed=seed,
            epochs=options.epochs,
            checkpoint=run.checkpoint_folder(stage),
            log=functools.partial(_tell, stage),
            progress=False,  # `_tell` says it
        )
        run.truncate_metrics(stage, after_step=-1)  # of a run that was stopped
        for record in records:
            run.log(stage, int(record["epoch"]), **record)
        yield recommender, sum(record["seconds"] for record in records)


def _tell(stage: str, record: Mapping[str, float]) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in record.items() if name != "epoch")
    print(f"{stage}  epoch {record['epoch']:.0f}  {figures}", flush=True)


def pose_table(options: OutOfTheBox) -> Posed:
    """Read the log; its last events are kept from the table."""
    interactions = read_interactions(options.data, columns=options.columns)
    return Posed(tabled(interactions), data_name(interactions))


def measure(setting: Setting[OutOfTheBox]) -> Outcome:
    """Fit, then ask."""
    options, posed = setting.options, setting.inputs
    names = [name for name in options.models if name == "ids" or posed.texts is not None]
    fitted = {name: list(fit_seeds(setting.run, posed, name, options)) for name in names}
    setting.look_at_test(TRAINED)
    models = {name: [score_recommender(each, posed) for each, _ in fitted[name]] for name in names}
    seconds = {name: float(np.mean([own for _, own in fitted[name]])) for name in names}
    reports = [
        f"{MODELS[name]}, by its own report():\n{fitted[name][0][0].report()}\n"
        for name in names
        if options.epochs is None
    ]
    baselines = score_baselines(posed)
    protocol = dataclasses.replace(
        posed.problem.protocol,
        selection="what fit holds out of its table",
        candidates=f"the table's {len(posed.problem.candidates):,} items",
        debias_power=DEBIAS_POWER,
    )
    return Outcome(
        title=f"Recommender().fit(table): {protocol.data}",
        intro=f"{posed.unanswerable:,} of {len(posed.problem.split.test):,} queries have a target "
        f"or a history that the table has not: a miss for all. {protocol.describe()}",
        protocol=protocol.asdict(),
        metrics=figures_of(models, options.all_seeds)
        | {f"{name}/seconds": value for name, value in seconds.items()},
        baselines=baseline_figures(baselines),
        tables=[figures_table(baselines, models, seconds), ahead_table(baselines, models)],
        found=found(baselines, models),
        examples=reports,
    )


def figures_table(
    baselines: Mapping[str, Metrics],
    models: Mapping[str, Sequence[Metrics]],
    seconds: Mapping[str, float],
) -> Table:
    """Lay out the figures: baselines, then the mean of seeds."""
    figures = ("hr@10", "ndcg@10", "debiased_ndcg@10", "coverage@10")

    def cells(runs: Sequence[Metrics]) -> list:
        return [
            *(float(np.mean([run[figure] for run in runs])) for figure in figures),
            runs[0].standard_errors["ndcg@10"],
        ]

    def seeds(runs: Sequence[Metrics]) -> str:
        values = [run["ndcg@10"] for run in runs]
        return f"{min(values):.4f} to {max(values):.4f}"

    return Table(
        title="The next event of each user, among all items of the table",
        columns=(
            *("", "HR@10", "NDCG@10", "debiased NDCG@10", "coverage@10", "s.e. of NDCG@10"),
            *("NDCG@10 of seeds", "seconds per fit"),
        ),
        baselines=[[NAMES[n], *cells([m]), None, None] for n, m in baselines.items()],
        rows=[[MODELS[n], *cells(own), seeds(own), seconds[n]] for n, own in models.items()],
        note=f"Means over seeds; s.e. over users. Debiased: a query weighs its target's number of "
        f"events to the power of -{DEBIAS_POWER:g}. Coverage: the share of items in any list.",
    )


def ahead_table(baselines: Mapping[str, Metrics], models: Mapping[str, Sequence[Metrics]]) -> Table:
    """Lay out how far each model is ahead of each baseline."""

    def cells(baseline: Metrics) -> list:
        ahead = [ahead_of(own, baseline) for own in models.values()]
        return [
            cell
            for one in ahead
            for cell in (signed(one.mean, one.error), "yes" if one.is_sure else "no")
        ]

    columns = [c for name in models for c in (f"{MODELS[name]} above it", f"by {ENOUGH} s.e.")]
    return Table(
        title="NDCG@10 above each baseline",
        columns=("", *columns),
        baselines=[[NAMES[name], *cells(own)] for name, own in baselines.items()],
        rows=[],
        note="The mean of seeds, paired by user; the error is of users and seeds together.",
    )


def found(baselines: Mapping[str, Metrics], models: Mapping[str, Sequence[Metrics]]) -> str:
    """Say of each model which baselines it is surely above, and which not."""
    sentences = []
    for model, runs in models.items():
        ahead = {name: ahead_of(runs, own) for name, own in baselines.items()}
        above = [NAMES[name] for name, one in ahead.items() if one.is_sure]
        rest = [
            f"{NAMES[name]} ({signed(one.mean, one.error)})"
            for name, one in ahead.items()
            if not one.is_sure
        ]
        told = f"{MODELS[model]} is above {', '.join(above) or 'nothing'} by two standard errors"
        sentences.append(f"{told}{', not above ' + ', '.join(rest) if rest else ', all of them'}.")
    return " ".join(sentences)


def claim_panels(figures: Figures) -> list[Draw]:
    """Draw NDCG@10 and HR@10 of all, the means over seeds."""
    groups = {}
    for figure in ("ndcg@10", "hr@10"):
        baselines = pick(figures, rf"([^/]+)/{figure}")
        models = pick(figures, rf"([^/]+)/\d+/{figure}")
        groups[figure.upper()] = {NAMES[name]: values[0] for (name,), values in baselines.items()}
        groups[figure.upper()] |= {
            MODELS[name]: float(np.mean(values)) for (name,), values in models.items()
        }
    return [functools.partial(draw_groups, groups=groups, label="test figure, mean over seeds")]


STUDY = Study(
    name="out_of_the_box",
    about="Recommender().fit(table) without an option",
    minutes=15,
    claim="Without an option, Recommender().fit(table) is above popularity, item-KNN and "
    "content-KNN by two paired standard errors.",
    presets=PRESETS,
    claim_panels=claim_panels,
    pose=pose_table,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
