"""A regime that was fixed before any run: users whose next item the two tower ranks poorly.

What is re-ranked after a two tower, or is among its best items, cannot hold these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.figures import over_seeds_and_users
from experiments.harness.report import Cell, Table
from experiments.retrieval.kept_gain import NAMES, TWO_TOWER
from experiments.studies.rated_scorer import K
from experiments.studies.tables.brute import Brute
from experiments.studies.tables.compared import Row

FEWEST = 2  # users that a standard error is taken over


def far_table(
    brute: Mapping[str, Brute], rows: Sequence[Row], far: np.ndarray, *, budget: int
) -> tuple[list[Table], dict[str, float]]:
    """Show recall among users whose next item is far down, of the rows of table 1.

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
