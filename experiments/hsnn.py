"""HSNN measured: cost against recall, scorers, index learning, scale, collapse, drift, interests.

    python -m experiments.hsnn --task frontier --data FOLDER    # ids in, cost against recall out
    python -m experiments.hsnn --task scorers --data FOLDER     # rated events
    python -m experiments.hsnn --task learning --data FOLDER    # ids; a planted tree without data
    python -m experiments.hsnn --task drift --data FOLDER       # events with times and texts
    python -m experiments.hsnn --task scale                     # simulated; planted, interests too
    python -m experiments.hsnn --task TASK --preset smoke       # small, no download

A run folder is left behind with metrics, checkpoints, summary.json and report.md. `--resume`
continues a stopped one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

from jax.sharding import Mesh

from experiments.data.drawn import drawn_ratings, drawn_shop
from experiments.data.interactions import Interactions
from experiments.data.user_features import read_user_features
from experiments.harness.errors import bad_input, exit_on_input_error
from experiments.harness.options import Options, parse, select_devices
from experiments.harness.report import print_table, write_report
from experiments.harness.results import check_keep, finish, log_test_evaluation
from experiments.harness.run_folder import Run, open_run
from experiments.harness.study import Outcome, over_seeds
from experiments.loop.sharding import make_mesh
from experiments.retrieval.graph_training import GraphConfig, train_towers
from experiments.retrieval.kept_gain import RoutesTraining
from experiments.retrieval.residual_monn import MoNNTraining
from experiments.studies.collapse import PlantedConfig, run_planted
from experiments.studies.drift import DriftConfig, run_drift
from experiments.studies.frontier import FrontierConfig, frontier_outcome, run_frontier
from experiments.studies.frontier_points import remembered
from experiments.studies.interests import InterestsConfig, run_interests
from experiments.studies.learning import LearningConfig, planted_task, run_learning, towers_task
from experiments.studies.rated_scorer import ScorersConfig
from experiments.studies.scale import ScaleConfig, run_scale
from experiments.studies.scorers import run_scorers
from experiments.tasks.next_item import data_name, read_interactions
from experiments.tasks.pairs import pose_pairs
from experiments.tasks.rated_events import make_examples

Task = Literal["frontier", "scorers", "learning", "scale", "planted", "drift", "interests"]
SIMULATED = ("scale", "planted", "interests")  # tasks that draw their data


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
    """towers of ids that are trained (learning)"""
    monn: MoNNTraining = dataclasses.field(default_factory=MoNNTraining)
    """MoNNs over those towers (frontier)"""
    frontier: FrontierConfig = dataclasses.field(default_factory=FrontierConfig)
    """users and indexes (frontier)"""
    scorers: ScorersConfig = dataclasses.field(default_factory=ScorersConfig)
    """models and their training (scorers)"""
    routes: RoutesTraining = dataclasses.field(default_factory=RoutesTraining)
    """routes of nodes (scorers, interests)"""
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    """variants of index learning (learning)"""
    scale: ScaleConfig = dataclasses.field(default_factory=ScaleConfig)
    """simulated catalogues (scale)"""
    planted: PlantedConfig = dataclasses.field(default_factory=PlantedConfig)
    """a simulated tree (planted)"""
    drift: DriftConfig = dataclasses.field(default_factory=DriftConfig)
    """days of serving (drift)"""
    interests: InterestsConfig = dataclasses.field(default_factory=InterestsConfig)
    """users of several interests on a planted tree (interests)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise bad_input("--seeds", expected="at least 1", found=str(self.seeds))
        if self.epochs is not None:
            expected = "steps, an option of each task, such as --graph.steps"
            raise bad_input("--epochs", expected=expected, found=str(self.epochs))
        if self.task in SIMULATED and self.data is not None:
            raise bad_input("--data", expected=f"none, task {self.task} draws it", found="a path")
        check_groups(self)

    @property
    def all_seeds(self) -> range:
        """The seeds to measure with."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def faiss(self) -> bool:
        """Whether faiss takes part."""
        return self.baselines == "faiss"


MAY_BE_ZERO = ("cost_weight", "hard_negatives", "like_weight", "popular")


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
        monn=MoNNTraining(sizes=("S",), steps=4, evaluate_every=2, batch_size=16, negatives=16),
        frontier=FrontierConfig(
            users=100, large_users=50, width=16, nodes=16, index_steps=20, pairs=2000
        ),
        scorers=ScorersConfig(
            models=("XS", "S"),
            steps=60,
            evaluate_every=30,
            batch_size=64,
            negatives=16,
            users=100,
            events=300,
            nodes=16,
            two_tower_nodes=32,
            index_steps=20,
            pairs=500,
        ),
        routes=RoutesTraining(users=100, steps=20, batch_size=32),
        learning=LearningConfig(nodes=16, steps=40, batch_size=64, users=60, pairs=1000, items=800),
        planted=PlantedConfig(
            items=400, leaves=16, pairs=1000, width=16, steps=60, batch_size=64, dead_after=10
        ),
        drift=DriftConfig(
            days=4, content_dim=16, nodes=8, steps=40, daily_steps=4, batch_size=64, users=40
        ),
        scale=ScaleConfig(items=(2000, 6000), width=16, users=40, requests=20),
        interests=InterestsConfig(
            items=400,
            leaves=20,
            width=8,
            users=500,
            asking=50,
            models=("XS", "S"),
            steps=60,
            evaluate_every=30,
            batch_size=64,
            negatives=32,
            nodes=16,
            index_steps=20,
        ),
    ),
}


def measure_frontier(
    run: Run, interactions: Interactions, options: HSNNOptions, mesh: Mesh
) -> Outcome:
    """Run task frontier from every seed."""

    def measure(seed: int) -> Outcome:
        problem = pose_pairs(interactions, seed=seed)
        measured = remembered(
            run.folder / f"measured-{seed}.npz",
            lambda: run_frontier(
                run,
                problem,
                options.monn,
                options.frontier,
                seed=seed,
                faiss=options.faiss,
                mesh=mesh,
                before_test=lambda: log_test(run, options, f"frontier of seed {seed}"),
            ),
        )
        return frontier_outcome(problem, measured, seed=seed)

    return over_seeds({seed: measure(seed) for seed in options.all_seeds})


def measure_scorers(
    run: Run, interactions: Interactions, options: HSNNOptions, mesh: Mesh
) -> Outcome:
    """Run task scorers; all seeds together."""
    demographics = None
    if options.data is not None:
        demographics = read_user_features(options.data, interactions.user_ids)
    protocol = {
        "data": interactions.name,
        "data_hash": interactions.sha256,
        "split": "each user's first 80% of events train, the next 10% validate, the last 10% test",
        "selection": "validation recall@50",
        "candidates": "all items that the user has not rated before",
        "notes": "; ".join(interactions.notes),
    }
    return run_scorers(
        run,
        make_examples(interactions, demographics),
        options.scorers,
        options.routes,
        protocol=protocol,
        seeds=options.all_seeds,
        mesh=mesh,
        before_test=lambda: log_test(run, options, "scorers of all seeds"),
    )


def measure_learning(
    run: Run, interactions: Interactions | None, options: HSNNOptions, mesh: Mesh
) -> Outcome:
    """Run task learning: over towers of ids, trained once, or a planted tree a seed."""
    if interactions is None:
        protocol = {"data": "simulated planted tree"}
        make_task = functools.partial(planted_task, config=options.learning)
    else:
        problem = pose_pairs(interactions, seed=options.seed)
        protocol = problem.protocol
        towers = train_towers(
            run, problem, options.graph, stage="towers", seed=options.seed, mesh=mesh
        )
        make_task = functools.partial(
            towers_task, problem=problem, towers=towers, config=options.learning
        )
        log_test(run, options, "index learning over trained towers")
    seeds = options.all_seeds
    return run_learning(run, make_task, options.learning, protocol=protocol, seeds=seeds)


def measure_planted(run: Run, interactions: None, options: HSNNOptions, mesh: Mesh) -> Outcome:
    """Run task planted."""
    del interactions, mesh
    return run_planted(run, options.planted, seeds=options.all_seeds)


def measure_drift(
    run: Run, interactions: Interactions, options: HSNNOptions, mesh: Mesh
) -> Outcome:
    """Run task drift, on one device."""
    del mesh
    return run_drift(
        run,
        interactions,
        options.drift,
        seeds=options.all_seeds,
        before_test=lambda: log_test(run, options, "days of serving"),
    )


def measure_scale(run: Run, interactions: None, options: HSNNOptions, mesh: Mesh) -> Outcome:
    """Run task scale, on one device."""
    del interactions, mesh
    return run_scale(run, options.scale, seeds=options.all_seeds, faiss=options.faiss)


def measure_interests(run: Run, interactions: None, options: HSNNOptions, mesh: Mesh) -> Outcome:
    """Run task interests; all seeds together."""
    del interactions
    return run_interests(run, options.interests, options.routes, seeds=options.all_seeds, mesh=mesh)


def log_test(run: Run, options: HSNNOptions, what: str) -> None:
    """Note a look at the test split."""
    reason = f"{what}, everything trained and chosen"
    log_test_evaluation(run, keep=options.keep, reason=reason)


TASKS: dict[str, Callable[..., Outcome]] = {
    "frontier": measure_frontier,
    "scorers": measure_scorers,
    "learning": measure_learning,
    "scale": measure_scale,
    "planted": measure_planted,
    "drift": measure_drift,
    "interests": measure_interests,
}


DRAWN = {"scorers": drawn_ratings, "drift": drawn_shop}


def load(options: HSNNOptions) -> Interactions | None:
    """Read what --data names; without it draw, or mine library calls; None where a task draws."""
    if options.task in SIMULATED or (options.task == "learning" and options.data is None):
        return None
    if options.data is None and options.task in DRAWN:
        return DRAWN[options.task](seed=options.seed)
    return read_interactions(options.data)


@exit_on_input_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, report."""
    options, arguments = parse("hsnn", PRESETS, argv)
    check_keep(options.keep)
    mesh = make_mesh(select_devices(options.devices))
    interactions = load(options)
    if interactions is not None:
        print(interactions.summary())
    data = None if interactions is None else data_name(interactions)
    with open_run("hsnn", options, arguments=arguments, data=data) as run:
        outcome = TASKS[options.task](run, interactions, options, mesh)
        _report(run, outcome, options, mesh=mesh)


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
