"""Task drift: an index that serves day after day, stale, refreshed, or trained on.

Items are vectors of their content under a linear tower, so that a new item is indexed at once. On
each of the last days with events, the items of that day that are new are inserted, items without a
recent event are removed, and users who are known are asked for what they meet that day.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.content import content_vectors
from experiments.data.interactions import Interactions
from experiments.harness.errors import InputError
from experiments.harness.report import COLORS, LINE_STYLES, Table, finish_axes, signed
from experiments.harness.run_folder import Run
from experiments.harness.study import Outcome
from experiments.retrieval.linear_towers import Adapted, Vectors, adapt
from experiments.retrieval.nodes import lti_config
from hsnn_jax.cost_curves import recall_by_user
from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.lists import living
from hsnn_jax.lists.index import build_index, stats
from hsnn_jax.monn.scorers import dot, unit
from hsnn_jax.nodes.kmeans import kmeans

K, HISTORY = 20, 20  # items asked for, items of a history
DAY = 86_400.0
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


class Timeline:
    """Interactions as histories: what each user met on days before a given one."""

    def __init__(self, users, items, days, content: np.ndarray):
        """Take the events, by user and then day: int [n] each, and content [n_items, d]."""
        self.users, self.items, self.days = users, items, days
        self.content, self.num_items = content, len(content)
        keys = self._key(self.users, self.days)
        self._starts = np.searchsorted(self.users, self.users)
        self._ends = np.searchsorted(keys, keys)  # the first event of that user and day
        pairs = np.stack([self.users, self.items])
        self.repeats = np.unique(pairs, axis=1).shape[1] < len(self.users)

    @staticmethod
    def _key(users, days):
        return users.astype(np.int64) * 10**6 + days

    def user_vectors(self, events) -> np.ndarray:
        """Return the mean content of up to `HISTORY` items before the day of each event."""
        parts = []
        for rows in np.array_split(events, max(1, len(events) // 4096)):
            index = self._ends[rows][:, None] - 1 - np.arange(HISTORY)[None, :]
            inside = index >= self._starts[rows][:, None]
            vectors = self.content[self.items[np.where(inside, index, 0)]]
            parts.append((vectors * inside[:, :, None]).sum(axis=1))
        return np.asarray(unit(jnp.asarray(np.concatenate(parts))))

    def pairs_before(self, day: int, most: int) -> Vectors:
        """Return the latest pairs of a history and an item before a day."""
        known = np.flatnonzero((self.days < day) & (self._ends > self._starts))
        known = known[np.argsort(self.days[known], kind="stable")][-most:]
        return Vectors(self.user_vectors(known), self.items[known], self.content)

    def live_on(self, day: int, expire_days: float) -> np.ndarray:
        """Return bool [n_items]: an event on that day or within the days before it."""
        recent = (self.days <= day) & (self.days >= day - expire_days)
        return np.bincount(self.items[recent], minlength=self.num_items) > 0

    def queries(self, day: int, most: int, width: int, seed: int):
        """Draw users with a history who meet something on a day.

        Returns:
          (vectors [most, d], seen int [most, width], truth int [most, w], number that is real).
        """
        events = np.flatnonzero((self.days == day) & (self._ends > self._starts))
        users, first = np.unique(self.users[events], return_index=True)
        rng = np.random.default_rng([seed, int(day)])
        chosen = np.sort(rng.permutation(len(users))[:most])
        events, users = events[first[chosen]], users[chosen]
        seen = np.full((most, width), -1, np.int32)
        truth = np.full((most, 200), -1, np.int32)
        for row, (event, user) in enumerate(zip(events, users)):
            before = np.unique(self.items[self._starts[event] : self._ends[event]])
            seen[row, : len(before[:width])] = before[:width]
            own = np.unique(self.items[(self.users == user) & (self.days == day)])
            own = own if self.repeats else np.setdiff1d(own, before)
            truth[row, : len(own[:200])] = own[:200]
        vectors = np.zeros((most, self.content.shape[1]), np.float32)
        vectors[: len(events)] = self.user_vectors(events) if len(events) else 0
        return vectors, seen, truth, len(events)


def _is_met(interactions: Interactions) -> np.ndarray:
    """Return bool [n]: False for cancellations of a shop."""
    names = interactions.action_names
    if interactions.actions is None or "cancellation" not in names:
        return np.ones(interactions.n_events, bool)
    return interactions.actions != names.index("cancellation")


def make_timeline(interactions: Interactions, config: DriftConfig, *, seed: int):
    """Embed the items' content, fitted before the first day asked about.

    Returns:
      (`Timeline`, the days int [config.days]).

    Raises:
      InputError: no times, no content, or too few days.
    """
    if interactions.timestamps is None:
        raise InputError(f"{interactions.name}: expected events with times, found none")
    kept = _is_met(interactions)
    day_of = np.floor(interactions.timestamps / DAY).astype(np.int64)
    days = np.unique(day_of[kept])
    if len(days) < 2 * config.days:
        expected = f"at least {2 * config.days} days with events"
        raise InputError(f"{interactions.name}: expected {expected}, found {len(days)}")
    asked = days[-config.days :]
    before = day_of < asked[0]
    known = np.bincount(interactions.items[before], minlength=interactions.n_items) > 0
    content, has = content_vectors(interactions, known, dim=config.content_dim, seed=seed)
    if not has.any():
        raise InputError(f"{interactions.name}: expected items with content, found none")
    content = np.where(has[:, None], content, 0).astype(np.float32)
    events = (x[kept] for x in (interactions.users, interactions.items, day_of))
    return Timeline(*events, content), asked


@dataclasses.dataclass
class Server:
    """One variant: towers, and a living index over the live items."""

    towers: Adapted
    content: np.ndarray
    vectors: jax.Array  # of all items, by the towers
    alive: living.Living

    @classmethod
    def start(cls, towers: Adapted, nodes, timeline: Timeline, live, slack: float) -> Server:
        """Build the index over the live items, with a free row for each other item."""
        vectors = towers.items(timeline.content)
        ids, rest = np.flatnonzero(live), int((~live).sum())
        items = np.asarray(vectors)[ids]
        index = build_index(items, nodes, slack=slack, reserve=rest)
        padded = np.concatenate([ids, np.full(rest, -1)])
        return cls(towers, timeline.content, vectors, living.start(index, items, ids=padded))

    def set_live(self, live) -> int:
        """Remove what has expired and insert what is new; the number of inserts."""
        present = np.zeros(len(live), bool)
        present[self.alive.rows[0]] = True
        gone, new = np.flatnonzero(present & ~live), np.flatnonzero(live & ~present)
        if gone.size:
            self.alive = living.remove(self.alive, gone)
        if new.size:
            self.alive = living.add(self.alive, np.asarray(self.vectors)[new], ids=new)
        return len(new)

    def relist(self, nodes, towers: Adapted | None = None) -> None:
        """Move to other nodes, and to other towers where given."""
        self.alive = self.alive._replace(index=self.alive.index._replace(nodes=jnp.asarray(nodes)))
        ids = self.alive.rows[0]
        if towers is not None:
            self.towers, self.vectors = towers, towers.items(self.content)
        self.alive = living.reassign(self.alive, np.asarray(self.vectors)[ids], ids=ids)

    def ask(self, users, seen, live, budget: int):
        """Return ids found and exact ids, int [B, K] each, and the mean of items scored."""
        users = self.towers.users(users)
        excluded = living.rows_of(self.alive, seen)
        found = search(
            dot,
            None,
            index=self.alive.index,
            items=self.alive.tiles,
            users=users,
            k=K,
            budget=max(budget, self.alive.index.lists.shape[1]),
            exclude=jnp.asarray(excluded),
        )
        rows = np.asarray(found.ids)
        ids = np.where(rows < 0, -1, self.alive.ids[rows])
        exact = brute_force(
            dot,
            None,
            items=self.vectors,
            users=users,
            k=K,
            exclude=jnp.asarray(seen),
            allowed=jnp.asarray(live),
        )
        return ids, np.asarray(exact.ids), float(jnp.mean(found.items_scored))


def serve(
    run: Run, timeline: Timeline, days, config: DriftConfig, *, seed: int
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
        servers[name] = Server.start(towers, nodes, timeline, live, config.slack)
    first_seen = np.full(timeline.num_items, days[-1] + 1)
    np.minimum.at(first_seen, timeline.items, timeline.days)
    counts = np.bincount(timeline.users)
    width, budget = int(min(counts.max(), 1000)), round(config.share * timeline.num_items)
    records: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for name in VARIANTS:
        run.truncate_metrics(f"{name}-{seed}", after_step=-1)  # of a resumed run
    for number, day in enumerate(days):
        live = timeline.live_on(day, config.expire_days)
        users, seen, truth, real = timeline.queries(day, config.users, width, seed)
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
            found, exact, scored = server.ask(users, seen, live, budget)
            usage = stats(server.alive.index)
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
    run: Run, interactions: Interactions, config: DriftConfig, *, seeds, before_test
) -> Outcome:
    """Serve from every seed; the days are looked at once each."""
    timeline, days = make_timeline(interactions, config, seed=seeds[0])
    before_test()
    found = {seed: serve(run, timeline, days, config, seed=seed) for seed in seeds}
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
            change = change[np.isfinite(change)]
            error = change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else float("nan")
            metrics |= {f"{name}/{figure}_above": change.mean(), f"{name}/{figure}_above_se": error}
            shown.append(signed(change.mean(), error) if name != VARIANTS[0] else None)
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


def _draw(axes, *, curves, label: str) -> None:
    for i, (name, values) in enumerate(curves.items()):
        style = {"color": COLORS[i], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}
        axes.plot(np.arange(1, len(values) + 1), values, label=name, linewidth=1.6, **style)
    axes.set_xlabel("day")
    axes.set_ylabel(label)
    finish_axes(axes)
