"""Find what a request asks for: through the nodes, or item by item where few are allowed."""

import jax
import numpy as np
from jax.sharding import Mesh

from hsnn_jax.descent.descend import SearchResult, nothing_found
from hsnn_jax.descent.rows import search_rows
from hsnn_jax.descent.search import brute_force_levels, search_levels
from hsnn_jax.descent.sharded import sharded_search_levels
from hsnn_jax.serving import state
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.request import Budget, Request, budgets_of
from hsnn_jax.serving.sizes import power_of_two
from hsnn_jax.serving.state import Nested

_LAST = np.iinfo(np.int32).max


def find(
    now: Nested,
    models: LevelModels,
    *,
    asked: Request,
    budget: Budget,
    max_beam: int | tuple[int, ...] | None,
    mesh: tuple[Mesh, str] | None = None,
) -> SearchResult:
    """Search at a budget; the answer is on the host, in rows.

    For users whose budget holds all allowed items, these are scored and no nodes are asked: lists
    that hold few of them would cost the budget and find less.

    Args:
      now: the state.
      models: see `LevelModels`.
      asked: the request.
      budget: see `Retriever.search`.
      max_beam: see `Retriever`.
      mesh: the mesh and the axis that the lists are spread over.
    """
    budgets = budgets_of(now, budget, k=asked.k, num_users=asked.num_users)
    if asked.num_users == 0:
        return jax.device_get(nothing_found(asked.k))
    few = np.asarray(asked.rows is not None and asked.rows.size <= budgets[-1])
    found = []
    if np.any(few):
        found.append(_among_rows(now, models, asked))
    if not np.all(few):
        found.append(_through_nodes(now, models, asked, budgets, max_beam, mesh))
    return found[0] if len(found) == 1 else _by_user(few, *found)


def _cut(found, asked):
    """Return what was found of the users and the items that were asked for, on the host."""
    found = jax.device_get(found)
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


def _through_nodes(now, models, asked, budgets, max_beam, mesh):
    levels = state.levels(now, models, users=asked.users, vectors=asked.vectors)
    options = {"k": asked.most, "ensemble": models.ensemble, "exclude": asked.exclude}
    options |= _first(now, models, asked)
    beams = max_beam if isinstance(max_beam, tuple) else (max_beam,) * len(now.indexes)
    options |= {
        "budgets": _padded_budgets(budgets, asked),
        "max_beams": beams,
        "allowed": _mask(now, asked.rows),
    }
    if mesh is None:
        found = search_levels(levels, now.indexes, **options)
    else:
        found = sharded_search_levels(levels, now.indexes, mesh=mesh[0], axis=mesh[1], **options)
    return _cut(found, asked)


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
