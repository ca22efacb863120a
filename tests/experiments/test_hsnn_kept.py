"""What a search keeps of a scorer's gain over the two tower."""

import numpy as np
import pytest

from experiments.hsnn_kept import SHARES, Served, kept_table, rows_of, serve
from experiments.searchers import Model, Requests
from hsnn_jax.scorers import dot


@pytest.fixture(scope="module")
def measured():
    """The truth follows a scorer, of which the two tower is a noisy version."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(120, 8)).astype(np.float32)
    users = rng.normal(size=(40, 8)).astype(np.float32)
    noisy = users + 0.7 * rng.normal(size=users.shape).astype(np.float32)
    truth = np.argsort(-users @ items.T, axis=1)[:, :5]
    requests = Requests(np.arange(40)[:, None], np.full((40, 1), -1))
    nodes = {"first items": items[:12]}

    def served(name, vectors):
        model = Model(name, dot, None, items, rows_of(vectors), None, user_flops=100.0)
        return Served(model, requests, truth, items, nodes)

    two_tower = served("two tower", noisy)
    return serve(served("good", users), two_tower, 5), serve(two_tower, two_tower, 5)


def test_searches_approach_their_scorer_as_they_score_more(measured):
    good, two_tower = measured
    assert good["exact"][0].recall.mean() == good["exact"][0].truth.mean() == 1
    recalls = [point.recall.mean() for point in good["HSNN first items"]]
    assert recalls == sorted(recalls)
    assert 0 < recalls[0] < recalls[-1]
    assert not any(name.startswith("two tower") or "routes" in name for name in two_tower)
    # The two tower's choice of nodes is a little worse, and costs its user tower too.
    routed = good["HSNN first items, two tower routes"]
    for own, other in zip(good["HSNN first items"], routed, strict=True):
        assert 0 < other.recall.mean() <= own.recall.mean() + 0.05
        assert abs(other.flops - own.flops - 100) <= 2 * 8 * 12
    # Operations: the two tower scans everything, then the scorer the best 24.
    assert good["two tower re-ranked"][-1].items_scored == 24
    assert good["two tower re-ranked"][-1].flops == pytest.approx(2 * 8 * (120 + 24) + 200)


def test_the_share_of_the_gain_is_that_of_the_means(measured):
    good, two_tower = measured
    plain = two_tower["exact"][0]
    table, figures = kept_table({"good": [good]}, [plain], num_items=120, k=5)
    assert figures["good, exact/100%/kept"] == 1
    base = plain.truth.mean()
    for share, point in zip(SHARES, good["two tower re-ranked"]):
        kept = (point.truth.mean() - base) / (1 - base)
        assert figures[f"good, two tower re-ranked/{share:.0%}/kept"] == pytest.approx(kept)
    names = [row[0] for row in table.rows]
    assert len(names) == len({tuple(row) for row in table.rows})  # equal budgets are one row


def test_a_gain_within_the_noise_is_not_taken_apart(measured):
    _, two_tower = measured
    _, figures = kept_table({"same": [two_tower]}, two_tower["exact"], num_items=120, k=5)
    assert not any(name.endswith("/kept") for name in figures)
