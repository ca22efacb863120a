"""Entry points: `python -m experiments.NAME`; the only place that joins the three packages."""

import os
import sys

# Before numpy and scipy are imported: with more threads, LAPACK calls inside a jitted program and
# XLA's own threads wait for one another, and a root of Shampoo takes 100 ms instead of 1.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HUGE_PAGES = "glibc.malloc.hugetlb=1"
MARKER = "EXPERIMENTS_HUGE_PAGES"  # set in the process that was started again


def _start_again_with_huge_pages() -> None:
    """Put XLA:CPU's buffers in huge pages: a third less time (docs/training.md).

    glibc reads GLIBC_TUNABLES before Python starts, so a command that is run by `python -m` starts
    itself anew once, before it has imported anything else. The process keeps its number.
    """
    run_by_name = sys.argv[:1] == ["-m"]  # what Python says while it looks for the module
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not run_by_name or MARKER in os.environ or HUGE_PAGES in tunables:
        return
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, HUGE_PAGES)))
    os.environ[MARKER] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if sys.platform == "linux":
    _start_again_with_huge_pages()
