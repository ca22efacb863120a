"""Figures of faults."""

from experiments.harness.report import markdown_table
from experiments.studies.faults import figures
from experiments.studies.faults.figures import Tried
from experiments.studies.faults.site import Trial

KILLS = Tried("kill -9", [Trial("same bits", again=n, seconds=n / 10) for n in (4, 1, 2)])
FILES = Tried(
    "files", [Trial("refused", seconds=2.0), Trial("neither", found="another state, see here")]
)


def test_figures_are_medians_over_the_trials_that_have_them():
    found = figures.figures_of(KILLS)
    assert (found["tried"], found["survived"], found["refused"]) == (3, 3, 0)
    assert (found["steps_again"], found["most_steps_again"]) == (2, 4)
    assert (found["seconds"], found["most_seconds"]) == (0.2, 0.4)
    found = figures.figures_of(FILES)
    assert (found["tried"], found["survived"], found["refused"]) == (2, 1, 1)
    assert found["steps_again"] is None and found["seconds"] == 2.0


def test_what_was_not_survived_is_said():
    assert figures.said(KILLS) == "kill -9: 3 of 3 survived"
    assert figures.said(FILES) == "files: 1 of 2 survived\n  another state, see here"
    assert figures.said_of_all([KILLS]) == "3 faults, 3 survived."
    assert figures.said_of_all([KILLS, FILES]) == "5 faults, 4 survived; NOT ALL of: files."


def test_the_table_has_a_row_a_kind():
    lines = markdown_table(figures.table_of([KILLS, FILES])).splitlines()
    assert "| kill -9 | 3 | 3 | 0 | 2 | 4 | 0.2 | 0.4 |" in lines
    assert "| files | 2 | 1 | 1 | – | – | 2 | 2 |" in lines
