"""How long a fit takes by itself, and how it stands beside the baselines."""

import pytest

from nxtpost_jax.evaluation.report import OWN
from nxtpost_jax.serving import learning
from nxtpost_jax.serving.recommender import Recommender
from tests.nxtpost.small_recommender import FAST, TINY, cycles, drawn_content


@pytest.fixture(scope="module")
def fitted():
    recommender = Recommender(TINY, drawn_content("vectors"), tx=FAST)
    records = recommender.fit(cycles(num_users=120), num_negatives=16, patience=2)
    return recommender, records


def test_a_fit_without_epochs_ends_by_itself_and_reports(fitted):
    recommender, records = fitted
    assert len(records) < learning.MOST_EPOCHS
    assert all({"ndcg@10", "mlrr"} <= record.keys() for record in records)
    # All held-out targets count, near the top or not.
    assert records[-3]["mlrr"] == max(record["mlrr"] for record in records)
    report = recommender.report()
    names = [OWN, "popularity", "Markov (skip 3)", "item-KNN", "content-KNN"]
    assert list(report.metrics) == names
    held = recommender._served.now.held
    assert len(held.train.items) == 120 * 7 - 120
    assert len(report.metrics[OWN].ranks) == 60
    assert report.metrics[OWN].values == recommender.evaluate(held.test).values
    text = str(report)
    assert "60 users' last events" in text and "all 24 items; seen items left out" in text
    assert text.splitlines()[-1] == report.found


def test_removed_items_are_no_candidates_and_no_targets(fitted):
    recommender, _ = fitted
    held = recommender._served.now.held
    gone = int(held.test.targets[0])
    recommender.remove([gone])
    try:
        report = recommender.report()
        kept = held.test.targets != gone
        assert len(report.metrics["popularity"].ranks) == kept.sum() < 60
        assert "all 23 items" in report.protocol
    finally:
        recommender.add(ids=[gone])


@pytest.mark.parametrize("given", [{"epochs": 1}, {"few": True}])
def test_without_events_held_out_there_is_no_report(given, monkeypatch):
    monkeypatch.setattr(learning, "EPOCHS", 2)
    recommender = Recommender(TINY, num_items=24, tx=FAST)
    few = given.pop("few", False)
    records = recommender.fit(cycles(num_users=40 if few else 64), num_negatives=16, **given)
    assert len(records) == (2 if few else 1)
    with pytest.raises(ValueError, match=r"report: expected a fit without epochs= and validation="):
        recommender.report()


def test_going_on_takes_few_epochs_and_holds_nothing_out(fitted):
    recommender, _ = fitted
    assert len(recommender.fit(cycles(num_users=120), more=True, num_negatives=16)) == 2
    with pytest.raises(ValueError, match="report: "):
        recommender.report()
