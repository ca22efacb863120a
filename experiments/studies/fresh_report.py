"""What is shown of items that training never saw: the table, the plots and the sentence."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

import nxtpost_jax
from experiments.harness.figures import Figures, pick
from experiments.harness.names import NAMES
from experiments.harness.plots import Draw, draw_groups
from experiments.harness.report import Table
from nxtpost_jax import Metrics

PARTS = ("cold", "cold_only")
MODELS = {
    "both": "NxtPost, content and id",
    "content": "NxtPost, content alone",
    "id": "NxtPost, id alone",
    "trends": "NxtPost, content, id and trends",
}


class Scores(NamedTuple):
    """What a model reaches on warm targets, on cold ones, and on those among the cold alone."""

    warm: Metrics
    cold: Metrics
    cold_only: Metrics

    @property
    def harmonic(self) -> float:
        """The harmonic mean of warm and cold NDCG@10, each among all items."""
        return nxtpost_jax.harmonic_mean(self.warm["ndcg@10"], self.cold["ndcg@10"])


def table_of(
    baselines: Mapping[str, Scores],
    models: Mapping[str, Sequence[Scores]],
    *,
    warm: int,
    cold: int,
    cold_N: np.ndarray,
) -> Table:
    """Lay the test figures out; medians over seeds.

    Args:
      baselines, models: by name, of models a seed each.
      warm, cold: queries of either kind.
      cold_N: bool [N], the items that are cold.
    """

    def cells(runs: Sequence[Scores]) -> list[float]:
        figures = [
            [
                *(s.warm["hr@10"], s.warm["ndcg@10"], s.cold["hr@10"], s.cold["ndcg@10"]),
                *(s.harmonic, s.cold_only["hr@10"], s.cold_only["ndcg@10"]),
            ]
            for s in runs
        ]
        errors = [runs[0].cold_only.standard_errors["hr@10"]]
        return [*np.median(figures, axis=0).tolist(), *errors]

    return Table(
        title="Test split",
        columns=(
            "",
            "warm HR@10",
            "warm NDCG@10",
            "cold HR@10",
            "cold NDCG@10",
            "harmonic mean",
            "cold-only HR@10",
            "cold-only NDCG@10",
            "its s.e. (HR)",
        ),
        baselines=[[NAMES[name], *cells([own])] for name, own in baselines.items()],
        rows=[[MODELS[kind], *cells(own)] for kind, own in models.items()],
        note=f"{warm:,} warm and {cold:,} cold queries; {cold_N.sum():,} of {len(cold_N):,} items "
        "are cold. Warm and cold targets are ranked among all items, "
        "cold-only ones among the cold items; the harmonic mean is of warm and cold NDCG@10.",
    )


def part_panels(figures: Figures) -> list[Draw]:
    """Draw HR@10 of models and baselines: warm, cold, and cold among cold ones alone."""
    own = pick(figures, r"([^/]+)(?:/\d+)?/(warm|cold|cold_only)/hr@10")
    baselines = ["content_knn", "markov"]
    if any(own.get(("popularity_7d", "cold"), ())):  # it is asked live
        baselines.append("popularity_7d")
    names = MODELS | {name: NAMES[name] for name in baselines}

    def group(part: str) -> dict[str, float]:
        return {
            names[name]: float(np.median(own[name, part])) for name in names if (name, part) in own
        }

    known = {"known items": group("warm"), "cold items": group("cold")}
    alone = {"cold items": group("cold_only")}
    draw = functools.partial(draw_groups, label="test HR@10")
    return [
        functools.partial(draw, groups=known, title="Ranked among all items"),
        functools.partial(draw, groups=alone, title="Ranked among the cold items"),
    ]


def flat(name: str, scores: Scores) -> dict[str, float]:
    """Name a model's figures as summary.json has them."""
    return {
        f"{name}/{part}/{figure}": value
        for part, metrics in scores._asdict().items()
        for figure, value in metrics.values.items()
    } | {f"{name}/harmonic": scores.harmonic}


def found(baselines: Mapping[str, Scores], models: Mapping[str, Sequence[Scores]]) -> str:
    """Say how the first model ranks cold items, among all and among themselves."""
    kind, runs = next(iter(models.items()))
    best = max(baselines, key=lambda name: baselines[name].cold_only["hr@10"])
    cold, alone = (np.median([getattr(r, part)["hr@10"] for r in runs]) for part in PARTS)
    return (
        f"Among the cold items alone {MODELS[kind]} has an HR@10 of {alone:.4f}, {NAMES[best]} "
        f"{baselines[best].cold_only['hr@10']:.4f}; among all items {cold:.4f} and "
        f"{baselines[best].cold['hr@10']:.4f}."
    )
