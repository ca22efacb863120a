"""Gates that a gain must pass before a share of it is spoken of."""

import numpy as np
import pytest

from experiments.studies.tables.gates import found_by, gate_figures, gates_of, gates_table


def hits(rate, *, seeds=3, users=2000, seed=0):
    rng = np.random.default_rng([seed, round(1000 * rate)])
    return (rng.random((seeds, users)) < rate).astype(float)


def test_a_clear_gain_passes_and_the_best_monn_is_compared():
    gates = gates_of({"XS": hits(0.3), "S": hits(0.4), "M": hits(0.55), "L": hits(0.5)})
    assert [(g.model, g.rival) for g in gates] == [("M", "XS"), ("L", "S")]
    assert [gate.passed for gate in gates] == [True, True]
    assert gates[0].gain == pytest.approx(0.25, abs=0.03)
    assert found_by(gates) == (
        "Gate A: MoNN M above two tower: passed. Gate B: MoNN L above MoNN S: passed."
    )


def test_a_gain_within_two_errors_is_undecidable_and_the_effect_is_said():
    gates = gates_of({"XS": hits(0.3), "S": hits(0.4), "L": hits(0.4, seed=1)})
    assert [gate.passed for gate in gates] == [True, False]
    smallest = f"{2 * gates[1].error:.4f}"
    assert f"the smallest effect that could be seen is {smallest}" in found_by(gates)
    table = gates_table(gates, base=hits(0.3), k=50)
    assert table.rows[1][-1] == gates[1].verdict and table.rows[0][-1] == "passed"
    figures = gate_figures(gates)
    assert figures["gate A/passed"] == 1 and figures["gate B/passed"] == 0


def test_a_large_model_that_is_worse_does_not_pass():
    _, gate = gates_of({"XS": hits(0.3), "S": hits(0.6), "M": hits(0.4)})
    assert not gate.passed and gate.verdict.startswith("it finds less; the smallest effect")
