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

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.figures import baseline_figures, figures_of, ndcg_difference
from experiments.harness.names import NAMES
from experiments.harness.plots import draw_curves, read_curves
from experiments.harness.report import Table, signed
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.studies.optimizer_race import ranking_panels, training_table
from experiments.tasks.next_item import (
    data_name,
    pose,
    read_interactions,
    score,
    score_baselines,
)
from experiments.tasks.nxtpost_training import SMOKE, TRAINED, NxtPostOptions, train_seeds
from nxtpost_jax import Metrics, NxtPostConfig, Objective

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
            NAMES[name],
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


def pose_problem(options: NxtPostOptions) -> Posed:
    """Read the interactions and split them."""
    interactions = read_interactions(options.data, columns=options.columns)
    problem = pose(interactions, content_dim=options.content_dim, seed=options.seed)
    return Posed(problem, data_name(interactions))


def measure(setting: Setting[NxtPostOptions]) -> Outcome:
    """Train every optimizer from every seed, select, test."""
    run, options, problem = setting.run, setting.options, setting.inputs
    how = {"config": options.model, "options": options, "mesh": setting.mesh}
    trained = {
        name: train_seeds(run, problem, optimizer=name, stage=name, **how)
        for name in options.optimizers
    }
    setting.look_at_test(TRAINED)
    test = problem.split.test
    baselines = score_baselines(problem, test, max_len=options.model.max_len)
    models = {
        name: [score(problem, model, params=result.params, queries=test) for model, result in own]
        for name, own in trained.items()
    }
    results = {name: [result for _, result in own] for name, own in trained.items()}
    lines = read_curves(run.folder)
    curves = {NAMES[name]: lines[f"{name}-{options.seed}"] for name in results}
    # Against steps: seconds, which the table has, also count what else the machine did.
    draw = functools.partial(draw_curves, curves=curves, against="step", metric="ndcg@10")
    return Outcome(
        title=f"NxtPost on {problem.protocol.data}",
        intro=f"Preset {options.preset}; loss {options.objective.loss}. "
        f"{problem.protocol.describe()}",
        protocol=problem.protocol.asdict(),
        metrics=figures_of(models, options.all_seeds),
        baselines=baseline_figures(baselines),
        tables=[ranking_table(baselines, models), training_table(results)],
        panels=[functools.partial(draw, label="validation NDCG@10")],
        found=found(baselines, models),
    )


def found(baselines: Mapping[str, Metrics], models: Mapping[str, Sequence[Metrics]]) -> str:
    """Say how the last optimizer's median seed stands beside the best baseline."""
    best = max(baselines, key=lambda name: baselines[name]["ndcg@10"])
    name, runs = list(models.items())[-1]
    middle = sorted(runs, key=lambda m: m["ndcg@10"])[(len(runs) - 1) // 2]
    difference, error = ndcg_difference(middle, baselines[best])
    return (
        f"{NAMES[name]} has an NDCG@10 of {middle['ndcg@10']:.4f}, {NAMES[best]} "
        f"{baselines[best]['ndcg@10']:.4f}: {signed(difference, error)}."
    )


STUDY = Study(
    name="nxtpost",
    about="NxtPost by AdamW and by Shampoo beside baselines",
    minutes=20,
    claim="NxtPost ranks the next item better than every baseline, and Shampoo trains it in "
    "fewer steps than AdamW.",
    presets=PRESETS,
    claim_panels=ranking_panels,
    pose=pose_problem,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
