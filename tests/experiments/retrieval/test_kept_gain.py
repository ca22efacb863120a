"""What a search keeps of a scorer's gain over the two tower."""

import numpy as np
import pytest

from experiments.retrieval.kept_gain import (
    SHARES,
    RoutesTraining,
    Served,
    kept_table,
    rows_of,
    serve,
)
from experiments.retrieval.searchers import Model, Requests
from hsnn_jax.monn.scorers import dot

# Vectors that are drawn without clusters crowd some lists.
pytestmark = [pytest.mark.filterwarnings("ignore::hsnn_jax.SkewWarning"), pytest.mark.long]


@pytest.fixture(scope="module")
def measured():
    """The truth follows a scorer, of which the two tower is a noisy version."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(120, 8)).astype(np.float32)
    users = rng.normal(size=(440, 8)).astype(np.float32)
    noisy = users + 0.7 * rng.normal(size=users.shape).astype(np.float32)
    truth = np.argsort(-users[:40] @ items.T, axis=1)[:, :5]
    everyone = Requests(np.arange(440)[:, None], np.full((440, 1), -1))
    requests, learners = everyone.rows(slice(40)), everyone.rows(slice(40, None))
    nodes = {"k-means": items[:12]}

    def served(name, vectors):
        model = Model(name, dot, None, items, rows_of(vectors), None, user_flops=100.0)
        return Served(model, requests, truth, items, nodes, learners)

    two_tower, routes = served("two tower", noisy), RoutesTraining(steps=100, rate=1e-2)
    return tuple(
        serve(own, two_tower, k=5, routes=routes, seed=0)
        for own in (served("good", users), two_tower)
    )


@pytest.mark.long
def test_searches_approach_their_scorer_as_they_score_more(measured):
    good, two_tower = measured
    assert good["exact"][0].recall.mean() == good["exact"][0].truth.mean() == 1
    recalls = [point.recall.mean() for point in good["HSNN k-means"]]
    assert recalls == sorted(recalls)
    assert 0 < recalls[0] < recalls[-1]
    assert not any("two tower" in name for name in two_tower)
    # The two tower's choice of nodes is a little worse, and costs its user tower too.
    routed = good["HSNN k-means, two tower routes"]
    for own, other in zip(good["HSNN k-means"], routed, strict=True):
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


def test_learned_routes_find_more_than_the_nodes_they_begin_from(measured):
    good, two_tower = measured
    names = "HSNN k-means, two tower's learned routes", "HSNN k-means, two tower routes"
    learned, plain = (good[name][-1] for name in names)
    assert learned.recall.mean() > plain.recall.mean()
    # A factor and a bias more a node; the users of a scorer's own routes are encoded once.
    own = good["HSNN k-means"][-1].flops
    assert good["HSNN k-means, learned routes"][-1].flops == pytest.approx(own, abs=2 * 8 * 11)
    assert "HSNN k-means, learned routes" in two_tower
