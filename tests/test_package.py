"""The wheel and the sdist hold what they should, and the wheel works where nothing else is."""

import configparser
import email
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shampoo_jax", "nxtpost_jax", "hsnn_jax")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


def tracked_files():
    """The files of the repository; in an unpacked sdist, those that it lists."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    else:
        (manifest,) = ROOT.glob("*.egg-info/SOURCES.txt")
        listed = manifest.read_text(encoding="utf-8").splitlines()
    return {name for name in listed if name and ".egg-info/" not in name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """An sdist, and a wheel of what that holds, built from a copy of the tracked files."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build("sdist", copy, out)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    build("wheel", out / sdist.name.removesuffix(".tar.gz"), out)
    return out


def build(kind, folder, out):
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), out], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(dist / "unpacked")
    return dist / "unpacked"


@pytest.fixture(scope="module")
def metadata(wheel):
    (path,) = wheel.glob("*.dist-info/METADATA")
    return email.message_from_string(path.read_text(encoding="utf-8"))


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel):
    held = {name for name in files_below(wheel) if ".dist-info/" not in name}
    assert held == {name for name in tracked_files() if name.split("/")[0] in PACKAGES}


def test_every_folder_of_source_is_a_package():
    folders = {os.path.dirname(name) for name in tracked_files() if name.endswith(".py")}
    folders -= {"", ".ci", "docs"}  # scripts
    assert {folder for folder in folders if not (ROOT / folder / "__init__.py").exists()} == set()


def test_the_sdist_holds_the_repository(dist):
    (sdist,) = dist.glob("*.tar.gz")
    held = {name for name in files_below(dist / sdist.name.removesuffix(".tar.gz"))}
    held = {name for name in held if ".egg-info/" not in name and not name.startswith("build/")}
    assert held - {"PKG-INFO"} == tracked_files() - {"PKG-INFO"}


def test_the_wheel_works_without_flax_and_orbax(wheel, tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "tests" / "bare_install.py", wheel, "--hide-models"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "modules of shampoo_jax" in done.stdout


def test_versions_agree(metadata):
    versions = {importlib.import_module(name).__version__ for name in PACKAGES}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert versions == {metadata["Version"]}
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == metadata["Version"]
    assert f"## {metadata['Version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_core_is_jax_optax_and_numpy(metadata):
    core = [need for need in metadata.get_all("Requires-Dist") if "extra ==" not in need]
    assert {re.match(r"[\w-]+", need)[0] for need in core} == {"jax", "optax", "numpy"}


def test_every_requirement_has_a_tested_version():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    needed = {re.match(r"[\w-]+", line)[0] for lines in lists for line in lines.split()}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert needed <= set(re.findall(r"^([\w-]+)==", pins, re.MULTILINE))


def test_the_environment_is_made_of_tested_versions_and_their_hashes():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pairs = re.findall(r"^([\w-]+)==([\w.]+)", pins, re.MULTILINE)
    tested = {(name.lower().replace("_", "-"), version) for name, version in pairs}
    for extras in (("experiments", "test", "dev"), ("docs",), ("bench",)):
        name = "ready" if len(extras) > 1 else extras[0]
        text = (ROOT / f".ci/locked/{name}.txt").read_text(encoding="utf-8")
        entries = re.findall(r"^([\w-]+)==([\w.]+)(.*(?:\\\n.*)+)", text, re.MULTILINE)
        assert all("--hash=sha256:" in rest for *_, rest in entries)
        # What no tested machine takes: of Windows, macOS and PyPy.
        elsewhere = ("sys_platform == 'win32'", "sys_platform == 'darwin'", "'pypy'")
        here = [entry for entry in entries if not any(words in entry[2] for words in elsewhere)]
        assert {(package, version) for package, version, _ in here} <= tested
        lines = "\n".join(config["options.extras_require"][extra] for extra in extras)
        needed = {re.match(r"[\w-]+", line)[0] for line in lines.split("\n") if line}
        assert needed <= {package for package, *_ in entries}


def test_each_dependency_has_its_licence_and_its_reason():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w, -]+) \| (\w*) ?\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    listed = {name.strip() for names, *_ in rows for name in names.split(",")}
    config = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    extras = config.partition("[options.extras_require]")[2].partition("\n[")[0]
    needed = set(re.findall(r"^    ([\w-]+)", extras, re.MULTILINE)) - {"jax"}
    assert needed <= listed, needed - listed
    assert all(licence.strip() and reason.strip() for _, _, licence, reason in rows)


def test_the_page_of_the_index_links_to_the_repository(metadata):
    source = dict(line.split(", ") for line in metadata.get_all("Project-URL"))["Source"]
    targets = re.findall(r"\]\(([^)\s]+)\)", metadata.get_payload())
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    linked = [target for target in targets if target.startswith(source)]
    assert linked
    for target in linked:
        page = re.fullmatch(r"(?:/(?:blob|tree|raw)/main/)?([^#]*)(?:#.*)?", target[len(source) :])
        assert page and (ROOT / page[1]).exists(), target


def test_the_page_of_the_index_imports_no_experiments(metadata):
    blocks = re.findall(r"```python\n(.*?)```", metadata.get_payload(), re.DOTALL)
    assert blocks
    assert [block for block in blocks if "experiments" in block] == []
