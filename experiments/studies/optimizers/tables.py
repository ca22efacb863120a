"""The tables of a comparison of optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from experiments.harness.names import OPTIMIZERS
from experiments.harness.report import Cell, Table
from experiments.studies.optimizers.comparison import BASELINE, Compared, deviation
from experiments.studies.optimizers.targets import WINDOW, median_of

RIVALS = ("sgd", "adamw", "muon")  # the others are of this project


def tables_of(compared: Compared) -> list[Table]:
    """Lay everything out, the rivals as baselines."""
    shorter = [_shorter(compared)] if compared.shorter else []
    return [
        _to_target(compared),
        _ends(compared),
        *shorter,
        _few_trials(compared),
        _step_times(compared),
        _chosen(compared),
    ]


def table_of(
    names: Sequence[str],
    title: str,
    columns: Sequence[str],
    *,
    row: Callable[[str], Sequence[Cell]],
    note: str = "",
) -> Table:
    """Make a table of a row per optimizer, the rivals as baselines."""
    rows = {name: [OPTIMIZERS[name], *row(name)] for name in names}
    return Table(
        title=title,
        columns=("optimizer", *columns),
        baselines=[cells for name, cells in rows.items() if name in RIVALS],
        rows=[cells for name, cells in rows.items() if name not in RIVALS],
        note=note,
    )


def _to_target(compared: Compared) -> Table:
    whole = compared.finals[BASELINE][0].steps[-1]

    def row(name: str) -> list[Cell]:
        steps = compared.steps_to(name)
        middle, reached = median_of(steps), int(np.isfinite(steps).sum())
        share = None if middle is None else middle / whole
        return [
            f"> {whole:,}" if middle is None else middle,
            share,
            compared.seconds_to(name),
            f"{reached} of {len(steps)}",
        ]

    return table_of(
        compared.names,
        f"To a validation loss of {compared.target:.4g}, where tuned AdamW ends",
        ("steps", "share of AdamW's", "seconds", "seeds that reach it"),
        row=row,
        note=f"Medians over seeds. The median of {WINDOW} evaluations in a row must be at the "
        'target; "> STEPS" is never within these. AdamW ends at the target by definition. Seconds '
        "are steps times the time of a step in the table below.",
    )


def _ends(compared: Compared) -> Table:
    parts = [(part, figure) for part in ("validation", "test") for figure in compared.shown]

    def row(name: str) -> list[Cell]:
        cells: list[Cell] = []
        for part, figure in parts:
            tests = [test[figure] for test in compared.tests[name]]
            cells.append(spread(compared.ends(name, figure) if part == "validation" else tests))
        return cells

    return table_of(
        compared.names,
        "At the end",
        [f"{part} {figure}" for part, figure in parts],
        row=row,
        note=f"Mean and standard deviation over {len(compared.seeds)} seed(s) that no trial had.",
    )


def _shorter(compared: Compared) -> Table:
    target = compared.target

    def row(name: str, length: float) -> list[Cell]:
        runs = compared.shorter[name][length]
        ends = [run.end("loss") for run in runs]
        reached = sum(end <= target for end in ends)
        return [
            f"{OPTIMIZERS[name]}, {length:g} of the length",
            runs[0].steps[-1],
            spread(ends),
            f"{reached} of {len(ends)}",
        ]

    base = [compared.finals[BASELINE][0].steps[-1], spread(compared.ends(BASELINE, "loss"))]
    return Table(
        title="A whole schedule in less time",
        columns=("run", "steps", "validation loss at the end", "seeds at AdamW's end"),
        baselines=[[OPTIMIZERS[BASELINE], *base, None]],
        rows=[row(name, length) for name, own in compared.shorter.items() for length in own],
        note="At the point chosen for the whole length: warm-up and cosine are shorter. AdamW's "
        "rows say what the length alone costs.",
    )


def _few_trials(compared: Compared) -> Table:
    counts = list(compared.few_trials(BASELINE))
    return table_of(
        compared.names,
        "Validation loss that few trials find",
        [f"{k} trial{'s' * (k > 1)}" for k in counts],
        row=lambda name: list(compared.few_trials(name).values()),
        note=f"The least loss at the end, mean over all subsets of the {counts[-1]} trials that "
        f"all optimizers share. A trial that diverged counts {compared.chance:.4g}, the loss of a "
        "model that knows nothing.",
    )


def _step_times(compared: Compared) -> Table:
    base = compared.step_ms[BASELINE]

    def row(name: str) -> list[Cell]:
        own = compared.step_ms[name]
        return [own, own - base, own / base]

    return table_of(
        compared.names,
        "Time of a training step",
        ("ms", "ms more than AdamW", "times AdamW"),
        row=row,
        note="Measured at the end of the study in turns of ten steps, median over turns.",
    )


def _chosen(compared: Compared) -> Table:
    def row(name: str) -> list[Cell]:
        own = compared.trials[name]
        point = own.chosen
        return [
            point.rate,
            point.weight_decay,
            point.b1,
            None if name == "sgd" else point.b2,
            point.other_rate if name == "muon" else None,
            len(own.losses),
            "yes" if own.is_on_edge else "no",
        ]

    return table_of(
        compared.names,
        "Chosen by the validation loss at the end",
        ("rate", "weight decay", "b1", "b2", "rate of Muon's AdamW", "trials", "rate on the edge"),
        row=row,
        note="The decay of SGD is part of the gradient, the others' are decoupled.",
    )


def spread(values: Sequence[float]) -> str:
    """Write mean and standard deviation as a cell."""
    error = deviation(values)
    mean = f"{np.mean(values):.4g}"
    return mean if error is None or math.isnan(error) else f"{mean} ± {error:.2g}"


def found(compared: Compared) -> str:
    """Say how many steps and seconds each optimizer needs to AdamW's end."""
    whole = compared.finals[BASELINE][0].steps[-1]
    told = []
    for name in compared.names:
        steps, seconds = median_of(compared.steps_to(name)), compared.seconds_to(name)
        if steps is None or seconds is None:
            told.append(f"{OPTIMIZERS[name]} never")
        else:
            told.append(f"{OPTIMIZERS[name]} {steps:,.0f} ({seconds:.3g} s)")
    return f"Steps, of {whole:,}, to where tuned AdamW ends: {', '.join(told)}."
