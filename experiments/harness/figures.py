"""Figures of ranked queries: flattened for summary.json, picked from it, averaged, compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nxtpost_jax import Metrics
from nxtpost_jax.evaluation.metrics import gains

Figures = Mapping[str, float | None]  # as in summary.json: metrics and baselines by name


def pick(figures: Figures, pattern: str) -> dict[tuple[str, ...], list[float]]:
    """Collect the figures whose whole name a pattern matches, by what its groups match.

    A part of the name without a group, such as the seed in r"(.+)/\\d+/recall", makes one list.
    """
    found: dict[tuple[str, ...], list[float]] = {}
    for name, value in figures.items():
        match = re.fullmatch(pattern, name)
        if match and value is not None:
            found.setdefault(match.groups(""), []).append(value)
    return found


def by_position(figures: Figures, figure: str) -> dict[str, list[tuple[float, ...]]]:
    """Read curves from figures that are named NAME/POSITION/FIGURE or NAME/SEED/POSITION/FIGURE.

    Returns:
      By name, rows of (position, mean over seeds), with the standard error where it was kept.
    """
    curves: dict[str, list[tuple[float, ...]]] = {}
    for pattern in (r"([^/]+)/\d+/(\d+)/", r"([^/]+)/(\d+)/"):
        errors = pick(figures, f"{pattern}{figure}_se")
        for key, values in pick(figures, f"{pattern}{figure}").items():
            means = (float(np.mean(own)) for own in (values, errors.get(key)) if own)
            curves.setdefault(key[0], []).append((float(key[1]), *means))
    return curves


def with_errors(metrics: Metrics) -> dict[str, float]:
    """Return the values by name, and the standard errors by names that end in "_se"."""
    return metrics.values | {f"{name}_se": e for name, e in metrics.standard_errors.items()}


def figures_of(runs: Mapping[str, Sequence[Metrics]], labels: Iterable) -> dict[str, float]:
    """Flatten figures for summary.json: NAME/LABEL/FIGURE, a label for each of a name's metrics."""
    labels = list(labels)
    return {
        f"{name}/{label}/{figure}": value
        for name, own in runs.items()
        for label, metrics in zip(labels, own)
        for figure, value in with_errors(metrics).items()
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
    return {f"{n}/{f}": v for n, m in baselines.items() for f, v in with_errors(m).items()}


def ndcg_difference(one: Metrics, other: Metrics) -> tuple[float, float]:
    """Return the mean difference in NDCG@10 over the same queries, and its standard error."""
    return mean_and_error(gains(one.ranks, "ndcg@10") - gains(other.ranks, "ndcg@10"))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of float [n] and its standard error, NaN where one value tells of none."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(values.mean()), float(error)


def over_seeds_and_users(values_SxU: np.ndarray) -> tuple[float, float]:
    """Return the mean of what S seeds gave U users, and its standard error over seeds and users.

    Seeds and users are both drawn: value = mean + seed's effect + user's effect + rest. The
    variance of the mean is V_users + V_seeds - V_rest, the variances of a mean of U users' means,
    of a mean of S seeds' means, and of the rest, which is in both. Where V_seeds is below V_rest
    the seeds add nothing. One seed tells nothing of others: the error is that over users then.

    Args:
      values_SxU: float [S, U], the same users from every seed; a difference of two models too.

    Source: the random-effects analysis of two crossed factors; Owen 2007, "The Pigeonhole
    Bootstrap", has the bootstrap of the same.
    """
    values_SxU = np.asarray(values_SxU, np.float64)
    seeds, users = values_SxU.shape
    mean, of_user_U, of_seed_S = values_SxU.mean(), values_SxU.mean(0), values_SxU.mean(1)
    if users < 2:
        return float(mean), float("nan")
    variance = of_user_U.var(ddof=1) / users
    if seeds > 1:
        rest_SxU = values_SxU - of_user_U[None, :] - of_seed_S[:, None] + mean
        of_rest = (rest_SxU**2).sum() / ((seeds - 1) * (users - 1)) / (seeds * users)
        variance += max(0.0, of_seed_S.var(ddof=1) / seeds - of_rest)
    return float(mean), float(np.sqrt(variance))
