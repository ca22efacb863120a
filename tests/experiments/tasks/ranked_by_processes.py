"""Rank and search drawn queries in one of several processes: FILE HOST:PORT PROCESS-ID OUT.

The parameters are dealt over the devices of all processes, as training leaves them.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import PartitionSpec

from experiments.harness import processes
from experiments.harness.devices import make_mesh
from experiments.harness.options import ManySeeds
from experiments.loop.sharding import param_shardings, put
from experiments.retrieval.searchers import HSNN, Exact, Requests, dot_model
from experiments.tasks import next_item
from nxtpost_jax import NxtPost, NxtPostConfig, Protocol, Queries, Sequences, Split

N, QUERIES = 64, 700  # three batches: one process ranks two of them
CONFIG = NxtPostConfig(
    d_model=8, num_layers=1, max_len=6, id_embedding=True, dropout=0.0, time_features=False
)


def drawn():
    """Draw a problem of ids alone, a model and its parameters."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, QUERIES)
    histories = Sequences(rng.integers(0, N, lengths.sum()), np.cumsum([0, *lengths]))
    queries = Queries(histories, rng.integers(0, N, QUERIES), np.arange(QUERIES) // 2)
    problem = next_item.Problem(
        split=Split(histories, queries, queries),
        num_items=N,
        content=None,
        candidates=np.arange(N, dtype=np.int32),
        protocol=Protocol(data="drawn", data_hash=""),
    )
    model = NxtPost(CONFIG, N)
    example = {"items": np.zeros((1, 2), np.int32)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), example, None)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    return problem, model, params


def figures(problem, model, params):
    """Rank all queries: the ranks, and what follows from them."""
    found = next_item.score(problem, model, params=params, queries=problem.split.validation)
    return {"ranks": found.ranks, "values": np.array(sorted(found.values.items()))}


def searched():
    """Search an index and all items for queries whose number the processes do not divide."""
    rng = np.random.default_rng(1)
    users, items = (rng.normal(size=(n, 8)).astype(np.float32) for n in (31, 400))
    requests = Requests(users, np.full((31, 1), -1, np.int32))
    asked = []

    def encode_users(some):
        asked.append(len(some.users))
        return some.users

    model = dataclasses.replace(dot_model(items), encode_users=encode_users)
    index = HSNN("index", model, items, items[:20])
    index.build()
    found = {}
    for searcher, budget in ((index, 120), (Exact("exact", model), 0)):
        ids, scored, flops = searcher.search(requests, 5, budget=budget)
        found |= {f"{searcher.name} ids": ids, f"{searcher.name} costs": np.array([scored, flops])}
    return found, np.array(asked)


def main():
    coordinator, process, out = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 2)
    options = dataclasses.replace(
        ManySeeds(), coordinator=coordinator, num_processes=2, process_id=int(process)
    )
    processes.join(options)
    problem, model, params = drawn()
    mesh = make_mesh(jax.devices())
    rules = [("embedding$", PartitionSpec("data"))]
    dealt = jax.tree.map(put, params, param_shardings(params, mesh, rules=rules))
    with jax.set_mesh(mesh):  # as while training
        found = figures(problem, model, dealt)
    answers, asked = searched()
    np.savez(Path(out), asked=asked, **found, **answers)


if __name__ == "__main__":
    main()
