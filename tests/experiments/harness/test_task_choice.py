"""The task of a command: a word, a flag, or that of the resumed run."""

import json

import pytest

from experiments.harness.errors import InputError
from experiments.harness.options import Options
from experiments.harness.study import Study
from experiments.harness.task_choice import choose_task, run_task


def study(name):
    return Study(
        name=f"colours {name}",
        about=f"about {name}",
        minutes=1,
        claim="",
        presets={"default": Options()},
        measure=lambda setting: None,
    )


STUDIES = {name: study(name) for name in ("red", "green")}


def choose(argv):
    return choose_task(argv, STUDIES, command="colours")


def test_a_task_is_named_in_three_ways(tmp_path):
    assert choose(["red", "--seed", "1"]) == ("red", ["--seed", "1"])
    assert choose(["--seed", "1", "--task", "red"]) == ("red", ["--seed", "1"])
    assert choose(["--task=green"]) == ("green", [])
    saved = {"experiment": "colours green", "arguments": [], "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    for argv in (["--resume", str(tmp_path)], [f"--resume={tmp_path}"]):
        assert choose(argv) == ("green", argv)


@pytest.mark.parametrize(("argv", "word"), [([], "None"), (["blue"], "blue")])
def test_an_unknown_task_is_refused(argv, word):
    with pytest.raises(InputError, match=f"colours TASK: expected one of red, green, found {word}"):
        choose(argv)


def test_help_alone_lists_the_tasks(capsys):
    run_task(["--help"], STUDIES, command="colours", about="What it is.\n")
    assert capsys.readouterr().out == "What it is.\n\nred: about red\n\ngreen: about green\n"
