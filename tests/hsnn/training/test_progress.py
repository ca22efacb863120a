"""The line on a terminal."""

import io
import sys

import pytest

from hsnn_jax.training import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "wanted", "seen"),
    [(Terminal, None, True), (Terminal, True, True), (Terminal, False, False)]
    + [(io.StringIO, wanted, False) for wanted in (None, True)],
)
def test_a_line_is_shown_on_a_terminal_alone(monkeypatch, stream, wanted, seen):
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress.shown(wanted, total=1000) as show:
        for step in range(1000):
            show(step + 1, "loss 0.5")
    text = stderr.getvalue()
    assert bool(text) == seen
    if seen:  # few changes, and the last step whenever it comes
        assert "step 1000 of 1000  loss 0.5  0 s left" in text
        assert text.endswith("\n") and text.count("step") < 100
