"""Drawn users of several interests on a planted tree, as a log of rated events.

What a user likes is known here: items near any of the user's interests. A model sees the log alone,
which items the user met and what these are called: interests must be learned from history.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from experiments.data.drawn import planted_tree
from experiments.data.interactions import Events, Interactions, from_events

LIKE, DISLIKE = 5.0, 2.0  # ratings
_USERS = 512  # whose events are drawn at once


class DrawnInterests(NamedTuple):
    """A log and its truth.

    Attributes:
      interactions: rated events; an item's text names its leaf and its branch of the tree.
      utility: float16 [users, items], what the best of a user's interests gives to an item.
    """

    interactions: Interactions
    utility: np.ndarray


def drawn_interests(
    *,
    users: int,
    items: int,
    leaves: int,
    branches: int,
    interests: int,
    events: int,
    noise: float,
    seed: int,
) -> DrawnInterests:
    """Draw users whose interests are leaves of the tree, and what they meet and like.

    An item's utility is its largest cosine to the centres of the user's leaves. A user meets
    `events` different items, half of them as exp(8 utility), half of them uniformly, and likes
    those whose utility with noise is above that of half of all that is met.

    Args:
      users, items, leaves, branches: how many.
      interests: leaves of a user.
      events: of a user, at most half of the items.
      noise: standard deviation of the normal noise on the utility, when a rating is given.
      seed: of all draws.
    """
    rng = np.random.default_rng([seed, 23])
    tree = planted_tree(items=items, users=1, width=16, leaves=leaves, branches=branches, seed=seed)
    sums = np.zeros((leaves, 16), np.float32)
    np.add.at(sums, tree.leaf, tree.items)
    centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    chosen = np.argsort(rng.random((users, leaves)), axis=1)[:, :interests]
    near = centres @ tree.items.T
    utility = np.stack([near[own].max(axis=0) for own in chosen]).astype(np.float16)
    met = np.concatenate(
        [_met(rng, utility[i : i + _USERS], events=events) for i in range(0, users, _USERS)]
    )
    owner = np.repeat(np.arange(users), events)
    felt = utility[owner, met.ravel()] + noise * rng.normal(size=met.size)
    table = {
        "users": owner,
        "items": met.ravel().astype(np.int64),
        "timestamps": np.tile(np.arange(events, dtype=np.float64), users),
        "weights": np.where(felt > np.median(felt), LIKE, DISLIKE),
    }
    texts: dict[int | str, str] = {
        i: f"Item {i} (1980) leaf{leaf} branch{leaf % branches}" for i, leaf in enumerate(tree.leaf)
    }
    log = from_events(
        "drawn-interests",
        hashlib.sha256(b"".join(x.tobytes() for x in table.values())).hexdigest()[:16],
        Events(**table, texts=texts, notes=("simulated",)),
    )
    return DrawnInterests(log, utility[:, log.item_ids])


def _met(rng: np.random.Generator, utility: np.ndarray, *, events: int) -> np.ndarray:
    """Draw different items of each user, int [B, events], in random order."""
    odds = np.exp(8 * utility.astype(np.float32))
    share = 0.5 * odds / odds.sum(axis=1, keepdims=True) + 0.5 / utility.shape[1]
    # The largest of log p plus a Gumbel variable: a draw without replacement.
    keys = np.log(share) + rng.gumbel(size=share.shape)
    best = np.argpartition(-keys, events, axis=1)[:, :events]
    return rng.permuted(best, axis=1)
