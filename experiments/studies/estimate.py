"""Task estimate: does an answer know what it missed, and does a wanted recall cost less?

Items around the leaves of a planted tree, searched by their inner product or by a MoNN. The index
is calibrated at its build on users of its own; what asks here are others, through filters that no
calibration has drawn: by an attribute of the items that some users like.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.drawn import Planted, planted_tree
from experiments.harness.errors import bad_input
from experiments.harness.plots import draw_points
from experiments.harness.report import Table
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.harness.timing import seconds_of
from hsnn_jax import Features, LTIConfig, Retriever, Training, preset
from hsnn_jax.lists.index import live
from hsnn_jax.serving.calibration import exact_scores
from hsnn_jax.serving.find import find
from hsnn_jax.serving.request import request_of

SHARES = (0.1, 0.01, 0.001, 0.0001)  # of the items that a filter allows
KINDS = ("random", "correlated", "opposed")  # to what those who ask like
SPENT = (0.01, 0.03, 0.1, 0.3)  # of the items that a search may score
WANTED = (0.8, 0.9, 0.95)
COLUMNS = ("", "answers", "recall", "estimate", "Brier", "constant", "gain", "decile", "overclaims")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """The catalogue, who asks, and the MoNN."""

    items: int = 20_000
    """items of the planted tree"""
    width: int = 32
    """of the vectors"""
    leaves: int = 200
    """of the tree"""
    groups: int = 8
    """groups of users who ask, each with a filter of its own"""
    users: int = 64
    """users of a group"""
    k: int = 10
    """items asked for"""
    steps: int = 300
    """training steps of the MoNN"""
    scorers: tuple[str, ...] = ("inner product", "MoNN")
    """of the items and nodes"""
    repeats: int = 20
    """timed requests, with the estimate and without in turn"""

    def __post_init__(self) -> None:
        known = {"inner product", "MoNN"}
        if not set(self.scorers) <= known or not self.scorers:
            raise bad_input(
                "--estimate.scorers", expected=f"some of {sorted(known)}", found=str(self.scorers)
            )


class Answers(NamedTuple):
    """What some answers claimed, and what was true; float [N] each."""

    estimate: np.ndarray
    recall: np.ndarray


def figures_of(answers: Answers) -> dict[str, float]:
    """Return what the claim is held against.

    The gain is 1 - Brier score / that of the best constant. Deciles are of the answers in order of
    their estimate; the widest gap between a decile's mean estimate and its mean recall counts.
    """
    estimate, recall = answers
    brier, constant = float(np.mean((estimate - recall) ** 2)), float(np.var(recall))
    parts = np.array_split(np.argsort(estimate, kind="stable"), 10)
    gaps = [abs(estimate[part].mean() - recall[part].mean()) for part in parts if part.size]
    return {
        "answers": float(estimate.size),
        "recall": float(recall.mean()),
        "estimate": float(estimate.mean()),
        "brier": brier,
        "constant": constant,
        "gain": 1 - brier / constant if constant > 1e-6 else float("nan"),
        "decile": float(max(gaps)),
        "overclaims": float(np.mean((estimate >= 0.95) & (recall < 0.9))),
    }


class Catalogue(NamedTuple):
    """An index and who asks."""

    retriever: Retriever
    users: np.ndarray  # float32 [B, d]

    def read(self, users: np.ndarray) -> Any:
        """Return users as the retriever reads them."""
        return users if self.retriever.model is None else {"vector": users}


def draw(config: EstimateConfig, seed: int, *, user_noise: float = 0.6) -> Planted:
    """Draw items, and users far more than ask."""
    return planted_tree(
        items=config.items,
        users=4000,
        width=config.width,
        leaves=config.leaves,
        user_noise=user_noise,
        seed=seed,
    )


def make_catalogue(drawn: Planted, config: EstimateConfig, *, scorer: str, seed: int) -> Catalogue:
    """Build the index: of inner products, calibrated on perturbed items; or of a trained MoNN."""
    half = len(drawn.users) // 2
    reserve = config.items // 2
    if scorer == "inner product":
        retriever = Retriever(LTIConfig())
        retriever.build_index(drawn.items, seed=seed, reserve=reserve)
    else:
        side = Features(dense={"vector": config.width})
        retriever = Retriever(LTIConfig(), model=preset("S", user=side, item=side))
        retriever.fit(
            {"vector": drawn.users[:half]},
            {"vector": drawn.items},
            positives=drawn.liked[:half],
            training=Training(steps=config.steps, progress=False),
            seed=seed,
            reserve=reserve,
        )
    return Catalogue(retriever, drawn.users[half:])


def group_of(users: np.ndarray, config: EstimateConfig, rng: np.random.Generator) -> Any:
    """Return a direction of taste, float [d], and the users nearest to it."""
    taste = users[rng.integers(len(users))]
    return taste, users[np.argsort(-(users @ taste), kind="stable")[: config.users]]


def allowed_rows(kind: str, share: float, *, likes: np.ndarray, rng: np.random.Generator) -> Any:
    """Return the places that a filter allows, int [m]; None for all.

    Args:
      kind: "none", "random", "correlated" or "opposed" to what the group likes.
      share: of the items.
      likes: float [n], the items' attribute.
      rng: of the draw.
    """
    if kind == "none":
        return None
    size = max(round(share * len(likes)), 1)
    if kind == "random":
        return np.sort(rng.choice(len(likes), size, replace=False))
    noisy = likes + 0.7 * likes.std() * rng.standard_normal(len(likes))
    return np.sort(np.argsort(noisy if kind == "opposed" else -noisy)[:size])


def ask(
    catalogue: Catalogue,
    vectors: np.ndarray,
    *,
    users: np.ndarray,
    config: EstimateConfig,
    seed: int,
    filters: Sequence[tuple[str, float]],
) -> dict[tuple[str, float, bool], Answers]:
    """Search for all groups through all filters at all budgets, the exact switch off and on.

    Args:
      catalogue: see `Catalogue`.
      vectors: float [n, d] of the items held, in order of their rows; filters go by them.
      users: float [B, d], of whom the groups are.
      config, seed: of the groups and filters.
      filters: (kind, share) each.
    """
    retriever, found = catalogue.retriever, {}
    now, models = retriever._built(), retriever._models
    rows = np.flatnonzero(np.asarray(live(now.items.index)))
    for number in range(config.groups):
        rng = np.random.default_rng([seed, number])
        taste, group = group_of(users, config, rng)
        read = catalogue.read(group)
        exact = exact_scores(now, models, users=read).items
        for kind, share in filters:
            allowed = allowed_rows(kind, share, likes=vectors @ taste, rng=rng)
            among = exact if allowed is None else exact[:, allowed]
            ids = None if allowed is None else now.items.ids[rows[allowed]]
            asked = request_of(now, models, users=read, k=config.k, allowed=ids)
            for switch in (False, True):
                for spent in SPENT:
                    budget = max(round(spent * len(rows)), 1)
                    given = {"asked": asked, "budget": budget, "max_beam": None, "switch": switch}
                    answer = find(now, models, **given)
                    both = answer.recall, true_recall(np.asarray(answer.scores), among, k=config.k)
                    found.setdefault((kind, share, switch), []).append(both)
    return {key: Answers(*map(np.concatenate, zip(*each))) for key, each in found.items()}


def true_recall(scores: np.ndarray, exact: np.ndarray, *, k: int) -> np.ndarray:
    """Return the share of the min(k, allowed) exact items that were found, ties by score.

    Args:
      scores: float [B, k], found.
      exact: float [B, m], of all items that are allowed.
      k: items asked for.
    """
    best = min(k, exact.shape[1])
    least = -np.partition(-exact, best - 1, axis=1)[:, best - 1 : best]
    near = 1e-5 * (1 + np.abs(least))
    above = np.sum(scores > least + near, axis=1)
    level = np.sum(np.abs(scores - least) <= near, axis=1)
    room = best - np.sum(exact > least + near, axis=1)  # for those that tie with the last one
    return (above + np.minimum(level, room)) / best


def stop_early(catalogue: Catalogue, users: np.ndarray, config: EstimateConfig) -> Iterator[tuple]:
    """Hold wanted recalls against fixed budgets that score as many items in the mean.

    Yields:
      (wanted, (items, recall, share below .9) by it, the same of the fixed budget).
    """
    retriever, read = catalogue.retriever, catalogue.read(users)
    exact = exact_scores(retriever._built(), retriever._models, users=read).items

    def measured(answer):
        recall = true_recall(answer.scores, exact, k=config.k)
        items = float(answer.items_scored.mean())
        return items, float(recall.mean()), float((recall < 0.9).mean())

    budgets = np.unique(np.geomspace(20, exact.shape[1], 60).astype(int))
    fixed = [measured(retriever.search(read, config.k, budget=int(b))) for b in budgets]
    costs = np.array([items for items, *_ in fixed])
    for wanted in WANTED:
        own = measured(retriever.search(read, config.k, recall=wanted))
        equal = [np.interp(own[0], costs, [each[i] for each in fixed]) for i in range(3)]
        yield wanted, own, tuple(map(float, equal))


def overhead(catalogue: Catalogue, config: EstimateConfig) -> dict[int, float]:
    """Return by how much an estimate lengthens a request of so many users: median of pairs."""
    retriever, ratios = catalogue.retriever, {}
    for batch in (1, config.users):
        users = catalogue.read(catalogue.users[:batch])
        now, models = retriever._built(), retriever._models
        asked = request_of(now, models, users=users, k=config.k)
        given = {"asked": asked, "budget": None, "max_beam": None}
        with_and_without = (now, now._replace(tail=None))
        spent = np.zeros((config.repeats, 2))
        for state in with_and_without:
            find(state, models, **given)
        for repeat in range(config.repeats):
            for i in np.roll((0, 1), repeat):
                request = functools.partial(find, with_and_without[i], models, **given)
                spent[repeat, i] = seconds_of(request)
        ratios[batch] = float(np.median(spent[:, 0]) / np.median(spent[:, 1]) - 1)
    return ratios


def measure_scorer(scorer: str, config: EstimateConfig, *, seed: int) -> tuple[dict, list, dict]:
    """Return answers by situation, early stops, and the overhead of one scorer and seed."""
    drawn, later = draw(config, seed), draw(config, seed + 1000)
    catalogue = make_catalogue(drawn, config, scorer=scorer, seed=seed)
    filters = [("none", 1.0), *((kind, share) for kind in KINDS for share in SHARES)]
    given: dict[str, Any] = {"config": config, "seed": seed}
    found = {
        (scorer, "as calibrated", *key): answers
        for key, answers in ask(
            catalogue, drawn.items, users=catalogue.users, filters=filters, **given
        ).items()
    }
    stops = list(stop_early(catalogue, catalogue.users[: 4 * config.users], config))
    cost = overhead(catalogue, config)
    shifted = draw(config, seed + 2000, user_noise=1.5).users[: len(catalogue.users)]
    two = [("none", 1.0), ("random", 0.01)]
    for key, answers in ask(catalogue, drawn.items, users=shifted, filters=two, **given).items():
        found[(scorer, "shifted queries", *key)] = answers
    half = config.items // 2
    new = later.items[:half]
    catalogue.retriever.remove(np.arange(half))
    catalogue.retriever.add(catalogue.read(new), np.arange(config.items, config.items + half))
    order = catalogue.retriever.ids[catalogue.retriever.ids >= 0]
    both = np.concatenate([drawn.items, new])[order]
    users = np.concatenate([catalogue.users, later.users[: len(catalogue.users)]])
    for key, answers in ask(catalogue, both, users=users, filters=two, **given).items():
        found[(scorer, "drifted items", *key)] = answers
    return found, stops, cost


def run_estimate(run: Run, config: EstimateConfig, *, seeds: Sequence[int]) -> Outcome:
    """Measure both scorers from every seed."""
    answers: dict[tuple, list] = {}
    stops: dict[tuple, list] = {}
    costs: dict[tuple, list] = {}
    for seed in seeds:
        for scorer in config.scorers:
            found, stopped, cost = measure_scorer(scorer, config, seed=seed)
            for key, each in found.items():
                answers.setdefault(key, []).append(each)
            for wanted, own, fixed in stopped:
                stops.setdefault((scorer, wanted), []).append((own, fixed))
            for batch, ratio in cost.items():
                costs.setdefault((scorer, batch), []).append(ratio)
            run.log(scorer, seed, **{f"overhead_{batch}": ratio for batch, ratio in cost.items()})
    joined = {key: Answers(*map(np.concatenate, zip(*each))) for key, each in answers.items()}
    return outcome_of(joined, stops, costs, config=config, seeds=seeds)


def outcome_of(joined: dict, stops: dict, costs: dict, *, config: Any, seeds: Any) -> Outcome:
    """Put figures into metrics and tables."""
    metrics: dict[str, float] = {}
    tables, found = [], []
    for scorer in config.scorers:
        for switch in (False, True):
            mine = {_name(x): y for x, y in joined.items() if x[::4] == (scorer, switch)}
            everything = Answers(*map(np.concatenate, zip(*mine.values())))
            rows = []
            for name, each in (mine | {"all": everything}).items():
                figures = figures_of(each)
                prefix = f"{scorer}/switch {'on' if switch else 'off'}/{name}"
                metrics |= {f"{prefix}/{figure}": value for figure, value in figures.items()}
                rows.append([name, int(figures.pop("answers")), *figures.values()])
            constant = ["best constant", None, *[None] * 3, None, 0.0, None, None]
            title = f"{scorer}, exact switch {'on' if switch else 'off'}"
            tables.append(
                Table(title=title, columns=COLUMNS, baselines=[constant], rows=rows, note=NOTE)
            )
            last = figures_of(everything)
            found.append(
                f"{title}: gain {last['gain']:.2f}, widest decile {last['decile']:.3f}, "
                f"overclaims {last['overclaims']:.2%}"
            )
    tables.append(_stops_table(stops, metrics))
    for (scorer, batch), ratios in costs.items():
        metrics[f"{scorer}/overhead/{batch}"] = float(np.mean(ratios))
        found.append(f"{scorer}, {batch} users: an estimate costs {np.mean(ratios):+.1%}")
    return Outcome(
        title="Recall estimated by the answer, simulated",
        intro=f"Simulated: {config.items:,} unit vectors around {config.leaves} leaves of a tree; "
        f"k = {config.k}; budgets of {', '.join(f'{s:.0%}' for s in SPENT)} of the items. "
        "Drifted: half of the items replaced by those of another tree. Shifted: users of another "
        "tree, further from all items.",
        protocol={"data": "simulated planted tree", "calibration": "users who do not ask here"},
        metrics=metrics,
        baselines={"best constant/gain": 0.0},
        tables=tables,
        panels=[
            functools.partial(draw_points, rows=_below(stops), label="share of users below .9")
        ],
        found=". ".join(found) + f". {len(seeds)} seed(s).",
    )


NOTE = (
    "gain: 1 - Brier score / that of the best constant, wanted >= .20. decile: the widest gap "
    "between estimate and truth, wanted <= .05. overclaims: claim >= .95 and have < .9, <= .02."
)


def _name(key) -> str:
    _, situation, kind, share, _ = key
    return f"{situation}, no filter" if kind == "none" else f"{situation}, {kind} {share:.2%}"


def _below(stops: dict) -> dict[str, list[float]]:
    rows = {}
    for (scorer, wanted), each in stops.items():
        for place, name in enumerate(("recall=", "fixed, as")):
            rows[f"{scorer}, {name} {wanted}"] = [float(pair[place][2]) for pair in each]
    return rows


def _stops_table(stops: dict, metrics: dict[str, float]) -> Table:
    columns = ("", "items scored", "recall", "users below .9")
    rows, fixed_rows = [], []
    for (scorer, wanted), each in stops.items():
        own, fixed = (np.mean(part, axis=0) for part in zip(*each))
        for name, values, into in (("recall=", own, rows), ("fixed, as", fixed, fixed_rows)):
            into.append([f"{scorer}, {name} {wanted}", *map(float, values)])
            for figure, value in zip(("items", "recall", "below"), values):
                kind = "early" if into is rows else "fixed"
                metrics[f"{scorer}/{kind}/{wanted}/{figure}"] = float(value)
    title = "A wanted recall, and a fixed budget that scores as many items"
    return Table(title=title, columns=columns, baselines=fixed_rows, rows=rows)
