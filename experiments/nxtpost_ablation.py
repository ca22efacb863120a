"""NxtPost's ablations: one choice at a time is changed from the default, all else the same.

    python -m experiments.nxtpost_ablation --data FOLDER --seeds 3
    python -m experiments.nxtpost_ablation --data FOLDER --axes losses,negatives

Each user's last `--held-out` events are test, as many before them validation. The next item is
ranked among all items; the paper's own metrics stand beside it: recall@10 within a batch of 128
users (against Wide & Deep, the paper's baseline) and KNN hits@10, for the next item and for the
next `--held-out`. The epoch is selected by validation NDCG@10 of the next item. Baselines and
variants are compared on the same test users.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh

import nxtpost_jax
from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, baseline_figures, ndcg_difference, pick
from experiments.harness.names import NAMES
from experiments.harness.options import check_least
from experiments.harness.plots import Draw, draw_points
from experiments.harness.report import Table, signed
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.loop.training import TrainResult
from experiments.studies.paper_metrics import K, paper_metrics, train_wide_deep
from experiments.tasks.next_item import (
    Problem,
    data_name,
    pose,
    read_interactions,
    score,
    score_baselines,
    sequences_of,
)
from experiments.tasks.nxtpost_training import SMOKE, TRAINED, NxtPostOptions, train_seeds
from nxtpost_jax import Metrics, NxtPost, NxtPostConfig

DEFAULT = "default"
MOST_ROWS = 14  # variants of one panel


class Change(NamedTuple):
    """What a variant changes; `needs` names the column of the data that it is about."""

    model: Mapping[str, Any] = {}
    objective: Mapping[str, Any] = {}
    needs: str | None = None
    without_content: bool = False


def _both(weight: float, m: int = 5, **model) -> Change:
    return Change(model, {"long_weight": weight, "num_labels": m})


# The pooling and the number of labels say nothing where no pooled vector is trained: there, all
# variants have both losses, as "short + 0.5 long" has with last states and five labels.
AXES: dict[str, dict[str, Change]] = {
    "losses": {
        "long": Change(objective={"short_weight": 0.0, "long_weight": 1.0, "num_labels": 5}),
        "short + 0.1 long": _both(0.1),
        "short + 0.5 long": _both(0.5),
        "short + long": _both(1.0),
    },
    "time": {
        "no time": Change({"time_features": False}),
        "time concatenated": Change({"time_concat": True}, needs="times"),
    },
    "relative": {
        "relative positions": Change({"relative_bias": "position"}),
        "relative times": Change({"relative_bias": "time"}, needs="times"),
        "relative both": Change({"relative_bias": "both"}, needs="times"),
    },
    "trends": {"trends": Change({"trends": True}, needs="times")},
    "actions": {"actions embedded": Change({"num_actions": "all"}, needs="actions")},
    "pooling": {
        "mean": _both(0.5, pooling="mean"),
        "attention": _both(0.5, pooling="attention"),
    },
    "labels": {f"m = {m}": _both(0.5, m) for m in (1, 2, 10)},
    "context": {f"{n} events": Change({"max_len": n}) for n in (10, 25, 50, 100)},
    "count": {f"{n} negatives": Change(objective={"num_negatives": n}) for n in (16, 64, 1024)},
    "negatives": {
        f"{kind}{', logQ' * logq}": Change(objective={"negatives": kind, "logq": logq})
        for kind in ("in_batch", "mixed")
        for logq in (False, True)
    },
    "softmax": {"full softmax": Change(objective={"loss": "full_softmax"})},
    "smoothing": {
        f"label smoothing {share}": Change(objective={"label_smoothing": share})
        for share in (0.05, 0.2)
    },
    "hidden": {f"event dropout {share}": Change({"event_dropout": share}) for share in (0.1, 0.3)},
    "content": {
        "content alone": Change({"id_embedding": False}, needs="content"),
        "id alone": Change(needs="content", without_content=True),
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation(NxtPostOptions):
    """Change one choice at a time."""

    optimizer: Literal["adamw", "shampoo"] = "shampoo"
    """who trains"""
    epochs: int = 60
    """passes over the training data at most"""
    patience: int = 5
    """evaluations in a row without a new best that end a training"""
    axes: str = ",".join(AXES)
    """what is changed, separated by commas"""
    held_out: int = 5
    """events of a user that are test, and as many before them validation"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, held_out=1)
        for axis in self.axes.split(","):
            if axis not in AXES:
                raise bad_input("--axes", expected=f"some of {', '.join(AXES)}", found=axis)


PRESETS = {
    "default": Ablation(),
    "smoke": Ablation(**SMOKE, axes="losses", held_out=1),
}


def variants_of(problem: Problem, options: Ablation) -> dict[str, tuple[str, Change]]:
    """List the variants that the data allows, as name: (axis, change); the default first.

    One that the options already choose (50 events with `--model.max-len 50`) is no variant.
    """
    train_part = problem.split.train
    has = {
        "times": train_part.times is not None,
        "actions": train_part.actions is not None,
        "content": problem.content is not None,
        None: True,
    }
    chosen = options.axes.split(",")

    def trained(change: Change):
        own, config, changed = apply(change, problem, options)
        return own.content is None, config, changed.objective

    default = trained(Change())
    return {DEFAULT: ("", Change())} | {
        name: (axis, change)
        for axis, changes in AXES.items()
        for name, change in changes.items()
        if axis in chosen and has[change.needs] and trained(change) != default
    }


def apply(
    change: Change, problem: Problem, options: Ablation
) -> tuple[Problem, NxtPostConfig, Ablation]:
    """Return the problem, the model's config and the options of a variant."""
    model = dict(change.model)
    if model.get("num_actions") == "all":
        actions = problem.split.train.actions
        model["num_actions"] = 0 if actions is None else int(actions.max()) + 1
    if change.without_content:
        problem = dataclasses.replace(problem, content=None)
    objective = dataclasses.replace(options.objective, **change.objective)
    config = dataclasses.replace(options.model, **model)
    return problem, config, dataclasses.replace(options, objective=objective)


class Ranked(NamedTuple):
    """A trained variant's test figures, one a seed."""

    metrics: list[Metrics]
    others: list[dict[str, float]]


def train_variant(
    run: Run, name: str, *, change: Change, problem: Problem, options: Ablation, mesh: Mesh
) -> tuple[Problem, list[tuple[NxtPost, TrainResult]]]:
    """Train a variant from every seed: its problem, and (model, result) a seed."""
    problem, config, changed = apply(change, problem, options)
    stage = name.replace(" ", "_").replace(",", "")
    how = {"optimizer": options.optimizer, "stage": stage, "mesh": mesh}
    trained = train_seeds(run, problem, config=config, options=changed, **how)
    return problem, trained


def rank_variant(
    problem: Problem,
    trained: Sequence[tuple[NxtPost, TrainResult]],
    *,
    labels_Qxm: np.ndarray,
    seed: int,
) -> Ranked:
    """Rank the test queries by what `train_variant` returned."""
    outcome = Ranked([], [])
    for model, result in trained:
        outcome.metrics.append(
            score(problem, model, params=result.params, queries=problem.split.test)
        )
        others = paper_metrics(
            problem, model, params=result.params, labels_Qxm=labels_Qxm, seed=seed
        )
        outcome.others.append(others | {"best epoch": float(result.best_epoch or 0)})
    return outcome


COLUMNS = (
    f"batch_recall@{K}",
    f"batch_recall@{K} of m",
    f"knn_hits@{K}",
    f"knn_hits@{K} of m",
    "best epoch",
)


def table_of(
    outcomes: Mapping[str, Ranked],
    axes: Mapping[str, str],
    *,
    baselines: Mapping[str, Metrics],
    others: Mapping[str, Mapping[str, float]],
) -> Table:
    """Lay the variants out: means over seeds, and what the change did to NDCG@10.

    Args:
      outcomes: by variant, the default among them.
      axes: the axis of each variant.
      baselines: ranked baselines, by name.
      others: the paper's metrics of those baselines that have them, by the name of their row.
    """
    default = outcomes[DEFAULT]

    def difference(outcome: Ranked) -> str:
        pairs = [ndcg_difference(a, b) for a, b in zip(outcome.metrics, default.metrics)]
        mean = float(np.mean([d for d, _ in pairs]))
        # The same users in every seed: their error does not shrink with the number of seeds.
        return signed(mean, float(np.mean([e for _, e in pairs])))

    def row(name: str, outcome: Ranked) -> list:
        ranked = [float(np.mean([m[f] for m in outcome.metrics])) for f in ("hr@10", "ndcg@10")]
        others = [float(np.mean([o[c] for o in outcome.others])) for c in COLUMNS]
        own = None if name == DEFAULT else difference(outcome)
        return [axes[name], name, *ranked, own, *others]

    def baseline(name: str) -> list:
        ranked = [baselines[name][f] if name in baselines else None for f in ("hr@10", "ndcg@10")]
        own = [others.get(name, {}).get(column) for column in COLUMNS]
        return ["baseline", NAMES[name], *ranked, None, *own]

    return Table(
        title="One choice at a time",
        columns=("axis", "variant", "HR@10", "NDCG@10", "against the default", *COLUMNS),
        baselines=[baseline(name) for name in (*baselines, *others)],
        rows=[row(name, outcome) for name, outcome in outcomes.items()],
        note="Means over seeds. The difference is of NDCG@10, paired by user; its standard error "
        "is over users.",
    )


def against_default(outcomes: Mapping[str, Ranked]) -> dict[str, float]:
    """Return each variant's difference in NDCG@10 by seed, with its paired standard error."""
    default = outcomes[DEFAULT].metrics
    figures = {}
    for name, outcome in outcomes.items():
        pairs = [ndcg_difference(a, b) for a, b in zip(outcome.metrics, default)]
        if name != DEFAULT:
            figures |= {f"{name}/{i}/above_default": d for i, (d, _) in enumerate(pairs)}
            figures[f"{name}/above_default_se"] = float(np.mean([e for _, e in pairs]))
    return figures


def variant_panels(figures: Figures) -> list[Draw]:
    """Draw each variant's difference to the default in NDCG@10, a dot per seed and the mean."""
    rows = {name: own for (name,), own in pick(figures, r"(.+)/\d+/above_default").items()}
    errors = {name: own[0] for (name,), own in pick(figures, r"(.+)/above_default_se").items()}
    label = "NDCG@10 minus the default's\n(line: two standard errors)"
    names = list(rows)
    half = (len(names) + 1) // 2 if len(names) > MOST_ROWS else max(1, len(names))
    draw = functools.partial(
        draw_points, errors={n: 2 * e for n, e in errors.items()}, label=label, reference=0.0
    )
    return [
        functools.partial(draw, rows={name: rows[name] for name in part})
        for part in (names[:half], names[half:])
        if part
    ]


def pose_ablation(options: Ablation) -> Posed:
    """Read the interactions, split them, and note what follows each test history."""
    interactions = read_interactions(options.data, columns=options.columns)
    posed = {"content_dim": options.content_dim, "seed": options.seed}
    problem = pose(interactions, held_out=options.held_out, **posed)
    sequences = sequences_of(interactions)
    labels = nxtpost_jax.following(sequences, problem.split.test, m=options.held_out)
    return Posed((problem, labels), data_name(interactions))


def measure(setting: Setting[Ablation]) -> Outcome:
    """Train every variant, test."""
    run, options, (problem, labels) = setting.run, setting.options, setting.inputs
    variants = variants_of(problem, options)
    trained = {
        name: train_variant(
            run, name, change=change, problem=problem, options=options, mesh=setting.mesh
        )
        for name, (_, change) in variants.items()
    }
    setting.look_at_test(TRAINED)
    outcomes = {
        name: rank_variant(*parts, labels_Qxm=labels, seed=options.seed)
        for name, parts in trained.items()
    }
    baselines = score_baselines(problem, problem.split.test, max_len=options.model.max_len)
    others = {
        "wide_deep": train_wide_deep(
            run, problem, labels_Qxm=labels, options=options, mesh=setting.mesh
        ),
    }
    figures = {
        f"{name}/{seed}/{figure}": value
        for name, outcome in outcomes.items()
        for seed, metrics, own in zip(options.all_seeds, *outcome)
        for figure, value in (metrics.values | own).items()
    }
    flat = {f"{n}/{f}": v for n, values in others.items() for f, v in values.items()}
    axes = {name: axis for name, (axis, _) in variants.items()}
    return Outcome(
        title=f"NxtPost's ablations on {problem.protocol.data}",
        intro=f"Trained by {options.optimizer}; m is {options.held_out} in the metrics. "
        f"{problem.protocol.describe()}",
        protocol=problem.protocol.asdict(),
        metrics=figures | against_default(outcomes),
        baselines=baseline_figures(baselines) | flat,
        tables=[table_of(outcomes, axes, baselines=baselines, others=others)],
        found=found(outcomes),
    )


def found(outcomes: Mapping[str, Ranked]) -> str:
    """Name the best variant by NDCG@10."""
    means = {n: float(np.mean([m["ndcg@10"] for m in o.metrics])) for n, o in outcomes.items()}
    best = max(means, key=means.__getitem__)
    return (
        f"The best of {len(means)} variants is '{best}' with an NDCG@10 of {means[best]:.4f}; the "
        f"default has {means[DEFAULT]:.4f}."
    )


STUDY = Study(
    name="nxtpost_ablation",
    about="NxtPost with one choice changed at a time",
    minutes=60,
    claim="No single change of the default raises NDCG@10 by more than two standard errors.",
    presets=PRESETS,
    claim_panels=variant_panels,
    pose=pose_ablation,
    measure=measure,
)
main = STUDY.main

if __name__ == "__main__":
    main()
