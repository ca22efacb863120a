"""A strict test process: 8 fake CPU devices, rank promotion raises, warnings are errors."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault(
    "NPROC", "32"
)  # XLA's pool: LAPACK calls may park threads (docs/shampoo/how-it-works.md)
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling. Modules are small: splitting them costs a tenth. The kernels
# of fused loops by way of MLIR take half of it; jaxlib 0.10 still knows another way, later versions
# refuse the flag.
os.environ["XLA_FLAGS"] = " ".join(
    (
        *os.environ.get("XLA_FLAGS", "").split(),
        "--xla_cpu_parallel_codegen_split_count=1",
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []),
    )
)
# The same programs, their kernels without LLVM's expensive passes: small tests mostly compile, and
# so do the commands that they start.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Nobody reads where in the source an instruction of a test's program was traced.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# Programs that were compiled before are read from the user's cache folder, as the commands do;
# `.ci/run` starts with an empty one.
os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(os.environ["XDG_CACHE_HOME"], "shampoo-nxtpost-hsnn", "compiled-by-tests"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax
import pytest

from experiments.harness.process import prune

# Each compiled program takes several memory maps, of which Linux gives a process 65,530: near the
# end of the suite LLVM got none and aborted.
MOST_MAPS = 30_000

if "PYTEST_XDIST_WORKER" not in os.environ:
    prune(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))

# Tracing makes many objects that live on: looking through them again and again takes a tenth.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


# A file goes to a worker as a whole: the longest ones first, or the last keeps one of two waiting.
LONGEST = (
    *("test_docs", "test_reference_trajectories", "test_processes", "test_resume"),
    *("test_distribution", "test_network", "test_step_time", "test_step_gradients"),
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_addoption(parser):
    parser.addoption("--trajectories", default=None, help="folder of reference trajectories (.npz)")
    parser.addoption(
        "--precision", default=None, choices=("32", "64"), help="run one precision only"
    )


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs where a worker of many test files holds too many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """float64 for one test."""
    with jax.enable_x64(True):
        yield
