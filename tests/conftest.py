"""A strict test process: 8 fake CPU devices, rank promotion raises, warnings are errors."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("NPROC", "32")  # XLA's pool: LAPACK calls may park threads (docs/shampoo.md)
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling. The kernels of fused loops by way of MLIR take half of it,
# and jaxlib 0.10 still knows another way; later versions refuse the flag.
if version("jaxlib").startswith("0.10."):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"
# What one process has compiled, the others of this session read from a folder that ends with it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    folder = tempfile.mkdtemp(prefix="jax-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import jax
import pytest

# Tracing makes many objects that live on: looking through them again and again takes a tenth.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

jax.config.update("jax_num_cpu_devices", 8)
# The same programs, their kernels without LLVM's expensive passes: small tests mostly compile.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--trajectories", default=None, help="folder of reference trajectories (.npz)")
    parser.addoption(
        "--precision", default=None, choices=("32", "64"), help="run one precision only"
    )


@pytest.fixture
def x64():
    """float64 for one test."""
    with jax.enable_x64(True):
        yield
