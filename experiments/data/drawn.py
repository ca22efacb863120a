"""Drawn data with known truth: rated films of a few genres, and vectors of a planted tree."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from experiments.data.interactions import Events, Interactions, from_events

GENRES = ("Drama", "Comedy", "War", "Western", "Horror")


def drawn_ratings(*, users: int = 120, films: int = 80, seed: int = 0) -> Interactions:
    """Draw users with a taste in genres who rate films, those of their taste higher."""
    rng = np.random.default_rng(seed)
    genre = np.arange(films) % len(GENRES)
    rows = []
    for user in range(users):
        for time, film in enumerate(rng.permutation(films)[:30]):
            rating = 4.2 if genre[film] == user % len(GENRES) else 2.8
            rows.append((user, film, float(np.clip(round(rating + rng.normal()), 1, 5)), time))
    table = np.array(rows)
    texts: dict[int | str, str] = {
        f: f"Film {f} ({1960 + f % 40}) {GENRES[genre[f]]}" for f in range(films)
    }
    events = Events(
        users=table[:, 0].astype(np.int64),
        items=table[:, 1].astype(np.int64),
        timestamps=table[:, 3],
        weights=table[:, 2],
        texts=texts,
        notes=("simulated",),
    )
    return from_events("drawn-ratings", hashlib.sha256(table.tobytes()).hexdigest()[:16], events)


def drawn_shop(*, users: int = 80, items: int = 150, days: int = 40, seed: int = 0) -> Interactions:
    """Draw a shop whose catalogue grows by the day, and customers of one kind of goods each."""
    rng = np.random.default_rng(seed)
    kinds = ("plain", "fine", "large", "small")
    names = ("red cup", "blue lamp", "green chair", "old clock", "toy train")
    rows = []
    for day in range(days):
        newest = 40 + (items - 40) * day // days
        for user in rng.choice(users, users // 3, replace=False):
            own = np.arange(user % len(names), newest, len(names))[-12:]
            for item in rng.choice(own, 2, replace=False):
                rows.append((user, item, 86_400 * (day + 1) + int(rng.integers(1000))))
    table = np.array(rows, np.int64)
    texts: dict[int | str, str] = {
        i: f"{names[i % len(names)]} {kinds[i % 4]} model{i % 9}" for i in range(items)
    }
    events = Events(
        users=table[:, 0],
        items=table[:, 1],
        timestamps=table[:, 2],
        texts=texts,
        notes=("simulated",),
    )
    return from_events("drawn-shop", hashlib.sha256(table.tobytes()).hexdigest()[:16], events)


class Planted(NamedTuple):
    """Vectors around the leaves of a tree.

    Attributes:
      items: float32 [n, d], unit rows.
      users: float32 [B, d], unit rows near the items of `liked`.
      liked: int [B].
      leaf: int [n], of each item.
    """

    items: np.ndarray
    users: np.ndarray
    liked: np.ndarray
    leaf: np.ndarray


def planted_tree(
    *,
    items: int,
    users: int,
    width: int,
    leaves: int,
    branches: int = 16,
    noise: float = 0.6,
    user_noise: float = 0.6,
    skew: float = 0.5,
    seed: int,
) -> Planted:
    """Draw items around leaves, leaves around branches, users around items.

    Args:
      items, users: how many.
      width: d.
      leaves, branches: of the tree; leaves belong to branches in turn.
      noise, user_noise: length of the deviation of an item from its leaf, a user from the item.
      skew: leaf r holds a share of the items in proportion to (r + 1)^-skew.
      seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    branch_vectors = _unit(rng.normal(size=(branches, width)))
    offsets = 0.7 * _unit(rng.normal(size=(leaves, width)))
    centres = (branch_vectors[np.arange(leaves) % branches] + offsets).astype(np.float32)
    share = (np.arange(leaves) + 1.0) ** -skew
    leaf = rng.choice(leaves, items, p=share / share.sum())
    vectors = _near(rng, centres[leaf], noise)
    liked = rng.integers(0, items, users)
    return Planted(vectors, _near(rng, vectors[liked], user_noise), liked, leaf)


def _near(rng, vectors, noise):
    """Return unit vectors near to others; of ten million, no more copies are held than two."""
    near = rng.standard_normal(vectors.shape, dtype=np.float32)
    near *= np.float32(noise / np.sqrt(vectors.shape[1]))
    near += vectors
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return near


def _unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
