"""HSNN measured: cost against recall, scorers, index learning, scale, collapse, drift.

    python -m experiments.hsnn --task frontier --data FOLDER    # ids in, cost against recall out
    python -m experiments.hsnn --task frontier --preset smoke   # library calls, no download

A run folder is left behind with metrics, checkpoints, summary.json and report.md. `--resume`
continues a stopped one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from jax.sharding import Mesh

from experiments.errors import bad_input, exit_on_input_error
from experiments.hsnn_frontier import FrontierConfig, run_frontier
from experiments.hsnn_graph import GraphConfig
from experiments.hsnn_monn import MoNNTraining
from experiments.hsnn_outcome import Outcome, over_seeds
from experiments.hsnn_pairs import pose_pairs
from experiments.interactions import Interactions
from experiments.next_item import data_name, read_interactions
from experiments.options import Options, parse, select_devices
from experiments.report import print_table, write_report
from experiments.results import check_keep, finish, log_test_evaluation
from experiments.run_folder import Run, open_run
from experiments.sharding import make_mesh

Task = Literal["frontier"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HSNNOptions(Options):
    """Measure the learned index and its scorers."""

    task: Task = "frontier"
    """what to measure"""
    seeds: int = 1
    """seeds, from --seed on"""
    baselines: Literal["faiss", "none"] = "faiss"
    """whether faiss searches beside HSNN (extra `bench`)"""
    graph: GraphConfig = dataclasses.field(default_factory=GraphConfig)
    """towers of id-only data (frontier)"""
    monn: MoNNTraining = dataclasses.field(default_factory=MoNNTraining)
    """MoNNs over those towers (frontier)"""
    frontier: FrontierConfig = dataclasses.field(default_factory=FrontierConfig)
    """users and indexes (frontier)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise bad_input("--seeds", expected="at least 1", found=str(self.seeds))
        check_groups(self)

    @property
    def all_seeds(self) -> range:
        """The seeds to measure with."""
        return range(self.seed, self.seed + self.seeds)


MAY_BE_ZERO = ("cost_weight", "hard_negatives")


def check_groups(options: HSNNOptions) -> None:
    """Raise InputError where a number of a group of options is not positive."""
    for group in dataclasses.fields(options):
        config = getattr(options, group.name)
        if not dataclasses.is_dataclass(config):
            continue
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and (value < 0 or (value == 0 and field.name not in MAY_BE_ZERO)):
                flag = f"--{group.name}.{field.name}".replace("_", "-")
                raise bad_input(flag, expected="a number above 0", found=str(value))


PRESETS = {
    "default": HSNNOptions(),
    "smoke": HSNNOptions(
        graph=GraphConfig(
            width=16, steps=6, evaluate_every=3, batch_size=256, negatives=64, rate=2e-2
        ),
        monn=MoNNTraining(
            sizes=("S",), steps=4, evaluate_every=2, batch_size=16, negatives=16, hard_negatives=4
        ),
        frontier=FrontierConfig(users=100, large_users=50, nodes=16, index_steps=20, pairs=2000),
    ),
}


def measure_frontier(
    run: Run, interactions: Interactions, options: HSNNOptions, seed: int, mesh: Mesh
) -> Outcome:
    """Run task frontier from one seed."""
    problem = pose_pairs(interactions, seed=seed)

    def before_test():
        if options.keep:
            reason = f"frontier of seed {seed}, everything trained and chosen"
            log_test_evaluation(run, name=options.keep, reason=reason)

    return run_frontier(
        run,
        problem,
        options.graph,
        options.monn,
        options.frontier,
        seed=seed,
        faiss=options.baselines == "faiss",
        mesh=mesh,
        before_test=before_test,
    )


TASKS: dict[str, Callable[..., Outcome]] = {"frontier": measure_frontier}


@exit_on_input_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, report."""
    options, arguments = parse("hsnn", PRESETS, argv)
    check_keep(options.keep)
    mesh = make_mesh(select_devices(options.devices))
    interactions = read_interactions(options.data)
    print(interactions.summary())
    with open_run("hsnn", options, arguments=arguments, data=data_name(interactions)) as run:
        task = TASKS[options.task]
        outcomes = {s: task(run, interactions, options, s, mesh) for s in options.all_seeds}
        _report(run, over_seeds(outcomes), options, mesh=mesh)


def _report(run: Run, outcome: Outcome, options: HSNNOptions, *, mesh: Mesh) -> None:
    summary = run.write_summary(
        protocol=outcome.protocol,
        metrics=outcome.metrics,
        baselines=outcome.baselines,
        seeds=options.all_seeds,
        devices=list(mesh.devices.flat),
    )
    for table in outcome.tables:
        print_table(table)
    write_report(
        run,
        title=outcome.title,
        intro=outcome.intro,
        summary=summary,
        tables=outcome.tables,
        panels=outcome.panels,
    )
    finish(run, keep=options.keep)


if __name__ == "__main__":
    main()
