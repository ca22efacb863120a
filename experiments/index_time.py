"""Time the search of `hsnn_jax` beside faiss, hnswlib and usearch, at one recall.

    python -m experiments.index_time                  # half an hour on one CPU core
    python -m experiments.index_time --rivals "faiss IVF,hnswlib" --items 100000

Two catalogues: simulated vectors around the leaves of a planted tree, and snippets of installed
Python source (TF-IDF, SVD), of which some are equal. Every index is tuned to the least knob that
finds the wanted share of the exact top k; then all take turns in one process, one thread each.
A row says:

    us_256, us_512   microseconds per query in batches of so many, median
    us_1             p50 of single requests
    build_s          seconds to build, compilation included
    add_ms           median of adding one item (ours alone) while another thread searches
    add_p99_ms       99th percentile of the same
    merge_ms         median of the adds by which the items that wait go into the lists
    bytes_ratio      bytes of the arrays over those of faiss IVF
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from experiments.bench.adds import time_adds
from experiments.bench.indexes import INDEXES, Built, knob_for, recall_at
from experiments.data.drawn import planted_tree
from experiments.data.source_lines import source_vectors
from experiments.harness.errors import bad_input
from experiments.harness.figures import Figures, pick
from experiments.harness.options import OneSeed, check_least
from experiments.harness.plots import Draw, draw_groups
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Setting, Study

BATCHES = (1, 256, 512)
ADDS = ("add_ms", "add_p99_ms", "merge_ms")
ROW = ("recall", "knob", "us_1", "us_256", "us_512", "build_s", *ADDS, "bytes_ratio")
FIRST = "faiss IVF"


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexTime(OneSeed):
    """Time indexes."""

    items: int = 300_000
    """simulated vectors; 0 for none"""
    text: int = 100_000
    """snippets of text; 0 for none"""
    width: int = 64
    """of the vectors"""
    k: int = 100
    """items that a query asks for"""
    recall: float = 0.95
    """share of the exact top k that every index is tuned to"""
    slack: float = 1.5
    """room of our lists over the mean number of items of a node"""
    rivals: str = "faiss IVF,hnswlib,faiss HNSW,usearch"
    """beside ours, separated by commas"""
    turns: int = 9
    """batches of each size that are timed; single requests are twenty times as many"""
    adds: int = 1000
    """single items that are added, of which each 257th lists those that wait"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, items=0, text=0, k=1, turns=1, adds=1)
        for name in self.rivals.split(","):
            if name not in INDEXES:
                raise bad_input("--rivals", expected=", ".join(INDEXES), found=name)


PRESETS = {
    "default": IndexTime(),
    "smoke": IndexTime(items=3000, text=0, k=10, rivals=FIRST, turns=2, adds=2),
}


def catalogues(options: IndexTime) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draw (items [n, d], queries [max(BATCHES), d]) by name."""
    found, queries = {}, max(BATCHES)
    if options.items:
        leaves = max(8, options.items // 50)
        drawn = planted_tree(
            items=options.items,
            users=queries,
            width=options.width,
            leaves=leaves,
            branches=max(4, int(leaves**0.5)),
            seed=options.seed,
        )
        found["simulated"] = drawn.items, drawn.users
    if options.text:
        count = options.text + queries
        vectors = source_vectors(count, width=options.width, seed=options.seed)
        found["text"] = vectors[queries:], vectors[:queries]
    return {
        name: (np.ascontiguousarray(items, np.float32), np.ascontiguousarray(users, np.float32))
        for name, (items, users) in found.items()
    }


def exact_ids(items: np.ndarray, users: np.ndarray, k: int) -> np.ndarray:
    """Return the ids of the k largest inner products, int [B, k]."""
    scores = users @ items.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def time_catalogue(
    items: np.ndarray, users: np.ndarray, options: IndexTime
) -> dict[str, dict[str, float]]:
    """Build, tune and time every index: rows of `ROW` by its name."""
    exact, rows, built = exact_ids(items, users, options.k), {}, {}
    for name in ("HSNN", *options.rivals.split(",")):
        start = time.perf_counter()
        index = INDEXES[name](items, slack=options.slack, seed=options.seed)
        row: dict[str, float] = {"build_s": time.perf_counter() - start}
        knob = knob_for(index, users, exact, recall=options.recall)
        row |= {"knob": knob, "recall": recall_at(index, users, exact, knob=knob)}
        built[name], rows[name] = index, row
        print(f"{name}: {row['build_s']:.1f} s, recall {row['recall']:.3f} at {knob}", flush=True)
    for batch in BATCHES:
        seconds = _take_turns(built, rows, users, batch, options)
        for name, times in seconds.items():
            rows[name][f"us_{batch}"] = 1e6 * float(np.median(times)) / batch
    if FIRST in built:
        for name, index in built.items():
            rows[name]["bytes_ratio"] = index.bytes / built[FIRST].bytes
    retriever, budget = built["HSNN"].retriever, int(rows["HSNN"]["knob"])
    assert retriever is not None
    given = {"k": options.k, "budget": budget}
    rows["HSNN"] |= time_adds(retriever, items[: options.adds], users, **given)
    return rows


def _take_turns(built: dict[str, Built], rows, users, batch: int, options: IndexTime):
    """Return seconds of each call, index by index in turns; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for turn in range((options.turns if batch > 1 else 20 * options.turns) + 1):
        first = turn * batch % (len(users) - batch + 1)
        some = users[first : first + batch]
        for name, index in built.items():
            start = time.perf_counter()
            index.search(some, options.k, int(rows[name]["knob"]))
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def panels(figures: Figures) -> list[Draw]:
    """Draw microseconds per query by batch, a plot a catalogue."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (catalogue, name, batch), (us,) in pick(figures, r"(.+)/(.+)/us_(\d+)").items():
        found.setdefault(catalogue, {}).setdefault(f"batches of {batch}", {})[name] = us
    label = "us per query"
    return [
        functools.partial(draw_groups, groups=groups, title=f"{name} vectors", label=label)
        for name, groups in found.items()
    ]


def measure(setting: Setting[IndexTime]) -> Outcome:
    """Time all indexes on all catalogues."""
    options, tables, found = setting.options, [], []
    figures: dict[str, float] = {}
    for catalogue, (items, users) in catalogues(options).items():
        rows = time_catalogue(items, users, options)
        cells: dict[str, list[Any]] = {
            n: [n, *(row.get(c) for c in ROW)] for n, row in rows.items()
        }
        tables.append(
            Table(
                title=f"{len(items):,} {catalogue} vectors, recall@{options.k}",
                columns=("index", *ROW),
                baselines=[cells[name] for name in rows if name != "HSNN"],
                rows=[cells["HSNN"]],
            )
        )
        figures |= {f"{catalogue}/{n}/{c}": x for n, row in rows.items() for c, x in row.items()}
        if FIRST in rows:
            ratios = (rows["HSNN"][f"us_{b}"] / rows[FIRST][f"us_{b}"] for b in BATCHES)
            listed = " / ".join(f"{ratio:.2f}" for ratio in ratios)
            found.append(f"{catalogue}: {listed} times {FIRST}'s time in batches of 1 / 256 / 512.")
    own = {name: x for name, x in figures.items() if "/HSNN/" in name}
    return Outcome(
        title="Search time",
        intro="Ours beside others, one thread each, every index at the least knob that keeps the "
        "wanted recall.",
        protocol={"order": "indexes take turns call by call", "queries": max(BATCHES)},
        metrics=own,
        baselines={name: x for name, x in figures.items() if name not in own},
        tables=tables,
        found=" ".join(found),
    )


STUDY = Study(
    name="index_time",
    about="searches beside faiss, hnswlib and usearch",
    minutes=30,
    claim="In batches of 512 a search takes at most 1.2 times faiss IVF's time at equal recall.",
    presets=PRESETS,
    claim_panels=panels,
    measure=measure,
    times_compilation=True,
)
main = STUDY.main

if __name__ == "__main__":
    main()
