"""What is counted on validation losses: steps to a target, and what few trials would have found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

WINDOW = 3  # evaluations in a row whose median must reach a target


def steps_to_target(steps: Sequence[int], losses: Sequence[float], *, target: float) -> float:
    """Return the step at which a target is reached for good measure, infinity for never.

    That of the last of the first `WINDOW` evaluations in a row whose median is at most the target;
    NaN is above any target.

    Args:
      steps: of the evaluations, ascending.
      losses: validation losses at these steps.
      target: to reach.
    """
    values = np.where(np.isnan(losses), math.inf, np.asarray(losses, float))
    for end in range(WINDOW, len(values) + 1):
        if np.median(values[end - WINDOW : end]) <= target:
            return float(steps[end - 1])
    return math.inf


def expected_best(losses: Sequence[float], count: int) -> float:
    """Return the mean of the least loss over all subsets of `count` trials, exactly.

    The i-th least of n (from 0) is the least of C(n - 1 - i, count - 1) of the C(n, count) subsets.

    Raises:
      ValueError: there are fewer trials.
    """
    n = len(losses)
    if not 1 <= count <= n:
        raise ValueError(f"count: expected 1 to {n}, found {count}")
    subsets = math.comb(n, count)
    shares = [math.comb(n - 1 - i, count - 1) / subsets for i in range(n)]
    return float(np.dot(shares, np.sort(np.asarray(losses, float))))


def or_chance(loss: float, chance: float) -> float:
    """Return a loss, at most that of a model that knows nothing: so counts what diverged."""
    return chance if math.isnan(loss) else min(loss, chance)


def median_of(values: Sequence[float]) -> float | None:
    """Return the median where infinity is never; None where the median is that."""
    median = float(np.median(values))
    return median if math.isfinite(median) else None


def fractions_within(
    times: Sequence[Sequence[float]], ratios: Sequence[float]
) -> list[list[float]]:
    """Return the performance profile: per optimizer and ratio, its share of the tasks.

    A task counts for an optimizer where its time is at most the ratio times the least time of that
    task; infinity never does.

    Args:
      times: per task, a time per optimizer.
      ratios: at least 1.

    Source: Dolan and More 2002, Benchmarking optimization software with performance profiles.
    """
    values = np.asarray(times, float)  # [tasks, optimizers]
    least = values.min(axis=1, keepdims=True)
    finite = np.isfinite(values)
    shares = [np.mean(finite & (values <= ratio * least), axis=0) for ratio in ratios]
    return np.transpose(shares).tolist()
