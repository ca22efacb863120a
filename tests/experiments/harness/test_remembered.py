"""What was measured once is read again."""

import numpy as np

from experiments.harness.options import OneSeed
from experiments.harness.remembered import remember
from experiments.harness.run_folder import open_run


def test_a_resumed_run_reads_what_it_measured(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"hits": np.array([1.0, 0.0]), "flops": 3.0}

    for options in (OneSeed(out=tmp_path / "run"), OneSeed(resume=tmp_path / "run")):
        with open_run("digits", options, arguments=()) as run:
            for _ in range(2):
                found = remember(run, "XS-0", measure=measure)
                np.testing.assert_array_equal(found["hits"], [1, 0])
                assert float(found["flops"]) == 3
    assert len(calls) == 1
