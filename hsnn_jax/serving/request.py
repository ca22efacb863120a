"""What a search of the retriever is asked: k, budgets, allowed and excluded items."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from hsnn_jax.chunks import num_rows
from hsnn_jax.lists import living
from hsnn_jax.lists.checks import as_integers
from hsnn_jax.lists.living import Living
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.state import Nested

_LAST = np.iinfo(np.int32).max


class Request(NamedTuple):
    """A request that has been checked."""

    users: tuple  # of each level, pytrees of [B, ...], what its scorer reads
    num_users: int  # B
    k: int  # items to return, at most the rows of the index
    rows: np.ndarray | None  # int32 [m], rows of the items that may be returned; None for all
    exclude: np.ndarray | None  # int32 [B, E], rows of those that a user must not get


def request_of(
    now: Nested,
    models: LevelModels,
    *,
    users: Any,
    k: int,
    allowed: ArrayLike | None,
    exclude: ArrayLike | None,
) -> Request:
    """Check what a user asks for, see `Retriever.search`, and turn ids into rows."""
    check_k(k)
    users = models.users("users", users, width=now.items.index.nodes.shape[1])
    num_users = num_rows(users)
    return Request(
        users=users,
        num_users=num_users,
        k=min(k, now.items.ids.size),
        rows=allowed_rows(now.items, allowed),
        exclude=excluded_rows(now.items, exclude, num_users=num_users),
    )


def key_of(seed: int) -> jax.Array:
    """Return the PRNG key of a seed.

    Raises:
      ValueError: it is no integer from 0 to 2^32 - 1.
    """
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected an integer from 0 to 2^32 - 1, found {seed!r}")
    return jax.random.key(int(seed))


def check_k(k: int) -> None:
    """Raise a ValueError unless k is an integer >= 1."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k: expected an integer >= 1, found {k!r}")


def excluded_rows(items: Living, exclude: ArrayLike | None, *, num_users: int) -> np.ndarray | None:
    """Return the rows of the ids that each user must not get, int32 [B, E]; -1 for none.

    Raises:
      ValueError: they are no integers [B, E].
    """
    if exclude is None:
        return None
    exclude = as_integers("exclude", exclude)
    if exclude.ndim != 2 or exclude.shape[0] != num_users:
        raise ValueError(
            f"exclude: expected shape [{num_users}, E], one row per user, found "
            f"{list(exclude.shape)}"
        )
    return living.rows_of(items, exclude)


def allowed_rows(items: Living, allowed: ArrayLike | None) -> np.ndarray | None:
    """Return the rows of the ids that may be returned, ascending int32 [m]; None for all.

    Raises:
      ValueError: they are no integers [m].
    """
    if allowed is None:
        return None
    allowed = as_integers("allowed", allowed)
    if allowed.ndim != 1:
        raise ValueError(f"allowed: expected ids of shape [m], found {list(allowed.shape)}")
    rows = np.unique(living.rows_of(items, allowed))
    return rows[rows >= 0]


def default_budget(items: int, k: int) -> int:
    """Return the items that a search scores where no budget is given.

    What keeps .95 of the exact best 100 grows as the root of the number of items: 4 to 5.4 roots
    from 10,000 to 10,000,000 (docs/results/notes/hsnn-scale.md). Twice that leaves room for scorers
    that are no inner products.
    """
    return max(10 * k, math.ceil(10 * math.sqrt(items)))


def budgets_of(
    now: Nested, budget: int | ArrayLike | Sequence | None, *, k: int, num_users: int
) -> list:
    """Return the budget of every index, a number or int32 [B] each.

    A single budget is that of the items. Each coarser level then keeps the same share of what the
    level above it lists, so that the shares that are scored narrow to the items' in equal ratios:
    index l of L lists M entries, of which M (budget / items)^(l / L) are scored, or a list if that
    is more.

    Args:
      now: the state.
      budget: see `Retriever.search`.
      k: items to return.
      num_users: B.

    Raises:
      ValueError: budgets are no integers >= 1, of a wrong shape, or not one per index.
    """
    indexes, items = now.indexes, len(now.items.rows[0])
    if isinstance(budget, tuple):
        if len(budget) != len(indexes):
            raise ValueError(
                f"budget: expected {len(indexes)} entries, one per level of nodes, found "
                f"{len(budget)}"
            )
        return [_checked(each, num_users) for each in budget]
    budget = _checked(default_budget(items, k) if budget is None else budget, num_users)
    share = np.clip(budget / max(items, 1), 0.0, 1.0)
    budgets = []
    for number, index in enumerate(indexes[:-1], start=1):
        entries, capacity = index.positions.shape[0], index.lists.shape[1]
        part = np.ceil(entries * share ** (number / len(indexes)))
        budgets.append(np.maximum(part, capacity).astype(np.int32))
    return [*budgets, budget]


def _checked(budget, num_users):
    values = as_integers("budget", budget)
    if values.shape not in ((), (num_users,)):
        raise ValueError(
            f"budget: expected a number or shape [{num_users}], found shape {list(values.shape)}"
        )
    if values.size and values.min() < 1:
        raise ValueError(f"budget: expected numbers >= 1, found {values.min()}")
    return np.minimum(values, _LAST).astype(np.int32)
