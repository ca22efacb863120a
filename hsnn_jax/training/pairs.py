"""The pairs that a model is trained on, those held out, and batches drawn of both."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.chunks import num_rows
from hsnn_jax.lists.checks import as_features, as_integers

MOST_HELD_OUT = 2000  # pairs that are validated on where a share is asked for


class Pairs(NamedTuple):
    """N pairs of a user and an item; what the models read of them is on the device."""

    users: Any  # pytree of [N, ...]; of a MoNN (features, counts or None)
    items: Any  # pytree of [n, ...]; of a MoNN (features, attributes or None)
    positives: jax.Array  # int32 [N], rows of items
    labels: jax.Array | None  # float32 [N, T], NaN where there is none; None: all are liked


def pairs_of(users: Any, items: Any, *, positives: Any, labels: Any, num_tasks: int) -> Pairs:
    """Check what a model is to be trained on; see `Retriever.fit`.

    Raises:
      ValueError: features are not finite or of other numbers of rows, a positive is no row of
        the items, or labels are beyond [0, 1], of a wrong shape, or all missing.
    """
    users, items = as_features("users", users), as_features("items", items)
    rows, catalogue = num_rows(users), num_rows(items)
    positives = as_integers("positives", positives)
    if positives.shape != (rows,):
        raise ValueError(
            f"positives: expected one row of items per user, shape [{rows}], found "
            f"{list(positives.shape)}"
        )
    if rows < 2:
        raise ValueError(f"users: expected at least 2 pairs, found {rows}")
    if not 0 <= positives.min() <= positives.max() < catalogue:
        raise ValueError(
            f"positives: expected rows of items, 0 to {catalogue - 1}, found values from "
            f"{positives.min()} to {positives.max()}"
        )
    if labels is not None:
        labels = _checked_labels(labels, (rows, num_tasks))
    users, items = (jax.tree.map(jnp.asarray, side) for side in (users, items))
    return Pairs(users, items, jnp.asarray(positives, jnp.int32), labels)


def _checked_labels(labels, shape):
    labels = np.asarray(labels, np.float32)
    if labels.shape not in (shape, shape[:1]) or labels.size != shape[0] * shape[1]:
        raise ValueError(
            f"labels: expected shape {list(shape)}, pairs and tasks, found {list(labels.shape)}"
        )
    known = labels[~np.isnan(labels)]
    if not known.size or known.min() < 0 or known.max() > 1:
        found = f"{known.min()} to {known.max()}" if known.size else "NaN alone"
        raise ValueError(f"labels: expected numbers in [0, 1], or NaN for none, found {found}")
    return jnp.asarray(labels.reshape(shape))


def split(pairs: int, *, validation: float | ArrayLike, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the pairs to train on, and of those held out.

    Args:
      pairs: N.
      validation: a share of the pairs, which are drawn, at most `MOST_HELD_OUT`; or their rows.
      seed: of the draw.

    Raises:
      ValueError: none is left on one side, or rows are none of the pairs.
    """
    if np.ndim(validation):
        held = np.unique(as_integers("validation", validation))
        if not held.size or held[0] < 0 or held[-1] >= pairs or held.size == pairs:
            raise ValueError(
                f"validation: expected some of the {pairs} pairs, found {held.size} rows from "
                f"{held.min(initial=0)} to {held.max(initial=0)}"
            )
    else:
        share = float(np.asarray(validation))
        if not 0 < share < 1:
            raise ValueError(f"validation: expected a share in (0, 1), or rows, found {share}")
        count = min(max(round(share * pairs), 1), MOST_HELD_OUT, pairs - 1)
        held = np.sort(np.random.default_rng(seed).permutation(pairs)[:count])
    return np.setdiff1d(np.arange(pairs), held), held


def take(tree: Any, rows: jax.Array) -> Any:
    """Return rows of a pytree of [n, ...]."""
    return jax.tree.map(lambda x: x[rows], tree)
