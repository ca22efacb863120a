"""Processes that really start: huge pages are asked for once, compiled programs are read again."""

import os
import re
import shutil
import subprocess
import sys

import jax
import pytest

import experiments
from experiments.harness.process import cache_folder, prune, use_compilation_cache

# Tells of the process it runs in, or runs a command and lists what it had to compile.
TELL = (
    "import os; print(os.environ.get('GLIBC_TUNABLES'), os.environ.get('EXPERIMENTS_HUGE_PAGES'))"
)
COUNT = """
import logging, sys
import jax
from experiments import digits
missed = []
class Listed(logging.Handler):
    def emit(self, record):
        if "CACHE MISS" in record.getMessage():
            missed.append(record.getMessage())
logger = logging.getLogger("jax._src.compiler")
logger.setLevel(logging.DEBUG)
logger.propagate = False
logger.addHandler(Listed())
digits.main(sys.argv[1:])
print("misses", len(missed), *missed, sep="\\n")
"""


def run(code, *arguments, cwd=None, **environment):
    """Run code as `python -m experiments` or `python -c` would, in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "GLIBC_", "XLA_"))}
    clean.pop("EXPERIMENTS_HUGE_PAGES", None)
    command = [sys.executable, *code, *arguments]
    options = {"capture_output": True, "text": True, "check": True, "timeout": 250, "cwd": cwd}
    done = subprocess.run(command, env=clean | environment, **options)
    return done.stdout


@pytest.mark.skipif(
    sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names,
    reason="GLIBC_TUNABLES is glibc's",
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=1", "glibc.malloc.hugetlb=1"),
    ],
)
def test_a_command_starts_again_once_with_huge_pages(tmp_path, before, after):
    package = tmp_path / "experiments"
    package.mkdir()
    shutil.copy(experiments.__file__, package)
    (package / "tell.py").write_text(f"import os, sys; print(sys.argv[1:]); {TELL}")
    environment = {"GLIBC_TUNABLES": before} if before else {}
    command = (["-m", "experiments.tell"], "--seed", "1")
    first, second = run(*command, cwd=tmp_path, **environment).splitlines()
    assert first.startswith("['--seed', '1']")
    marker = "1" if before != after else "None"
    assert second == f"{after} {marker}"


def test_importing_the_package_starts_nothing_again():
    assert run(["-c", f"import experiments; {TELL}"]).strip() == "None None"


@pytest.mark.long
def test_a_second_run_compiles_nothing(tmp_path):
    arguments = ["--preset", "smoke", "--devices", "1", "--epochs", "1"]
    shown = [
        run(
            ["-c", COUNT],
            *arguments,
            "--out",
            str(tmp_path / name),
            XDG_CACHE_HOME=str(tmp_path / "cache"),
            JAX_DISABLE_MOST_OPTIMIZATIONS="1",
        )
        for name in ("first", "second")
    ]
    first, second = (int(re.search(r"misses\n(\d+)", text)[1]) for text in shown)
    assert first > 5
    assert second == 0, shown[1].partition("misses")[2]
    assert any((tmp_path / "cache" / "shampoo-nxtpost-hsnn" / "compiled").iterdir())


def test_the_cache_can_be_switched_off_and_a_folder_of_the_users_stays():
    before = jax.config.jax_compilation_cache_dir
    assert before  # conftest's
    try:
        use_compilation_cache(False)
        assert not jax.config.jax_enable_compilation_cache
        use_compilation_cache(True)
        assert jax.config.jax_enable_compilation_cache
        assert jax.config.jax_compilation_cache_dir == before
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_what_was_read_longest_ago_is_pruned(tmp_path):
    for age, name in enumerate("cba"):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 + age, 5))
    prune(tmp_path, limit=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    prune(tmp_path, limit=200)
    assert len(list(tmp_path.iterdir())) == 2
    prune(tmp_path / "none")


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "shampoo-nxtpost-hsnn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "shampoo-nxtpost-hsnn"
