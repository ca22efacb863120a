"""Table 1: brute force, HSNN and its rivals, and which share of the gain each keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.figures import over_seeds_and_users
from experiments.harness.report import Cell, Table, signed
from experiments.retrieval.kept_gain import CLEAR, NAMES, TWO_TOWER, kept_share
from experiments.retrieval.rivals import Answered
from experiments.studies.rated_scorer import K
from experiments.studies.tables.brute import NO_NEGATIVES, Brute
from experiments.studies.tables.compared import Row
from experiments.studies.tables.joint import HSNN, TOGETHER

LIKES_ALONE = "n/a: it ranks, and predicts no rating"
COLUMNS = (
    *("", f"recall@{K}", "over the two tower", "NE", "items scored", "FLOPs", "CPU ms"),
    *("of the gain of its largest model", "of the largest gain", "chosen of"),
)


def table_one(
    brute: Mapping[str, Brute],
    costs: Mapping[str, Answered],
    rows: Sequence[Row],
    *,
    num_items: int,
    trials: int,
) -> tuple[Table, dict[str, float]]:
    """Compare all on the test part.

    Args:
      brute: of the models, the two tower first.
      costs: of the same, by brute force.
      rows: of the contenders.
      num_items: that can be found.
      trials: settings that each was tuned over at most.
    """
    base = brute[TWO_TOWER]
    gains = {
        NAMES[name]: over_seeds_and_users(own.hits - base.hits)
        for name, own in brute.items()
        if name != TWO_TOWER
    }
    best = max(gains.values())
    figures: dict[str, float] = {}

    def row(name: str, hits: np.ndarray, model: str, cost: Sequence[float], ne: Cell) -> list[Cell]:
        over, error = over_seeds_and_users(hits - base.hits)
        own = kept_share(over, gains[model]) if model in gains else None
        whole = kept_share(over, best)
        scored, flops, ms = cost
        values = {f"recall@{K}": float(hits.mean()), "gain": over, "gain_se": error}
        values |= {"items_scored": scored, "flops": flops, "cpu_ms": ms}
        values |= {"kept_of_own": own, "kept_of_best": whole}
        figures.update({f"{name}/{f}": v for f, v in values.items() if v is not None})
        if name == NAMES[TWO_TOWER]:
            return [name, float(hits.mean()), None, ne, scored / num_items, flops, ms, None, None]
        cells: list[Cell] = [name, float(hits.mean()), signed(over, error), ne]
        return [*cells, scored / num_items, flops, ms, own, whole]

    exact = []
    for name, own in brute.items():
        cost = costs[name]
        ne = NO_NEGATIVES if own.losses is None else float(own.losses.mean())
        if own.losses is not None:
            figures[f"{NAMES[name]}/ne"] = float(own.losses.mean())
        read = (cost.items_scored, cost.flops, cost.cpu_ms)
        exact.append([*row(NAMES[name], own.hits, NAMES[name], read, ne), None])
    without = NO_NEGATIVES if base.losses is None else LIKES_ALONE
    others: list[list[Cell]] = []
    for own in rows:
        if own.reason:
            others.append([own.name, own.reason, *[None] * (len(COLUMNS) - 2)])
            continue
        read = (own.mean("items_scored"), own.mean("flops"), own.mean("cpu_ms"))
        tried = f"{own.setting} of {own.tried}" if own.tried > 1 else None
        others.append([*row(own.name, own.hits, own.model, read, without), tried])
    seeds, users = base.hits.shape
    table = Table(
        title="Table 1, test",
        columns=COLUMNS,
        baselines=exact[:1],
        rows=[*exact[1:], *others],
        note=f"{users:,} users, {seeds} seed(s), standard errors over both. Items scored: the "
        "share that an index scans, or that is ordered after a scan of all. FLOPs: of a query, "
        "user towers, nodes and ensembles counted; a sum of sparse rows has none. CPU ms: of the "
        "process a query, in batches, user towers counted. Everything with a choice was tuned "
        f"over {trials} settings, on validation, from the first seed; exact search and popularity "
        f"have none. A share is printed where the whole gain exceeds {CLEAR:.0f} standard errors: "
        "of the largest model that takes part in the row, and of the best by brute force.",
    )
    return table, figures


def found_in(rows: Sequence[Row]) -> str:
    """Say which HSNN finds most, and how far above the best rival of no more operations it is.

    Rivals without a count of operations, sums of sparse rows, count as cheaper.
    """
    here = [row for row in rows if not row.reason]
    ours = [row for row in here if row.name.startswith(HSNN) and row.name.endswith(TOGETHER)]
    if not ours:
        return ""
    best = max(ours, key=lambda row: row.hits.mean())
    flops = best.mean("flops")
    others = [row for row in here if row not in ours and not row.mean("flops") > flops]
    if not others:
        return f"{best.name} finds {best.hits.mean():.4f}; no rival takes as few operations."
    rival = max(others, key=lambda row: row.hits.mean())
    over = signed(*over_seeds_and_users(best.hits - rival.hits))
    return (
        f"{best.name} finds {best.hits.mean():.4f} of what users take next; of its rivals that "
        f"take no more operations {rival.name} finds most, {rival.hits.mean():.4f}: a difference "
        f"of {over}."
    )
