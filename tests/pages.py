"""What the tests of README and of docs/ share: code blocks, links and commands of a page."""

import pathlib
import re
import runpy
import shlex
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(r"```(?:python|\{code-cell\} python)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"`python -m (experiments\.\w+[^`]*)`")


def run_blocks(name: str, blocks: list[str]) -> dict:
    """Run code blocks one after the other, as in one process of a user; return their names."""
    names: dict = {}
    with jax.numpy_rank_promotion("allow"):
        for number, block in enumerate(blocks):
            exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names


def broken_links(page: pathlib.Path) -> list[str]:
    """List the page's links to files that are not there; API pages are written by Sphinx."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    here = [t for t in targets if t and "://" not in t and "api/generated/" not in t]
    return [target for target in here if not (page.parent / target).exists()]


def commands_in(page: str) -> list[list[str]]:
    """List the words of each `python -m experiments.NAME ...` of a page, from NAME's module on."""
    return [shlex.split(command) for command in COMMAND.findall(page)]


def check_commands(commands: list[list[str]], monkeypatch, capsys) -> None:
    """Check that each command's help knows the command's task and all of its flags."""
    monkeypatch.setenv("COLUMNS", "400")
    for module, *words in commands:
        monkeypatch.setattr(sys, "argv", [module, *words, "--help"])
        monkeypatch.delitem(sys.modules, module, raising=False)  # else runpy warns
        # In this process: another one each would mostly import jax.
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        assert not ended.value.code, [module, *words]
        shown = capsys.readouterr().out
        for flag in [word for word in words if word.startswith("--")]:
            assert re.search(rf"{re.escape(flag)}\b", shown), (module, flag)
