"""Find what a request asks for: through the nodes, or item by item where few are allowed.

What waits beside the lists is scored besides, all of it.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hsnn_jax.descent.descend import SearchResult, nothing_found
from hsnn_jax.descent.own_rows import search_own_rows
from hsnn_jax.descent.recall import Wanted, tolerance_of
from hsnn_jax.descent.rows import search_rows
from hsnn_jax.descent.search import brute_force_levels, search_levels
from hsnn_jax.descent.sharded import sharded_search_levels
from hsnn_jax.lists import living
from hsnn_jax.serving import side, state
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.host import on_host
from hsnn_jax.serving.request import Budget, Request, budgets_of, default_budget
from hsnn_jax.serving.sizes import batch_size, power_of_two
from hsnn_jax.serving.state import Nested

_LAST = np.iinfo(np.int32).max
_COSTS = "items_scored", "flops", "nodes_scored"  # that rounds of a search add up


def find(
    now: Nested,
    models: LevelModels,
    *,
    asked: Request,
    budget: Budget,
    max_beam: int | tuple[int, ...] | None,
    mesh: tuple[Mesh, str] | None = None,
    recall: float | None = None,
    switch: bool = True,
) -> SearchResult:
    """Search at a budget, or until a recall is estimated; the answer is on the host, in rows.

    For users whose budget holds all allowed items, these are scored and no nodes are asked: lists
    that hold few of them would cost the budget and find less. With a wanted recall, those that a
    search scores by default count as few.

    Args:
      now: the state.
      models: see `LevelModels`.
      asked: the request, of this state.
      budget: see `Retriever.search`.
      max_beam: see `Retriever`.
      mesh: the mesh and the axis that the lists are spread over.
      recall: see `Retriever.search`.
      switch: whether few allowed items are scored as they are; off to measure what that saves.

    Raises:
      ValueError: recall is no number above 0 and below 1, or the index has no calibration.
    """
    if recall is not None:
        _check_recall(recall, now)
    options: dict[str, Any] = {"max_beam": max_beam, "mesh": mesh, "recall": recall}
    if now.side is None or asked.beside is None or not asked.num_users:
        return _in_lists(now, models, asked, budget, switch=switch, **options)
    if recall is None and asked.rows is None:  # what the lists hold never comes to the host
        budgets = budgets_of(now, budget, k=asked.k, num_users=asked.num_users)
        found = _through_nodes(now, models, asked, budgets, max_beam, mesh)
    else:
        found = _in_lists(now, models, asked, budget, switch=switch, **options)
    level = state.levels(now, models, users=asked.users)[-1]
    found = side.join(found, now.side, level=level, beside=asked.beside, most=asked.most)
    return jax.tree.map(lambda x: x[: asked.num_users], found)


def _in_lists(now, models, asked, budget, *, switch, **options):
    """Find what the lists hold; arguments as of `find`."""
    recall = options["recall"]
    if recall is not None:
        budget = max(living.size(now.items), 1) if budget is None else budget
    budgets = budgets_of(now, budget, k=asked.k, num_users=asked.num_users)
    if asked.num_users == 0:
        return on_host(nothing_found(asked.k))
    if asked.rows is not None and asked.rows.ndim == 2:
        return _by_own_filters(now, models, asked, budgets, options | {"switch": switch})
    few = np.asarray(switch and asked.rows is not None and asked.rows.size <= budgets[-1])
    if recall is not None and asked.rows is not None:
        few = few & (asked.rows.size <= default_budget(living.size(now.items), asked.k))
    found = []
    if np.any(few):
        found.append(_among_rows(now, models, asked))
    if not np.all(few):
        found.append(_until(now, models, asked, budgets, **options))
    return found[0] if len(found) == 1 else _by_user(few, *found)


def _check_recall(recall, now):
    if not isinstance(recall, float) or not 0 < recall < 1:
        raise ValueError(f"recall: expected a number above 0 and below 1, found {recall!r}")
    if now.tail is None:
        raise ValueError(
            "recall: expected an index that estimates it (one level of nodes, no pool, users of a "
            "model given to build_index), found one without a calibration"
        )


def _until(now, models, asked, budgets, *, max_beam, mesh, recall):
    """Search through the nodes; again, at twice the items, where less recall is estimated."""
    tolerance = None if recall is None else tolerance_of(now.tail, recall)
    found = _cut(_through_nodes(now, models, asked, budgets, max_beam, mesh, tolerance), asked)
    if recall is None:
        return found
    most = np.broadcast_to(budgets[-1], asked.num_users)
    limit = np.minimum(found.items_scored, most)
    while True:
        short = np.flatnonzero((found.recall < recall) & (found.unseen > 0) & (limit < most))
        if not short.size:
            return found
        limit[short] = np.minimum(2 * np.maximum(limit[short], 1), most[short])
        some = _of_users(asked, short)
        more = _cut(_through_nodes(now, models, some, [limit[short]], max_beam, mesh), some)
        both = {name: getattr(more, name) + getattr(found, name)[short] for name in _COSTS}
        more = more._replace(**both)
        found = _joined([(np.arange(asked.num_users), found), (short, more)])


def _by_own_filters(now, models, asked, budgets, options):
    """Search for users who each have their own allowed rows, int32 [B, m], -1 for padding.

    Those whose budget holds them all are searched together; each of the others alone.
    """
    budgets = [np.broadcast_to(budget, asked.num_users) for budget in budgets]
    if asked.exclude is not None:
        pairs = zip(asked.rows, asked.exclude)
        gone = np.stack([np.isin(rows, exclude) for rows, exclude in pairs])
        asked = asked._replace(rows=np.where(gone, -1, asked.rows))
    sizes = np.sum(asked.rows >= 0, axis=1)
    most = budgets[-1]
    if options["recall"] is not None:
        most = np.minimum(most, default_budget(living.size(now.items), asked.k))
    plain = models.ensemble is None and models.pool is None
    few = (sizes <= most) & plain & options["switch"]
    parts = []
    if np.any(few):
        together = np.flatnonzero(few)
        parts.append((together, _among_own_rows(now, models, _of_users(asked, together))))
    for user in np.flatnonzero(~few):
        alone = _of_users(asked, np.array([user]))
        alone = alone._replace(rows=np.sort(asked.rows[user][asked.rows[user] >= 0]))
        own = tuple(int(budget[user]) for budget in budgets)
        parts.append((np.array([user]), _in_lists(now, models, alone, own, **options)))
    return _joined(parts)


def _of_users(asked, users):
    """Return the request of some of its users, in one of few sizes."""
    padded = np.pad(users, (0, batch_size(users.size) - users.size), mode="edge")

    def take(x):
        return np.asarray(x)[padded]

    rows = asked.rows
    if rows is not None and rows.ndim == 2:
        rows = rows[users]
    of_users, exclude, vectors = jax.tree.map(take, (asked.users, asked.exclude, asked.vectors))
    given = {"users": of_users, "exclude": exclude, "vectors": vectors, "rows": rows}
    return asked._replace(num_users=users.size, **given)


def _joined(parts):
    """Join answers to some users each, [(users int [b], answer)]; the later ones count."""
    users = np.concatenate([users for users, _ in parts])
    last = np.zeros(users.max() + 1, int)
    last[users] = np.arange(users.size)
    return jax.tree.map(lambda *each: np.concatenate(each)[last], *(found for _, found in parts))


def _among_own_rows(now, models, asked):
    levels = state.levels(now, models, users=asked.users, vectors=asked.vectors)
    rows = np.sort(asked.rows, axis=1)[:, ::-1]  # padding last, and cut as far as all have it
    rows = rows[:, : max(int(np.sum(rows >= 0, axis=1).max()), 1)]
    more = asked.size - asked.num_users, power_of_two(rows.shape[1]) - rows.shape[1]
    rows = np.pad(rows, ((0, more[0]), (0, more[1])), constant_values=-1)
    found = search_own_rows(levels[-1], now.items.index, rows=rows, k=asked.most)
    return _cut(found, asked)


def _cut(found, asked):
    """Return what was found of the users and the items that were asked for, on the host."""
    found = on_host(found)
    if asked.size > asked.num_users:
        found = jax.tree.map(lambda x: x[: asked.num_users], found)
    return found._replace(ids=found.ids[:, : asked.k], scores=found.scores[:, : asked.k])


def _padded_budgets(budgets, asked):
    """Return int32 [S] each; users who did not ask get the least."""
    missing = asked.size - asked.num_users
    budgets = [np.broadcast_to(budget, asked.num_users) for budget in budgets]
    if not missing:
        return budgets
    return [np.pad(budget, (0, missing), constant_values=1) for budget in budgets]


def _among_rows(now, models, asked):
    levels = state.levels(now, models, users=asked.users, vectors=asked.vectors)
    options = {"k": asked.most, "ensemble": models.ensemble, "exclude": asked.exclude}
    if models.pool is not None and asked.rows.size > models.pool.width(asked.most):
        options |= _first(now, models, asked)
    found = search_rows(levels, now.indexes, rows=_padded(asked.rows), **options)
    return _cut(found, asked)


def _through_nodes(now, models, asked, budgets, max_beam, mesh, tolerance=None):
    """Find [S, most] on the device, padding included."""
    levels = state.levels(now, models, users=asked.users, vectors=asked.vectors)
    options = {"k": asked.most, "ensemble": models.ensemble, "exclude": asked.exclude}
    options |= _first(now, models, asked)
    if now.tail is not None:
        options |= {"wanted": Wanted(now.tail, np.int32(asked.k), tolerance)}
    beams = max_beam if isinstance(max_beam, tuple) else (max_beam,) * len(now.indexes)
    options |= {
        "budgets": _padded_budgets(budgets, asked),
        "max_beams": beams,
        "allowed": _mask(now, asked.rows),
    }
    if mesh is None:
        return search_levels(levels, now.indexes, **options)
    return sharded_search_levels(levels, now.indexes, mesh=mesh[0], axis=mesh[1], **options)


def _first(now, models, asked):
    """Return the arguments by which a cheap scorer goes first."""
    if models.pool is None:
        return {}
    cheap = models.pool.level(asked.vectors, now.items.tiles)
    return {"cheap": cheap, "pool": models.pool.width(asked.most)}


def _by_user(first, one, other):
    """Take one answer for the users where `first`, bool [B], and the other answer elsewhere."""

    def choose(a, b):
        return np.where(first.reshape(-1, *(1,) * (np.ndim(a) - 1)), a, b)

    return jax.tree.map(choose, one, other)


def find_exact(now: Nested, models: LevelModels, *, asked: Request) -> SearchResult:
    """Score all nodes and all allowed items; the answer is on the host, in rows."""
    found = brute_force_levels(
        state.levels(now, models, users=asked.users, by_row=True),
        now.indexes,
        k=asked.most,
        ensemble=models.ensemble,
        exclude=asked.exclude,
        allowed=_mask(now, asked.rows),
    )
    return _cut(found, asked)


def _padded(rows):
    """Pad rows by the largest int32 to a power of two, so that few sizes are compiled."""
    return np.pad(rows, (0, power_of_two(rows.size) - rows.size), constant_values=_LAST).astype(
        np.int32
    )


def _mask(now, rows):
    if rows is None:
        return None
    mask = np.zeros(now.items.ids.size, bool)
    mask[rows] = True
    return mask
