"""Searchers at equal cost: the same share of the items, or of exact search's FLOPs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.report import Table, signed
from experiments.retrieval.kept_gain import CLEAR, kept_share
from experiments.retrieval.searchers import truth_of
from experiments.studies.frontier_points import Curve
from experiments.tasks.graph_towers import K
from experiments.tasks.pairs import PairProblem
from hsnn_jax.cost_curves import Cost, Measured, at_equal, paired_difference

EQUAL = (0.03, 0.05, 0.1)  # of the items, or of exact search's FLOPs, where searchers are compared
COSTS: tuple[Cost, ...] = ("items_scored", "flops")


def gain_over(one: Measured, other: Measured, *, seed: int) -> tuple[float, float]:
    """Return the gain in recall of held-out items over the users of both, and its error."""
    found, others = truth_of(one), truth_of(other)
    count = min(len(found), len(others))
    return paired_difference(found[:count], others[:count], seed=seed)


def equal_table(
    problem: PairProblem,
    curves: Sequence[Curve],
    *,
    exacts: Mapping[str, Measured],
    seed: int,
) -> tuple[Table, dict[str, float]]:
    """Compare searchers at equal shares of items and of FLOPs, interpolated, paired with IVF."""
    rows, metrics = [], {}
    plain, ivf = exacts["dot"], next((c for c in curves if c.name == "dot, IVF"), None)
    for curve in curves:
        gain = gain_over(exacts[curve.model], plain, seed=seed)
        for cost in COSTS:
            for share in EQUAL:
                whole = problem.num_items if cost == "items_scored" else exacts[curve.model].flops
                at = functools.partial(at_equal, cost=cost, value=share * whole)
                own, truth = (at(curve.points, of=of) for of in ("recall", "truth"))
                if own is None or truth is None:
                    continue
                other = None if ivf is None else at(ivf.points, of="truth")
                key = f"{curve.name}/{cost}={share:.0%}"
                value = float(np.nanmean(own))
                metrics |= {f"{key}/recall": value, f"{key}/recall@{K}": float(np.nanmean(truth))}
                over_dot = paired_difference(truth, truth_of(plain)[: len(truth)], seed=seed)
                metrics |= {f"{key}/over_dot": over_dot[0], f"{key}/over_dot_se": over_dot[1]}
                over_ivf = None
                if other is not None and curve is not ivf:
                    over_ivf = paired_difference(truth, other[: len(truth)], seed=seed)
                    metrics |= {f"{key}/over_ivf": over_ivf[0], f"{key}/over_ivf_se": over_ivf[1]}
                of = "items" if cost == "items_scored" else "own exact FLOPs"
                kept = kept_share(over_dot[0], gain)
                if kept is not None:
                    metrics |= {f"{key}/kept": kept}
                cells = [f"{share:.0%} of {of}", value, float(np.nanmean(truth))]
                above_ivf = None if over_ivf is None else signed(*over_ivf)
                rows.append([curve.name, *cells, above_ivf, signed(*over_dot), kept])
    value, error = paired_difference(truth_of(plain), 0.0, seed=seed)
    first = ["dot, exact", "100%", 1.0, value, None, f"± {error:.4f}", None]
    columns = ("", "cost", "recall of exact 20", f"recall@{K}", "above IVF", "above exact dot")
    columns += ("share of the gain",)
    note = (
        f"Interpolated between budgets; recall@{K} of held-out items. Differences in it are paired "
        "by user, with bootstrap standard errors. IVF is compared at the same number of items or "
        "FLOPs, where its curve reaches that far. The share of a MoNN's own exact gain over dot is "
        f"given where that exceeds {CLEAR:.0f} standard errors."
    )
    title = "At equal cost"
    return Table(title=title, columns=columns, baselines=[first], rows=rows, note=note), metrics
