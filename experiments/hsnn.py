"""HSNN measured: the paper's tables, cost against recall, scorers, learning, scale, drift.

    python -m experiments.hsnn frontier --data FOLDER    # ids in, cost against recall out
    python -m experiments.hsnn scorers --data FOLDER     # rated events
    python -m experiments.hsnn tables --data FOLDER      # events in an order; else drawn
    python -m experiments.hsnn learning --data FOLDER    # ids; a planted tree without data
    python -m experiments.hsnn drift --data FOLDER       # events with times and texts
    python -m experiments.hsnn scale                     # drawn; estimate, planted, interests too
    python -m experiments.hsnn TASK --preset smoke       # small, no download
    python -m experiments.hsnn TASK --help               # the options of a task

`--task TASK` says the same as TASK. A run folder is left behind with metrics, checkpoints,
summary.json and report.md. `--resume` continues a stopped one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.data.drawn import drawn_ratings, drawn_shop
from experiments.data.interactions import Interactions
from experiments.data.user_features import read_user_features
from experiments.harness.options import Options
from experiments.harness.remembered import remember
from experiments.harness.study import Outcome, Posed, Setting, Study, over_seeds
from experiments.harness.task_choice import run_task
from experiments.retrieval.graph_training import train_towers
from experiments.studies import frontier_points
from experiments.studies.collapse import collapse_panels, run_planted
from experiments.studies.drift import above_panels, run_drift
from experiments.studies.estimate import run_estimate
from experiments.studies.frontier import frontier_outcome, run_frontier
from experiments.studies.frontier_panels import frontier_panels
from experiments.studies.interests import run_interests
from experiments.studies.kept_panels import kept_panels
from experiments.studies.learning import (
    learning_panels,
    planted_task,
    run_learning,
    towers_task,
)
from experiments.studies.options import (
    PUBLIC,
    SMOKE,
    Drift,
    Estimate,
    Frontier,
    Interests,
    Learning,
    Planted,
    Scale,
    Scorers,
    Tables,
)
from experiments.studies.scale import run_scale, size_panels
from experiments.studies.scorers import run_scorers, scorer_panels
from experiments.studies.tables.command import gain_panels
from experiments.studies.tables.posed import measure_tables, pose_tables
from experiments.tasks.next_item import data_name, read_interactions
from experiments.tasks.pairs import pose_pairs
from experiments.tasks.rated_events import make_examples

CHOSEN = "everything trained and chosen"  # why the test split is looked at


def measure_frontier(setting: Setting[Frontier]) -> Outcome:
    """Measure cost against recall from every seed."""
    run, options = setting.run, setting.options

    def measure(seed: int) -> Outcome:
        problem = pose_pairs(setting.inputs, seed=seed)

        def search() -> dict[str, np.ndarray]:
            return run_frontier(
                run,
                problem,
                monn=options.monn,
                config=options.frontier,
                seed=seed,
                faiss=options.faiss,
                mesh=setting.mesh,
                before_test=lambda: setting.look_at_test(f"seed {seed}, {CHOSEN}"),
            ).arrays()

        measured = remember(run, f"frontier-{seed}", measure=search)
        return frontier_outcome(problem, frontier_points.Frontier.of(measured), seed=seed)

    return over_seeds({seed: measure(seed) for seed in options.all_seeds})


def measure_scorers(setting: Setting[Scorers]) -> Outcome:
    """Compare scorers; all seeds together."""
    options, interactions = setting.options, setting.inputs
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
        setting.run,
        make_examples(interactions, demographics),
        config=options.scorers,
        routes=options.routes,
        protocol=protocol,
        seeds=options.all_seeds,
        mesh=setting.mesh,
        before_test=lambda: setting.look_at_test(CHOSEN),
    )


def measure_learning(setting: Setting[Learning]) -> Outcome:
    """Learn indexes: over towers of ids, trained once, or over a planted tree per seed."""
    run, options = setting.run, setting.options
    if setting.inputs is None:
        protocol = {"data": "simulated planted tree"}
        make_task = functools.partial(planted_task, config=options.learning)
    else:
        problem = pose_pairs(setting.inputs, seed=options.seed)
        protocol = problem.protocol
        towers = train_towers(
            run,
            problem,
            config=options.graph,
            stage="towers",
            seed=options.seed,
            mesh=setting.mesh,
        )
        make_task = functools.partial(
            towers_task, problem=problem, towers=towers, config=options.learning
        )
        setting.look_at_test("index learning over trained towers")
    return run_learning(
        run,
        make_task,
        config=options.learning,
        protocol=protocol,
        seeds=options.all_seeds,
    )


def measure_planted(setting: Setting[Planted]) -> Outcome:
    """Find a planted tree."""
    options = setting.options
    return run_planted(setting.run, options.planted, seeds=options.all_seeds)


def measure_drift(setting: Setting[Drift]) -> Outcome:
    """Serve day by day, on one device."""
    return run_drift(
        setting.run,
        setting.inputs,
        config=setting.options.drift,
        seeds=setting.options.all_seeds,
        before_test=lambda: setting.look_at_test("days of serving"),
    )


def measure_scale(setting: Setting[Scale]) -> Outcome:
    """Search catalogues of growing size, on one device."""
    options = setting.options
    seeds = options.all_seeds
    return run_scale(setting.run, options.scale, seeds=seeds, faiss=options.faiss)


def measure_estimate(setting: Setting[Estimate]) -> Outcome:
    """Hold estimates of recall against the truth, on one device."""
    options = setting.options
    return run_estimate(setting.run, options.estimate, seeds=options.all_seeds)


def measure_interests(setting: Setting[Interests]) -> Outcome:
    """Search for users of several interests; all seeds together."""
    options = setting.options
    return run_interests(
        setting.run,
        options.interests,
        routes=options.routes,
        seeds=options.all_seeds,
        mesh=setting.mesh,
    )


def pose_drawn(options: Any, *, drawn: Callable[..., Interactions] | None) -> Posed:
    """Read what --data names; without it draw, or mine library calls where nothing is drawn."""
    if options.data is None and drawn is not None:
        interactions = drawn(seed=options.seed)
    else:
        interactions = read_interactions(options.data, columns=options.columns)
    print(interactions.summary())
    return Posed(interactions, data_name(interactions))


def pose_learning(options: Learning) -> Posed:
    """Read what --data names; a planted tree is drawn where nothing is."""
    return Posed() if options.data is None else pose_drawn(options, drawn=None)


def study_of(task: str, options: Options, **what: Any) -> Study:
    """Name a task's study and give it its presets."""
    public = {"public": PUBLIC[task]} if task in PUBLIC else {}
    presets = {"default": options, **public, "smoke": SMOKE[task]}
    return Study(name=f"hsnn {task}", presets=presets, **what)


STUDIES = {
    "frontier": study_of(
        "frontier",
        Frontier(),
        about="cost against recall of HSNN and its rivals, on ids",
        minutes=30,
        claim="At equal recall of the exact answer HSNN scores fewer items than other indexes.",
        pose=functools.partial(pose_drawn, drawn=None),
        claim_panels=frontier_panels,
        measure=measure_frontier,
    ),
    "scorers": study_of(
        "scorers",
        Scorers(),
        about="two tower and MoNNs, and what a search keeps of them",
        minutes=60,
        claim="MoNNs find more of what users like than a two tower on the same features, and the "
        "index keeps most of that gain at a tenth of the operations.",
        pose=functools.partial(pose_drawn, drawn=drawn_ratings),
        claim_panels=scorer_panels,
        measure=measure_scorers,
    ),
    "tables": study_of(
        "tables",
        Tables(),
        about="the paper's tables beside fair rivals",
        minutes=60,
        claim="HSNN keeps most of what the largest MoNN finds beyond the two tower, at a fraction "
        "of its operations, and more than its rivals do at equal cost.",
        pose=pose_tables,
        claim_panels=gain_panels,
        measure=measure_tables,
    ),
    "learning": study_of(
        "learning",
        Learning(),
        about="index and towers learned jointly or apart",
        minutes=4,
        claim="An index that is learned jointly with its towers keeps more of the exact answer "
        "than k-means on finished ones.",
        pose=pose_learning,
        claim_panels=learning_panels,
        measure=measure_learning,
    ),
    "scale": study_of(
        "scale",
        Scale(),
        about="operations, speed and memory by the catalogue's size",
        minutes=15,
        claim="The arithmetic of a query grows as the square root of the catalogue.",
        claim_panels=size_panels,
        measure=measure_scale,
    ),
    "estimate": study_of(
        "estimate",
        Estimate(),
        about="recall as an answer estimates it",
        minutes=8,
        claim="An answer's estimate of its recall is true within .05, through filters, drift and "
        "shifted queries, and a search that stops by it leaves fewer users below .9.",
        measure=measure_estimate,
    ),
    "planted": study_of(
        "planted",
        Planted(),
        about="a simulated tree: is it found, what cures collapse",
        minutes=2,
        claim="The learned nodes are the planted ones, and collapsed nodes come back.",
        claim_panels=collapse_panels,
        measure=measure_planted,
    ),
    "drift": study_of(
        "drift",
        Drift(),
        about="days of serving: the index kept, or learned anew",
        minutes=2,
        claim="An index that only takes new items in stays as good as one learned anew each day.",
        pose=functools.partial(pose_drawn, drawn=drawn_shop),
        claim_panels=above_panels,
        measure=measure_drift,
    ),
    "interests": study_of(
        "interests",
        Interests(),
        about="users of several interests (simulated)",
        minutes=4,
        claim="A MoNN finds what users of several interests like, and the index keeps most of it.",
        claim_panels=kept_panels,
        measure=measure_interests,
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study of a task; without one, --help lists them."""
    run_task(argv, STUDIES, command="hsnn", about=__doc__ or "")


if __name__ == "__main__":
    main()
