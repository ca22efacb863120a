"""Hostile input is read or refused in one line, nothing else: see tests.experiments.fuzz."""

import os
import subprocess
import sys

import pytest

DRAWS = int(os.environ.get("DRAWS", "2"))  # 200 under make test-long
CASES = {"readers": 300, "archives": 100, "runs": 50, "models": 50}  # per draw


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    # Models are trained first, which takes longer than all the rest.
    "what",
    [*(what for what in CASES if what != "models"), pytest.param("models", marks=pytest.mark.long)],
)
def test_damaged_files_are_read_or_refused(what):
    count = CASES[what] * DRAWS
    words = (sys.executable, "-m", "tests.experiments.fuzz", what, str(count))
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "'read': " in found.stdout and "'refused': " in found.stdout
