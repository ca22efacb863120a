"""Task scorers: two tower, MoNN in the paper's sizes and MoL on the same features.

All search by brute force, then through HSNN's index: how much of the gain is kept at which cost.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness.figures import Figures, pick
from experiments.harness.plots import Draw, draw_curves, draw_points, read_curves
from experiments.harness.report import Table
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.retrieval.kept_gain import (
    NAMES,
    TWO_TOWER,
    RoutesTraining,
    Served,
    kept_table,
    measure_kept,
)
from experiments.studies.kept_panels import kept_panels
from experiments.studies.rated_scorer import (
    K,
    Scored,
    Scorer,
    ScorersConfig,
    model_config,
    train_model,
)
from experiments.tasks.rated_events import Examples
from hsnn_jax.cost_curves import paired_difference
from hsnn_jax.monn.calibration import calibration, correct, fit_platt, normalised_entropy
from hsnn_jax.monn.network import module_flops

COLUMNS = (
    *("", "NE", "NE, relative", f"recall@{K}", "of seeds", "relative", "FLOPs a pair", "cost"),
    *("calibration", "corrected", "NE corrected", "training s"),
)


def run_scorers(
    run: Run,
    examples: Examples,
    *,
    config: ScorersConfig,
    routes: RoutesTraining,
    protocol: Mapping[str, Any],
    seeds: Sequence[int],
    mesh: Mesh,
    before_test: Callable[[], None],
) -> Outcome:
    """Train every model from every seed, then look at the test part."""
    trained = {}
    for name in config.models:
        scorer = Scorer(model_config(name, examples), examples)
        for seed in seeds:
            stage = f"{name}-{seed}"
            result = train_model(run, scorer, config=config, stage=stage, seed=seed, mesh=mesh)
            trained[name, seed] = (scorer, jax.device_get(result.params), result.seconds)
    before_test()
    tested, platts = {}, {}
    for key, (scorer, params, _) in trained.items():
        # One draw of events and users for all models and seeds: figures are paired.
        draw = {"seed": seeds[0], "most": config.users}
        validation = scorer.score(params, 1, config=config, **draw)
        platts[key] = fit_platt(validation.logits, validation.labels)
        tested[key] = scorer.score(params, 2, config=config, **draw)
    seconds = {key: value[2] for key, value in trained.items()}
    outcome = _outcome(
        run, examples, config, tested, platts, seconds, protocol=protocol, seeds=seeds
    )
    table, figures = _kept(examples, config, routes, trained, seeds=seeds)
    return dataclasses.replace(
        outcome, tables=[*outcome.tables, table], metrics={**outcome.metrics, **figures}
    )


def _kept(examples, config, routes, trained, *, seeds) -> tuple[Table, dict[str, float]]:
    """Search by every model of every seed through an index of its own."""

    def served(name: str, seed: int) -> Served:
        scorer, params, _ = trained[name, seed]
        draw = {"seed": seeds[0], "most": config.users, "learners": routes.users}
        return scorer.serve(params, config, name=NAMES[name], **draw)

    k = min(K, examples.num_items)
    curves = measure_kept(served, config.models, routes=routes, k=k, seeds=seeds)
    plain = [own["exact"][0] for own in curves[NAMES[TWO_TOWER]]]
    return kept_table(curves, plain, num_items=examples.num_items, k=k)


def relative_losses(scored: Scored) -> np.ndarray:
    """Return the log loss of each event over the entropy of the mean label: NE is the mean.

    The labels are 0 or 1, and both of them are there.
    """
    rate = float(scored.labels.mean())
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    logits = np.asarray(scored.logits, np.float64)
    return (np.logaddexp(0, logits) - scored.labels * logits) / entropy


def _outcome(run: Run, examples, config, tested, platts, seconds, *, protocol, seeds) -> Outcome:
    figures = {}
    for (name, seed), scored in tested.items():
        corrected = correct(platts[name, seed], scored.logits)
        figures |= {
            f"{name}/{seed}/ne": normalised_entropy(scored.logits, scored.labels),
            f"{name}/{seed}/recall@{K}": float(scored.hits.mean()),
            f"{name}/{seed}/calibration": calibration(scored.logits, scored.labels),
            f"{name}/{seed}/ne_corrected": normalised_entropy(corrected, scored.labels),
            f"{name}/{seed}/calibration_corrected": calibration(corrected, scored.labels),
        }
    costs = {name: module_flops(model_config(name, examples)) for name in config.models}
    whole = {n: c["user"] + c["pair"] * examples.num_items for n, c in costs.items()}

    def mean(name, figure):
        return float(np.mean([figures[f"{name}/{seed}/{figure}"] for seed in seeds]))

    def over_seeds(name, values):
        return np.mean([values(tested[name, seed]) for seed in seeds], axis=0)

    def row(name):
        hits = over_seeds(name, lambda s: s.hits) - over_seeds("XS", lambda s: s.hits)
        losses = over_seeds(name, relative_losses) - over_seeds("XS", relative_losses)
        gain, gain_error = paired_difference(hits, 0.0)
        change, change_error = paired_difference(losses, 0.0)
        base, base_ne = mean("XS", f"recall@{K}"), mean("XS", "ne")
        figures.update({f"{name}/gain": gain, f"{name}/gain_se": gain_error})
        figures.update({f"{name}/ne_change": change, f"{name}/ne_change_se": change_error})
        figures.update({f"{name}/flops": whole[name], f"{name}/pair_flops": costs[name]["pair"]})
        values = [figures[f"{name}/{seed}/recall@{K}"] for seed in seeds]
        return [
            NAMES[name],
            mean(name, "ne"),
            None if name == "XS" else f"{change / base_ne:+.2%} ± {change_error / base_ne:.2%}",
            mean(name, f"recall@{K}"),
            f"{min(values):.4f} to {max(values):.4f}",
            None if name == "XS" else f"{gain / base:+.1%} ± {gain_error / base:.1%}",
            costs[name]["pair"],
            whole[name] / whole["XS"],
            mean(name, "calibration"),
            mean(name, "calibration_corrected"),
            mean(name, "ne_corrected"),
            float(np.median([seconds[name, seed] for seed in seeds])),
        ]

    table = Table(
        title="Brute force, the same features",
        columns=COLUMNS,
        baselines=[row("XS")],
        rows=[row(name) for name in config.models if name != "XS"],
        note=f"Means over {len(seeds)} seed(s). Relative to the two tower, means over seeds paired "
        "by event (NE) and by user (recall), with bootstrap standard errors over those. Cost: "
        "operations of one query, user tower and all items, over the two tower's. Calibration: "
        "mean prediction over mean label, before and after Platt scaling fitted on validation.",
    )
    lines = read_curves(run.folder)
    curves = {NAMES[n]: lines[f"{n}-{seeds[0]}"] for n in config.models}
    base = {f"XS/{f}": mean("XS", f) for f in ("ne", f"recall@{K}")}
    panels = [
        functools.partial(draw_curves, curves=curves, against="step", metric=m, label=label)
        for m, label in ((f"recall@{K}", f"validation recall@{K}"), ("ne", "validation NE"))
    ]
    return Outcome(
        title=f"Scorers on {protocol['data']}",
        intro="Label: a rating of at least 4 of 5. NE of rated events; recall of the next liked "
        "item among all items that the user has not rated.",
        protocol=protocol,
        metrics=figures,
        baselines=base,
        tables=[table],
        panels=panels,
    )


def scorer_panels(figures: Figures) -> list[Draw]:
    """Draw what exact search finds beyond the two tower's, and what an index keeps of it."""
    gains = {NAMES[n]: own for (n,), own in pick(figures, "([^/]+)/gain").items() if n != "XS"}
    changes = {NAMES[n]: own for (n,), own in pick(figures, "([^/]+)/ne_change").items()}
    changes.pop(NAMES["XS"], None)
    panels = []
    for rows, figure, what in ((gains, "gain", f"recall@{K}"), (changes, "ne_change", "NE")):
        errors = {
            NAMES[n]: 2 * own[0] for (n,), own in pick(figures, f"([^/]+)/{figure}_se").items()
        }
        draw = functools.partial(draw_points, rows=rows, errors=errors, reference=0.0)
        label = f"{what} minus the two tower's\n(line: two standard errors)"
        if rows:
            panels.append(functools.partial(draw, label=label, title=f"Exact search: {what}"))
    return [*panels, *kept_panels(figures)]
