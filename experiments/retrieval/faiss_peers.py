"""What others search by, under the protocol of `searchers`: faiss's IVF and HNSW."""

from __future__ import annotations

import dataclasses
import warnings
from types import ModuleType

import numpy as np

from experiments.harness.errors import InputError
from experiments.retrieval.searchers import Requests
from hsnn_jax.cost_curves import Found

CONSTRUCTION = 100  # candidates of HNSW's inserts
_USERS = 32  # whose excluded items are looked up at once


def load_faiss() -> ModuleType:
    """Import faiss.

    Raises:
      InputError: it is not installed.
    """
    try:
        with warnings.catch_warnings():  # of its SWIG wrapper, under newer Pythons
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss  # pyright: ignore[reportMissingImports]  # the extra `bench` has it
    except ImportError as error:
        raise InputError(
            "faiss: expected the package faiss-cpu (extra `bench`), found none; "
            "pip install faiss-cpu, or --baselines none"
        ) from error
    return faiss


@dataclasses.dataclass
class FaissIVF:
    """faiss IndexIVFFlat under the inner product; the budget gives the number of lists probed.

    Centroids are scaled to length 1 and items listed by inner product, as faiss has it by default;
    or they are plain means, items are listed by L2, and lists are still probed by inner product.
    """

    name: str
    item_vectors: np.ndarray
    num_lists: int
    seed: int = 0
    spherical: bool = True

    def build(self) -> None:
        """Cluster the items and fill the lists."""
        faiss = load_faiss()
        items = np.ascontiguousarray(self.item_vectors, np.float32)
        width = items.shape[1]
        # The index borrows its quantizers: they must live as long.
        self._quantizer = (faiss.IndexFlatIP if self.spherical else faiss.IndexFlatL2)(width)
        self.index = faiss.IndexIVFFlat(
            self._quantizer, width, self.num_lists, faiss.METRIC_INNER_PRODUCT
        )
        self.index.cp.min_points_per_centroid = 1  # else it warns on small data
        self.index.cp.seed = self.seed + 1
        self.index.cp.spherical = self.spherical
        self.index.train(items)
        self.index.add(items)
        if not self.spherical:
            self._probed = faiss.IndexFlatIP(width)
            self._probed.add(self._quantizer.reconstruct_n(0, self.num_lists))
            self.index.quantizer = self._probed

    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`."""
        items = len(self.item_vectors)
        self.index.nprobe = int(np.clip(round(budget * self.num_lists / items), 1, self.num_lists))
        count = min(items, k + requests.exclude.shape[1])
        stats = load_faiss().cvar.indexIVF_stats
        return _ask(self.index, stats, requests, k, count, centroids=self.num_lists)


@dataclasses.dataclass
class FaissHNSW:
    """faiss IndexHNSWFlat; the budget gives efSearch.

    It searches by inner product; or, reduced, by L2 with one more column, which gives all items one
    length and users nothing (Bachrach et al. 2014, "Speeding Up the Xbox Recommender System").
    """

    name: str
    item_vectors: np.ndarray
    neighbours: int = 16
    reduced: bool = False

    def build(self) -> None:
        """Insert the items one by one."""
        faiss = load_faiss()
        items = np.asarray(self.item_vectors, np.float32)
        if self.reduced:
            squares = np.sum(items**2, axis=1)
            items = np.column_stack([items, np.sqrt(squares.max() - squares)])
        items = np.ascontiguousarray(items)
        metric = faiss.METRIC_L2 if self.reduced else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.IndexHNSWFlat(items.shape[1], self.neighbours, metric)
        self.index.hnsw.efConstruction = CONSTRUCTION
        self.index.add(items)

    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`. Each item kept brings about eight more distances."""
        items = len(self.item_vectors)
        self.index.hnsw.efSearch = max(k, budget // 8)
        count = min(items, self.index.hnsw.efSearch, k + requests.exclude.shape[1])
        if self.reduced:
            users = np.pad(np.asarray(requests.users, np.float32), ((0, 0), (0, 1)))
            requests = requests._replace(users=users)
        return _ask(self.index, load_faiss().cvar.hnsw_stats, requests, k, count)


def _ask(index, stats, requests: Requests, k: int, count: int, *, centroids: int = 0) -> Found:
    """Search a faiss index for `count` candidates and keep the first k that are new.

    `stats` counts the items scored; `centroids` are scored beside them.
    """
    users = np.ascontiguousarray(requests.users, np.float32)
    stats.reset()
    _, ids = index.search(users, count)
    scored = stats.ndis / len(ids)
    flops = 2.0 * users.shape[1] * (scored + centroids)
    return Found(_first_new(ids, requests.exclude, k, index.ntotal), scored, flops)


def _first_new(ids, exclude, k: int, num_items: int) -> np.ndarray:
    """Keep the first k ids of each row that are not excluded; -1 where they run out."""
    kept = np.full((len(ids), k), -1, np.int32)
    # Users are few at a time, so that the table stays in cache: this is timed with the search.
    for first in range(0, len(ids), _USERS):
        found, barred_ids = ids[first : first + _USERS], exclude[first : first + _USERS]
        rows = np.arange(len(found))[:, None]
        barred = np.zeros((len(found), num_items + 1), bool)
        barred[rows, barred_ids] = True
        barred[:, -1] = True  # id -1
        new = ~barred[rows, found]
        rank = np.cumsum(new, axis=1) - 1
        row, column = np.nonzero(new & (rank < k))
        kept[first + row, rank[row, column]] = found[row, column]
    return kept
