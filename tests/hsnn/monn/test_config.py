"""Presets and what a configuration refuses."""

import pytest

from hsnn_jax.monn.config import SIZES, preset
from tests.hsnn.small_monn import ITEM, USER, config


def test_presets_are_the_papers_sizes():
    for name, size in SIZES.items():
        for crosses in ((), ("category",)):
            configuration = preset(name, user=USER, item=ITEM, crosses=crosses)
            found = [getattr(configuration, field) for field in size._fields]
            assert found == [*size[:2], size[2] if crosses else 0, size[3]]
            assert configuration.overarch == ("dot" if name == "XS" else "mol")
    assert preset("M", user=USER, item=ITEM, overarch="mlp", width=8).width == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: preset("XXL", user=USER, item=ITEM),
            "size: expected one of XS, S, M, L, XL, found 'XXL'",
        ),
        (lambda: config("deep"), "overarch: expected 'mol' or .* found 'deep'"),
        (lambda: config(num_interaction=0), "num_interaction: expected > 0 with crosses"),
        (lambda: config(crosses=(), num_interaction=1), "and 0 without, found 1"),
        (lambda: config(num_user=0), "num_user: expected a number > 0, found 0"),
        (lambda: config(tasks=("a", "a")), "tasks: expected distinct"),
    ],
)
def test_bad_configurations(make, message):
    with pytest.raises(ValueError, match=message):
        make()
