"""The report of the whole path: tables, plots, summary."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from experiments.harness.figures import Figures, pick, with_errors
from experiments.harness.names import NAMES
from experiments.harness.plots import Draw, draw_bars, draw_curves, draw_recall, read_curves
from experiments.harness.report import Table, signed
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.loop.training import TrainResult
from experiments.retrieval.towers import Retrieved
from experiments.studies.optimizer_race import best_validation, first_at, training_table
from experiments.tasks.next_item import Problem
from nxtpost_jax import Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Searched:
    """One scorer's searches; `curve` is (items scored, recall of the exact top 10)."""

    name: str
    exact: Retrieved
    indexed: Retrieved
    budget: int
    curve: Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Tested:
    """Everything that was measured on the test split, and the training behind it.

    `searches` are of the scorers "dot", Shampoo's model, and "monn". `over_markov` is the
    difference in NDCG@10 of Shampoo's model, `over_dot` that of the MoNN's exact search, each
    with its paired standard error.
    """

    baselines: Mapping[str, Metrics]
    models: Mapping[str, Metrics]
    training: Mapping[str, TrainResult]
    searches: Mapping[str, Searched]
    over_markov: tuple[float, float]
    over_dot: tuple[float, float]


def _ranking_row(name: str, metrics: Metrics) -> list:
    return [
        name,
        metrics["hr@10"],
        metrics["ndcg@10"],
        metrics.standard_errors["ndcg@10"],
        *[None] * 6,
    ]


def _search_row(name: str, found: Retrieved) -> list:
    cost = (found.recall, found.items_scored, found.flops)
    cost += (found.queries_per_second, found.p50_ms, found.p99_ms)
    return [*_ranking_row(name, found.metrics)[:4], *cost]


def verdict_on_markov(difference: float, error: float) -> str:
    """Say how NxtPost stands beside the Markov baseline, also where they cannot be told apart."""
    figures = f"NxtPost by Shampoo - Markov = {difference:+.4f} NDCG@10, standard error {error:.4f}"
    if abs(difference) <= error:
        return f"{figures}: Markov is within one standard error."
    return f"{figures}."


def results_table(problem: Problem, tested: Tested) -> Table:
    """Put baselines, models and searches of the test split together."""
    rows = [_ranking_row(NAMES[stage], metrics) for stage, metrics in tested.models.items()]
    for found in tested.searches.values():
        rows.append(_search_row(f"  {found.name}, exact search", found.exact))
        rows.append(_search_row(f"  {found.name}, HSNN index", found.indexed))
    budgets = " and ".join(str(found.budget) for found in tested.searches.values())
    notes = [
        verdict_on_markov(*tested.over_markov),
        "MoNN - dot = {:+.4f} NDCG@10, standard error {:.4f}.".format(*tested.over_dot),
        "dot and MoNN search by the vectors of NxtPost, Shampoo.",
        f"Budgets {budgets} of {problem.num_items} items, chosen on validation.",
        "p50 and p99: one warm request from history to ids.",
        *([problem.protocol.notes] if problem.protocol.notes else []),
    ]
    return Table(
        title=f"{problem.protocol.data}: test, all {problem.num_items:,} items ranked",
        columns=(
            "model",
            "HR@10",
            "NDCG@10",
            "±",
            "recall of exact 10",
            "items scored",
            "FLOPs",
            "queries/s",
            "p50 ms",
            "p99 ms",
        ),
        baselines=[_ranking_row(NAMES[name], m) for name, m in tested.baselines.items()],
        rows=rows,
        note=" ".join(notes),
    )


def _search_figures(name: str, found: Retrieved) -> dict[str, float]:
    return {
        f"{name}/hr@10": found.metrics["hr@10"],
        f"{name}/ndcg@10": found.metrics["ndcg@10"],
        f"{name}/ndcg@10_se": found.metrics.standard_errors["ndcg@10"],
        f"{name}/recall@10": found.recall,
        f"{name}/items_scored": found.items_scored,
        f"{name}/flops": found.flops,
        f"{name}/queries_per_second": found.queries_per_second,
        f"{name}/p50_ms": found.p50_ms,
        f"{name}/p99_ms": found.p99_ms,
    }


def _all_search_figures(searches: Mapping[str, Searched]) -> dict[str, float]:
    figures = {}
    for scorer, found in searches.items():
        prefix = "" if scorer == "dot" else f"{scorer}/"
        figures |= _search_figures(f"{prefix}exact", found.exact)
        figures |= _search_figures(f"{prefix}index", found.indexed)
        figures[f"{prefix}budget"] = found.budget
    return figures


def _ranking_figures(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    return {f"{name}/{f}": v for name, m in metrics.items() for f, v in with_errors(m).items()}


def _training_figures(training: Mapping[str, TrainResult]) -> dict[str, float | None]:
    target = best_validation(training["adamw"])
    figures: dict[str, float | None] = {}
    for stage, result in training.items():
        reached = first_at(result, target=target) or {}
        figures |= {
            f"{stage}/validation_ndcg@10": best_validation(result),
            f"{stage}/steps_to_adamw_best": reached.get("step"),
            f"{stage}/seconds_to_adamw_best": reached.get("seconds"),
            f"{stage}/steps": result.steps,
            f"{stage}/seconds": result.seconds,
        }
    return figures


def figures_of(problem: Problem, tested: Tested) -> tuple[dict, dict]:
    """Return the flat metrics and baselines of summary.json."""
    ranked = _ranking_figures(tested.models)
    headline = {k.removeprefix("shampoo/"): v for k, v in ranked.items() if "shampoo/" in k}
    others = {k: v for k, v in ranked.items() if "shampoo/" not in k}
    metrics = {
        **headline,
        **others,
        **_all_search_figures(tested.searches),
        **_training_figures(tested.training),
        "over_markov/ndcg@10": tested.over_markov[0],
        "over_markov/ndcg@10_se": tested.over_markov[1],
        "monn_over_dot/ndcg@10": tested.over_dot[0],
        "monn_over_dot/ndcg@10_se": tested.over_dot[1],
        "items": problem.num_items,
    }
    return metrics, _ranking_figures(tested.baselines)


def path_panels(figures: Figures) -> list[Draw]:
    """Draw the test NDCG@10 of all that answers, and how many items the searches read."""
    # The headline's figures, those of Shampoo's model, are named by themselves.
    values = {n or "shampoo": v[0] for (n,), v in pick(figures, "(?:(.+)/)?ndcg@10").items()}
    errors = {n or "shampoo": v[0] for (n,), v in pick(figures, "(?:(.+)/)?ndcg@10_se").items()}
    scored = pick(figures, "(.+)/items_scored")
    bars = {NAMES[n]: (values[n], errors[n]) for n in NAMES if n in values}
    reads = {}
    for scorer, prefix in (("dot", ""), ("MoNN", "monn/")):
        for search, how in (("exact", "exact search"), ("index", "HSNN index")):
            key, name = f"{prefix}{search}", f"{scorer}, {how}"
            bars[name] = (values[key], errors.get(key, 0.0))
            reads[name] = scored[(key,)]
    label = "test NDCG@10, all items ranked\n(line: standard error over users)"
    return [
        functools.partial(draw_bars, bars=bars, label=label, title="The next item"),
        functools.partial(draw_bars, bars=reads, label="items scored per query", title="The cost"),
    ]


def found(tested: Tested) -> str:
    """Say what the run shows, in two sentences."""
    dot, monn = tested.searches["dot"], tested.searches["monn"]
    return (
        f"NxtPost by Shampoo has an NDCG@10 of {tested.models['shampoo']['ndcg@10']:.4f}, the best "
        f"baseline {max(m['ndcg@10'] for m in tested.baselines.values()):.4f}. The MoNN over its "
        f"vectors adds {signed(*tested.over_dot)}; through the index it reads "
        f"{monn.indexed.items_scored:,.0f} items of {dot.exact.items_scored:,.0f} per query."
    )


def report_of(run: Run, problem: Problem, *, tested: Tested, digits: Outcome) -> Outcome:
    """Join the whole path's figures, tables and plots; `digits` is the optimizers' part."""
    metrics, baselines = figures_of(problem, tested)
    lines = read_curves(run.folder)
    stages = {NAMES[stage]: lines[stage] for stage in tested.models}
    draw = functools.partial(draw_curves, curves=stages, against="step", metric="ndcg@10")
    recall = {f"{each.name}, HSNN index": each.curve for each in tested.searches.values()}
    return Outcome(
        title="From interactions to retrieved items",
        intro=problem.protocol.describe(),
        protocol=problem.protocol.asdict(),
        metrics=metrics | {f"digits/{k}": v for k, v in digits.metrics.items()},
        baselines=baselines | {f"digits/{k}": v for k, v in digits.baselines.items()},
        tables=[
            *digits.tables,
            training_table({stage: [result] for stage, result in tested.training.items()}),
            results_table(problem, tested),
        ],
        panels=[
            functools.partial(draw, label="validation NDCG@10"),
            functools.partial(draw_recall, curves=recall, n_items=problem.num_items),
        ],
        found=found(tested),
    )
