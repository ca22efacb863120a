"""New items that lie further from their nodes widen these nodes' spread, and no others'."""

import numpy as np

from hsnn_jax import LTIConfig, Retriever
from tests.hsnn.planted import clusters

ITEMS, _ = clusters(0, items=400, width=8, num_clusters=8, noise=0.4)


def test_a_node_takes_the_spread_of_what_comes():
    retriever = Retriever(LTIConfig(num_nodes=8, kmeans_iterations=4))
    retriever.build_index(ITEMS, reserve=100)
    before = np.asarray(retriever._now.tail.spread)
    nodes = np.asarray(retriever.index.nodes)
    far = nodes[2] + 0.9 * np.eye(8, dtype=np.float32)[:4]
    retriever.add(far, np.arange(1000, 1004))
    index = retriever.index
    rows = np.flatnonzero(np.isin(retriever.ids, np.arange(1000, 1004)))
    of = np.asarray(index.positions)[rows] // index.lists.shape[1]
    after = np.asarray(retriever._now.tail.spread)
    untouched = np.setdiff1d(np.arange(8), of)
    np.testing.assert_array_equal(after[untouched], before[untouched])
    for node in np.unique(of):
        held = int(index.counts[node]) - int((of == node).sum())
        came = ((far[np.argsort(rows)][of == node] - nodes[node]) ** 2).mean(axis=1)
        mixed = np.sqrt((held * before[node] ** 2 + came.sum()) / (held + came.size))
        np.testing.assert_allclose(after[node], mixed, rtol=1e-5)
