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
from hsnn_jax.lists.ids import as_known
from hsnn_jax.lists.living import Living
from hsnn_jax.serving import side, sizes
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.side import Beside
from hsnn_jax.serving.state import Nested

_LAST = np.iinfo(np.int32).max

Budget = int | ArrayLike | tuple | None  # see `budgets_of`


class Request(NamedTuple):
    """A request that has been checked, in one of few sizes."""

    users: tuple  # of each level, pytrees of [S, ...], what its scorer reads; S >= B
    num_users: int  # B; further rows are cut off the answer
    k: int  # items to return from the lists, at most the rows of the index
    most: int  # items to find, at least k
    # int32 [m], rows of the items that may be returned, or [B, m], -1 after a user's; None for all.
    rows: np.ndarray | None
    exclude: np.ndarray | None  # int32 [S, E], rows of those that a user must not get
    vectors: jax.Array | None = None  # float [S, d], what the scorer of a pool reads
    beside: Beside | None = None  # what is asked of the side list, where there is one

    @property
    def size(self) -> int:
        """S."""
        return num_rows(self.users)


def request_of(
    now: Nested,
    models: LevelModels,
    *,
    users: Any,
    k: int,
    allowed: Any = None,
    exclude: Any = None,
    few_sizes: bool = True,
) -> Request:
    """Check what a user asks for, see `Retriever.search`, and turn ids into rows.

    Args:
      now, models: the state, and what reads users.
      users, k, allowed, exclude: see `Retriever.search`.
      few_sizes: whether users, k and exclusions are padded, so that few sizes are compiled.
    """
    check_k(k)
    width = now.items.index.nodes.shape[1]
    read, vectors, num_users = models.users("users", users, width=width, few_sizes=few_sizes)
    wanted, k = int(k), min(int(k), now.items.ids.size)
    excluded = excluded_ids(now.items, exclude, num_users=num_users)
    allowed = allowed_ids(now.items, allowed, num_users=num_users)
    exclude = None if excluded is None else living.rows_of(now.items, excluded)
    most = k
    if few_sizes:
        most = min(sizes.width(k), now.items.ids.size)
        exclude = None if exclude is None else _wider(exclude, num_rows(read))
    rows = None if allowed is None else _allowed_rows(now.items, allowed)
    beside = None
    if now.side is not None:
        slots = side.open_slots(now.side, num_users=num_users, allowed=allowed, exclude=excluded)
        more = (0, num_rows(read) - num_users), (0, 0)
        beside = Beside(np.pad(slots, more), min(wanted, now.items.ids.size + side.SIZE))
    return Request(read, num_users, k, most, rows, exclude, vectors, beside)


def _wider(exclude, size):
    """Pad rows to a number of users, and to one of few widths."""
    num_users, width = exclude.shape
    more = (0, size - num_users), (0, sizes.width(width) - width)
    return np.pad(exclude, more, constant_values=-1)


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


def excluded_ids(items: Living, exclude: Any, *, num_users: int) -> np.ndarray | None:
    """Return the ids that each user must not get, [B, E], as the index holds them.

    Raises:
      ValueError: they are no ids [B, E], see `lists.ids`.
    """
    if exclude is None:
        return None
    exclude = as_known("exclude", exclude, axes=2, like=items.ids)
    if exclude.ndim != 2 or exclude.shape[0] != num_users:
        raise ValueError(
            f"exclude: expected shape [{num_users}, E], one row per user, found "
            f"{list(exclude.shape)}"
        )
    return exclude


def allowed_ids(items: Living, allowed: Any, *, num_users: int) -> np.ndarray | None:
    """Return the ids that may be returned, [m], or [B, m] of each user; None for all.

    Raises:
      ValueError: they are no ids [m] or [B, m], see `lists.ids`.
    """
    if allowed is None:
        return None
    allowed = as_known("allowed", allowed, axes=_axes(allowed), like=items.ids)
    if allowed.ndim != 1 and allowed.shape[:-1] != (num_users,):
        raise ValueError(
            f"allowed: expected ids of shape [m] or [{num_users}, m], found {list(allowed.shape)}"
        )
    return allowed


def _allowed_rows(items, allowed):
    """Return ascending rows int32 [m]; or [B, m]: distinct ones and -1, in any order."""
    if allowed.ndim == 1:
        rows = np.unique(living.rows_of(items, allowed))
        return rows[rows >= 0]
    rows = np.sort(living.rows_of(items, allowed), axis=1)
    again = np.pad(rows[:, 1:] == rows[:, :-1], ((0, 0), (1, 0)))
    return np.where(again, np.int32(-1), rows)


def _axes(ids):
    """Return 2 for lists of ids of each user: rows are lists or arrays, an id is none of these."""
    if isinstance(ids, np.ndarray | jax.Array):
        return ids.ndim
    held = isinstance(ids, Sequence) and len(ids) and isinstance(ids[0], list | np.ndarray)
    return 2 if held else 1


def default_budget(items: int, k: int) -> int:
    """Return the items that a search scores where no budget is given.

    What keeps .95 of the exact best 100 grows as the root of the number of items: 4 to 5.4 roots
    from 10,000 to 10,000,000 (docs/results/notes/hsnn-scale.md). Twice that leaves room for scorers
    that are no inner products.
    """
    return max(10 * k, math.ceil(10 * math.sqrt(items)))


def budgets_of(now: Nested, budget: Budget, *, k: int, num_users: int) -> list[np.ndarray]:
    """Return the budget of every index, int32 [] or [B] each.

    A single budget is that of the items. Each coarser level then keeps the same share of what the
    level above it lists, so that the shares that are scored narrow to the items' in equal ratios:
    index l of L lists M entries, of which M (budget / items)^(l / L) are scored, or a list if that
    is more.

    Args:
      now: the state.
      budget: see `Retriever.search`; a tuple has one per level of nodes: most of the next level's
        nodes to score, the last one most items.
      k: items to return.
      num_users: B.

    Raises:
      ValueError: budgets are no integers >= 1, of a wrong shape, or not one per index.
    """
    indexes, items = now.indexes, living.size(now.items)
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
