"""The models of one seed as they serve: requests of a part's users, models that read them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.harness.timing import cpu_seconds_of
from experiments.retrieval.rivals import Asked
from experiments.retrieval.searchers import Model, Requests, monn_model
from experiments.retrieval.untrained_rivals import LONGEST
from experiments.studies.rated_scorer import TASKS
from experiments.studies.tables.brute import Trained
from experiments.tasks.rated_events import PART, Examples
from hsnn_jax.monn.network import MoNNScorer

BATCH = "batch"  # of a request's users: what towers that run at the request read


def asked_of(
    examples: Examples, part: int, *, models: Sequence[Trained]
) -> tuple[list[Asked], dict[str, float]]:
    """Encode all users who have a next item in a part, for every model.

    Args:
      examples: split events.
      part: 1 for validation, 2 for test.
      models: of one seed.

    Returns:
      (requests in parts of one size, milliseconds of the process a user by model).
    """
    rows = examples.next_liked(part)
    seen, size = examples.seen(rows), min(PART, len(rows))
    asked, ms = [], {}
    for first in range(0, len(rows), size):
        own = np.arange(first, min(first + size, len(rows)))
        padded = np.pad(own, (0, size - len(own)), mode="edge")
        batch = examples.histories(rows[padded])
        users: dict[str, Any] = {BATCH: batch}
        for model in models:
            users[model.label] = model.scorer.encode(model.params, batch)
            if not first:
                again = functools.partial(model.scorer.encode, model.params, batch)
                ms[model.label] = 1000 * cpu_seconds_of(again) / size
        met = examples.liked_before(rows[padded], length=LONGEST)
        asked.append(Asked(Requests(users, seen[padded], met), examples.items[rows[own]]))
    return asked, ms


def reading(label: str) -> Callable[[Requests], Any]:
    """Return a function from requests to the users that a model has encoded."""
    return lambda asked: asked.users[label]


def model_of(own: Trained, asked: Sequence[Asked]) -> Model:
    """Return a trained model as it serves users who are encoded."""
    return monn_model(
        own.label,
        MoNNScorer(own.scorer.config, "next"),
        params=own.params,
        users=asked[0].requests.users[own.label],
        items=own.scorer.encode_all(own.params),
        encode_users=reading(own.label),
    )


def vectors_of(two_tower: Model) -> tuple[np.ndarray, Callable[[Requests], Any]]:
    """Return the two tower's item vectors float [n, d], and what makes its users' of requests."""
    items = np.asarray(two_tower.items["vectors"])

    def encode(asked: Requests) -> Any:
        vectors = two_tower.encode_users(asked)["vectors"][:, TASKS.index("next")]
        return vectors.reshape(vectors.shape[0], -1)

    return items.reshape(len(items), -1), encode
