"""A command of several tasks, each a study: `python -m experiments.NAME TASK`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.harness.errors import bad_input, exit_on_input_error
from experiments.harness.options import read_config
from experiments.harness.study import Study


def choose_task(
    argv: Sequence[str], studies: Mapping[str, Study], *, command: str
) -> tuple[str, list[str]]:
    """Split the task off the arguments: the first word, --task, or that of the resumed run.

    Raises:
      InputError: there is none, or it is unknown.
    """
    words = list(argv)
    first = words.pop(0) if words and not words[0].startswith("-") else None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task", default=first)
    named, words = parser.parse_known_args(words)
    parser.add_argument("--resume", type=Path)
    task, resume = named.task, parser.parse_known_args(words)[0].resume
    if task is None and resume is not None:
        task = read_config(resume)["experiment"].partition(" ")[2]
    if task is None or task not in studies:
        raise bad_input(f"{command} TASK", expected=f"one of {', '.join(studies)}", found=str(task))
    return task, words


@exit_on_input_error()
def run_task(
    argv: Sequence[str] | None, studies: Mapping[str, Study], *, command: str, about: str
) -> None:
    """Run the study of a task; without one, --help lists them behind `about`.

    Args:
      argv: the arguments; those of the process where None.
      studies: by task.
      command: what follows `python -m experiments.`.
      about: the command's docstring.
    """
    argv = sys.argv[1:] if argv is None else argv
    if list(argv) in (["--help"], ["-h"]):
        print(about.strip())
        for task, study in studies.items():
            print(f"\n{task}: {study.about}")
        return
    task, rest = choose_task(argv, studies, command=command)
    studies[task].main(rest)
