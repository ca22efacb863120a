"""Who may import whom, read from the source of every module."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shampoo_jax", "nxtpost_jax", "hsnn_jax")
CORE = {"jax", "flax", "optax", "orbax", "numpy"}
MODEL_FILES = {
    "hsnn_jax/monn/network.py",
    "hsnn_jax/monn/overarch.py",
    "hsnn_jax/monn/towers.py",
    "nxtpost_jax/towers/blocks.py",
    "nxtpost_jax/towers/model.py",
    "nxtpost_jax/towers/pooling.py",
    "nxtpost_jax/towers/post_tower.py",
    "nxtpost_jax/towers/user_tower.py",
    "nxtpost_jax/evaluation/wide_deep.py",
    "experiments/bench/character_model.py",
    "experiments/bench/digits_model.py",
}


def python_files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported_roots(path):
    """The first names of all modules that a file imports, at its top or inside functions."""
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            roots.add(node.module.split(".")[0])
    return roots


def importers(packages, name):
    files = (path for package in packages for path in python_files(package))
    return {str(path.relative_to(ROOT)) for path in files if name in imported_roots(path)}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_know_neither_each_other_nor_the_experiments(package):
    assert python_files(package)
    for other in {*PACKAGES, "experiments", "tests"} - {package}:
        assert importers([package], other) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_need_only_the_core_dependencies(package):
    for path in python_files(package):
        foreign = imported_roots(path) - set(sys.stdlib_module_names) - CORE - {package}
        assert foreign == set(), path


def test_only_model_files_import_flax():
    assert importers([*PACKAGES, "experiments"], "flax") <= MODEL_FILES


def test_experiments_do_not_import_tests():
    assert importers(["experiments"], "tests") == set()


def test_imports_are_found_where_they_hide(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import a.b\nfrom c.d import e\ndef f():\n    from g import h\n")
    assert imported_roots(path) == {"a", "c", "g"}
