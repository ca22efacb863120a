"""Figures of ranked queries: flattened for summary.json, averaged, compared by user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nxtpost_jax import Metrics
from nxtpost_jax.evaluation.metrics import gains


def figures_of(runs: Mapping[str, Sequence[Metrics]], labels: Iterable) -> dict[str, float]:
    """Flatten figures for summary.json: NAME/LABEL/FIGURE, a label for each of a name's metrics."""
    labels = list(labels)
    return {
        f"{name}/{label}/{figure}": value
        for name, own in runs.items()
        for label, metrics in zip(labels, own)
        for figure, value in metrics.values.items()
    }


def seed_figures(
    runs: Mapping[str, Sequence[Sequence[Metrics]]], seeds: Iterable[int], labels: Iterable
) -> dict[str, float]:
    """Flatten figures for summary.json: NAME/SEED/LABEL/FIGURE."""
    own = {f"{name}/{seed}": one for name, all_ in runs.items() for seed, one in zip(seeds, all_)}
    return figures_of(own, labels)


def means_by_label(seeds: Sequence[Sequence[Metrics]], figure: str) -> list[float]:
    """Average one figure over seeds, for each of the metrics that a seed has."""
    return np.mean([[m[figure] for m in runs] for runs in seeds], axis=0).tolist()


def baseline_figures(baselines: Mapping[str, Metrics]) -> dict[str, float]:
    """Flatten the figures of `score_baselines`: NAME/FIGURE."""
    return {f"{n}/{f}": value for n, m in baselines.items() for f, value in m.values.items()}


def ndcg_difference(one: Metrics, other: Metrics) -> tuple[float, float]:
    """Return the mean difference in NDCG@10 over the same queries, and its standard error."""
    difference = gains(one.ranks, "ndcg@10") - gains(other.ranks, "ndcg@10")
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
