"""Tables 2 and 3: the full recipe, and the paired difference that each change makes from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.harness.figures import over_seeds_and_users
from experiments.harness.report import Cell, Table, signed
from experiments.retrieval.kept_gain import CLEAR
from experiments.studies.rated_scorer import K
from experiments.studies.tables.ablated import Found
from experiments.studies.tables.brute import NO_NEGATIVES
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.gates import Gate
from experiments.studies.tables.recipes import BY_TABLE, FULL, LEARNERS

TITLES = {
    LEARNERS: "Table 2, test: learners of nodes, HSNN (MoNN S, two tower)",
    3: "Table 3, test: LTI without one part at a time, HSNN (MoNN S, two tower)",
}
COLUMNS = (
    *("", f"recall@{K}", "minus LTI's", "of all items", "minus LTI's, of all items"),
    *("NE", "minus LTI's NE", "items scored", "nodes used"),
)


def tables_two_three(
    found: Mapping[str, Found], *, config: TablesConfig, num_items: int, gate: Gate
) -> tuple[list[Table], dict[str, float]]:
    """Show the tables that are asked for, and return their figures.

    Args:
      found: of each recipe, by name.
      config: of the tables.
      num_items: that can be found.
      gate: whether the large model beats the small one.
    """
    full, figures = found[FULL.name], {}
    rows = {}
    for name, own in found.items():
        rows[name], of_row = _row(name, own, full, num_items=num_items, nodes=config.nodes)
        figures |= {f"{name}/{figure}": value for figure, value in of_row.items()}
    tables = [
        Table(
            title=TITLES[number],
            columns=COLUMNS,
            baselines=[rows[FULL.name]],
            rows=[rows[recipe.name] for recipe in own],
            note=_note(full, config, gate),
        )
        for number, own in BY_TABLE.items()
        if number in config.show
    ]
    return tables, figures


def found_in_recipes(found: Mapping[str, Found]) -> str:
    """Say which changes are clear, and how small the others are at most."""
    full = found[FULL.name]
    told = [
        f"{name} {worded(own.hits - full.hits)}" for name, own in found.items() if own is not full
    ]
    return f"Recall@{K} against LTI's {full.hits.mean():.4f}: {'; '.join(told)}."


def worded(differences_SxU: np.ndarray) -> str:
    """Say a paired difference, or how small it is: a null is below two standard errors."""
    difference, error = over_seeds_and_users(differences_SxU)
    if not abs(difference) >= CLEAR * error:
        return f"smaller than {CLEAR * error:.4f}"
    return signed(difference, error)


def _row(
    name: str, own: Found, full: Found, *, num_items: int, nodes: int
) -> tuple[list[Cell], dict[str, float]]:
    figures = {f"recall@{K}": own.hits.mean(), f"recall@{K} of all items": own.hits_of_all.mean()}
    figures |= {"items_scored": own.items_scored, "nodes_used": own.used}
    pairs = {"": (own.hits, full.hits), "all_items_": (own.hits_of_all, full.hits_of_all)}
    if own.losses is not None and full.losses is not None:
        pairs["ne_"] = (own.losses, full.losses)
        figures["ne"] = own.losses.mean()
    changes: dict[str, str | None] = dict.fromkeys(("", "all_items_", "ne_"))
    for figure, (mine, its) in pairs.items():
        if own is full:
            continue
        difference, error = over_seeds_and_users(mine - its)
        figures |= {f"{figure}difference": difference, f"{figure}difference_se": error}
        changes[figure] = worded(mine - its)
    cells: list[Cell] = [name, figures[f"recall@{K}"], changes[""]]
    cells += [figures[f"recall@{K} of all items"], changes["all_items_"]]
    cells += [figures.get("ne", NO_NEGATIVES), changes["ne_"]]
    cells += [own.items_scored / num_items, f"{own.used:.1f} of {nodes}"]
    return cells, {figure: float(value) for figure, value in figures.items()}


def _note(full: Found, config: TablesConfig, gate: Gate) -> str:
    seeds, users = full.hits.shape
    largest = "learns from the largest model, trained alone"
    text = (
        f"{users:,} users, {seeds} seed(s), {config.ablation_steps:,} steps, paired by initial "
        "values, batches and negatives; parameters of the best recall on validation, nothing is "
        f"tuned. LTI {largest}; its nodes start at k-means of the untrained vectors. EM lists the "
        "items anew ten times. k-means keeps the lists of a two tower that was trained alone, and "
        "has the softmax of LTI on the items' own vectors. One budget of items to score, the same "
        "for all; 'of all items': without nodes' choice. Standard errors over seeds and users "
        f"together; 'smaller than' is said below {CLEAR:.0f} of them."
    )
    if gate.passed:
        return text
    return f"{text} The large model does not beat the small one here ({gate.question}: not passed)."
