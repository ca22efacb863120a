"""Task scale: how the cost of a query grows with the catalogue, simulated, beside faiss IVF.

Items lie around the leaves of a planted tree, fifty a leaf; queries near items. At every size the
least budget is sought at which the index keeps 95 % of the exact top 100.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.drawn import Planted, planted_tree
from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, pick
from experiments.harness.plots import Draw, draw_lines
from experiments.harness.report import Table
from experiments.harness.run_folder import Run, read_metrics
from experiments.harness.study import Outcome
from experiments.harness.timing import median_seconds, percentiles_ms, seconds_of
from experiments.retrieval.faiss_peers import FaissIVF
from experiments.retrieval.searchers import Requests
from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.cost_curves import recall
from hsnn_jax.descent.search import brute_force
from hsnn_jax.monn.scorers import dot

TOP, KEPT = 100, 0.95
INSERTS = 1024  # items that are added in two halves, the second one timed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """Sizes of the simulated catalogues."""

    items: tuple[int, ...] = (10_000, 30_000, 100_000, 300_000, 1_000_000)
    """catalogues"""
    width: int = 64
    """of the vectors"""
    users: int = 200
    """queries of each catalogue"""
    nodes_factor: float = 2.0
    """nodes are this times the square root of the items"""
    slack: float = 1.3
    """slots of a list over the mean number of items of a node"""
    requests: int = 200
    """single requests that are timed"""

    def __post_init__(self) -> None:
        if not self.items or min(self.items) < 2000:
            raise bad_input(
                "--scale.items", expected="sizes of at least 2000", found=str(self.items)
            )


@dataclasses.dataclass(frozen=True)
class Point:
    """One searcher at one size, at the least budget that keeps `KEPT`."""

    items: int
    recall: float
    scored: float
    flops: float
    exact_flops: float
    queries_per_second: float
    exact_queries_per_second: float
    p50_ms: float
    p99_ms: float
    build_seconds: float
    index_bytes: int
    insert_ms: float | None


def run_scale(run: Run, config: ScaleConfig, *, seeds: Sequence[int], faiss: bool) -> Outcome:
    """Measure every size from every seed; what a stopped run has measured is kept."""
    known = _measured(run.folder)
    points: dict[str, list[Point]] = {}
    for seed in seeds:
        for size in config.items:
            found = known.get((seed, size), {})
            if len(found) < 1 + faiss:
                drawn = functools.partial(_draw, config, size, seed)
                found = measure_size(drawn, config, size=size, seed=seed, faiss=faiss)
                for name, point in found.items():
                    run.log(f"{name}-{seed}", size, **dataclasses.asdict(point))
            for name, point in found.items():
                points.setdefault(name, []).append(point)
                print(f"{name}: {size:,} items, {point.flops / point.exact_flops:.2%} of the FLOPs")
    return _outcome(points, config, seeds)


def _measured(folder) -> dict[tuple[int, int], dict[str, Point]]:
    """Read the points of a run's metrics by seed and size."""
    fields = {field.name for field in dataclasses.fields(Point)}
    found: dict[tuple[int, int], dict[str, Point]] = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        name, _, seed = line["stage"].rpartition("-")
        point = Point(**{field: line[field] for field in fields})
        found.setdefault((int(seed), line["step"]), {})[name] = point
    return found


def _draw(config: ScaleConfig, size: int, seed: int) -> Planted:
    """Draw a catalogue, and the items more that are added."""
    leaves = size // 50
    return planted_tree(
        items=size + INSERTS,
        users=config.users,
        width=config.width,
        leaves=max(8, leaves),
        branches=max(4, math.isqrt(leaves)),
        seed=seed,
    )


def measure_size(
    draw: Callable[[], Planted], config: ScaleConfig, *, size: int, seed: int, faiss: bool
) -> dict[str, Point]:
    """Build an index over the first `size` items, find its budget, time it, insert the rest."""
    drawn = draw()
    items, users = drawn.items[:size], jnp.asarray(drawn.users)
    num_nodes = max(8, round(config.nodes_factor * math.sqrt(size)))
    exact, common = _measure_exact(items, users)
    points = {"HSNN": _measure_hsnn(drawn, exact, num_nodes, config, common, seed=seed)}
    if faiss:
        points["faiss IVF"] = _measure_ivf(items, drawn.users, exact, num_nodes, config, common)
    return points


def _measure_exact(items, users) -> tuple[np.ndarray, dict[str, float]]:
    """Return the exact answers, int [B, TOP], and what all points of this size share."""
    vectors = jnp.asarray(items)
    exact = brute_force(dot, None, items=vectors, users=users, k=TOP)
    speed = _speed(
        lambda: brute_force(dot, None, items=vectors, users=users, k=TOP).ids, len(users)
    )
    common = {"items": len(items), "exact_flops": float(exact.flops[0])}
    return np.asarray(exact.ids), common | {"exact_queries_per_second": speed}


def _measure_hsnn(
    drawn: Planted, exact, num_nodes: int, config: ScaleConfig, common, *, seed: int
) -> Point:
    """Measure a `Retriever` with nodes by k-means; the items beyond those indexed are added."""
    size, users = common["items"], drawn.users
    start = time.perf_counter()
    retriever = Retriever(LTIConfig(num_nodes=num_nodes), slack=config.slack)
    usage = retriever.build_index(drawn.items[:size], reserve=INSERTS, seed=seed)
    build_seconds = time.perf_counter() - start

    def find(some, budget):
        return retriever.search(some, TOP, budget=budget)

    budget = least_budget(
        lambda b: recall(find(users, b).ids, exact), least=int(usage["capacity"]), most=size
    )
    answer = find(users, budget)
    return Point(
        recall=recall(answer.ids, exact),
        scored=float(answer.items_scored.mean()),
        flops=float(answer.flops.mean()),
        queries_per_second=_speed(lambda: find(users, budget).ids, len(users)),
        **_latency(lambda u: find(u, budget).ids, users, config.requests),
        build_seconds=build_seconds,
        index_bytes=int(usage["bytes"]),
        insert_ms=_insert_ms(retriever, drawn.items[size:], size),
        **common,
    )


def _measure_ivf(items, users, exact, num_nodes: int, config: ScaleConfig, common) -> Point:
    """Measure IVF with as many lists as HSNN has nodes."""
    ivf = FaissIVF("faiss IVF", items, num_nodes)
    start = time.perf_counter()
    ivf.build()
    build_seconds = time.perf_counter() - start
    none = np.full((len(users), 1), -1, np.int32)

    def find(some, budget):
        return ivf.search(Requests(some, none[: len(some)]), TOP, budget=budget)

    budget = least_budget(
        lambda b: recall(find(users, b).ids, exact), least=len(items) // num_nodes, most=len(items)
    )
    answer = find(users, budget)
    return Point(
        recall=recall(answer.ids, exact),
        scored=answer.items_scored,
        flops=answer.flops,
        queries_per_second=_speed(lambda: find(users, budget).ids, len(users)),
        **_latency(lambda u: find(np.asarray(u), budget).ids, users, config.requests),
        build_seconds=build_seconds,
        index_bytes=items.nbytes + 8 * len(items) + 4 * num_nodes * items.shape[1],
        insert_ms=None,
        **common,
    )


def least_budget(
    recall_at: Callable[[int], float], *, least: int, most: int, steps: int = 9
) -> int:
    """Find, by bisection of the logarithm, about the least budget that keeps `KEPT`.

    `recall_at` must not fall with the budget. Where even `most` is too little, it is returned.
    """
    low, high = math.log(least), math.log(most)
    if recall_at(least) >= KEPT:
        return least
    for _ in range(steps):
        middle = (low + high) / 2
        if recall_at(round(math.exp(middle))) >= KEPT:
            high = middle
        else:
            low = middle
    return round(math.exp(high))


def _speed(call, count: int) -> float:
    """Count answers a second, after a call that compiles."""
    jax.block_until_ready(call())
    return count / median_seconds(call, repeats=3)


def _latency(call, users, count: int) -> dict[str, float]:
    """Time single requests, after one that compiles."""
    one = [users[max(row, 0) % len(users)][None, :] for row in range(-1, count)]
    seconds = [seconds_of(functools.partial(call, user)) for user in one]
    p50, p99 = percentiles_ms(seconds[1:])
    return {"p50_ms": p50, "p99_ms": p99}


def _insert_ms(retriever: Retriever, vectors, first: int) -> float:
    """Time one addition of many items, an item; a first one, of half of them, compiles."""
    half = len(vectors) // 2
    retriever.add(vectors[:half], first + np.arange(half))

    def add():
        retriever.add(vectors[half:], first + np.arange(half, len(vectors)))
        return retriever.index

    return 1e3 * seconds_of(add) / (len(vectors) - half)


def exponent(points: Sequence[Point]) -> float:
    """Fit the power of the catalogue's size by which the FLOPs of a query grow."""
    sizes = np.log([p.items for p in points])
    if np.ptp(sizes) == 0:
        return float("nan")
    return float(np.polyfit(sizes, np.log([p.flops for p in points]), 1)[0])


def _outcome(points, config: ScaleConfig, seeds) -> Outcome:
    metrics, rows = {}, []
    for name, found in points.items():
        metrics[f"{name}/exponent"] = exponent(found)
        for size in config.items:
            own = [dataclasses.asdict(p) for p in found if p.items == size]
            mean = {f: float(np.mean([p[f] for p in own])) for f in own[0] if own[0][f] is not None}
            mean["flops_ratio"] = mean["exact_flops"] / mean["flops"]
            metrics |= {f"{name}/{size}/{f}": v for f, v in mean.items() if f != "items"}
            shown = ("flops", "flops_ratio", "queries_per_second", "p50_ms", "p99_ms")
            cells = [mean["recall"], mean["scored"] / size, *(mean[f] for f in shown)]
            cells += [mean["build_seconds"], mean["index_bytes"] / 2**20, mean.get("insert_ms")]
            rows.append([f"{name}, {size:,} items", *cells])
    first = next(iter(points.values()))
    exact = []
    for size in config.items:
        own = [p for p in first if p.items == size]
        speed = float(np.mean([p.exact_queries_per_second for p in own]))
        exact.append([f"exact, {size:,} items", 1.0, 1.0, own[0].exact_flops, 1.0, speed])
    fits = "; ".join(f"{name} N^{metrics[f'{name}/exponent']:.2f}" for name in points)
    columns = ("", "recall of exact 100", "share scored", "FLOPs", "times fewer", "queries/s")
    columns += ("p50 ms", "p99 ms", "build s", "MiB", "insert ms an item")
    table = Table(
        title="Least cost that keeps 95 % of the exact top 100, simulated",
        columns=columns,
        baselines=[[*row, *[None] * (len(columns) - len(row))] for row in exact],
        rows=rows,
        note=f"FLOPs a query grow as {fits} (exact: N^1). Means over {len(seeds)} seed(s). "
        f"p50 and p99: one warm request. Insert: {INSERTS // 2:,} items at once.",
    )
    return Outcome(
        title="Scale, simulated",
        intro="Simulated: unit vectors around the leaves of a planted tree, fifty items a leaf; "
        "queries near items; the inner product scores.",
        protocol={"data": "simulated planted tree", "cut": TOP, "kept": KEPT},
        metrics=metrics,
        baselines={f"exact/{p.items}/flops": p.exact_flops for p in first},
        tables=[table],
    )


def size_panels(figures: Figures) -> list[Draw]:
    """Draw operations and latency by the catalogue's size, with the fitted exponents."""
    fits = {name: own[0] for (name,), own in pick(figures, "(.+)/exponent").items()}
    flops: dict[str, list[tuple[float, float]]] = {}
    latency: dict[str, list[tuple[float, float]]] = {}
    for (name, size), (value,) in pick(figures, r"(.+)/(\d+)/flops").items():
        flops.setdefault(name, []).append((float(size), value / 1e6))
    for (name, size), (value,) in pick(figures, r"(.+)/(\d+)/p50_ms").items():
        latency.setdefault(name, []).append((float(size), value))
    flops = {name: flops[name] for name in (*fits, "exact")}
    draw = functools.partial(draw_lines, x_label="items", log_x=True, log_y=True)
    grows = "; ".join(f"{name} N^{power:.2f}" for name, power in fits.items())
    title = f"Growth: {grows}; exact N"
    return [
        functools.partial(draw, curves=flops, y_label="millions of FLOPs per query", title=title),
        functools.partial(draw, curves=latency, y_label="p50 of one request, ms", title="Latency"),
    ]
