"""One thread for LAPACK on CPU, where the user has not said otherwise.

XLA:CPU calls the OpenBLAS that SciPy brings. For matrices of a block's size its threads gain
nothing, and beside another busy process they wait for one another: a step took 6 to 50 times as
long (docs/shampoo/troubleshooting.md). OpenBLAS reads OPENBLAS_NUM_THREADS when it is loaded; later
it has to be told.
"""

import ctypes
import functools
import os

_SAID = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
# As SciPy's wheels, and builds against a system's OpenBLAS, name it.
_SETTERS = ("scipy_openblas_set_num_threads", "openblas_set_num_threads")


@functools.cache
def use_one_lapack_thread() -> None:
    """Tell SciPy's OpenBLAS to use one thread, in this process, once.

    Does nothing where the environment names a number of threads, or where SciPy has another LAPACK.
    NumPy has an OpenBLAS of its own, which keeps its threads.
    """
    if any(name in os.environ for name in _SAID):
        return
    # jaxlib imports the same module when it first lowers a LAPACK call.
    from scipy.linalg import cython_lapack  # pyright: ignore[reportAttributeAccessIssue]  # compiled

    library = ctypes.CDLL(cython_lapack.__file__)  # its symbols are those of what it is linked to
    for name in _SETTERS:
        if hasattr(library, name):
            getattr(library, name)(1)
            return
