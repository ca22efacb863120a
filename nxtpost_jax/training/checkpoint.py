"""A training on disk after each epoch: the same call goes on from there to the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax import folders
from nxtpost_jax.folders import Kind, arrays_of, flat, nested
from nxtpost_jax.training.averages import Average
from nxtpost_jax.training.standing import Standing
from nxtpost_jax.training.steps import TrainState

_OF_STATE = "params.npz", "optimizer.npz", "average.npz"
_PARTS = (*_OF_STATE, *(f"best_{name}" for name in _OF_STATE), "finite.npz")
KIND = Kind("a checkpoint", "checkpoint.json", _PARTS, version=1)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Keep a training in a folder.

    Attributes:
      path: the folder.
      call: what the training was called with, as JSON can say it; another call is refused.
    """

    path: str | os.PathLike
    call: Mapping[str, Any]

    def resumed(self, fresh: Standing, *, place: Callable[[Any], Any]) -> Standing:
        """Read the training where there is one; else it begins fresh.

        Args:
          fresh: what the training begins with.
          place: puts arrays on the devices.

        Raises:
          ValueError: the folder is of another call or optimizer, or not whole; the difference or
            the file is named.
        """
        if not folders.holds(self.path, KIND):
            return fresh
        path, header = folders.opened(self.path, KIND)
        _check_same(header["call"], json.loads(json.dumps(self.call)))

        def state(prefix: str) -> TrainState:
            like = jax.tree.leaves(fresh.state.opt_state)
            arrays = list(arrays_of(path / f"{prefix}optimizer.npz").values())
            if len(arrays) == len(like):  # numpy reads bfloat16 as bytes without a name
                arrays = [
                    a.view(b.dtype) if a.dtype.kind == "V" else a for a, b in zip(arrays, like)
                ]
            shapes = [(np.shape(array), str(array.dtype)) for array in arrays]
            expected = [(np.shape(leaf), str(leaf.dtype)) for leaf in like]
            if shapes != expected:
                raise ValueError(
                    f"checkpoint: expected the optimizer of {self.path}, found another"
                )
            treedef = jax.tree.structure(fresh.state.opt_state)
            leaves = [jnp.asarray(array) for array in arrays]
            params = self._params(path / f"{prefix}params.npz")
            average = fresh.state.average
            if average is not None:
                average = Average(**self._params(path / f"{prefix}average.npz"))
            return place(TrainState(params, treedef.unflatten(leaves), average))

        has = header["files"]
        return Standing(
            state(""),
            header["records"],
            state("best_") if "best_params.npz" in has else None,
            header["best_epoch"],
            header["best_score"],
            place(self._params(path / "finite.npz")) if "finite.npz" in has else None,
        )

    def _params(self, path) -> Any:
        return jax.tree.map(jnp.asarray, nested(arrays_of(path)))

    def save(self, standing: Standing) -> None:
        """Write a training, in the place of what was there.

        Raises:
          ValueError: the path is a file, or a folder with other files.
          OSError: it cannot be written; what was there before still is.
        """
        files = _files(standing.state, "")
        if standing.best is not None:
            files |= _files(standing.best, "best_")
        if standing.finite is not None:
            files["finite.npz"] = flat(standing.finite)
        header = {
            "call": dict(self.call),
            "records": standing.records,
            "best_epoch": standing.best_epoch,
            "best_score": standing.best_score,
        }
        folders.write(self.path, KIND, header=header, files=files)


def _files(state: TrainState, prefix: str) -> dict[str, dict[str, np.ndarray]]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state.opt_state)]
    files = {
        f"{prefix}params.npz": flat(state.params),
        f"{prefix}optimizer.npz": {f"leaf_{i:05d}": leaf for i, leaf in enumerate(leaves)},
    }
    if state.average is not None:
        files[f"{prefix}average.npz"] = flat(state.average._asdict())
    return files


def _check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name):
            raise ValueError(
                f"checkpoint: expected the call that it is of, {name}={saved.get(name)!r:.60}, "
                f"found {name}={now.get(name)!r:.60}"
            )
