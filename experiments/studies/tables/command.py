"""Task tables: the gates on validation; then the tables that are shown, on the test part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments.harness.figures import Figures, pick
from experiments.harness.plots import Draw, draw_curves, draw_points, read_curves
from experiments.harness.remembered import remember
from experiments.harness.report import Table
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.retrieval.kept_gain import CLEAR, NAMES, TWO_TOWER
from experiments.retrieval.untrained_rivals import KINDS, best_unseen, untrained
from experiments.studies.rated_scorer import K
from experiments.studies.tables.ablated import Ablated
from experiments.studies.tables.brute import (
    Brute,
    Part,
    Trained,
    brute_table,
    measure_brute,
    train_all,
)
from experiments.studies.tables.compared import Compared
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.gates import (
    Gate,
    found_by,
    gate_figures,
    gates_of,
    gates_table,
)
from experiments.studies.tables.regimes import far_table, filtered_table
from experiments.studies.tables.table_one import found_in, table_one
from experiments.studies.tables.tables_two_three import found_in_recipes, tables_two_three
from experiments.tasks.rated_events import Examples
from hsnn_jax.cost_curves import recall_by_user


def run_tables(
    run: Run,
    examples: Examples,
    *,
    config: TablesConfig,
    protocol: Mapping[str, Any],
    utility: np.ndarray | None,
    seeds: Sequence[int],
    mesh: Mesh,
    before_test: Callable[[], None],
) -> Outcome:
    """Train all models, pass the gates or not, and measure what may be measured then.

    Args:
      run: the open run.
      examples: split events.
      config: of the models.
      protocol: of the data.
      utility: float [users, items], what is liked in truth, None where nobody knows.
      seeds: of the models.
      mesh: that trains.
      before_test: called once all is trained and chosen, where there is a table to show.
    """
    trained = train_all(run, examples, config=config, seeds=seeds, mesh=mesh)
    brute = {
        name: measure_brute(run, own, 1, events=config.events) for name, own in trained.items()
    }
    gates = gates_of({name: own.hits for name, own in brute.items()})
    tables, figures = _of_part(run, examples, brute, 1, utility=utility)
    tables = [gates_table(gates, base=brute[TWO_TOWER].hits, k=K), *tables]
    figures |= gate_figures(gates)
    options = {"config": config, "mesh": mesh, "before_test": before_test}
    shown, own, more = _of_test(run, trained, gates, **options)
    tables, figures = [*shown, *tables], figures | own
    found = " ".join(filter(None, (found_by(gates), *more)))
    lines = read_curves(run.folder)
    curves = {NAMES[name]: lines[f"{name}-{seeds[0]}"] for name in config.models}
    draw = functools.partial(draw_curves, curves=curves, against="step", metric=f"recall@{K}")
    base = {name: figures[f"{name}/recall@{K}"] for name in (NAMES[TWO_TOWER], *KINDS)}
    return Outcome(
        title=f"HSNN's tables on {protocol['data']}",
        intro=f"Recall@{K} of the next liked item among all items that the user has not met.",
        protocol=protocol,
        metrics=figures,
        baselines={f"{name}/recall@{K}, validation": value for name, value in base.items()},
        tables=tables,
        panels=[functools.partial(draw, label=f"validation recall@{K}")],
        found=found,
    )


def _of_test(
    run: Run,
    trained: Mapping[str, Sequence[Trained]],
    gates: Sequence[Gate],
    *,
    config: TablesConfig,
    mesh: Mesh,
    before_test: Callable[[], None],
) -> tuple[list[Table], dict[str, float], list[str]]:
    """Train and choose on validation all that is shown, then look at the test part once.

    Table 1 is shown where both gates are passed; tables 2 and 3 compare one model with itself.

    Returns:
      (tables, their figures, what they say); the test part is not looked at for none.
    """
    compared = Compared(run, config, mesh, trained, gates[0].model)
    ablated = Ablated(run, config, mesh, trained)
    first = 1 in config.show and all(gate.passed for gate in gates)
    others = bool({2, 3} & {*config.show})
    chosen = compared.choose() if first else {}
    if others:
        ablated.train()
    if first or others:
        before_test()
    tables, figures, said = [], {}, []
    num_items = trained[TWO_TOWER][0].scorer.examples.num_items
    if first:
        most = config.events
        tested = {name: measure_brute(run, own, 2, events=most) for name, own in trained.items()}
        rows, costs = compared.measure(chosen)
        given = {"num_items": num_items, "trials": config.trials}
        table, figures = table_one(tested, costs, rows, **given)
        budget = config.budget(num_items)
        slices, of_slice = far_table(tested, rows, compared.far(), budget=budget)
        few, of_few = filtered_table(compared.filtered(chosen), num_items=num_items)
        tables, said = [table, *slices, few], [found_in(rows)]
        figures |= of_slice | of_few
    if others:
        found = ablated.measure()
        given = {"config": config, "num_items": num_items, "gate": gates[1]}
        shown, own = tables_two_three(found, **given)
        tables, figures, said = [*tables, *shown], figures | own, [*said, found_in_recipes(found)]
    return tables, {f"test/{name}": value for name, value in figures.items()}, said


def _of_part(
    run: Run,
    examples: Examples,
    brute: Mapping[str, Brute],
    part: Part,
    *,
    utility: np.ndarray | None,
) -> tuple[list[Table], dict[str, float]]:
    """Return the brute force table of a part."""
    rows = examples.next_liked(part)

    def hits(find: Callable[[], np.ndarray]) -> dict[str, np.ndarray]:
        return {"hits": recall_by_user(find(), examples.items[rows][:, None])}

    def of(name: str) -> np.ndarray:
        k = min(K, examples.num_items)
        return best_unseen(untrained(name, examples), examples, rows, k=k)

    others = {
        name: remember(run, f"{name}-{part}", measure=lambda name=name: hits(lambda: of(name)))
        for name in KINDS
    }
    ceiling = None if utility is None else hits(lambda: _true_best(utility, examples, rows))["hits"]
    baselines = {name: own["hits"] for name, own in others.items()}
    table, figures = brute_table(brute, part=part, baselines=baselines, ceiling=ceiling)
    return [table], figures


def _true_best(utility: np.ndarray, examples: Examples, rows: np.ndarray) -> np.ndarray:
    """Return the unseen items of the largest utility, int [len(rows), K]."""
    values = utility[examples.users[rows]].astype(np.float32)
    seen = examples.seen(rows)
    at, column = np.nonzero(seen >= 0)
    values[at, seen[at, column]] = -np.inf
    return np.argsort(-values, axis=1, kind="stable")[:, : min(K, examples.num_items)]


def gain_panels(figures: Figures) -> list[Draw]:
    """Draw the gates: the gain of every model over the two tower, two standard errors beside."""
    shown = [name for name in NAMES.values() if f"{name}/gain" in figures]
    gains = {name: pick(figures, f"{name}/gain")[()] for name in shown if name != NAMES[TWO_TOWER]}
    errors = {name: CLEAR * pick(figures, f"{name}/gain_se")[()][0] for name in gains}
    if not gains:
        return []
    draw = functools.partial(draw_points, rows=gains, errors=errors, reference=0.0)
    label = f"recall@{K} minus the two tower's\n(line: two standard errors)"
    return [functools.partial(draw, label=label, title="Brute force, validation")]
