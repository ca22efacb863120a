"""Optimizers beside each other at the same budget: who is there first, and what they rank."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.figures import Figures, pick
from experiments.harness.names import NAMES
from experiments.harness.plots import Draw, draw_bars
from experiments.harness.report import Table
from experiments.loop.training import TrainResult


def first_at(result: TrainResult, *, target: float) -> dict[str, float] | None:
    """Return the first evaluation at which validation NDCG@10 reaches a target."""
    return next((r for r in result.history if r.get("ndcg@10", -1.0) >= target), None)


def best_validation(result: TrainResult) -> float:
    """Return the best validation NDCG@10."""
    return max(r["ndcg@10"] for r in result.history if "ndcg@10" in r)


def training_table(results: Mapping[str, Sequence[TrainResult]]) -> Table:
    """Compare the stages by when they reach the first one's best validation figure.

    Args:
      results: by stage, one a seed.
    """
    first = next(iter(results))
    target = float(np.median([best_validation(r) for r in results[first]]))

    def row(stage: str) -> list:
        own = results[stage]
        reached = [first_at(r, target=target) or {} for r in own]
        return [
            NAMES[stage],
            _median(best_validation(r) for r in own),
            _median(r.get("step") for r in reached),
            _median(r.get("seconds") for r in reached),
            f"{sum(bool(r) for r in reached)} of {len(own)}",
            _median(r.best_epoch for r in own),
            _median(r.steps for r in own),
            _median(r.seconds for r in own),
        ]

    return Table(
        title="Training at the same budget",
        columns=(
            "optimizer",
            "best validation NDCG@10",
            "steps to the target",
            "seconds to it",
            "seeds that reach it",
            "best epoch",
            "steps",
            "seconds",
        ),
        baselines=[row(first)],
        rows=[row(stage) for stage in results if stage != first],
        note=f"Medians over seeds. The target, {target:.4f}, is the median best validation "
        f"NDCG@10 of {NAMES[first]}. Seconds leave out compilation and evaluation.",
    )


def ranking_panels(figures: Figures) -> list[Draw]:
    """Draw the test NDCG@10 of baselines and optimizers, medians of seeds, with standard errors.

    Results from before the errors were kept are drawn with the range of the seeds' figures.
    """
    baselines = pick(figures, r"([^/]+)/ndcg@10")
    models = pick(figures, r"([^/]+)/\d+/ndcg@10")
    errors = pick(figures, r"([^/]+)/(?:\d+/)?ndcg@10_se")
    bars = {}
    for key, values in (baselines | models).items():
        spread = (max(values) - min(values)) / 2
        bars[NAMES[key[0]]] = (float(np.median(values)), float(np.mean(errors.get(key, [spread]))))
    kind = "standard error over users" if errors else "half the range of the seeds"
    label = f"test NDCG@10, all items ranked (line: {kind})"
    return [functools.partial(draw_bars, bars=bars, label=label, title="The next item")]


def _median(values) -> float | None:
    values = [value for value in values if value is not None]
    return float(np.median(values)) if values else None
