"""Rivals that are not trained, as scores of all items: popularity, Markov, item-KNN.

They read the histories of liked items, as the models do, and know the liked training events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from experiments.tasks.rated_events import Examples
from nxtpost_jax import Sequences
from nxtpost_jax.evaluation import baselines
from nxtpost_jax.evaluation.ranking import ScoresFn, best_of_scores

KINDS = ("popularity", "Markov", "item-KNN")
LONGEST = 50  # liked items that a history has, more than any of them reads
PART = 500  # users whose scores of all items are held at once


def untrained(
    name: str, examples: Examples, *, max_gap: int = 3, neighbours: int = 100
) -> ScoresFn:
    """Return the scores of one of `KINDS`, made of the liked training events.

    Args:
      name: of `KINDS`.
      examples: whose training part is counted.
      max_gap: of Markov, events that a follower is within.
      neighbours: of item-KNN, of an item.

    Raises:
      ValueError: there is no such name.
    """
    liked = examples.liked(0)
    train = Sequences.from_events(
        examples.users[liked], examples.items[liked], num_users=examples.num_users
    )
    makers: dict[str, Callable[[], ScoresFn]] = {
        "popularity": lambda: baselines.popularity(train, examples.num_items),
        "Markov": lambda: baselines.markov(train, examples.num_items, max_gap=max_gap),
        "item-KNN": lambda: baselines.item_knn(train, examples.num_items, neighbours=neighbours),
    }
    if name not in makers:
        raise ValueError(f"name: expected one of {', '.join(KINDS)}, found {name!r}")
    return makers[name]()


def scored_parts(
    scores: ScoresFn, examples: Examples, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield events in parts, and the scores of all items before each: float32 [b, n_items]."""
    for first in range(0, len(rows), PART):
        part = rows[first : first + PART]
        items = oldest_first(examples.liked_before(part, length=LONGEST))
        yield part, np.asarray(scores({"items": items}))


def oldest_first(latest: np.ndarray) -> np.ndarray:
    """Turn rows of items, the latest first and -1 after, into left-aligned ones, oldest first."""
    turned = latest[:, ::-1]
    order = np.argsort(turned < 0, axis=1, kind="stable")
    return np.take_along_axis(turned, order, axis=1)


def best_unseen(scores: ScoresFn, examples: Examples, rows: np.ndarray, *, k: int) -> np.ndarray:
    """Return each event's k best items that the user has not met, int32 [len(rows), k]."""
    seen, found, done = examples.seen(rows), [], 0
    for part, values in scored_parts(scores, examples, rows):
        ids, _ = best_of_scores(values, seen[done : done + len(part)], k=k)
        found.append(np.asarray(ids))
        done += len(part)
    return np.concatenate(found)
