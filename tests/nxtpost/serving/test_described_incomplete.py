"""New items that lack parts which all items of training have."""

import dataclasses

import numpy as np
import pytest

from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.serving.test_described import CONFIG, TITLES, fans, theme
from tests.nxtpost.serving.test_described_records import HOW, RECORDS, record
from tests.nxtpost.small_recommender import FAST


def incomplete(seed):
    """21 new films with one to three of the six parts, seven of each theme."""
    rng, films = np.random.default_rng(seed), {}
    for n in range(21):
        kept = rng.choice(6, rng.integers(1, 4), replace=False)
        parts = enumerate(record(100 + n, n % 3).items())
        films[f"new {n}"] = {name: part if m in kept else None for m, (name, part) in parts}
    return films


@pytest.mark.long
def test_channel_dropout_teaches_to_read_incomplete_items():
    """Trained on complete ones alone."""

    def beside_their_theme(rate, seed):
        config = dataclasses.replace(CONFIG, id_embedding=True, channel_dropout=rate)
        recommender = Recommender(config, tx=FAST)
        recommender.fit(fans(), content=RECORDS, epochs=30, seed=seed, **HOW)
        new = incomplete(seed)
        recommender.add(new)
        near = [recommender.similar(film, 3).ids[0] for film in new]
        themes = [[theme(film) for film in films if film in TITLES] for films in near]
        return sum(found.count(n % 3) >= 2 for n, found in enumerate(themes))

    without, dropped = (sum(beside_their_theme(r, seed) for seed in range(2)) for r in (0.0, 0.5))
    assert dropped >= without + 8  # 7 and 22 of 42
