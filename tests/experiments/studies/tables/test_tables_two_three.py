"""Tables 2 and 3 on drawn answers: paired differences, and nulls that say how small they are."""

import numpy as np
import pytest

from experiments.harness.figures import over_seeds_and_users
from experiments.studies.tables.ablated import Found
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.gates import Gate
from experiments.studies.tables.recipes import recipes_of
from experiments.studies.tables.tables_two_three import (
    COLUMNS,
    found_in_recipes,
    tables_two_three,
    worded,
)

SEEDS, USERS = 3, 2000
PASSED, FAILED = (Gate("B", "L", "S", gain, 0.01) for gain in (0.1, 0.0))


def hits(rate, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((SEEDS, USERS)) < rate).astype(float)


def found(*, losses=True, show=(2, 3)):
    """EM finds what LTI finds but for some chance users; k-means finds half of it."""
    full, rng = hits(0.4), np.random.default_rng(1)
    own = {recipe.name: full for recipe in recipes_of(show)}
    own |= {"k-means": full * hits(0.5, seed=2)}
    own |= {"EM": np.where(rng.random(full.shape) < 0.01, 1 - full, full)}
    entropies = rng.random((SEEDS, 50)) if losses else None
    return {name: Found(one, hits(0.5), entropies, 20.0, 7.0) for name, one in own.items()}


def tables_of(found, gate=PASSED, show=(2, 3)):
    config = TablesConfig(show=show)
    return tables_two_three(found, config=config, num_items=100, gate=gate)


def test_differences_are_paired_and_nulls_say_how_small():
    (two, three), figures = tables_of(found())
    rows = {row[0]: dict(zip(COLUMNS, row)) for row in two.rows}
    assert list(rows) == ["k-means", "EM"] and two.baselines[0][0] == "LTI"
    assert len(three.rows) == 5 and three.baselines == two.baselines
    expected = over_seeds_and_users(found()["k-means"].hits - found()["LTI"].hits)
    read = figures["k-means/difference"], figures["k-means/difference_se"]
    assert read == pytest.approx(expected) and rows["k-means"]["minus LTI's"].startswith(
        "-0.1975 ±"
    )
    error = figures["EM/difference_se"]
    assert rows["EM"]["minus LTI's"] == f"smaller than {2 * error:.4f}"
    # Of the same users the error is that of those whom one finds and the other does not.
    assert error < over_seeds_and_users(hits(0.4))[1] / 2
    assert rows["EM"]["items scored"] == 0.2 and rows["EM"]["nodes used"] == "7.0 of 32"
    assert dict(zip(COLUMNS, two.baselines[0]))["minus LTI's"] is None
    told = found_in_recipes(found())
    assert f"EM smaller than {2 * error:.4f}" in told and "k-means -0.1975 ±" in told


def test_a_difference_is_clear_from_two_standard_errors_on():
    differences = np.zeros((1, 100))
    differences[0, :3] = 1  # mean .03, error .0171
    assert worded(differences) == "smaller than 0.0343"
    differences[0, :5] = 1  # mean .05, error .0219
    assert worded(differences) == "+0.0500 ± 0.0219"
    assert worded(-differences).startswith("-0.0500")


def test_a_failed_gate_is_said_and_the_tables_stand():
    for gate in (PASSED, FAILED):
        tables, _ = tables_of(found(), gate)
        said = ["The large model does not beat the small one here" in own.note for own in tables]
        assert said == [gate is FAILED] * 2


def test_one_table_alone_and_data_without_negatives():
    tables, figures = tables_of(found(losses=False, show=(3,)), show=(3,))
    assert [own.title[:7] for own in tables] == ["Table 3"]
    for row in (*tables[0].baselines, *tables[0].rows):
        assert dict(zip(COLUMNS, row))["NE"] == "n/a: no negatives were observed"
    assert not any("ne" in name.split("/")[1].split("_") for name in figures)
