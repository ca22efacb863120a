"""Run the requests that are to come once, so that what they run is compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from hsnn_jax.chunks import num_rows
from hsnn_jax.serving import sizes

Several = int | Sequence[int]


def warm_up(
    search: Callable,
    users: Any,
    *,
    k: Several,
    batch: Several,
    exclude: Several,
    width: int | None = None,
) -> None:
    """Search once in each size that these requests have.

    Args:
      search: `Retriever.search`.
      users: what the model reads, of a user or more; may be None where they are vectors.
      k, batch: of the requests, one or several; a batch is a number of users.
      exclude: widths of exclusions, one or several, 0 where there are none.
      width: of users that are vectors.

    Raises:
      ValueError: there are no users, or k or a batch is no integer >= 1, or a width none >= 0.
    """
    if users is None and width is not None:
        users = np.zeros((1, width), np.float32)
    if not num_rows(users):
        raise ValueError("users: expected at least one, found none")
    for name, given, least in (("k", k, 1), ("batch", batch, 1), ("exclude", exclude, 0)):
        values = np.ravel(given)
        if values.dtype.kind not in "iu" or not values.size or values.min() < least:
            raise ValueError(f"{name}: expected integers >= {least}, found {given!r}")
    excluded = sorted({sizes.width(int(each)) for each in np.ravel(exclude) if each})
    for size in sorted({sizes.batch_size(int(each)) for each in np.ravel(batch)}):
        several = sizes.repeated(jax.tree.map(lambda x: np.asarray(x)[:1], users), size)
        for count in sorted({sizes.width(int(each)) for each in np.ravel(k)}):
            search(several, count)
            for columns in excluded:
                search(several, count, exclude=np.full((size, columns), -1))
