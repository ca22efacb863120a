"""A training on disk after each validation: the same call goes on from there to the same bits."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax import folder
from hsnn_jax.plain_arrays import reading

KIND = folder.Kind("training", "training.json")
_FORMAT = "hsnn_jax.training/1"


class Standing(NamedTuple):
    """What a training has come to.

    Attributes:
      state: pytree of arrays that the steps go on from.
      best: the parameters that are kept, None before the first validation that is one.
      best_value: what they are best by.
      since: validations since.
      records: one per validation.
    """

    state: Any
    best: Any = None
    best_value: float = -np.inf
    since: int = 0
    records: tuple[dict[str, float], ...] = ()


class Checkpoint:
    """Keep a training in a folder."""

    def __init__(self, path: str | os.PathLike, call: Mapping[str, Any]):
        """Take the folder, and what the training was called with, as JSON says it."""
        self._path, self._call = path, json.loads(json.dumps(dict(call)))

    def resumed(self, fresh: Standing) -> Standing:
        """Read the training where there is one; else it begins fresh.

        Raises:
          ValueError: the folder is of another call or optimizer, or damaged; what differs, or the
            file, is named.
        """
        path = folder.found(self._path)
        if not path.exists():
            return fresh
        header, arrays = folder.read(path, KIND, form=_FORMAT)
        with reading(path / KIND.header):  # digests may be somebody's own
            call, records = dict(header["call"]), tuple(map(dict, header["records"]))
            leaves = [arrays[f"state/{n}"] for n in range(header["state"])]
            best = [arrays[f"best/{n}"] for n in range(header["best"])]
            best_value = float(header["best_value"]) if best else -np.inf
            since = int(header["since"])
        _check_same(call, self._call)
        state = _as(fresh.state, leaves)
        if state is None:
            raise ValueError(f"checkpoint: expected the optimizer of {self._path}, found another")
        kept = jax.device_get(_as(state.params, best)) if best else None
        return Standing(state, kept, best_value, since, records)

    def save(self, standing: Standing) -> None:
        """Write a training, in the place of what was there.

        Raises:
          ValueError: something else is at the path.
          OSError: it cannot be written; what was there before still is.
        """
        state, best = jax.tree.leaves(standing.state), jax.tree.leaves(standing.best)
        arrays = {f"state/{n}": leaf for n, leaf in enumerate(state)}
        arrays |= {f"best/{n}": leaf for n, leaf in enumerate(best)}
        header = {
            "format": _FORMAT,
            "call": self._call,
            "state": len(state),
            "best": len(best),
            "best_value": standing.best_value if best else None,
            "since": standing.since,
            "records": list(standing.records),
        }
        folder.write(self._path, KIND, arrays=arrays, header=header)


def digest_of(tree: Any) -> str:
    """Return 16 digits that tell the arrays of a tree, or its keys, from others."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _as(like: Any, leaves: list[np.ndarray]) -> Any:
    """Put arrays into the tree of others; None where they are of other shapes or kinds."""
    own, treedef = jax.tree.flatten(like)
    if len(own) != len(leaves):
        return None
    # numpy reads bfloat16 as bytes without a name
    leaves = [a.view(b.dtype) if a.dtype.kind == "V" else a for a, b in zip(leaves, own)]
    if any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(leaves, own)):
        return None
    return treedef.unflatten([jnp.asarray(leaf) for leaf in leaves])


def _check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name):
            raise ValueError(
                f"checkpoint: expected the call that it is of, {name}={saved.get(name)!r:.60}, "
                f"found {name}={now.get(name)!r:.60}"
            )
