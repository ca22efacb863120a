"""Times of calls that return arrays: the clock stops when these are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def seconds_of(call: Callable[[], Any]) -> float:
    """Time one call, by the clock on the wall."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def cpu_seconds_of(call: Callable[[], Any]) -> float:
    """Take the time that the process computes during one call, all threads together."""
    start = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - start


def median_seconds(call: Callable[[], Any], *, repeats: int) -> float:
    """Take the median time of several calls, as warm as the first finds things."""
    return float(np.median([seconds_of(call) for _ in range(repeats)]))


def percentiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(1e3 * np.asarray(seconds), [50, 99])
    return float(p50), float(p99)
