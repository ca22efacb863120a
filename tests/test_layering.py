"""Who may import whom, read from the source of every module.

A room (a sub-package) says in the last line of its `__init__.py` what it may import beside itself:
rooms and modules of its own package, and other packages.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shampoo_jax", "nxtpost_jax", "hsnn_jax")
EVERYTHING = (*PACKAGES, "experiments")
CORE = {"jax", "flax", "optax", "orbax", "numpy"}
MODEL_FILES = {
    "hsnn_jax/monn/network.py",
    "hsnn_jax/monn/overarch.py",
    "hsnn_jax/monn/towers.py",
    "nxtpost_jax/towers/blocks.py",
    "nxtpost_jax/towers/model.py",
    "nxtpost_jax/towers/pooling.py",
    "nxtpost_jax/towers/post_tower.py",
    "nxtpost_jax/towers/relative.py",
    "nxtpost_jax/towers/trend_prior.py",
    "nxtpost_jax/towers/user_tower.py",
    "nxtpost_jax/evaluation/wide_deep.py",
    "experiments/models/character_model.py",
    "experiments/models/decoder.py",
    "experiments/bench/digits_model.py",
    "experiments/models/resnet.py",
}
# jax itself needs SciPy, for the LAPACK that XLA:CPU calls. A DataFrame brings its extra.
FOREIGN = {
    "shampoo_jax/roots/lapack_threads.py": {"scipy"},
    "nxtpost_jax/events/texts.py": {"scipy"},
    "nxtpost_jax/events/log.py": {"narwhals"},
}
# Modules beside the rooms: they import no room, but for those that join some.
JOINS = {
    "hsnn_jax/cost_curves.py": {"lists", "descent"},
    "shampoo_jax/config.py": {"roots"},
    "shampoo_jax/options.py": {"roots"},
    "shampoo_jax/orthogonal.py": {"roots"},
}
ROOMS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for package in EVERYTHING
    for path in (ROOT / package).glob("*/__init__.py")
)
# Test files that are about no module alone.
ACROSS = {
    "shampoo/test_contract.py",
    "shampoo/test_export.py",
    "shampoo/test_faults.py",
    "shampoo/test_program.py",
    "shampoo/test_reference.py",
    "shampoo/test_reference_trajectories.py",
    "shampoo/test_signatures.py",
    "shampoo/test_soap.py",
    "shampoo/test_trees.py",
    "hsnn/test_public_face.py",
    "experiments/data/test_fuzz.py",
    "experiments/loop/test_resume.py",
    "experiments/test_determinism.py",
}


def python_files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported_names(path):
    """The dotted names of all that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_roots(path):
    """The first names of all modules that a file imports."""
    return {name.split(".")[0] for name in imported_names(path)}


def importers(packages, name):
    files = (path for package in packages for path in python_files(package))
    return {str(path.relative_to(ROOT)) for path in files if name in imported_roots(path)}


def imported_places(path, package):
    """The rooms and modules of its own package, and the other packages, that a file imports."""
    places = set()
    for name in imported_names(path):
        root, *rest = name.split(".")
        if root == package:
            places.add(rest[0] if rest else package)
        elif root in EVERYTHING:
            places.add(root)
    return places


def allowed_places(room):
    """What the last paragraph of a room's docstring allows."""
    doc = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
    found = re.fullmatch(r"May import: (.+)\.", doc.split("\n\n")[-1].replace("\n", " "))
    assert found, f"{room}: expected a last paragraph 'May import: ...'"
    return set() if found[1].startswith("nothing") else set(found[1].split(", "))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_know_neither_each_other_nor_the_experiments(package):
    assert python_files(package)
    for other in {*EVERYTHING, "tests"} - {package}:
        assert importers([package], other) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_need_only_the_core_dependencies(package):
    for path in python_files(package):
        foreign = imported_roots(path) - set(sys.stdlib_module_names) - CORE - {package}
        assert foreign == FOREIGN.get(path.relative_to(ROOT).as_posix(), set()), path


def test_only_model_files_import_flax():
    assert importers(EVERYTHING, "flax") <= MODEL_FILES
    assert all((ROOT / path).exists() for path in MODEL_FILES)


def test_experiments_do_not_import_tests():
    assert importers(["experiments"], "tests") == set()


def test_there_are_rooms():
    assert {"hsnn_jax/nodes", "nxtpost_jax/events", "experiments/harness"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_says(room):
    package, own = room.split("/")
    allowed = allowed_places(room)
    for place in allowed & {path.stem for path in (ROOT / package).iterdir()}:
        assert (ROOT / package / place).is_dir() or (ROOT / package / f"{place}.py").exists()
    for path in python_files(room):
        assert imported_places(path, package) - {own} <= allowed, path
    used = set().union(*(imported_places(path, package) for path in python_files(room)))
    grounds = {"distance", "chunks", "top_k"}  # the ground floor is open to all rooms above
    assert allowed - used - grounds == set(), f"{room} does not import what it may"


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_beside_the_rooms_import_none(package):
    rooms = {room.split("/")[1] for room in ROOMS if room.startswith(package)}
    for path in (ROOT / package).glob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if path.name != "__init__.py":
            assert imported_places(path, package) & rooms <= JOINS.get(name, set()), path


def test_a_test_file_is_found_by_the_name_of_its_module():
    for folder in EVERYTHING:
        base = ROOT / "tests" / folder.removesuffix("_jax")
        for path in sorted(base.rglob("test_*.py")):
            if path.relative_to(ROOT / "tests").as_posix() in ACROSS:
                continue
            room = ROOT / folder / path.parent.relative_to(base)
            name = path.stem.removeprefix("test_")
            modules = {each.stem for each in room.glob("*.py")}
            assert any(name == m or name.startswith(f"{m}_") for m in modules), path
    assert all((ROOT / "tests" / path).exists() for path in ACROSS)


def test_imports_are_found_where_they_hide(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import a.b\nfrom c.d import e\ndef f():\n    from g import h\n")
    assert imported_names(path) == {"a.b", "c.d.e", "g.h"}
    assert imported_roots(path) == {"a", "c", "g"}
