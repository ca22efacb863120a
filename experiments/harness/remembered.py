"""Arrays that a run has measured, as files of its folder: a resumed run reads them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from experiments.harness.processes import decided_by_first, is_first
from experiments.harness.run_folder import Run

FOLDER = "measured"
Arrays = Mapping[str, np.ndarray]


def remember(run: Run, name: str, *, measure: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """Return what the run has measured under a name; measure and write it where it has not.

    Args:
      run: the open run; the file is measured/NAME.npz of its folder, whole or not there.
      name: without separators of paths.
      measure: the arrays by name.
    """
    path = run.folder / FOLDER / f"{name}.npz"
    if decided_by_first(path.exists):
        with np.load(path) as arrays:
            return dict(arrays)
    arrays = {key: np.asarray(value) for key, value in measure().items()}
    if is_first():
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    return arrays
