"""A recommender beside the simple baselines that it must beat, in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from nxtpost_jax.evaluation import baselines
from nxtpost_jax.evaluation.metrics import Difference, Metrics, paired_difference
from nxtpost_jax.evaluation.ranking import ScoresFn
from nxtpost_jax.events.content import Content, ContentSet, channels
from nxtpost_jax.events.sequences import Sequences

OWN = "this recommender"


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Hold what each model finds of the same queries; printed, it is a table and a sentence.

    Attributes:
      metrics: by model, `OWN` the first.
      protocol: how it was measured, in words.
    """

    metrics: Mapping[str, Metrics]
    protocol: str

    def ahead_of(self, baseline: str, *, name: str = "ndcg@10") -> Difference:
        """Compare the recommender with a baseline, user by user.

        Raises:
          KeyError: there is no such baseline.
        """
        return paired_difference(self.metrics[OWN], self.metrics[baseline], name=name)

    @property
    def best_baseline(self) -> str:
        """The baseline with the highest NDCG@10."""
        others = [name for name in self.metrics if name != OWN]
        return max(others, key=lambda name: self.metrics[name]["ndcg@10"])

    @property
    def found(self) -> str:
        """Say whether the recommender is ahead of the best baseline, in a sentence."""
        best = self.best_baseline
        ahead = self.ahead_of(best)
        size = f"{abs(ahead.mean):.4f} \u00b1 {ahead.standard_error:.4f} of NDCG@10"
        if abs(ahead.mean) < 2 * ahead.standard_error:
            return f"It cannot be told from {best} by these queries ({size} apart)."
        if ahead.mean > 0:
            return f"It is ahead of {best}, the best of the baselines, by {size}."
        return f"It is BEHIND {best}, by {size}: {best} would serve better."

    def __str__(self) -> str:
        width = max(map(len, self.metrics))
        lines = [f"{'':{width}}  {'HR@10':>15}  {'NDCG@10':>15}"]
        for model, own in self.metrics.items():
            cells = [
                f"{own[name]:.4f} \u00b1 {own.standard_errors[name]:.4f}"
                for name in ("hr@10", "ndcg@10")
            ]
            lines.append(f"{model:{width}}  {cells[0]:>15}  {cells[1]:>15}")
        return "\n".join([*lines, self.protocol, self.found])


def baselines_of(
    train: Sequences, num_items: int, *, content: Content = None
) -> dict[str, ScoresFn]:
    """Fit popularity, of late too where there are times, skip-3 Markov and item-KNN; content-KNN.

    Args:
      train: what the recommender was trained on.
      num_items: N.
      content: of all items, or None.
    """
    scorers = {"popularity": baselines.popularity(train, num_items)}
    if train.times is not None:
        scorers["popularity of 7 days"] = baselines.recent_popularity(train, num_items)
    scorers["Markov (skip 3)"] = baselines.markov(train, num_items)
    scorers["item-KNN"] = baselines.item_knn(train, num_items)
    if content is not None:
        scorers["content-KNN"] = baselines.content_knn(_side_by_side(content))
    return scorers


def _side_by_side(content: Content) -> np.ndarray:
    """Join the channels of items to a row each, every channel of length 1; sets by their mean."""
    rows = []
    for channel in channels(content).values():
        if isinstance(channel, ContentSet):
            mask = np.asarray(channel.mask)[..., None]
            channel = np.where(mask, np.asarray(channel.vectors), 0).sum(axis=1)
        table = np.asarray(channel, np.float32)
        rows.append(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12))
    return np.concatenate(rows, axis=1)


def compared(
    own: Metrics,
    scorers: Mapping[str, ScoresFn],
    *,
    rank: Callable[[ScoresFn], Metrics],
    protocol: str,
) -> Report:
    """Rank the same queries by every baseline."""
    return Report({OWN: own, **{name: rank(scores) for name, scores in scorers.items()}}, protocol)
