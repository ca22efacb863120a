"""One study: options, a function that measures, and all the rest that commands share.

    STUDY = Study(
        name="digits",
        about="Shampoo against AdamW on handwritten digits",
        minutes=1,
        claim="Shampoo reaches the target accuracy in fewer steps than AdamW.",
        presets=PRESETS,
        measure=measure,  # Setting -> Outcome
    )
    main = STUDY.main

`main` parses the command line, reads what `pose` reads, opens the run folder, measures, and leaves
summary.json, report.md and its plots; it prints the tables and what was found. Figures are made
by `measure` alone.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness.devices import make_mesh, select_devices
from experiments.harness.errors import exit_on_input_error
from experiments.harness.figures import Figures
from experiments.harness.options import Options, parse
from experiments.harness.plots import Draw
from experiments.harness.process import use_compilation_cache
from experiments.harness.processes import is_first, is_joined, join, print_nothing
from experiments.harness.provenance import DataName
from experiments.harness.report import Table, print_table, write_report
from experiments.harness.results import check_keep, keep_result, log_test_evaluation, looked_at_test
from experiments.harness.run_folder import Run, open_run
from experiments.harness.supervise import ending_with_others, is_child, run_child

Config = TypeVar("Config", bound=Options)
NOT_KEPT = "The test split was looked at; this is not a kept look (no --keep)."


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """Figures and how they are shown.

    Attributes:
      title, intro: of the report.
      protocol: how the figures came about.
      metrics, baselines: by name, for summary.json.
      tables: of the report.
      panels: plots of what no figure says, such as the training, beside those of the claim.
      found: what this run says of the study's claim, a sentence or two with their figures; ""
        where the tables must speak.
      examples: lines for the terminal, behind the tables.
      usage: the last line, which says what the run folder is good for.
    """

    title: str
    intro: str
    protocol: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    baselines: Mapping[str, float | None]
    tables: Sequence[Table]
    panels: Sequence[Draw] = ()
    found: str = ""
    examples: Sequence[str] = ()
    usage: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Posed(Generic[Config]):
    """What a study measures on.

    Attributes:
      inputs: whatever `measure` needs beside the options.
      data: how kept files name the data; None where a study makes its own.
      options: completed by what the data decides; None where there was nothing to complete.
    """

    inputs: Any = None
    data: DataName | None = None
    options: Config | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Setting(Generic[Config]):
    """What `measure` gets: the open run, the options, the mesh and what `pose` returned."""

    run: Run
    options: Config
    mesh: Mesh
    inputs: Any

    def look_at_test(self, reason: str) -> None:
        """Note that the test split is looked at; call it before."""
        log_test_evaluation(self.run, keep=self.options.keep, reason=reason)


def pose_nothing(options: Options) -> Posed:
    """Pose a study that makes its own data."""
    del options
    return Posed()


def draw_nothing(figures: Figures) -> Sequence[Draw]:
    """Draw no claim: that of a study whose figures are single numbers."""
    del figures
    return ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Study(Generic[Config]):
    """A command.

    Attributes:
      name: what follows `python -m experiments.`: a module, or a module and its task.
      about: one line for the list of commands.
      minutes: that the default takes on 2 CPU cores without a download; None where it needs data.
      claim: what the study is to show, one sentence; the outcome says whether it did.
      presets: named defaults, "default" among them.
      measure: does the work.
      claim_panels: plots of the claim, from the metrics and baselines of summary.json alone: so a
        kept result can be drawn again.
      pose: reads the data; before the run folder is made, so that bad input leaves none.
      devices: how many devices are needed; None for all.
      times_compilation: what it reports has compilation in it: no program is read from a cache.
    """

    name: str
    about: str
    minutes: float | None
    claim: str
    presets: Mapping[str, Config]
    measure: Callable[[Setting[Config]], Outcome]
    claim_panels: Callable[[Figures], Sequence[Draw]] = draw_nothing
    pose: Callable[[Config], Posed[Config]] = pose_nothing
    devices: Callable[[Config], int | None] = lambda options: options.devices
    times_compilation: bool = False

    @exit_on_input_error()
    def main(self, argv: Sequence[str] | None = None) -> None:
        """Run the command; the arguments of the process where none are given."""
        options, arguments = parse(self.name, self.presets, argv)
        check_keep(options.keep)
        if not is_joined(options):
            return self._run(options, arguments)
        if not is_child():
            raise SystemExit(run_child(self.name, sys.argv[1:] if argv is None else argv))
        with ending_with_others():
            self._run(options, arguments)

    def _run(self, options: Config, arguments: Sequence[str]) -> None:
        use_compilation_cache(options.compilation_cache and not self.times_compilation)
        join(options)
        # Who was joined by a cluster knows it from jax, once its devices are there: no fake ones.
        processes = jax.process_count() if options.distributed else options.num_processes or 1
        mesh = make_mesh(select_devices(self.devices(options), processes=processes))
        if not is_first():
            print_nothing()
        posed = self.pose(options)
        options = posed.options or options
        with open_run(self.name, options, arguments=arguments, data=posed.data) as run:
            outcome = self.measure(Setting(run, options, mesh, posed.inputs))
            if is_first():
                self._finish(run, outcome, options, mesh=mesh)

    def _finish(self, run: Run, outcome: Outcome, options: Config, *, mesh: Mesh) -> None:
        """Write the summary and the report, print them, and keep them where a name is given."""
        summary = run.write_summary(
            protocol=outcome.protocol,
            metrics=outcome.metrics,
            baselines=outcome.baselines,
            seeds=options.all_seeds,
            devices=list(mesh.devices.flat),
        )
        for table in outcome.tables:
            print_table(table)
        remarks = [outcome.found] if outcome.found else []
        if looked_at_test(run) and not options.keep:
            remarks.append(NOT_KEPT)
        write_report(
            run,
            title=outcome.title,
            intro="\n\n".join([outcome.intro, f"Claim: {self.claim}", *remarks]),
            summary=summary,
            tables=outcome.tables,
            panels=[*self.claim_panels({**outcome.baselines, **outcome.metrics}), *outcome.panels],
        )
        for line in (*outcome.examples, *remarks):
            print(line)
        if options.keep:
            keep_result(run, name=options.keep)
        print(f"run folder: {run.folder}")
        if outcome.usage:
            print(outcome.usage)


def over_seeds(outcomes: Mapping[int, Outcome], *, most: int = 60) -> Outcome:
    """Join the outcomes of several seeds: the first one's tables, and every figure's range.

    Figures are named SEED/NAME. The table of ranges leaves out what no baseline is compared by:
    it has the figures that end in a recall, up to `most` of them; summary.json has all.
    """
    first = next(iter(outcomes.values()))
    if len(outcomes) == 1:
        return first
    metrics = {f"{s}/{name}": v for s, o in outcomes.items() for name, v in o.metrics.items()}
    baselines = {f"{s}/{name}": v for s, o in outcomes.items() for name, v in o.baselines.items()}

    def row(name: str, of: str) -> list:
        values = [getattr(o, of)[name] for o in outcomes.values() if name in getattr(o, of)]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return [name, float(np.mean(values)), spread, min(values), max(values), len(values)]

    names = [name for name in first.metrics if "=" in name and "recall" in name]
    names = names or [name for name in first.metrics if name not in first.baselines]
    table = Table(
        title=f"Over {len(outcomes)} seeds",
        columns=("figure", "mean", "standard deviation", "least", "most", "seeds"),
        baselines=[row(name, "baselines") for name in first.baselines],
        rows=[row(name, "metrics") for name in names[:most]],
        note=f"The tables below are of seed {next(iter(outcomes))}.",
    )
    tables = [table, *first.tables]
    return dataclasses.replace(first, metrics=metrics, baselines=baselines, tables=tables)
