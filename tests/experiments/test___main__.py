"""The list of commands: every one is there, on 80 columns, and its help is printed."""

import dataclasses
from pathlib import Path

import pytest

import experiments
from experiments.__main__ import all_studies, duration, main

STUDIES = {study.name: study for study in all_studies()}


def test_every_command_is_listed_on_a_line_of_80_columns(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = {line.split()[0] for line in lines[3:]}
    commands = {p.stem for p in Path(experiments.__file__).parent.glob("*.py")} - {
        "__init__",
        "__main__",
    }
    assert listed == commands
    assert all(f"  {name} " in "\n".join(lines) for name in STUDIES)


def test_durations():
    assert [duration(minutes) for minutes in (0.5, 4, 210)] == ["30 s", "4 min", "210 min"]


@pytest.mark.parametrize("name", STUDIES)
def test_an_option_has_one_default(name):
    """The preset "default" is what the class says, which --help shows."""
    default = STUDIES[name].presets["default"]
    assert default == type(default)()
    assert "smoke" in STUDIES[name].presets


@pytest.mark.parametrize("name", STUDIES)
def test_options_are_named_and_claims_are_sentences(name):
    options = STUDIES[name].presets["default"]
    assert all(field.kw_only for field in dataclasses.fields(options))
    assert STUDIES[name].claim.endswith(".") and not STUDIES[name].about.endswith(".")
