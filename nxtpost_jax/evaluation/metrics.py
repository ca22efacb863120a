"""Figures that follow from ranks, their errors over users, and paired comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.events.columns import whole_numbers


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Hold mean figures over queries, their standard errors and the ranks behind them.

    Attributes:
      values: mean by name: "hr@10", "ndcg@10", ..., "mrr" and "mlrr"; "debiased_ndcg@10" and
        "coverage@10" where asked for.
      standard_errors: bootstrap over users, by the same names; none for coverage, which is no
        mean over users.
      ranks: int32[q], the target's rank, 1 is the best.
      users: int[q], the user of each query; None where every query is a user of its own.
    """

    values: dict[str, float]
    standard_errors: dict[str, float]
    ranks: np.ndarray = dataclasses.field(repr=False)
    users: np.ndarray | None = dataclasses.field(default=None, repr=False)

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Hold a paired difference of two models.

    Attributes:
      mean: the first model's figure less the second's.
      standard_error: of `mean`, by bootstrap over users.
      share_at_most_zero: share of the resamples where the first model is not ahead.
    """

    mean: float
    standard_error: float
    share_at_most_zero: float


def metrics_of_ranks(
    ranks: ArrayLike,
    *,
    ks: Sequence[int] = (10,),
    users: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Average hit rate and NDCG at each k, the reciprocal rank and its log over queries.

    With one relevant item a query, NDCG@k is 1 / log2(rank + 1) for a rank of at most k, else 0.

    Args:
      ranks: int[q], 1 is the best.
      ks: cut-offs.
      users: int[q]; queries of one user are resampled together. All different when None.
      weights: float[q] of `inverse_propensity`; adds "debiased_ndcg@k", the mean of NDCG@k
        under these weights over their sum.
      bootstrap: resamples of the users for the standard errors.
      seed: draws the resamples.

    Raises:
      ValueError: there is no query, or a cut-off is below 1.
    """
    ranks = whole_numbers("ranks", ranks, lowest=1)
    if not len(ranks):
        raise ValueError("queries: expected at least one, found none")
    if min(ks) < 1:
        raise ValueError(f"ks: expected cut-offs of at least 1, found {tuple(ks)}")
    names = [f"hr@{k}" for k in ks] + [f"ndcg@{k}" for k in ks] + ["mrr", "mlrr"]
    columns = {name: (gains(ranks, name), np.ones(len(ranks))) for name in names}
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        columns |= {f"debiased_ndcg@{k}": (columns[f"ndcg@{k}"][0] * weights, weights) for k in ks}
    # A figure is a ratio of two sums over queries, so that users may have several.
    tops_QxM, bottoms_QxM = (np.stack(part, axis=1) for part in zip(*columns.values()))
    means = tops_QxM.sum(axis=0) / bottoms_QxM.sum(axis=0)
    tops_UxM, bottoms_UxM = (_by_user(x, users) for x in (tops_QxM, bottoms_QxM))
    resampled = [
        (drawn @ tops_UxM) / (drawn @ bottoms_UxM)
        for drawn in _resamples(len(tops_UxM), bootstrap, seed)
    ]
    errors = np.std(resampled, axis=0, ddof=1) if bootstrap > 1 else np.zeros(len(columns))
    return Metrics(
        dict(zip(columns, means.tolist())),
        dict(zip(columns, errors.tolist())),
        ranks,
        None if users is None else np.asarray(users),
    )


def gains(ranks: ArrayLike, name: str) -> np.ndarray:
    """Compute one figure of every query: float64[q], for "hr@k", "ndcg@k", "mrr" or "mlrr".

    The last is the log of the reciprocal rank, at most 0; the exponential of its mean is one over
    the geometric mean of the ranks. It counts every query, not only those whose target is near the
    top, and so tells two models apart with fewer of them.

    Raises:
      ValueError: the name is another.
    """
    ranks = np.asarray(ranks)
    if name == "mrr":
        return 1.0 / ranks
    if name == "mlrr":
        return -np.log(ranks)
    figure, _, k = name.partition("@")
    if figure not in ("hr", "ndcg") or not k.isdigit():
        raise ValueError(f"name: expected 'hr@k', 'ndcg@k', 'mrr' or 'mlrr', found {name!r}")
    gain = np.ones(len(ranks)) if figure == "hr" else 1 / np.log2(ranks + 1.0)
    return np.where(ranks <= int(k), gain, 0.0)


def inverse_propensity(counts_N: ArrayLike, targets: np.ndarray, *, power: float) -> np.ndarray:
    """Weigh queries by 1 / (count of the target + 1)^power: float64[q].

    A target's chance to be observed is taken to grow with its popularity; power 0 is the plain
    mean. State the power beside a figure (`Protocol.debias_power`).

    Args:
      counts_N: int[N], `baselines.item_counts` of the training part.
      targets: int[q].
      power: at least 0.

    Source: Yang et al. 2018 (Unbiased offline recommender evaluation for missing-not-at-random
    implicit feedback), the self-normalised estimator; the + 1 admits cold items.
    """
    if not power >= 0:
        raise ValueError(f"power: expected at least 0, found {power}")
    return (np.asarray(counts_N)[targets] + 1.0) ** -power


def harmonic_mean(warm: float, cold: float) -> float:
    """Join a figure on warm items and one on cold items; 0 where either is."""
    return 0.0 if warm <= 0 or cold <= 0 else 2 * warm * cold / (warm + cold)


def paired_difference(
    one: Metrics, other: Metrics, *, name: str = "ndcg@10", bootstrap: int = 1000, seed: int = 0
) -> Difference:
    """Compare two models on the same queries, resampling users.

    Args:
      one, other: of `ranking.evaluate` over the same queries in the same order.
      name: "hr@k", "ndcg@k", "mrr" or "mlrr".
      bootstrap: resamples, at least 2.
      seed: draws them.

    Raises:
      ValueError: the queries or their users differ, or a value is out of range.
    """
    users, others = one.users, other.users
    same = len(one.ranks) == len(other.ranks)
    if not same or (users is None) != (others is None):
        raise ValueError(
            f"other: expected metrics of the same {len(one.ranks)} queries, found "
            f"{len(other.ranks)}"
        )
    if users is not None and others is not None and not np.array_equal(users, others):
        raise ValueError("other: expected metrics of the same users, found others")
    if bootstrap < 2:
        raise ValueError(f"bootstrap: expected at least 2 resamples, found {bootstrap}")
    differences_Q = gains(one.ranks, name) - gains(other.ranks, name)
    columns_Ux2 = _by_user(np.stack([differences_Q, np.ones(len(differences_Q))], axis=1), users)
    sums = np.array(
        [drawn @ columns_Ux2 for drawn in _resamples(len(columns_Ux2), bootstrap, seed)]
    )
    means = sums[:, 0] / sums[:, 1]
    return Difference(
        float(differences_Q.mean()), float(np.std(means, ddof=1)), float(np.mean(means <= 0))
    )


def _by_user(columns_QxM, users):
    if users is None:
        return columns_QxM
    _, owners = np.unique(users, return_inverse=True)
    sums = [np.bincount(owners, column) for column in columns_QxM.T]
    return np.stack(sums, axis=1)


def _resamples(count: int, resamples: int, seed: int):
    """Draw `count` of `count` with replacement, as counts int[count], `resamples` times."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, count, count), minlength=count)
