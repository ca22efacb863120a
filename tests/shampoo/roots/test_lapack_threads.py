"""LAPACK has one thread after a step was traced, unless the environment names a number."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
import jax.numpy as jnp
import shampoo_jax
params = {"w": jnp.ones((8, 8))}
tx = shampoo_jax.shampoo(0.1)
tx.update(params, tx.init(params), params)
from scipy.linalg import cython_lapack
print(ctypes.CDLL(cython_lapack.__file__).scipy_openblas_get_num_threads())
"""


@pytest.mark.parametrize(("said", "threads"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")])
def test_threads_of_lapack(said, threads):
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | said,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "undefined symbol" in done.stderr:
        pytest.skip("SciPy here has another LAPACK than OpenBLAS")
    assert done.stdout.strip() == threads, done.stderr
