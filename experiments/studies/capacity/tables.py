"""Figures and tables of `experiments.capacity_plan`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from experiments.harness.report import Cell, Table
from experiments.studies.capacity.case import (
    Case,
    Row,
    Temporary,
    compile_row,
    compute_row,
    deviations,
    fit_temporary,
)
from experiments.studies.capacity.retrieval import SearchRow
from experiments.studies.capacity.rooflines import MACHINES, Least, Machine, least_time

GB = 1e9
CHECKED = ("arguments", "collectives", "operations", "temporary")
COLUMNS = (
    "devices",
    "source",
    "parameters GB",
    "optimizer GB",
    "inputs GB",
    "temporary GB",
    "all GB",
    "all-reduce GB",
    "all-gather GB",
    "other GB",
    "collectives",
    "TFLOP",
    "refresh TFLOP",
    "blocks",
    "blocks per device",
    "imbalance",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A case, the rows of its table, and how far the formula is from what was compiled.

    Attributes:
      case: what is planned.
      rows: by devices, compiled where that was asked for.
      errors: by devices that were compiled, of every figure a share; "temporary" is there where
        the fit did not see the number of devices.
    """

    case: Case
    rows: Mapping[int, Row]
    errors: Mapping[int, Mapping[str, float]]

    @property
    def key(self) -> str:
        """Name and layout as figures are named."""
        return re.sub(r"[^\w.]+", "_", f"{self.case.name}-{self.case.layout}")


def plan(case: Case, counts: Sequence[int], *, compiled: int, check: int | None) -> Planned:
    """Compile up to so many devices, compute beyond, and compare both where there are both.

    Args:
      case: what is planned.
      counts: numbers of devices.
      compiled: the most for which the step is compiled.
      check: one more number that is compiled, which the fit of temporary bytes does not see.
    """
    wanted = sorted({n for n in counts if n <= compiled} | ({check} if check else set()))
    read = {n: compile_row(case, n) for n in wanted}
    fit = fit_temporary({n: row for n, row in read.items() if n != check})
    errors = {}
    for n, row in read.items():
        errors[n] = deviations(row, compute_row(case, n, fit if n == check else None))
    rows = {n: read[n] if n in read else _beyond(case, n, fit) for n in sorted(set(counts))}
    return Planned(case=case, rows=rows, errors=errors)


def _beyond(case: Case, devices: int, fit: Temporary | None) -> Row:
    return compute_row(case, devices, fit)


def figures_of(planned: Planned) -> dict[int, dict[str, float]]:
    """Name the figures of every number of devices: MODEL_LAYOUT/DEVICES/FIGURE."""
    return {
        n: {f"{planned.key}/{n}/{name}": value for name, value in _figures(row).items()}
        for n, row in planned.rows.items()
    }


def _figures(row: Row) -> dict[str, float]:
    known = {
        "parameter_bytes": row.parameters,
        "optimizer_bytes": row.optimizer,
        "input_bytes": row.inputs,
        "temporary_bytes": row.temporary,
        "flops": row.flops,
        "refresh_flops": row.dealing.root_flops,
        "collectives": row.collectives,
        "blocks": float(row.dealing.blocks),
        "blocks_per_device": float(row.dealing.per_device),
        "imbalance": row.dealing.imbalance,
        "compiled": float(row.source == "compiled"),
    }
    known |= {f"{kind}_bytes": size for kind, size in row.moved.items()}
    return {name: float(value) for name, value in known.items() if value is not None}


def table_of(planned: Planned) -> Table:
    """Lay out a case; the fewest devices are the baseline."""
    cells = [_cells(row) for row in planned.rows.values()]
    return Table(
        title=f"{planned.case.name}, {planned.case.layout}: per device and step",
        columns=COLUMNS,
        baselines=cells[:1],
        rows=cells[1:],
        note=f"{planned.case.about}.",
    )


def _cells(row: Row) -> list[Cell]:
    known = ("all-reduce", "all-gather")
    other = sum(size for kind, size in row.moved.items() if kind not in known)
    dealing = row.dealing
    return [
        row.devices,
        row.source,
        row.parameters / GB,
        row.optimizer / GB,
        row.inputs / GB,
        None if row.temporary is None else row.temporary / GB,
        None if row.total is None else row.total / GB,
        *(row.moved.get(kind, 0.0) / GB for kind in known),
        other / GB,
        None if row.collectives is None else int(row.collectives),
        row.flops / 1e12,
        dealing.root_flops / 1e12,
        dealing.blocks,
        dealing.per_device,
        dealing.imbalance,
    ]


def errors_table(planned: Sequence[Planned]) -> Table:
    """Lay out how far the formula is from every compiled program."""
    rows: list[list[Cell]] = [
        [
            f"{of.case.name}, {of.case.layout}",
            n,
            *(None if name not in errors else 100 * errors[name] for name in CHECKED),
        ]
        for of in planned
        for n, errors in of.errors.items()
    ]
    return Table(
        title="The formula beside the compiled programs: deviation in %",
        columns=("case", "devices", *CHECKED),
        baselines=rows[:1],
        rows=rows[1:],
        note="Arguments: parameters, optimizer state and inputs together. Temporary bytes are "
        "fitted to the fewest and the most devices compiled; the others check the fit.",
    )


def deviations_of(planned: Sequence[Planned]) -> tuple[list[float], list[float]]:
    """Return the deviations of the formula, and those of the fit of temporary bytes."""
    pairs = [pair for of in planned for own in of.errors.values() for pair in own.items()]
    formula = [error for name, error in pairs if name != "temporary"]
    return formula, [error for name, error in pairs if name == "temporary"]


def least_of(machine: Machine, row: Row) -> Least:
    """Compute a row's least time on a machine; without temporary bytes by what it holds."""
    held = row.parameters + row.optimizer + row.inputs + (row.temporary or 0.0)
    return least_time(machine, devices=row.devices, flops=row.flops, held=held, moved=row.moved)


def rooflines_table(planned: Sequence[Planned]) -> Table:
    """Lay out the least time of every step, and whether its bytes fit."""
    rows: list[list[Cell]] = []
    for of in planned:
        for n, row in of.rows.items():
            cells: list[Cell] = [f"{of.case.name}, {of.case.layout}", n]
            for machine in MACHINES:
                least = least_of(machine, row)
                fits = row.total is not None and row.total <= machine.memory
                cells += [least.seconds, least.limit, "yes" if fits else "no"]
            rows.append(cells)
    of_machine = ("least s", "by", "fits")
    return Table(
        title="Least time of a step by rooflines",
        columns=(
            "case",
            "devices",
            *(f"{m.name}: {name}" for m in MACHINES for name in of_machine),
        ),
        baselines=rows[:1],
        rows=rows[1:],
        note="Computed from published peaks, not measured; the refresh of Shampoo's roots is left "
        "out. " + " ".join(map(_described, MACHINES)),
    )


def _described(m: Machine) -> str:
    return (
        f"{m.name}: {m.flops / 1e12:g} TFLOP/s, {m.memory / GB:.0f} GB at {m.memory_rate / 1e12:g} "
        f"TB/s, links {m.near / GB:g} GB/s per direction up to {m.near_devices:,} devices, "
        f"{m.far / GB:g} beyond ({m.source})."
    )


def search_table(rows: Sequence[SearchRow], *, about: str) -> Table:
    """Lay out the index and its search."""
    cells: list[list[Cell]] = [
        [
            row.devices,
            row.source,
            row.lists / GB,
            row.tiles / GB,
            row.whole / GB,
            row.total / GB,
            None if row.temporary is None else row.temporary / GB,
            row.moved / 1e6,
            row.flops / 1e6,
        ]
        for row in rows
    ]
    return Table(
        title="HSNN, search: index per device",
        columns=(
            "devices",
            "source",
            "lists GB",
            "item vectors GB",
            "whole on each GB",
            "index GB",
            "temporary GB",
            "all-gather MB per batch",
            "MFLOP per query, at most",
        ),
        baselines=cells[:1],
        rows=cells[1:],
        note=f"{about} Operations follow from the budgets: the search runs in loops whose length "
        "the queries decide, which no program tells.",
    )


def layouts_table(rows: Sequence[tuple[Case, Row]]) -> Table:
    """Lay out what `--layout` takes; the first layout of each model stands first."""
    kinds = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    cells: list[list[Cell]] = [
        [
            f"{case.name}, {case.layout}",
            row.devices,
            row.parameters / 1e6,
            row.optimizer / 1e6,
            (row.temporary or 0.0) / 1e6,
            *(row.moved.get(kind, 0.0) / 1e6 for kind in kinds),
            int(row.collectives or 0),
            row.flops / 1e9,
        ]
        for case, row in rows
    ]
    return Table(
        title="What --layout takes: per device and step, compiled",
        columns=(
            "model, optimizer, layout",
            "devices",
            "parameters MB",
            "optimizer MB",
            "temporary MB",
            *(f"{kind} MB" for kind in kinds),
            "collectives",
            "GFLOP",
        ),
        baselines=cells[:1],
        rows=cells[1:],
    )


def search_figures(row: SearchRow) -> dict[str, float]:
    """Name the figures of a search: hsnn-search/DEVICES/FIGURE."""
    own = {
        "list_bytes": row.lists,
        "tile_bytes": row.tiles,
        "whole_bytes": row.whole,
        "all-gather_bytes": row.moved,
        "flops_per_query": row.flops,
        "compiled": float(row.source == "compiled"),
    }
    return {f"hsnn-search/{row.devices}/{name}": value for name, value in own.items()}


def layout_figures(case: Case, row: Row) -> dict[str, float]:
    """Name the figures of a layout: layouts/MODEL-OPTIMIZER-LAYOUT/FIGURE."""
    prefix = f"layouts/{case.name.replace(', ', '-')}-{case.layout}"
    return {f"{prefix}/{name}": value for name, value in _figures(row).items()}
