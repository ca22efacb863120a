"""README's code blocks and commands run as they stand."""

import pathlib
import re
import runpy
import sys

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def my_data(tmp_path, monkeypatch):
    """The folder that README's recommender reads."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "my_data"
    folder.mkdir()
    lines = ["user,item,timestamp"]
    for user in range(30):
        lines += [f"{user},{(user + t) % 20},{t}" for t in range(12)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    np.save(folder / "items.npy", rng.normal(size=(20, 8)).astype(np.float32))
    monkeypatch.chdir(tmp_path)


def test_there_are_two_code_blocks():
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_code_blocks_run(number, my_data, capsys):
    names = {}
    with jax.numpy_rank_promotion("allow"):  # as in a user's process
        exec(compile(BLOCKS[number], f"README.md block {number}", "exec"), names)
        if number == 0:
            assert names["loss"](names["params"]) < 0.9
        else:
            assert len(names["answer"].pairs(0)) == len(capsys.readouterr().out.splitlines()) == 3


def test_make_targets_and_linked_pages_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for page in set(re.findall(r"\]\(([^)h][^)]*)\)", README)):
        assert (ROOT / page).exists(), page


def test_commands_print_help_and_train_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    modules = set(re.findall(r"python -m (experiments\.\w+)", README)) | {"experiments.end_to_end"}
    for module in sorted(modules):
        monkeypatch.setattr(sys, "argv", [module, "--help"])
        monkeypatch.delitem(sys.modules, module, raising=False)  # else runpy warns
        # In this process: another one each would mostly import jax.
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        assert not ended.value.code
        assert "--out" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
