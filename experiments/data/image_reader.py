"""Batches of image files, decoded ahead in worker processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from experiments.data.image_crops import BadImage, read_squares
from experiments.data.image_folders import ImageFiles
from experiments.harness.errors import InputError

AHEAD = 3  # batches that are decoded while one is used


class Wanted(NamedTuple):
    """One batch to read.

    Attributes:
      rows: of the files, int [n].
      seeds: per row, of its crop; None for the middles.
    """

    rows: np.ndarray
    seeds: list[tuple[int, ...]] | None


class ImageReader:
    """Reads batches in worker processes, which end with the context.

        with ImageReader(files, side=224, workers=2) as reader:
            for batch in reader.batches(wanted): ...

    What is read depends on the files and on what is wanted alone, not on the number of workers.
    """

    def __init__(self, files: ImageFiles, *, side: int, workers: int) -> None:
        """Read squares of `side` pixels; without workers in this process."""
        self._files = files
        self._side = side
        self._workers = workers
        self._stack = contextlib.ExitStack()
        self._pool: concurrent.futures.Executor | None = None

    def __enter__(self) -> ImageReader:
        if self._workers:
            # Fresh processes: a fork would copy the locks of jax's threads.
            context = multiprocessing.get_context("spawn")
            pool = concurrent.futures.ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_leave_signals_to_the_parent
            )
            self._stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            self._pool = pool
        return self

    def __exit__(self, *of: object) -> None:
        self._stack.close()
        self._pool = None

    def batches(self, wanted: Iterable[Wanted]) -> Iterator[dict[str, np.ndarray]]:
        """Yield "images" uint8 [n, side, side, 3] and "labels" int32 [n], in the order wanted.

        Raises:
          InputError: a file that is no image.
        """
        queue: deque[Callable[[], dict[str, np.ndarray]]] = deque()
        try:
            for one in wanted:
                queue.append(self._submit(one))
                if len(queue) > AHEAD:
                    yield queue.popleft()()
            while queue:
                yield queue.popleft()()
        except BadImage as error:
            raise InputError(str(error)) from error

    def _submit(self, wanted: Wanted) -> Callable[[], dict[str, np.ndarray]]:
        """Begin to read a batch; return what waits for it."""
        labels = self._files.labels[wanted.rows]
        paths = [self._files.paths[row] for row in wanted.rows]
        if self._pool is None:
            return lambda: {
                "images": read_squares(paths, self._side, wanted.seeds),
                "labels": labels,
            }
        cuts = np.array_split(np.arange(len(paths)), min(self._workers, len(paths)))
        parts = [
            self._pool.submit(
                read_squares,
                paths[cut[0] : cut[-1] + 1],
                self._side,
                None if wanted.seeds is None else wanted.seeds[cut[0] : cut[-1] + 1],
            )
            for cut in cuts
        ]
        return lambda: {
            "images": np.concatenate([part.result() for part in parts]),
            "labels": labels,
        }


def _leave_signals_to_the_parent() -> None:
    """Ctrl-C goes to a whole terminal; the parent ends its workers once it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
