"""The report in words."""

import pytest

from nxtpost_jax.evaluation.metrics import metrics_of_ranks
from nxtpost_jax.evaluation.report import OWN, Report


@pytest.mark.parametrize(
    ("own", "baseline", "found"),
    [
        ([1] * 50, [9] * 50, "It is ahead of b, the best of the baselines, by 0.6990 ± 0.0000"),
        ([9] * 50, [1] * 50, "It is BEHIND b, by 0.6990 ± 0.0000 of NDCG@10: b would serve better"),
        ([1, 9] * 25, [9, 1] * 25, "It cannot be told from b by these queries (0.0000 ± 0."),
    ],
)
def test_the_sentence_says_who_is_ahead(own, baseline, found):
    metrics = {OWN: metrics_of_ranks(own), "a": metrics_of_ranks([500] * 50)}
    report = Report(metrics | {"b": metrics_of_ranks(baseline)}, "protocol")
    assert report.best_baseline == "b"
    assert report.found.startswith(found)
