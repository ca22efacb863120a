"""What task tables reads, and what it says of how events were parted."""

import dataclasses
import types

import pytest

from experiments.data.drawn import drawn_ratings
from experiments.harness.errors import InputError
from experiments.studies.options import Tables
from experiments.studies.tables import posed
from experiments.studies.tables.config import TablesConfig


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Return what is measured on drawn ratings by given options of the tables."""
    drawn = drawn_ratings()
    timed = dataclasses.replace(drawn, timestamps=86400.0 * drawn.timestamps)  # an event a day
    monkeypatch.setattr(posed, "read_interactions", lambda path, columns: timed)
    monkeypatch.setattr(posed, "run_tables", lambda run, examples, **own: (examples, own))

    def measure(**options):
        tables = TablesConfig(**options)
        asked = posed.pose_tables(Tables(data=tmp_path / "log", tables=tables))
        setting = types.SimpleNamespace(options=asked.options, inputs=asked.inputs, run=None)
        setting.mesh = setting.look_at_test = None
        return posed.measure_tables(setting)

    return measure


def test_events_are_parted_by_user_or_by_time_and_the_protocol_says_so(measured):
    examples, options = measured()
    assert set(examples.part) == {0, 1, 2}
    assert options["protocol"]["split"].startswith("each user's first 80% of events train")
    examples, options = measured(stale_days=2)
    assert set(examples.part) == {-1, 0, 1, 2}
    said = options["protocol"]["split"]
    assert "end 2 days before" in said and "histories reach to the request" in said


@pytest.mark.parametrize("days", [-1.0, float("nan"), float("inf")])
def test_days_out_of_range_are_refused(days):
    with pytest.raises(InputError, match=r"--tables\.stale-days: expected at least 0 days, found"):
        dataclasses.replace(TablesConfig(), stale_days=days)
