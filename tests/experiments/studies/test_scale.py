"""The least budget, and the power by which cost grows."""

import dataclasses

import pytest

from experiments.studies.scale import exponent, least_budget


def test_the_least_budget_is_found_and_exponents_are_fitted():
    found = least_budget(lambda b: 1.0 if b >= 300 else 0.5, least=10, most=10_000)
    assert 300 <= found <= 312
    assert least_budget(lambda b: 1.0, least=10, most=100) == 10
    assert least_budget(lambda b: 0.0, least=10, most=100) == 100
    points = [dataclasses.make_dataclass("P", ["items", "flops"])(n, 7 * n**0.5) for n in (9, 90)]
    assert exponent(points) == pytest.approx(0.5)
