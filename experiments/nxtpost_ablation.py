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

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from matplotlib.axes import Axes

import nxtpost_jax
from experiments.harness.errors import bad_input, exit_on_input_error
from experiments.harness.options import parse, select_devices
from experiments.harness.report import Table, print_table, signed, write_report
from experiments.harness.results import check_keep, finish, log_test_evaluation
from experiments.harness.run_folder import Run, open_run
from experiments.loop.sharding import make_mesh
from experiments.loop.training import train
from experiments.nxtpost import SMOKE, TRAINED, NxtPostOptions, train_seeds
from experiments.retrieval.towers import encode_towers
from experiments.studies.path_report import NAMES
from experiments.tasks.next_item import (
    Problem,
    baseline_figures,
    data_name,
    ndcg_difference,
    pose,
    read_interactions,
    score,
    score_baselines,
    sequences_of,
)
from nxtpost_jax import Metrics, NxtPost
from nxtpost_jax.evaluation import wide_deep
from nxtpost_jax.evaluation.batch_metrics import batch_ranks, knn_hits

K = 10
BATCH = 128  # users that batch recall ranks against each other
DEFAULT = "default"
WIDE_DEEP_EPOCHS = 20


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
    axes: str = ",".join(AXES)
    """what is changed, separated by commas"""
    held_out: int = 5
    """events of a user that are test, and as many before them validation"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out < 1:
            raise bad_input("--held-out", expected="at least 1", found=self.held_out)
        for axis in self.axes.split(","):
            if axis not in AXES:
                raise bad_input("--axes", expected=f"some of {', '.join(AXES)}", found=axis)


PRESETS = {
    "default": Ablation(epochs=60, patience=5),
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


def apply(change: Change, problem: Problem, options: Ablation):
    """Return the problem, the model's config and the options of a variant."""
    model = dict(change.model)
    if model.get("num_actions") == "all":
        model["num_actions"] = int(problem.split.train.actions.max()) + 1
    if change.without_content:
        problem = dataclasses.replace(problem, content=None)
    objective = dataclasses.replace(options.objective, **change.objective)
    config = dataclasses.replace(options.model, **model)
    return problem, config, dataclasses.replace(options, objective=objective)


def batch_recalls(scores_of_batch, labels_Qxm, *, seed: int) -> dict[str, float]:
    """Rank the labels of drawn batches of users against each other.

    Args:
      scores_of_batch: maps rows [B] and labels int32[B] to scores f32[B, B].
      labels_Qxm: int32[Q, m], what follows each history.
      seed: draws the batches; users beyond the last whole batch are left out.

    Returns:
      "batch_recall@10" of the next item, and the mean over the next m.
    """
    queries, m = labels_Qxm.shape
    size = min(BATCH, queries)
    order = np.random.default_rng(seed).permutation(queries)[: queries // size * size]
    hits_m, counts_m = np.zeros(m), np.zeros(m)
    for rows in order.reshape(-1, size):
        for j in range(m):
            labels = labels_Qxm[rows, j]
            ranks = np.asarray(batch_ranks(scores_of_batch(rows, labels), labels))
            hits_m[j] += ((ranks > 0) & (ranks <= K)).sum()
            counts_m[j] += (ranks > 0).sum()
    recalls_m = hits_m / np.maximum(counts_m, 1)
    return {f"batch_recall@{K}": recalls_m[0], f"batch_recall@{K} of m": recalls_m.mean()}


def paper_metrics(problem: Problem, model: NxtPost, params, labels_Qxm, *, seed: int):
    """Compute batch recall and KNN hits of the test queries: floats by name."""
    towers = encode_towers(problem, model, params)
    users_QxD = towers.encode(problem.split.test)

    def scores(rows, labels):
        items_BxD = jnp.take(towers.item_vectors, np.maximum(labels, 0), axis=0)
        return users_QxD[rows] @ items_BxD.T

    wanted = {f"knn_hits@{K}": labels_Qxm[:, :1], f"knn_hits@{K} of m": labels_Qxm}
    found = {
        name: np.asarray(knn_hits(users_QxD, towers.item_vectors, labels_Bxm=labels, k=K))
        for name, labels in wanted.items()
    }
    means = {name: float(hits[hits >= 0].mean()) for name, hits in found.items()}
    return batch_recalls(scores, labels_Qxm, seed=seed) | means


def train_wide_deep(run: Run, problem: Problem, labels_Qxm, options: Ablation, *, mesh: Mesh):
    """Train the paper's baseline and rank the test users' batches by it."""
    content = None if problem.content is None else jnp.asarray(problem.content)
    model = wide_deep.WideDeep(problem.num_items)
    rows = {"max_len": options.model.max_len, "batch_size": options.batch_size}
    batches = functools.partial(
        nxtpost_jax.train_batches, problem.split.train, seed=options.seed, **rows
    )
    first = next(iter(batches(epoch=0)))
    result = train(
        run,
        stage="wide_deep",
        init_params=lambda key: model.init(key, first["items"], first["labels"][:, 0], content)[
            "params"
        ],
        loss=lambda params, batch, key: wide_deep.loss(model, params, batch, content, key),
        tx=optax.adamw(options.adamw_rate),
        batches=lambda epoch: batches(epoch=epoch),
        epochs=min(WIDE_DEEP_EPOCHS, options.epochs),
        steps_per_epoch=nxtpost_jax.steps_per_epoch(problem.split.train, **rows),
        seed=options.seed,
        mesh=mesh,
    )
    histories = nxtpost_jax.pad_histories(problem.split.test.histories, options.model.max_len)

    def scores(rows, labels):
        items_BxL = histories["items"][rows]
        return wide_deep.score_matrix(
            model, result.params, items_BxL=items_BxL, labels_B=labels, content=content
        )

    return batch_recalls(scores, labels_Qxm, seed=options.seed)


class Outcome(NamedTuple):
    """A trained variant's test figures, one a seed."""

    metrics: list[Metrics]
    others: list[dict[str, float]]


def train_variant(run: Run, name: str, change: Change, problem: Problem, options, *, mesh: Mesh):
    """Train a variant from every seed: its problem, and (model, result) a seed."""
    problem, config, changed = apply(change, problem, options)
    stage = name.replace(" ", "_").replace(",", "")
    how = {"optimizer": options.optimizer, "stage": stage, "mesh": mesh}
    trained = train_seeds(run, problem, config, changed, **how)
    return problem, trained


def rank_variant(problem: Problem, trained, labels_Qxm, *, seed: int) -> Outcome:
    """Rank the test queries by what `train_variant` returned."""
    outcome = Outcome([], [])
    for model, result in trained:
        outcome.metrics.append(score(problem, model, result.params, problem.split.test))
        others = paper_metrics(problem, model, result.params, labels_Qxm, seed=seed)
        outcome.others.append(others | {"best epoch": float(result.best_epoch)})
    return outcome


COLUMNS = (
    f"batch_recall@{K}",
    f"batch_recall@{K} of m",
    f"knn_hits@{K}",
    f"knn_hits@{K} of m",
    "best epoch",
)


def table_of(outcomes: Mapping[str, Outcome], axes: Mapping[str, str], baselines, others) -> Table:
    """Lay the variants out: means over seeds, and what the change did to NDCG@10.

    Args:
      outcomes: by variant, the default among them.
      axes: the axis of each variant.
      baselines: ranked baselines, by name.
      others: the paper's metrics of those baselines that have them, by the name of their row.
    """
    default = outcomes[DEFAULT]

    def difference(outcome: Outcome) -> str:
        pairs = [ndcg_difference(a, b) for a, b in zip(outcome.metrics, default.metrics)]
        mean = np.mean([d for d, _ in pairs])
        # The same users in every seed: their error does not shrink with the number of seeds.
        return signed(mean, np.mean([e for _, e in pairs]))

    def row(name: str, outcome: Outcome) -> list:
        ranked = [float(np.mean([m[f] for m in outcome.metrics])) for f in ("hr@10", "ndcg@10")]
        others = [float(np.mean([o[c] for o in outcome.others])) for c in COLUMNS]
        own = None if name == DEFAULT else difference(outcome)
        return [axes[name], name, *ranked, own, *others]

    def baseline(name: str) -> list:
        ranked = [baselines[name][f] if name in baselines else None for f in ("hr@10", "ndcg@10")]
        own = [others.get(name, {}).get(column) for column in COLUMNS]
        return ["baseline", name_of(name), *ranked, None, *own]

    return Table(
        title="One choice at a time",
        columns=("axis", "variant", "HR@10", "NDCG@10", "against the default", *COLUMNS),
        baselines=[baseline(name) for name in (*baselines, *others)],
        rows=[row(name, outcome) for name, outcome in outcomes.items()],
        note="Means over seeds. The difference is of NDCG@10, paired by user; its standard error "
        "is over users.",
    )


def name_of(baseline: str) -> str:
    """Name a baseline for a reader."""
    return "Wide & Deep" if baseline == "wide_deep" else NAMES[baseline]


def draw(axes: Axes, *, outcomes: Mapping[str, Outcome]) -> None:
    """Draw each variant's difference to the default in NDCG@10, one dot a seed."""
    names = [name for name in outcomes if name != DEFAULT]
    default = outcomes[DEFAULT].metrics
    for i, name in enumerate(reversed(names)):
        pairs = [ndcg_difference(a, b) for a, b in zip(outcomes[name].metrics, default)]
        values = [d for d, _ in pairs]
        axes.errorbar(np.mean(values), i, xerr=np.mean([e for _, e in pairs]), color="#0072b2")
        axes.plot(values, [i] * len(values), ".", color="#d55e00")
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=7)
    axes.set_xlabel("NDCG@10 minus the default's (bar: s.e. over users)")
    axes.set_title("One choice at a time")


@exit_on_input_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Train every variant, test, report."""
    options, arguments = parse("nxtpost_ablation", PRESETS, argv)
    check_keep(options.keep)
    mesh = make_mesh(select_devices(options.devices))
    interactions = read_interactions(options.data)
    posed = {"content_dim": options.content_dim, "seed": options.seed}
    problem = pose(interactions, held_out=options.held_out, **posed)
    variants = variants_of(problem, options)
    test = problem.split.test
    labels = nxtpost_jax.following(sequences_of(interactions), test, m=options.held_out)
    data = data_name(interactions)
    with open_run("nxtpost_ablation", options, arguments=arguments, data=data) as run:
        trained = {
            name: train_variant(run, name, change, problem, options, mesh=mesh)
            for name, (_, change) in variants.items()
        }
        log_test_evaluation(run, keep=options.keep, reason=TRAINED)
        outcomes = {
            name: rank_variant(*parts, labels, seed=options.seed) for name, parts in trained.items()
        }
        baselines = score_baselines(problem, test, max_len=options.model.max_len)
        others = {"wide_deep": train_wide_deep(run, problem, labels, options, mesh=mesh)}
        _report(run, problem, options, outcomes, baselines, others, mesh=mesh)


def _report(run: Run, problem: Problem, options, outcomes, baselines, others, *, mesh) -> None:
    figures = {
        f"{name}/{seed}/{figure}": value
        for name, outcome in outcomes.items()
        for seed, metrics, own in zip(options.all_seeds, *outcome)
        for figure, value in (metrics.values | own).items()
    }
    flat = baseline_figures(baselines)
    flat |= {f"{n}/{f}": v for n, values in others.items() for f, v in values.items()}
    summary = run.write_summary(
        protocol=problem.protocol.asdict(),
        metrics=figures,
        baselines=flat,
        seeds=options.all_seeds,
        devices=list(mesh.devices.flat),
    )
    axes = {name: axis for name, (axis, _) in variants_of(problem, options).items()}
    table = table_of(outcomes, axes, baselines, others)
    print_table(table)
    write_report(
        run,
        title=f"NxtPost's ablations on {problem.protocol.data}",
        intro=f"Trained by {options.optimizer}; m is {options.held_out} in the metrics. "
        f"{problem.protocol.describe()}",
        summary=summary,
        tables=[table],
        panels=[functools.partial(draw, outcomes=outcomes)],
    )
    finish(run, keep=options.keep)


if __name__ == "__main__":
    main()
