"""What scores are raised by at a moment, by the slots of a catalogue.

Shape suffixes: S slots of both segments, M moments, N ids.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from nxtpost_jax.evaluation.scoring import raised_by
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.events.trends import Trends, TrendTable
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.towers.model import NxtPost


class _Latest(NamedTuple):
    step: float
    catalogue: Catalogue
    params: Any
    raised_S: jax.Array

    def holds(self, step: float, catalogue: Catalogue, params: Any) -> bool:
        """Tell whether it was computed of these very objects."""
        return self.step == step and self.catalogue is catalogue and self.params is params


class Trending:
    """Count events, and say what scores are raised by; any thread may ask.

    Attributes:
      trends: the events so far.
    """

    def __init__(self, model: NxtPost, trends: Trends):
        """Begin with events; `model` has the tables."""
        self.trends = trends
        self._model = model
        self._latest: _Latest | None = None

    @classmethod
    def begun(cls, model: NxtPost, log: Sequences | None = None) -> Trending | None:
        """Begin with a log, or with no event; None where the model reads no trends.

        Raises:
          ValueError: the log has no times.
        """
        if not model.config.trends:
            return None
        step = model.config.trend_step
        if log is None:
            return cls(model, Trends(np.zeros(0, np.int32), np.zeros(0), step=step))
        return cls(model, Trends.of(log, step=step))

    def now(self, params: Any, catalogue: Catalogue) -> jax.Array:
        """Say what scores are raised by now: f32[S]; computed once a step and catalogue."""
        latest, step = self._latest, self.trends.now
        if latest is None or not latest.holds(step, catalogue, params):
            known_3xN = self.trends.known_3xN(_num_ids(catalogue))
            raised_S = raised_by(self._model, params, _by_slot(known_3xN, catalogue))
            latest = self._latest = _Latest(step, catalogue, params, raised_S)
        return latest.raised_S

    def at(
        self, params: Any, catalogue: Catalogue, times: np.ndarray
    ) -> tuple[jax.Array, TrendTable]:
        """Say what scores were raised by at some times, float64[q].

        Returns:
          f32[M, S], and the table that tells which of the M moments a time belongs to.
        """
        table = self.trends.table(times, _num_ids(catalogue))
        return raised_by(self._model, params, _by_slot(table.known_3xMxN, catalogue)), table


def _num_ids(catalogue: Catalogue) -> int:
    return int(catalogue.ids.max(initial=0)) + 1


def _by_slot(known: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """Take the columns of ids, uint8[3, ..., N], into their slots."""
    return known[..., np.where(catalogue.ids == PAD, 0, catalogue.ids)]
