"""Styles: a name looks the same wherever it stands, and everything drawn has one."""

import pytest

from experiments.harness.names import NAMES, OPTIMIZERS
from experiments.harness.plot_styles import STYLES, style_of
from experiments.retrieval.kept_gain import NAMES as SCORERS


@pytest.mark.parametrize(
    ("name", "drawn_as"),
    [
        ("NxtPost, AdamW", "AdamW"),
        ("NxtPost, Shampoo", "Shampoo"),
        ("NxtPost, Shampoo, content only", "Shampoo, content only"),
        ("Shampoo, thrifty", "Shampoo, thrifty"),
        ("MoNN S, HSNN LTI, dot routes", "HSNN LTI, dot routes"),
        ("MoNN L, IVF re-ranked", "IVF re-ranked"),
        ("  MoNN S, HSNN index", "MoNN S"),
        ("dot, exact search", "dot"),
        ("joint, stale", "joint, stale"),
        ("skip-3 Markov", "skip-3 Markov"),
    ],
)
def test_a_name_is_drawn_as_its_longest_part_that_has_a_style(name, drawn_as):
    assert style_of(name) == STYLES[drawn_as]


def test_everything_that_tables_name_has_a_style():
    for name in (*NAMES.values(), *OPTIMIZERS.values(), *SCORERS.values()):
        style_of(name)


def test_an_optimizer_keeps_its_colour_in_every_study():
    for optimizer in ("adamw", "shampoo"):
        assert style_of(NAMES[optimizer]) == style_of(OPTIMIZERS[optimizer])


def test_baselines_can_be_told_apart():
    baselines = [style_of(NAMES[n]) for n in list(NAMES)[:6]]
    assert len({style.color for style in baselines}) == 6
    assert all(style.linestyle != "-" for style in baselines)


def test_a_name_without_a_style_is_refused():
    message = "name: expected one with a style in plot_styles.py, found 'colour'"
    with pytest.raises(ValueError, match=message):
        style_of("colour")
