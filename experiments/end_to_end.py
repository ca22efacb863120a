"""The whole path: interaction files in, retrieved items out, every step measured.

    python -m experiments.end_to_end                      # library calls: minutes on 2 CPU cores
    python -m experiments.end_to_end --data FOLDER        # any format of docs/data.md

1. Shampoo against AdamW on scikit-learn's digits.
2. Interactions -> content embeddings -> NxtPost towers by AdamW and by sharded Shampoo at the same
   budget -> HSNN index over the item tower, a MoNN over both towers' vectors and the items that
   follow those of the history, both by sharded Shampoo -> answers of the inner product and of the
   MoNN, ranked among all items.

A run folder is left behind with metrics, checkpoints, summary.json and report.md. `--resume`
continues a stopped one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

import nxtpost_jax
import shampoo_jax
from experiments import digits
from experiments.data.datasets import read
from experiments.data.download import download
from experiments.data.interactions import Interactions
from experiments.harness.errors import InputError, bad_input
from experiments.harness.figures import ndcg_difference
from experiments.harness.options import (
    OneSeed,
    WithEvents,
    WithLayout,
    check_above_zero,
    check_least,
)
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.loop.training import TrainResult
from experiments.retrieval import towers as retrieval
from experiments.retrieval.nodes import lti_config
from experiments.retrieval.residual_monn import MoNNTraining
from experiments.retrieval.searchers import dot_model
from experiments.retrieval.towers import Asked, Searches, Towers
from experiments.studies.handover import example_lines, hand_over, how_to_load
from experiments.studies.path_report import Searched, Tested, path_panels, report_of
from experiments.studies.recipes import Recipe, choose_recipe, optimizers
from experiments.tasks.next_item import (
    Problem,
    data_name,
    pose,
    read_interactions,
    score,
    score_baselines,
    train_nxtpost,
)
from nxtpost_jax import NxtPost, NxtPostConfig, Objective, Queries
from shampoo_jax import Blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndToEnd(OneSeed, WithEvents, WithLayout):
    """Train NxtPost by AdamW and by Shampoo, index its items by HSNN, measure the answers."""

    download: Literal["ml-1m"] | None = None
    """fetch this data set from its publisher, check it, and use it"""
    epochs: int | None = None
    """passes over the training data (default: by the length of the users)"""
    max_len: int | None = None
    """events of a history that the model reads (default: by the length of the users)"""
    dropout: float | None = None
    """dropout rate (default: by the length of the users)"""
    adamw_rate: float | None = None
    """peak learning rate of AdamW (default: chosen on validation, see RECIPES)"""
    shampoo_rate: float | None = None
    """peak learning rate of Shampoo (default: chosen on validation, see RECIPES)"""
    evaluate_every: int | None = None
    """epochs between evaluations of the validation split"""
    batch_size: int | None = None
    """histories a step (default: by the length of the users)"""
    d_model: int = 64
    """width of both towers"""
    d_ff: int = 64
    """hidden width of a block's feed-forward layer"""
    block: Literal["transformer", "gated"] = "transformer"
    """kind of block of the user tower"""
    content_dim: int = 128
    """features of the text embeddings"""
    num_negatives: int = 256
    """uniform negatives that a step shares"""
    nodes: int = 128
    """nodes of the index"""
    index_steps: int = 500
    """steps of learning the index"""
    index_rate: float = 1e-3
    """learning rate of the index"""
    monn: Literal["XS", "S", "M", "L"] = "S"
    """size of the MoNN over the towers' vectors"""
    monn_steps: int | None = None
    """training steps of the MoNN (default: by the length of the users)"""
    monn_rate: float = 1e-2
    """learning rate of the MoNN"""
    digits_epochs: int = digits.PRESETS["default"].epochs
    """evaluations of the digits part, four steps apart"""
    digits_seeds: int = digits.PRESETS["default"].seeds
    """seeds of the digits part"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.download and self.data:
            raise InputError("--data and --download: expected one of them, found both")
        counts = [
            field.name
            for field in dataclasses.fields(self)
            if field.name != "seed" and type(getattr(self, field.name)) is int
        ]
        check_least(self, **dict.fromkeys(counts, 1))
        check_above_zero(self, "adamw_rate", "shampoo_rate", "index_rate", "monn_rate")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise bad_input("--dropout", expected="a rate in [0, 1)", found=str(self.dropout))


PRESETS = {
    "default": EndToEnd(),
    "smoke": EndToEnd(
        epochs=1,
        max_len=20,
        evaluate_every=1,
        d_model=32,
        d_ff=32,
        nodes=32,
        index_steps=20,
        monn="XS",
        monn_steps=20,
        digits_epochs=4,
        digits_seeds=1,
    ),
}


PAIRS = 200_000  # training positions that nodes and MoNN learn from


def load(options: EndToEnd) -> Interactions:
    """Read what --data names, or fetch what --download names, or mine library calls."""
    if options.download:
        return read(download(options.download, Path("runs") / "data" / options.download))
    return read_interactions(options.data, columns=options.columns)


def model_config(options: EndToEnd, recipe: Recipe, *, ids: bool) -> NxtPostConfig:
    """Configure the towers; `ids` joins learned vectors to the content."""
    return NxtPostConfig(
        d_model=options.d_model,
        d_ff=options.d_ff,
        block=options.block,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        id_embedding=ids,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """One stage of training."""

    model: NxtPost
    result: TrainResult


def train_all(
    run: Run, problem: Problem, recipe: Recipe, options: EndToEnd, *, mesh: Mesh
) -> dict[str, Trained]:
    """Train by AdamW, by Shampoo, and by Shampoo without ids."""
    rows = {"max_len": recipe.max_len, "batch_size": recipe.batch_size}
    steps = recipe.epochs * nxtpost_jax.steps_per_epoch(problem.split.train, **rows)
    make = optimizers(recipe, steps=steps)
    stages = {"adamw": ("adamw", True), "shampoo": ("shampoo", True)}
    if problem.content is not None:
        stages["content_only"] = ("shampoo", False)
    return {
        stage: Trained(
            *train_nxtpost(
                run,
                problem,
                config=model_config(options, recipe, ids=ids),
                stage=stage,
                tx=make[optimizer],
                epochs=recipe.epochs,
                batch_size=recipe.batch_size,
                objective=Objective(num_negatives=options.num_negatives),
                evaluate_every=recipe.evaluate_every,
                seed=options.seed,
                mesh=mesh,
            )
        )
        for stage, (optimizer, ids) in stages.items()
    }


def search_by_both(
    run: Run,
    problem: Problem,
    towers: Towers,
    validation: Asked,
    recipe: Recipe,
    options: EndToEnd,
    *,
    mesh: Mesh,
) -> dict[str, Searches]:
    """Learn nodes, and a MoNN over the towers, by sharded Shampoo: the searches of both scorers."""
    pairs = retrieval.training_pairs(problem, towers, most=PAIRS, seed=options.seed)
    nodes = min(options.nodes, problem.num_items // 4)
    config = lti_config(nodes=nodes, steps=options.index_steps)
    seeded = {"seed": options.seed, "mesh": mesh}
    index_tx = shampoo_jax.shampoo(options.index_rate, blocks=Blocks(block_size=256))
    nodes = retrieval.learn_nodes(
        run, pairs, item_vectors=towers.item_vectors, config=config, tx=index_tx, **seeded
    )
    monn = retrieval.train_monn(
        run,
        problem,
        pairs=pairs,
        towers=towers,
        asked=validation,
        config=MoNNTraining(
            sizes=(options.monn,),
            steps=recipe.monn_steps,
            evaluate_every=max(1, recipe.monn_steps // 10),
            rate=options.monn_rate,
        ),
        tx=shampoo_jax.shampoo(options.monn_rate),
        **seeded,
    )
    dot = dot_model(towers.item_vectors)
    return {
        name: retrieval.make_searches(model, towers.item_vectors, nodes=nodes, router=dot)
        for name, model in (("dot", dot), ("monn", monn))
    }


def evaluate_test(
    problem: Problem,
    trained: Mapping[str, Trained],
    towers: Towers,
    searches: Mapping[str, Searches],
    budgets: Mapping[str, int],
    *,
    max_len: int,
) -> Tested:
    """Look at the test split once: baselines, trained models, exact and indexed search."""
    queries = problem.split.test
    baselines = score_baselines(problem, queries, max_len=max_len)
    models = {
        stage: score(problem, t.model, params=t.result.params, queries=queries)
        for stage, t in trained.items()
    }
    asked = retrieval.make_asked(problem, towers, queries=queries)
    found = {
        name: search_test(problem, towers, both, queries=queries, asked=asked, budget=budgets[name])
        for name, both in searches.items()
    }
    return Tested(
        baselines=baselines,
        models=models,
        training={stage: t.result for stage, t in trained.items()},
        searches=found,
        over_markov=ndcg_difference(models["shampoo"], baselines["markov"]),
        over_dot=ndcg_difference(found["monn"].exact.metrics, found["dot"].exact.metrics),
    )


def search_test(
    problem: Problem, towers: Towers, both: Searches, *, queries: Queries, asked: Asked, budget: int
) -> Searched:
    """Search the test queries by one scorer, exactly and through the index."""
    exact = both.exact.search(asked.requests, retrieval.K, budget=0)
    measure = functools.partial(
        retrieval.measure, problem, towers, queries=queries, asked=asked, exact=exact, budget=budget
    )
    return Searched(
        name=both.exact.model.name,
        exact=measure(searcher=both.exact),
        indexed=measure(searcher=both.indexed),
        budget=budget,
        curve=both.recall_curve(asked, exact),
    )


def run_path(
    setting: Setting[EndToEnd], problem: Problem, recipe: Recipe
) -> tuple[Tested, NxtPost, Any]:
    """Train, index and evaluate; the model by Shampoo and its parameters come too."""
    run, options, mesh = setting.run, setting.options, setting.mesh
    trained = train_all(run, problem, recipe, options, mesh=mesh)
    best = trained["shampoo"]
    towers = retrieval.encode_towers(problem, best.model, params=jax.device_get(best.result.params))
    validation = retrieval.make_asked(problem, towers, queries=problem.split.validation)
    searches = search_by_both(run, problem, towers, validation, recipe, options, mesh=mesh)
    budgets = {name: both.choose_budget(validation) for name, both in searches.items()}
    setting.look_at_test("everything trained and chosen")
    tested = evaluate_test(problem, trained, towers, searches, budgets, max_len=recipe.max_len)
    return tested, best.model, best.result.params


def run_digits(setting: Setting[EndToEnd]) -> Outcome:
    """Compare the optimizers on digits."""
    own = setting.options
    options = digits.Digits(
        seed=own.seed, seeds=own.digits_seeds, epochs=own.digits_epochs, keep=own.keep
    )
    return digits.measure(Setting(setting.run, options, setting.mesh, None))


def pose_path(options: EndToEnd) -> Posed[EndToEnd]:
    """Read the interactions, split them, and fill in what depends on them."""
    interactions = load(options)
    print(interactions.summary())
    problem = pose(interactions, content_dim=options.content_dim, seed=options.seed)
    print(f"protocol: {problem.protocol.describe()}")
    recipe = choose_recipe(options, problem)
    completed = dataclasses.replace(options, **dataclasses.asdict(recipe))
    return Posed((problem, recipe, interactions), data_name(interactions), completed)


def measure(setting: Setting[EndToEnd]) -> Outcome:
    """Run the whole path, and leave its recommender behind."""
    problem, recipe, interactions = setting.inputs
    digit_part = run_digits(setting)
    tested, model, params = run_path(setting, problem, recipe)
    recommender = hand_over(setting.run, problem, interactions, model=model, params=params)
    lines = example_lines(recommender, problem, interactions, seed=setting.options.seed)
    return dataclasses.replace(
        report_of(setting.run, problem, tested=tested, digits=digit_part),
        examples=["", "Recommended to users of the test split:", *lines, ""],
        usage=how_to_load(setting.run),
    )


STUDY = Study(
    name="end_to_end",
    about="the whole path, interactions to answers (`make run`)",
    minutes=4,
    claim="Towers, index and scorer trained by sharded Shampoo answer better than the baselines, "
    "and read a fraction of the items.",
    presets=PRESETS,
    claim_panels=path_panels,
    pose=pose_path,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
