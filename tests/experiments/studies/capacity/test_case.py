"""The formula beside compiled programs, to 2 %; where temporary bytes are fitted, by hand."""

import dataclasses

import pytest

from experiments import capacity_plan
from experiments.studies.capacity.blocks import Dealing
from experiments.studies.capacity.case import (
    Row,
    compile_row,
    compute_row,
    deviations,
    fit_temporary,
)
from experiments.studies.capacity.models import transformer

WITHIN = 0.02


def check(case, devices):
    compiled, computed = compile_row(case, devices), compute_row(case, devices)
    assert (compiled.source, computed.source) == ("compiled", "computed")
    assert compiled.collectives > 0 and compiled.flops > 0 and compiled.temporary > 0
    found = deviations(compiled, computed)
    assert set(found) == {"arguments", "collectives", "operations"}
    assert max(found.values()) <= WITHIN, found
    return compiled


@pytest.mark.slow
@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.long), 4])
def test_a_transformer_with_whole_parameters(devices):
    (whole, _) = capacity_plan.small(True)
    row = check(whole, devices)
    assert set(row.moved) == {"all-reduce", "all-gather"}


@pytest.mark.slow
def test_a_transformer_with_parameters_in_parts_keeps_its_batch_dealt():
    whole, parts = capacity_plan.small(True)
    row = check(parts, 4)
    assert row.parameters < 0.5 * compute_row(whole, 4).parameters
    assert row.flops == compute_row(whole, 4).flops  # no device does another's work


@pytest.mark.slow
def test_gradients_in_parts_that_are_gathered_in_rounds():
    sizes = {**capacity_plan.TINY, "block_size": 32, "layout": "fsdp"}
    at_once, rounds = (transformer("tiny", **sizes, gather_bytes=n) for n in (2**30, 2**15))
    row = check(rounds, 4)
    gathered = check(at_once, 4).moved
    assert "reduce-scatter" not in gathered
    assert row.moved["all-gather"] < gathered["all-gather"]
    assert 0 < row.moved["reduce-scatter"] < row.parameters


@pytest.mark.long
@pytest.mark.parametrize("model", ["resnet50", "nxtpost", "hsnn"])
def test_other_models(model):
    for case in capacity_plan.MODELS[model](True):
        check(case, 4)


@pytest.mark.long
def test_the_large_transformer_is_compiled_whole():
    _, parts = capacity_plan.large(False)
    row = check(parts, 8)
    assert row.parameters > 3e10


def row_of(devices, temporary, growing=0.0):
    return Row(
        devices=devices,
        source="compiled",
        parameters=100.0,
        optimizer=50.0,
        inputs=10.0,
        temporary=temporary,
        moved={"all-reduce": 100.0},
        collectives=2,
        flops=1000.0,
        dealing=Dealing(),
        growing=growing,
        seconds=0.0,
    )


def test_temporary_bytes_are_fixed_shared_and_growing():
    rows = {n: row_of(n, 7.0 + 96.0 / n + 2.0 * n, growing=2.0) for n in (8, 64)}
    fit = fit_temporary(rows)
    assert fit.at(16) == pytest.approx(7 + 6 + 32)
    assert fit.at(4096) == pytest.approx(7 + 96 / 4096 + 8192)
    assert fit_temporary({8: rows[8]}) is None


def test_deviations_are_shares_of_the_compiled_figures():
    one = row_of(8, 200.0)
    other = dataclasses.replace(one, optimizer=66.0, flops=900.0, temporary=220.0, moved={"a": 150})
    assert deviations(one, other) == pytest.approx(
        {"arguments": 0.1, "collectives": 0.5, "operations": 0.1, "temporary": 0.1}
    )
    assert one.total == 360.0
