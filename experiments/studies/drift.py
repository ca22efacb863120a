"""Task drift: an index that serves day after day, stale, refreshed, or trained on.

Items are vectors of their content under a linear tower, so that a new item is indexed at once. On
each of the last days with events, the items of that day that are new are inserted, items without a
recent event are removed, and users who are known are asked for what they meet that day.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.data.interactions import Interactions
from experiments.harness.errors import InputError
from experiments.harness.figures import Figures, mean_and_error, pick
from experiments.harness.plots import Draw, draw_lines, draw_points, running_mean
from experiments.harness.report import Table, signed
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.retrieval.linear_towers import Adapted, adapt
from experiments.retrieval.nodes import lti_config
from experiments.studies.timeline import Timeline, make_timeline
from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.cost_curves import recall_by_user
from hsnn_jax.descent.search import brute_force
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.kmeans import kmeans

K = 20  # items asked for
WEEK = 7  # days that a curve is averaged over
VARIANTS = ("stale", "refreshed", "joint, stale", "joint, trained on")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """Days, and the index."""

    days: int = 30
    """last days with events, on which users are asked"""
    expire_days: float = 90.0
    """days without an event after which an item is removed"""
    content_dim: int = 64
    """width of the content vectors"""
    nodes: int = 48
    """nodes of the index"""
    slack: float = 2.0
    """slots of a list over the mean number of items of a node"""
    share: float = 0.1
    """of all items, what a search may score"""
    steps: int = 800
    """training steps before the first day"""
    daily_steps: int = 40
    """training steps before each further day, on the latest pairs"""
    batch_size: int = 256
    """pairs a step"""
    rate: float = 1e-3
    """learning rate of Adam"""
    pairs: int = 50_000
    """latest pairs that training draws from"""
    users: int = 300
    """users asked a day at most"""


@dataclasses.dataclass
class Server:
    """One variant: towers, and a retriever over the live items."""

    towers: Adapted
    content: np.ndarray
    vectors: jax.Array  # of all items, by the towers
    retriever: Retriever

    @classmethod
    def start(
        cls,
        towers: Adapted,
        nodes: jax.Array,
        *,
        timeline: Timeline,
        live: np.ndarray,
        slack: float,
    ) -> Server:
        """List the live items, with a free row for each other item."""
        retriever = Retriever(LTIConfig(num_nodes=len(nodes)), slack=slack)
        retriever.nodes = nodes
        vectors = towers.items(timeline.content)
        server = cls(towers, timeline.content, vectors, retriever)
        server._list(np.flatnonzero(live))
        return server

    def _list(self, ids):
        items, reserve = np.asarray(self.vectors), len(self.vectors) - len(ids)
        self.retriever.build_index(items[ids], item_ids=ids, reserve=reserve)

    def set_live(self, live: np.ndarray) -> int:
        """Remove what has expired and add what is new; the number of additions."""
        present = np.zeros(len(live), bool)
        present[self._held()] = True
        gone, new = np.flatnonzero(present & ~live), np.flatnonzero(live & ~present)
        self.retriever.remove(gone)
        self.retriever.add(np.asarray(self.vectors)[new], new)
        return len(new)

    def _held(self):
        ids = self.retriever.ids
        return ids[ids >= 0]

    def relist(self, nodes: jax.Array, towers: Adapted | None = None) -> None:
        """Move to other nodes, and to other towers where given."""
        self.retriever.nodes = nodes
        if towers is None:
            self.retriever.rebuild()
        else:
            self.towers, self.vectors = towers, towers.items(self.content)
            self._list(self._held())

    def ask(
        self, users: np.ndarray, seen: np.ndarray, *, live: np.ndarray, budget: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return ids found and exact ids, int [B, K] each, and the mean of items scored."""
        vectors = self.towers.users(users)
        found = self.retriever.search(vectors, K, budget=budget, exclude=seen)
        exact = brute_force(
            dot,
            None,
            items=self.vectors,
            users=vectors,
            k=K,
            exclude=jnp.asarray(seen),
            allowed=jnp.asarray(live),
        )
        return found.ids, np.asarray(exact.ids), float(found.items_scored.mean())


def serve(
    run: Run, timeline: Timeline, *, days: np.ndarray, config: DriftConfig, seed: int
) -> dict[str, list[dict[str, float]]]:
    """Serve every variant through the days; a record a day."""
    key = jax.random.key(seed)
    lti = lti_config(nodes=config.nodes, steps=config.steps)
    train = functools.partial(adapt, config=lti, rate=config.rate, batch_size=config.batch_size)
    pairs = timeline.pairs_before(days[0], config.pairs)
    live = timeline.live_on(days[0] - 1, config.expire_days)
    if not config.nodes <= live.sum():
        raise InputError(f"--drift.nodes: expected at most {live.sum()}, found {config.nodes}")
    alone, joint = (train(pairs, joint=j, key=key) for j in (False, True))
    sample = functools.partial(_sample, size=int(live.sum()), seed=seed)
    means = kmeans(sample(alone.items(timeline.content), live), config.nodes, key=key)
    servers = {}
    for name in VARIANTS:
        towers = joint if name.startswith("joint") else alone
        nodes = joint.params["nodes"] if name.startswith("joint") else means
        servers[name] = Server.start(
            towers, nodes, timeline=timeline, live=live, slack=config.slack
        )
    first_seen = np.full(timeline.num_items, days[-1] + 1)
    np.minimum.at(first_seen, timeline.items, timeline.days)
    counts = np.bincount(timeline.users)
    width, budget = int(min(counts.max(), 1000)), round(config.share * timeline.num_items)
    records: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for name in VARIANTS:
        run.truncate_metrics(f"{name}-{seed}", after_step=-1)  # of a resumed run
    for number, day in enumerate(days):
        live = timeline.live_on(day, config.expire_days)
        users, seen, truth, real = timeline.queries(day, most=config.users, width=width, seed=seed)
        if timeline.repeats:
            seen = np.full((config.users, 1), -1, np.int32)
        fresh = np.where((truth >= 0) & (first_seen[truth] >= days[0]), truth, -1)
        latest = None
        for name, server in servers.items():
            inserted = server.set_live(live)
            if number and name == "refreshed":
                server.relist(kmeans(sample(server.vectors, live), config.nodes, key=key))
            if number and name == "joint, trained on":
                latest = latest or timeline.pairs_before(day, config.pairs // 10)
                more = train(
                    latest,
                    joint=True,
                    key=jax.random.fold_in(key, number),
                    steps=config.daily_steps,
                    start=server.towers,
                )
                server.relist(more.params["nodes"], more)
            found, exact, scored = server.ask(users, seen, live=live, budget=budget)
            usage = server.retriever.stats()
            record = {
                "recall": _mean(recall_by_user(found, exact)[:real]),
                f"recall@{K}": _mean(recall_by_user(found, truth)[:real]),
                f"exact/recall@{K}": _mean(recall_by_user(exact, truth)[:real]),
                f"new/recall@{K}": _mean(recall_by_user(found, fresh)[:real]),
                "share": scored / timeline.num_items,
                "overflow": usage["overflow"] / max(usage["items"], 1),
                "imbalance": usage["imbalance"],
                "inserted": inserted,
                "users": real,
            }
            records[name].append(record)
            run.log(f"{name}-{seed}", number, **record)
        print(f"day {number + 1} of {len(days)}: {real} users", flush=True)
    return records


def _sample(vectors, live, *, size: int, seed: int):
    """Draw live items to one shape, whatever their number."""
    rng = np.random.default_rng([seed, int(live.sum())])
    ids = np.flatnonzero(live)
    order = np.resize(rng.permutation(ids), size)
    return jnp.asarray(np.asarray(vectors)[order])


def _mean(values) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def run_drift(
    run: Run,
    interactions: Interactions,
    *,
    config: DriftConfig,
    seeds: Sequence[int],
    before_test: Callable[[], None],
) -> Outcome:
    """Serve from every seed; the days are looked at once each."""
    timeline, days = make_timeline(
        interactions, days=config.days, content_dim=config.content_dim, seed=seeds[0]
    )
    before_test()
    found = {seed: serve(run, timeline, days=days, config=config, seed=seed) for seed in seeds}
    return _outcome(found, interactions, config, timeline, seeds)


def _outcome(found, interactions, config: DriftConfig, timeline: Timeline, seeds) -> Outcome:
    figures = ("recall", f"recall@{K}", f"exact/recall@{K}", f"new/recall@{K}", "share", "overflow")
    figures += ("imbalance",)

    def by_day(name, figure) -> np.ndarray:
        """Return the mean over seeds on each day."""
        return np.mean([[r[figure] for r in found[s][name]] for s in seeds], axis=0)

    metrics, rows = {}, []
    for name in VARIANTS:
        values = {f: _mean(by_day(name, f)) for f in figures}
        metrics |= {f"{name}/{f}": v for f, v in values.items()}
        for s in seeds:
            mean = _mean(np.array([r["recall"] for r in found[s][name]]))
            metrics[f"{name}/{s}/recall"] = mean
        shown = []
        for figure in ("recall", f"recall@{K}"):
            change = by_day(name, figure) - by_day(VARIANTS[0], figure)
            mean, error = mean_and_error(change[np.isfinite(change)])
            metrics |= {f"{name}/{figure}_above": mean, f"{name}/{figure}_above_se": error}
            shown.append(signed(mean, error) if name != VARIANTS[0] else None)
        cells = [values["recall"], shown[0], values[f"recall@{K}"], shown[1]]
        rows.append([name, *cells, *(values[f] for f in figures[2:])])
    columns = ("", "recall of exact 20", "above stale", f"recall@{K}", "above stale")
    columns += ("exact", "of new items", "share scored", "overflow", "max / mean items")
    inserted = np.mean([r["inserted"] for s in seeds for r in found[s][VARIANTS[0]]])
    table = Table(
        title=f"{config.days} days, one by one",
        columns=columns,
        baselines=rows[:1],
        rows=rows[1:],
        note=f"Means over days and {len(seeds)} seed(s); differences are paired by day, with the "
        f"standard error over days. {inserted:.1f} items a day inserted at serve time; items "
        f"without an event for {config.expire_days:g} days are removed. Exact: brute force over "
        "the variant's own towers. Of new items: items first met after training.",
    )
    curves = {n: by_day(n, "recall") for n in VARIANTS}
    truths = {n: by_day(n, f"recall@{K}") for n in VARIANTS}
    return Outcome(
        title=f"Drift on {interactions.name}",
        intro="Items are content vectors under a linear tower; users the mean of what they met.",
        protocol={
            "data": interactions.name,
            "data_hash": interactions.sha256,
            "candidates": "items with an event that day or recently; the day's items are listed "
            "when it begins",
            "seen_filter": not timeline.repeats,
            "notes": "; ".join(interactions.notes),
        },
        metrics=metrics,
        baselines={k: v for k, v in metrics.items() if k.startswith(f"{VARIANTS[0]}/")},
        tables=[table],
        panels=[
            functools.partial(_draw, curves=curves, label="recall of the exact top 20"),
            functools.partial(_draw, curves=truths, label=f"recall@{K} of the day's items"),
        ],
    )


def _draw(axes: Axes, *, curves: Mapping[str, np.ndarray], label: str) -> None:
    """Draw curves by day: the mean of a week, the days themselves faint."""
    weeks = {
        name: list(enumerate(running_mean(values, WEEK), start=1))
        for name, values in curves.items()
    }
    draw_lines(axes, curves=weeks, x_label="day (line: mean of the last 7)", y_label=label)
    for line, values in zip(list(axes.lines), curves.values()):
        line.set_marker("")
        axes.plot(np.arange(1, len(values) + 1), values, color=line.get_color(), alpha=0.2)


def above_panels(figures: Figures) -> list[Draw]:
    """Draw the means over days, each beside what the stale index has, with paired errors."""
    labels = {
        "recall": f"Recall of the exact top {K}",
        f"recall@{K}": f"Recall@{K} of the day's items",
    }
    panels = []
    for figure, label in labels.items():
        rows = {name: own for (name,), own in pick(figures, f"([^/]+)/{figure}_above").items()}
        errors = pick(figures, f"([^/]+)/{figure}_above_se")
        panels.append(
            functools.partial(
                draw_points,
                rows={name: own for name, own in rows.items() if name != VARIANTS[0]},
                errors={name: 2 * own[0] for (name,), own in errors.items()},
                label="minus that of the stale index\n(line: two standard errors over days)",
                title=label,
                reference=0.0,
            )
        )
    return panels
