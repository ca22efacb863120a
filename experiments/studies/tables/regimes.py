"""Regimes that were fixed before any run: what the two tower ranks poorly, and narrow filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.figures import over_seeds_and_users
from experiments.harness.report import Cell, Table, signed
from experiments.retrieval.kept_gain import NAMES, TWO_TOWER, kept_share
from experiments.studies.rated_scorer import K
from experiments.studies.tables.brute import Brute
from experiments.studies.tables.compared import Row
from experiments.studies.tables.filtered import AMONG_FEW, SHARE

FEWEST = 2  # users that a standard error is taken over


def far_table(
    brute: Mapping[str, Brute], rows: Sequence[Row], far: np.ndarray, *, budget: int
) -> tuple[list[Table], dict[str, float]]:
    """Show recall among users whose next item is far down, of the rows of table 1.

    What is re-ranked after a two tower, or is among its best items, cannot hold these.

    Args:
      brute: of the models, the two tower first.
      rows: of the contenders.
      far: bool [users], whose next item no seed's two tower has among its best `budget` items.
      budget: items that a search may score.

    Returns:
      (the table, or none where there are too few such users; figures).
    """
    if far.sum() < FEWEST:
        return [], {}
    hits = {NAMES[name]: own.hits for name, own in brute.items()}
    hits |= {own.name: own.hits for own in rows if not own.reason}
    largest = hits[NAMES[list(brute)[-1]]][:, far].mean()
    cells: list[list[Cell]] = []
    figures = {"far/users": float(far.sum())}
    for name, own in hits.items():
        mean, error = over_seeds_and_users(own[:, far])
        share = None if name == NAMES[TWO_TOWER] or not largest else mean / largest
        cells.append([name, f"{mean:.4f} ± {error:.4f}", share])
        figures |= {f"{name}/far/recall@{K}": mean, f"{name}/far/recall@{K}_se": error}
    table = Table(
        title="Items that the two tower ranks beyond the budget, test",
        columns=("", f"recall@{K}", "of the largest model's"),
        baselines=cells[:1],
        rows=cells[1:],
        note=f"The {far.sum():,} of {len(far):,} users of table 1 whose next item no seed's two "
        f"tower has among its best {budget:,}, the budget of a search. Chosen by the two tower "
        "alone, so that it finds none. Standard errors over seeds and users.",
    )
    return [table], figures


def filtered_table(rows: Sequence[Row], *, num_items: int) -> tuple[Table, dict[str, float]]:
    """Show recall among what filters leave, and its price.

    Args:
      rows: see `Compared.filtered`.
      num_items: that can be found without a filter.
    """
    base, *others = rows
    over = {row.name: over_seeds_and_users(row.hits - base.hits) for row in others}
    best = max((over[name] for name in NAMES.values() if name in over), default=(0.0, 0.0))
    cells: list[list[Cell]] = []
    figures: dict[str, float] = {}
    for row in rows:
        mean, error = over_seeds_and_users(row.hits)
        scored, flops = row.mean("items_scored"), row.mean("flops")
        values = {f"recall@{AMONG_FEW}": mean, "items_scored": scored, "flops": flops}
        figures |= {f"{row.name}/filtered/{name}": value for name, value in values.items()}
        gain = None if row is base else signed(*over[row.name])
        share = None if row is base else kept_share(over[row.name][0], best)
        cells.append([row.name, f"{mean:.4f} ± {error:.4f}", gain, share, scored, flops])
    table = Table(
        title=f"Filters that leave {SHARE:.0%} of the items, test",
        columns=(
            *("", f"recall@{AMONG_FEW}", "over the two tower", "of the largest gain"),
            *("items scored", "FLOPs"),
        ),
        baselines=cells[:1],
        rows=cells[1:],
        note=f"Every user has a filter of {SHARE:.0%} of the {num_items:,} items, drawn, beside "
        "the item that is taken next. What is left fits the budget of a search, so that any index "
        "scans it, as brute force does: faiss and HNSW add nothing here. Standard errors over "
        "seeds and users. Sums of sparse rows are no operations and score all items.",
    )
    return table, figures
