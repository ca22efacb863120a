"""Entry points: `python -m experiments.NAME`; the only place that joins the three packages."""

import os

# Before numpy and scipy are imported: with more threads, LAPACK calls inside a jitted program and
# XLA's own threads wait for one another, and a root of Shampoo takes 100 ms instead of 1.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
