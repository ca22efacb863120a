"""Time how long a retriever takes to add one item, while another thread searches."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np

from hsnn_jax import Retriever


def time_adds(
    retriever: Retriever, items: np.ndarray, users: np.ndarray, *, k: int, budget: int
) -> dict[str, float]:
    """Add items one by one until each can be found; those that list all that waits count apart.

    Args:
      retriever: over rows 0, 1, ...; what it runs is compiled first.
      items: float32 [n, d], those that are added.
      users: float32 [u, d], who search one by one meanwhile.
      k, budget: of their searches.

    Returns:
      Milliseconds: `add_ms` and `add_p99_ms`, the median and the 99th percentile of adds, and
      `merge_ms`, the median of adds that fill the lists, where there were any.
    """
    retriever.warm_up(k=k, batch=1)
    first, stop = int(retriever.ids.max()) + 1, threading.Event()
    plain: list[float] = []
    merging: list[float] = []

    def read():
        turn = 0
        while not stop.is_set():
            retriever.search(users[turn % len(users)][None], k, budget=budget)
            turn += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for row in range(len(items)):
            start = time.perf_counter()
            retriever.add(items[row : row + 1], [first + row])
            now = retriever._now
            assert now is not None
            jax.block_until_ready((now.items.index, now.side and now.side.read))
            seconds = time.perf_counter() - start
            (merging if now.side is None else plain).append(seconds)
    finally:
        stop.set()
        reader.join()
    found = {"add_ms": np.median(plain), "add_p99_ms": np.quantile(plain, 0.99)}
    if merging:
        found["merge_ms"] = np.median(merging)
    return {name: 1e3 * float(x) for name, x in found.items()}
