"""Two tables of `step_time` whose contestants are whole processes.

`threads`: does a step depend on OPENBLAS_NUM_THREADS beside a busy process? Wall milliseconds.
`peer`: ours beside the PyTorch original, one thread each, milliseconds of CPU time, all blocks
refreshed at once every ten steps. Torch's fused AdamW is the control: what a machine does to all.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.bench.parameter_sets import PARAMETER_SETS
from experiments.bench.processes import Worker, busy_neighbours, take_turns
from experiments.harness.report import Table

Figures = dict[str, float]
VARIABLE = "OPENBLAS_NUM_THREADS"
ONE_THREAD = {
    VARIABLE: "1",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
OURS = {"ours, equal settings": "equal", "ours, default": "shampoo"}
THEIRS = ("original", "original, unpacked", "adamw")  # as torch_worker.py names them


def _ours(environment: Mapping[str, str | None], **order) -> Worker:
    command = [sys.executable, "-m", "experiments.bench.step_worker", json.dumps(order)]
    return Worker(command=command, environment=environment)


def threads(sets: Sequence[str], *, cycles: int, rounds: int = 3) -> tuple[Figures, Table]:
    """Time steps with the variable set to 1, without it, and set to all cores, as SciPy has it."""
    cores = os.cpu_count() or 1
    settings = {"set to 1": "1", "not set": None, f"set to {cores}, as SciPy has it": str(cores)}
    figures: Figures = {}
    rows = []
    for name in sets:
        order = {"set": name, "optimizer": "shampoo", "cycles": cycles, "clock": "wall"}
        workers = {
            setting: _ours({VARIABLE: value, "OMP_NUM_THREADS": None}, **order)
            for setting, value in settings.items()
        }
        with busy_neighbours(1):
            found = take_turns(workers, rounds=rounds)
        medians = {setting: statistics.median(times) for setting, times in found.items()}
        figures |= {f"{name}/{setting}/ms": ms for setting, ms in medians.items()}
        rows += [[name, setting, ms, ms / medians["set to 1"]] for setting, ms in medians.items()]
    table = Table(
        title=f"Milliseconds per step beside a busy process, by {VARIABLE}",
        columns=("set", VARIABLE, "ms", "times that of 1"),
        baselines=[row for row in rows if row[1] != "not set"],
        rows=[row for row in rows if row[1] == "not set"],
        note=f"Medians of {rounds} processes each, in turns; {cores} cores.",
    )
    return figures, table


def peer(
    python: Path, sets: Sequence[str], *, block_size: int, cycles: int, rounds: int = 3
) -> tuple[Figures, Table]:
    """Time the PyTorch original, which `python` can import, beside ours.

    Raises:
      InputError: the interpreter cannot be run, or lacks a package.
    """
    figures: Figures = {}
    rows = []
    for name in sets:
        order = {"block_size": block_size, "frequency": 10, "cycles": cycles}
        shapes = list(PARAMETER_SETS[name]().values())
        workers = {
            who: Worker(
                command=[
                    str(python),
                    str(Path(__file__).with_name("torch_worker.py")),
                    json.dumps({"shapes": shapes, "optimizer": who, **order}),
                ],
                environment=ONE_THREAD,
            )
            for who in THEIRS
        }
        workers |= {
            who: _ours(ONE_THREAD, set=name, optimizer=optimizer, **order)
            for who, optimizer in OURS.items()
        }
        found = take_turns(workers, rounds=rounds)
        ms = {who: statistics.median(times) for who, times in found.items()}
        figures |= {f"{name}/{who}/cpu_ms": value for who, value in ms.items()}
        packed, unpacked = (ms[rival] for rival in THEIRS[:2])
        rows += [[name, who, value, value / packed, value / unpacked] for who, value in ms.items()]
    table = Table(
        title=f"Milliseconds of one core per step, blocks of {block_size}",
        columns=("set", "optimizer", "ms", "times the original", "times the unpacked one"),
        baselines=[row for row in rows if row[1] in THEIRS],
        rows=[row for row in rows if row[1] in OURS],
        note=f"Medians of {rounds} processes each, in turns; mean over whole cycles of ten steps.",
    )
    return figures, table
