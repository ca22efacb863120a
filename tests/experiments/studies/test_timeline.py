"""Users of a day and what came before."""

import numpy as np
import pytest

from experiments.data.drawn import drawn_shop
from experiments.harness.errors import InputError
from experiments.studies.timeline import make_timeline


def test_users_of_a_day_are_asked_with_what_came_before():
    interactions = drawn_shop()
    timeline, days = make_timeline(interactions, days=4, content_dim=8, seed=0)
    vectors, _, truth, real = timeline.queries(days[0], most=40, width=50, seed=0)
    assert 0 < real <= 40
    np.testing.assert_allclose(np.linalg.norm(vectors[:real], axis=1), 1, atol=1e-5)
    of_day = set(timeline.items[timeline.days == days[0]].tolist())
    assert set(truth[truth >= 0].tolist()) <= of_day
    pairs = timeline.pairs_before(days[0], 10**6)
    early = timeline.days < days[0]
    assert len(pairs.positives) < early.sum()  # a first day has no history
    live = timeline.live_on(days[0] - 1, 90.0)
    assert not live[list(of_day - set(timeline.items[early].tolist()))].any()
    with pytest.raises(InputError, match="at least 60 days"):
        make_timeline(interactions, days=30, content_dim=8, seed=0)
