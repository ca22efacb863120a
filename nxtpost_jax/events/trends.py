"""What is known of items at a moment: events so far, events of late, and age.

Time goes in steps, a day each unless said otherwise. What is known at a moment is what happened
before its step began: so a step's own events, the one that is asked about among them, are not in
it, and what is known changes once a step.

Shape suffixes: N items, M moments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import numpy as np

from nxtpost_jax.events.sequences import Sequences

DAY = 86_400.0
WINDOW = 7  # steps that count as of late
KINDS = ("total", "late", "age")  # events so far, of late, and since when
OCTAVE = 8  # steps of a code between a number and its double
KNOTS = 33  # octaves that codes go over, both ends among them
_AGES = 24  # units of age a step: hours of a day
_TABLE = 2**28  # bytes that the moments of a training may take
_PARTS = 4096  # of which a log may consist before they are joined


@dataclasses.dataclass(frozen=True, eq=False)
class TrendTable:
    """Hold what is known of all items at some moments.

    Attributes:
      starts_M: float64, when the moments' steps begin, ascending.
      known_3xMxN: uint8, codes of the events so far, of those of the last `WINDOW` steps, and of
        the age. A code is `OCTAVE` log2(1 + count), rounded; an age has an octave more, so that
        all are 0 for an item without an event so far, and no age is.
    """

    starts_M: np.ndarray
    known_3xMxN: np.ndarray

    def moments(self, times: np.ndarray) -> np.ndarray:
        """Find the moment that each time belongs to: int32[...], 0 for earlier ones."""
        found = np.searchsorted(self.starts_M, times, side="right") - 1
        return np.maximum(found, 0).astype(np.int32)


def trend_table(log: Sequences, num_items: int, *, step: float = DAY) -> TrendTable:
    """Tell what was known of items at the steps of a log.

    Where all steps would take more than 256 MB, each moment stands for as many steps as needed.

    Args:
      log: events with times.
      num_items: N.
      step: seconds.

    Raises:
      ValueError: the log has no times.
    """
    items, times = _in_order(log.items, times_of(log))
    starts_M = np.unique(np.floor(times / step)) * step
    most = max(1, _TABLE // (len(KINDS) * max(num_items, 1)))
    starts_M = starts_M[:: -(-len(starts_M) // most) or 1]
    return _table(items, times, num_items, starts_M=starts_M, step=step)


class Trends:
    """Hold events as they come, from any thread, and tell what is known of items.

    Now is the step of the latest event.
    """

    def __init__(self, items: np.ndarray, times: np.ndarray, *, step: float = DAY):
        """Begin with events in any order: int32[n], and float64[n] seconds."""
        self.step = step
        self._lock = threading.Lock()
        self._parts = [_in_order(items, times)]
        self._last = times.max(initial=-np.inf)
        self._known: tuple[float, np.ndarray] | None = None
        self._noted: list[tuple[np.ndarray, np.ndarray]] | None = None
        self._next: Trends | None = None

    @classmethod
    def of(cls, log: Sequences, *, step: float = DAY) -> Trends:
        """Begin with a log.

        Raises:
          ValueError: it has no times.
        """
        return cls(log.items, times_of(log), step=step)

    @property
    def now(self) -> float:
        """Tell when the step of now began; 0 before any event."""
        return float(np.floor(self._last / self.step) * self.step) if self._last > -np.inf else 0.0

    def add(self, items: np.ndarray, times: np.ndarray) -> None:
        """Count events more: int32[n], and float64[n] seconds, NaN for now.

        One that comes late counts from the next step on.
        """
        with self._lock:
            times = np.where(np.isnan(times), self.now, times)
            self._parts.append((items, times))
            if len(self._parts) > _PARTS:
                self._joined()
            self._last = max(self._last, times.max(initial=-np.inf))
            if self._noted is not None:
                self._noted.append((items, times))
            if self._next is not None:
                self._next.add(items, times)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note what comes meanwhile, for `hand_over`."""
        with self._lock:
            self._noted = []
        try:
            yield
        finally:
            with self._lock:
                self._noted = None

    def hand_over(self, to: Trends) -> None:
        """Count in others what has come since `noting` began, and whatever comes here later."""
        with self._lock:
            for items, times in self._noted or ():
                to.add(items, times)
            self._noted, self._next = None, to

    def known_3xN(self, num_items: int) -> np.ndarray:
        """Give the codes of now, as of a `TrendTable`: uint8[3, N]; the same array all step."""
        with self._lock:
            known, now = self._known, self.now
            if known is None or known[0] != now or known[1].shape[1] < num_items:
                known = now, self._table(np.array([now]), num_items).known_3xMxN[:, 0]
                self._known = known
        return known[1][:, :num_items]

    def table(self, at: np.ndarray, num_items: int) -> TrendTable:
        """Tell what was known of items at some times, float64[...]."""
        starts_M = np.unique(np.floor(np.asarray(at) / self.step)) * self.step
        with self._lock:
            return self._table(starts_M, num_items)

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """Give all events, the oldest first: int32[n], and float64[n] seconds."""
        with self._lock:
            return self._joined()

    def _joined(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self._parts) > 1:
            self._parts = [_in_order(*(np.concatenate(parts) for parts in zip(*self._parts)))]
        return self._parts[0]

    def _table(self, starts_M, num_items):
        items, times = self._joined()
        return _table(items, times, num_items, starts_M=starts_M, step=self.step)


def _table(items, times, num_items: int, *, starts_M: np.ndarray, step: float) -> TrendTable:
    """Tell what events in their order say of items at steps, ascending; no item beyond N counts."""
    if items.max(initial=0) >= num_items:
        items, times = items[items < num_items], times[items < num_items]
    first_N = np.full(num_items, np.inf)
    np.minimum.at(first_N, items, times)
    known = np.zeros((len(KINDS), len(starts_M), num_items), np.uint8)
    total_N, done = np.zeros(num_items, np.int64), 0
    for number, start in enumerate(starts_M):
        early, end = np.searchsorted(times, (start - WINDOW * step, start))
        total_N += np.bincount(items[done:end], minlength=num_items)
        done = end
        late_N = np.bincount(items[early:end], minlength=num_items)
        known[:, number] = _codes(total_N, late_N, start - first_N, step=step)
    return TrendTable(starts_M, known)


def times_of(log: Sequences) -> np.ndarray:
    """Give the times of a log's events.

    Raises:
      ValueError: there are none.
    """
    if log.times is None:
        raise ValueError("events: expected times, which trends are counted by, found none")
    return log.times


def _in_order(items: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(times, kind="stable")
    return items[order], times[order]


def _codes(total_N, late_N, seconds_N, *, step: float) -> np.ndarray:
    """Code counts, and seconds since the first event, not above 0 for none: uint8[3, N]."""
    there_N = seconds_N > 0
    age_N = np.where(there_N, seconds_N, 0) * (_AGES / step)
    octaves = np.log2(1 + np.stack([total_N, late_N, age_N]))
    octaves[2] += there_N
    return np.minimum(np.round(OCTAVE * octaves), OCTAVE * (KNOTS - 1) - 1).astype(np.uint8)
