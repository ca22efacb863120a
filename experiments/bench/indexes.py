"""Indexes that search vectors by inner product, ours and others', each behind a knob.

A knob is what trades time for recall: items scored, lists probed, the length of a candidate list.
All run in one thread and are built once.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np

from experiments.harness.errors import InputError
from experiments.retrieval.faiss_peers import CONSTRUCTION, FaissHNSW, FaissIVF, load_faiss
from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.cost_curves import recall

HNSW = {"neighbours": 16, "construction": CONSTRUCTION}


@dataclasses.dataclass(frozen=True)
class Built:
    """An index over items.

    Attributes:
      search: search(users float32 [B, d], k, knob) -> ids int [B, k].
      knobs: ascending; recall and time grow with them.
      bytes: of its arrays or of its file, 0 where that is not known.
    """

    search: Callable[[np.ndarray, int, int], np.ndarray]
    knobs: list[int]
    bytes: int
    retriever: Retriever | None = None


def _growing(first: float, last: float, *, steps: int = 24) -> list[int]:
    return sorted({math.ceil(x) for x in np.geomspace(first, last, steps)})


def hsnn(items: np.ndarray, *, slack: float, seed: int) -> Built:
    """Build a `Retriever` over the items; the knob is the budget."""
    retriever = Retriever(LTIConfig(), slack=slack)
    size = int(retriever.build_index(items, seed=seed)["bytes"])
    root = math.sqrt(len(items))

    def search(users, k, knob):
        return retriever.search(users, k, budget=knob).ids

    return Built(search, _growing(root, 16 * root, steps=40), size, retriever)


def faiss_ivf(items: np.ndarray, *, slack: float, seed: int) -> Built:
    """Build faiss IndexIVFFlat with as many lists as ours has nodes; the knob is nprobe."""
    del slack
    load_faiss().omp_set_num_threads(1)
    lists = math.ceil(2 * math.sqrt(len(items)))
    peer = FaissIVF("faiss IVF", items, lists, seed)
    peer.build()

    def search(users, k, knob):
        peer.index.nprobe = knob
        return peer.index.search(users, k)[1]

    size = items.size * 4 + len(items) * 8 + lists * items.shape[1] * 4
    return Built(search, list(range(1, 129)), size)


def faiss_hnsw(items: np.ndarray, *, slack: float, seed: int) -> Built:
    """Build faiss IndexHNSWFlat; the knob is efSearch."""
    del slack, seed
    load_faiss().omp_set_num_threads(1)
    peer = FaissHNSW("faiss HNSW", items, HNSW["neighbours"])
    peer.build()

    def search(users, k, knob):
        peer.index.hnsw.efSearch = knob
        return peer.index.search(users, k)[1]

    size = 4 * items.size + len(items) * 8 * peer.neighbours
    return Built(search, _growing(100, 2000), size)


def hnswlib(items: np.ndarray, *, slack: float, seed: int) -> Built:
    """Build hnswlib's index; the knob is ef."""
    del slack
    index = load("hnswlib").Index(space="ip", dim=items.shape[1])
    options = {"M": HNSW["neighbours"], "ef_construction": HNSW["construction"]}
    index.init_index(max_elements=len(items), random_seed=seed, **options)
    index.set_num_threads(1)
    index.add_items(items, num_threads=1)

    def search(users, k, knob):
        index.set_ef(max(knob, k))
        return index.knn_query(users, k=k, num_threads=1)[0]

    return Built(search, _growing(100, 2000), index.index_file_size())


def usearch(items: np.ndarray, *, slack: float, seed: int) -> Built:
    """Build usearch's index; the knob is its expansion in a search."""
    del slack, seed
    options = {"connectivity": HNSW["neighbours"], "expansion_add": HNSW["construction"]}
    index = load("usearch.index").Index(
        ndim=items.shape[1], metric="ip", dtype="f32", expansion_search=100, **options
    )
    index.add(np.arange(len(items)), items, threads=1)

    def search(users, k, knob):
        index.expansion_search = max(knob, k)
        return np.atleast_2d(index.search(users, k, threads=1).keys)

    return Built(search, _growing(100, 2000), int(index.memory_usage))


INDEXES: dict[str, Callable[..., Built]] = {
    "HSNN": hsnn,
    "faiss IVF": faiss_ivf,
    "hnswlib": hnswlib,
    "faiss HNSW": faiss_hnsw,
    "usearch": usearch,
}


def load(module: str) -> ModuleType:
    """Import a rival.

    Raises:
      InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise InputError(
            f"{name}: expected the package (extra `bench`), found none; pip install {name}"
        ) from error


def knob_for(built: Built, users: np.ndarray, exact: np.ndarray, *, recall: float) -> int:
    """Return the least knob whose recall of the exact ids [B, k] suffices, or the last one."""
    low, high = 0, len(built.knobs) - 1
    while low < high:  # recall grows with the knob
        middle = (low + high) // 2
        if recall_at(built, users, exact, knob=built.knobs[middle]) >= recall:
            high = middle
        else:
            low = middle + 1
    return built.knobs[low]


def recall_at(built: Built, users: np.ndarray, exact: np.ndarray, *, knob: int) -> float:
    """Return the share of the exact ids [B, k] that are found."""
    return recall(built.search(users, exact.shape[1], knob), exact)
