"""Rivals that score every item: counts, the two tower plus a Markov chain, plus linear crosses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.retrieval.kept_gain import NAMES, TWO_TOWER
from experiments.retrieval.rivals import Rival
from experiments.retrieval.searchers import Exact, Model, Requests
from experiments.retrieval.untrained_rivals import KINDS, oldest_first, untrained
from experiments.tasks.rated_events import Examples
from hsnn_jax.cost_curves import Found
from hsnn_jax.monn import i2if
from hsnn_jax.monn.scorers import pair_flops, score_all
from nxtpost_jax.evaluation.ranking import ScoresFn, best_of_scores

VECTORS = NAMES[TWO_TOWER]
GAPS = (3, 10, 1, 20)  # of Markov, events that a follower is within; the first is its default
NEIGHBOURS = (100, 500, 50, 200)  # of item-KNN
WEIGHTS = (1.0, 4.0, 0.25, 16.0)  # of Markov beside the two tower, in its standard deviations
_USERS = 256  # whose scores of all items are held at once


@dataclasses.dataclass
class OfScores:
    """All items by a function of histories, beside a model's scores where there is one.

    Both are scaled to a standard deviation of 1 a user; the function's score counts `weight` times.
    """

    name: str
    make: Callable[[], ScoresFn]
    model: Model | None = None
    weight: float = 1.0

    def build(self) -> None:
        """Count what the function reads."""
        self._scores = self.make()

    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`; the budget is not read: every item is scored."""
        del budget
        if requests.met is None:
            raise ValueError(f"{self.name}: expected requests with what users met, found None")
        model, found, num_items = self.model, [], 0
        encoded = None if model is None else model.encode_users(requests)
        for first in range(0, len(requests.exclude), _USERS):
            some = slice(first, first + _USERS)
            scores = jnp.asarray(self._scores({"items": oldest_first(requests.met[some])}))
            if model is not None:
                users = jax.tree.map(lambda x, some=some: x[some], encoded)
                others = _all(model.params, users, model.items, scorer=model.scorer)
                scores = self.weight * _scaled(scores) + _scaled(others)
            found.append(np.asarray(best_of_scores(scores, requests.exclude[some], k=k)[0]))
            num_items = scores.shape[1]
        return Found(np.concatenate(found), num_items, self._flops(encoded, num_items))

    def _flops(self, users, num_items):
        model = self.model
        if model is None:
            return float("nan")  # sums of sparse rows
        per_user, per_item = pair_flops(model.scorer, model.params, users=users, items=model.items)
        return model.user_flops + per_user + (per_item + 2) * num_items


@functools.partial(jax.jit, static_argnames="scorer")
def _all(params, users, items, *, scorer):
    return score_all(scorer, params, users=users, items=items)


def _scaled(scores_BxN):
    centred = scores_BxN - jnp.mean(scores_BxN, axis=1, keepdims=True)
    return centred / jnp.maximum(jnp.std(scores_BxN, axis=1, keepdims=True), 1e-9)


def untrained_rivals(examples: Examples) -> list[Rival]:
    """Return popularity, Markov and item-KNN; the width of their counts by validation."""
    options: dict[str, Sequence[dict[str, int]]] = {
        "popularity": [{}],
        "Markov": [{"max_gap": gap} for gap in GAPS],
        "item-KNN": [{"neighbours": count} for count in NEIGHBOURS],
    }
    return [
        Rival(
            name,
            {
                ", ".join(f"{key} {value}" for key, value in own.items()) or "as it is": (
                    functools.partial(
                        OfScores, name, functools.partial(untrained, name, examples, **own)
                    ),
                    0,
                )
                for own in options[name]
            },
        )
        for name in KINDS
    ]


def with_markov(two_tower: Model, examples: Examples) -> Rival:
    """Return the two tower plus w times Markov, w by validation."""
    name = f"{VECTORS} + w Markov"
    make = functools.partial(untrained, "Markov", examples)
    settings = {
        f"w = {weight}": (functools.partial(OfScores, name, make, two_tower, weight), 0)
        for weight in WEIGHTS
    }
    return Rival(name, settings, reads=(VECTORS,))


@dataclasses.dataclass(frozen=True)
class WithCrosses:
    """A two tower's logit plus a weight times a statistic of every cross; a scorer of `search`.

    Attributes:
      tower: the scorer of the two tower.
      crosses: their names.
      statistic: column of `i2if.STATISTICS`.
    """

    tower: Any
    crosses: tuple[str, ...]
    statistic: int
    shares_items: ClassVar[bool] = True

    def __call__(self, params: Any, users: Any, items: Any) -> jax.Array:
        """Return float [B, m]; params are {"tower": ..., "weights": float [C]}."""
        scores = self.tower(params["tower"], users["tower"], items["tower"])
        read = cross_features(users["counts"], items["attributes"], self.crosses, self.statistic)
        return scores + read @ params["weights"]


def cross_features(
    counts: Mapping[str, Any],
    attributes: Mapping[str, jax.Array],
    crosses: tuple[str, ...],
    statistic: int,
) -> jax.Array:
    """Return one statistic of every cross, float [B, m, C].

    Args:
      counts: tables of B users.
      attributes: int [B or 1, m, A] by cross.
      crosses: C names.
      statistic: column of `i2if.STATISTICS`.
    """
    return jnp.stack(
        [i2if.lookup(counts[name], attributes[name])[..., statistic] for name in crosses], axis=-1
    )


def fit_weights(base: np.ndarray, features: np.ndarray, *, steps: int = 30) -> np.ndarray:
    """Fit the weights of crosses beside fixed scores by a softmax, in Newton's steps.

    The loss is convex; it is the mean of -log softmax(base + features w) at column 0, and a penalty
    of 1e-4 |w|^2 where the features say nothing.

    Args:
      base: float [n, 1 + m], scores of what is liked, in column 0, and of others.
      features: float [n, 1 + m, C].
      steps: at most; it ends where a step is short.

    Returns:
      float64 [C].
    """
    base, features = np.asarray(base, np.float64), np.asarray(features, np.float64)
    weights = np.zeros(features.shape[2])
    penalty = 1e-4

    def loss(weights):
        logits = base + features @ weights
        most = logits.max(axis=1, keepdims=True)
        total = most[:, 0] + np.log(np.exp(logits - most).sum(axis=1))
        return np.mean(total - logits[:, 0]) + penalty * weights @ weights

    for _ in range(steps):
        logits = base + features @ weights
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        mean = np.einsum("nm,nmc->nc", odds, features)
        gradient = (mean - features[:, 0]).mean(axis=0) + 2 * penalty * weights
        second = np.einsum("nm,nmc,nmd->cd", odds, features, features) / len(base)
        second += 2 * penalty * np.eye(len(weights)) - mean.T @ mean / len(base)
        step = np.linalg.solve(second, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-9:
            step /= 2
        weights = weights - step
        if np.abs(step).max() < 1e-7:
            break
    return weights


def with_crosses(
    two_tower: Model,
    reader: Model,
    *,
    crosses: tuple[str, ...],
    weights: Callable[[int], np.ndarray],
) -> Rival:
    """Return the two tower plus one linear weight per cross; which statistic by validation.

    Args:
      two_tower: as it serves.
      reader: a model whose encoded users and items have the crosses' counts and attributes.
      crosses: that it reads; none where there are none.
      weights: a statistic's column to the weights, fitted on training data.
    """
    name = f"{VECTORS} + a weight per cross"
    if not crosses:
        return Rival(name, reason="n/a: the data have no crosses")

    def encode(asked: Requests) -> dict[str, Any]:
        counts = reader.encode_users(asked)["counts"]
        return {"tower": two_tower.encode_users(asked), "counts": counts}

    def made(statistic: int) -> Exact:
        scorer = WithCrosses(two_tower.scorer, crosses, statistic)
        params = {
            "tower": two_tower.params,
            "weights": jnp.asarray(weights(statistic), jnp.float32),
        }
        items = {"tower": two_tower.items, "attributes": reader.items["attributes"]}
        flops = two_tower.user_flops
        return Exact(name, Model(name, scorer, params, items, encode, None, flops))

    settings = {
        i2if.STATISTICS[column]: (functools.partial(made, column), 0) for column in (2, 1, 3, 0)
    }
    return Rival(name, settings, reads=(VECTORS,))
