"""Calibrate the estimate of recall at a build: exact scores of some users, simulated searches."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.chunks import num_rows
from hsnn_jax.descent.recall import Tail, expected_recall, user_spread
from hsnn_jax.lists import living
from hsnn_jax.lists.index import live
from hsnn_jax.monn.scorers import dot, score_all
from hsnn_jax.serving import state
from hsnn_jax.serving.encoders import LevelModels
from hsnn_jax.serving.simulation import Scored, Searches, simulate
from hsnn_jax.serving.state import Nested

_USERS = 128  # at most; fewer of few items, which are mostly scored whole, and of very many
_FEW_USERS = 24
_VALUES = 2**26  # scores of all users
_SAMPLED = 2**15  # items whose scores are set against their nodes'
_LEAST_ITEMS, _LEAST_NODES = 64, 4  # below, a search leaves little unseen
_START = np.array([0.0, 1.0, 0.5, 1.0, 1.0])  # weights of the model as it stands
_BINS = 24  # of the monotone map
_TOLERANCES = np.geomspace(0.9, 1e-3, 16)[::-1]


def calibrate(now: Nested, models: LevelModels, *, users: Any = None, seed: int = 0) -> Nested:
    """Return the state with what its searches estimate their recall by.

    That needs one level of nodes, no pool and no models that are summed up; for anything else
    the state is returned without, and estimates are NaN, as they are of a model without users.

    Args:
      now: stays as it is.
      models: see `LevelModels`.
      users: such as will search, float [u, d] or what the model reads; some of them are drawn. By
        default items' vectors, of which some are drawn and perturbed by the spread of a node.
      seed: of the draws.
    """
    now, rng = now._replace(tail=None), np.random.default_rng(seed)
    index = now.items.index
    size = (living.size(now.items), index.nodes.shape[0])
    told = not now.coarser and models.pool is None and models.ensemble is None
    told &= len(models.models) < 2 and not (models.models and users is None)
    if not told or size[0] < _LEAST_ITEMS or size[1] < _LEAST_NODES:
        return now
    drawn = _drawn(now, users, _number(size[0]), rng)
    scored = exact_scores(now, models, users=drawn)
    if not all(np.all(np.isfinite(each)) for each in (scored.items, scored.nodes)):
        return now
    return now._replace(tail=fit(scored, rng))


def fit(scored: Scored, rng: np.random.Generator) -> Tail:
    """Learn a `Tail` from exact scores."""
    tail = _residuals(scored, rng)
    searches = simulate(scored, tail, rng=rng)
    unsure = searches.known.allowed > searches.k
    weights = _weights(searches, unsure)
    raw = expected_recall(weights, searches.known, k=searches.k, xp=np)
    knots = _monotone(raw[unsure], searches.recall[unsure])
    reached = np.maximum.accumulate(searches.planned.mean(axis=0)[::-1])[::-1]
    reached = reached - 1e-6 * np.arange(len(reached))  # to interpolate in, without ties
    found = tail._replace(weights=weights, raw=knots[0], mapped=knots[1], reached=reached)
    # On the device once and for all: a search would copy what is on the host.
    return Tail(*(jnp.asarray(each, jnp.float32) for each in found))


def _number(items):
    """Return how many users are drawn."""
    return int(np.clip(min(_VALUES // items, items // 16), _FEW_USERS, _USERS))


def _drawn(now, users, number, rng):
    """Draw users of those given, or perturb items by the spread of their nodes."""
    if users is not None:
        rows = np.sort(rng.permutation(num_rows(users))[:number])
        return jax.tree.map(lambda x: np.asarray(x)[rows], users)
    index = now.items.index
    rows = rng.choice(np.flatnonzero(np.asarray(live(index))), number)
    vectors = np.asarray(living.item_vectors(now.items))[rows]
    node = np.asarray(index.positions)[rows] // index.lists.shape[1]
    away = vectors - np.asarray(index.nodes)[node]
    return vectors + away.std(axis=0) * rng.standard_normal(vectors.shape).astype(np.float32)


def exact_scores(now: Nested, models: LevelModels, *, users: Any) -> Scored:
    """Return the scores of all nodes and of all items that are held, these in order of their rows.

    Args:
      now: of one level of nodes.
      models: see `LevelModels`.
      users: float [U, d] or what the model reads.
    """
    index = now.items.index
    read, vectors, _ = models.users("users", users, width=index.nodes.shape[1])
    nodes, items = state.levels(now, models, users=read, vectors=vectors, by_row=True)
    rows = np.flatnonzero(np.asarray(live(index)))
    node_of = np.asarray(index.positions)[rows] // index.lists.shape[1]
    of_items = _scores_of(items)[:, rows]
    of_nodes = _scores_of(nodes)
    unit = np.asarray(user_spread(items.scorer, items.users, scores=of_nodes, xp=np))
    return Scored(of_items, of_nodes, node_of, np.asarray(index.counts), unit)


def _scores_of(level):
    if level.scorer is dot:  # nothing to compile
        return np.asarray(level.users) @ np.asarray(level.features).T
    scores = []
    for i in range(num_rows(level.users)):
        user = jax.tree.map(lambda x, i=i: x[i : i + 1], level.users)
        scores.append(_score_all(level.scorer, level.params, user, level.features))
    return np.concatenate([np.asarray(each, np.float32) for each in scores])


@functools.partial(jax.jit, static_argnums=0)
def _score_all(scorer, params, users, items):
    return score_all(scorer, params, users=users, items=items)


def _residuals(scored, rng):
    """Fit the spread of each node and the tail of all: log P(z) = a + b z + c z^2."""
    size = min(len(scored.node_of), _SAMPLED)
    rows = np.sort(rng.choice(len(scored.node_of), size, replace=False))
    node, number = scored.node_of[rows], len(scored.counts)
    away = (scored.items[:, rows] - scored.nodes[:, node]) / scored.unit
    held = np.bincount(node, minlength=number)
    mean = np.bincount(node, away.mean(axis=0), number) / np.maximum(held, 1)
    square = ((away - mean[node]) ** 2).mean(axis=0)
    usual = max(float(square.mean()), 1e-12)
    spread = np.sqrt((np.bincount(node, square, number) + 4 * usual) / (held + 4))
    z = away / spread[node]
    least = min(20 / z.size, 0.01)
    shares = np.geomspace(0.5, least, 24)
    at = np.quantile(z, 1 - shares)
    a, b, c = np.polynomial.polynomial.polyfit(at, np.log(shares), 2)
    if c > -1e-3:  # heavier than any normal tail: a straight one
        c = -1e-3
        a, b = np.polynomial.polynomial.polyfit(at, np.log(shares) - c * at**2, 1)
    nothing = np.zeros(0)
    return Tail(np.array([a, b, c]), spread, _START, nothing, nothing, _TOLERANCES, nothing)


def _weights(searches: Searches, unsure: np.ndarray) -> np.ndarray:
    """Fit the weights of `expected_recall` by least squares, near those of the model as it is."""
    known = type(searches.known)(*(each[unsure] for each in searches.known))
    k, truth = searches.k[unsure], searches.recall[unsure]

    def residuals(weights):
        error = expected_recall(weights, known, k=k, xp=np) - truth
        return np.concatenate([error, 0.5 * (weights - _START)])

    weights, damping = _START.copy(), 1.0
    error = residuals(weights)
    for _ in range(20):  # Levenberg and Marquardt
        slopes = np.stack(
            [(residuals(weights + step) - error) / 1e-4 for step in 1e-4 * np.eye(len(weights))], 1
        )
        normal = slopes.T @ slopes + damping * np.eye(len(weights))
        tried = weights - np.linalg.solve(normal, slopes.T @ error)
        tried[[1, 3, 4]] = np.maximum(tried[[1, 3, 4]], 0.05)  # more missed is never better
        new = residuals(tried)
        if new @ new < error @ error:
            weights, error, damping = tried, new, damping / 4
        else:
            damping *= 8
    return weights


def _monotone(raw: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the knots of a monotone map from estimates to means of the truth, float [M] each."""
    order = np.argsort(raw, kind="stable")
    bins = min(_BINS, max(len(raw) // 20, 1))
    pools = [
        (raw[part].mean(), truth[part].mean(), len(part)) for part in np.array_split(order, bins)
    ]
    merged: list[tuple] = []
    for x, y, weight in pools:  # pool adjacent violators
        merged.append((x, y, weight))
        while len(merged) > 1 and merged[-2][1] >= merged[-1][1]:
            (x1, y1, w1), (x2, y2, w2) = merged[-2:]
            total = w1 + w2
            merged[-2:] = [((x1 * w1 + x2 * w2) / total, (y1 * w1 + y2 * w2) / total, total)]
    x, y, _ = (np.array(each) for each in zip(*merged))
    return np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [max(y[-1], 0.999)]])
