"""Items that enter and leave an index for a long time: every list stays true to what is held."""

from __future__ import annotations

import time

import numpy as np

from experiments.studies.long_runs.memory import Memory
from experiments.studies.long_runs.outcome import LongRun
from hsnn_jax import LTIConfig, Retriever

ITEMS, WIDTH, NODES, K = 2000, 16, 32, 10
LOOKS = 50
REASSIGN_EVERY, REBUILD_EVERY = 50, 500  # cycles


def cycle_long(*, cycles: int, seed: int) -> LongRun:
    """Add, remove and replace items, list them anew now and then, and compare with a plain search.

    A look asks for the best items of all with a budget that holds them, and with one that does not:
    that one's must be held, allowed and in order.
    """
    rng = np.random.default_rng(seed)
    held = {n: rng.normal(size=WIDTH).astype(np.float32) for n in range(ITEMS)}
    retriever = Retriever(LTIConfig(num_nodes=NODES))
    retriever.build_index(np.stack(list(held.values())), reserve=ITEMS // 4, seed=seed)
    memory, looks, wrong, fresh = Memory(), 0, 0, ITEMS
    every = max(1, cycles // LOOKS)
    start = time.monotonic()
    for n in range(cycles):
        count = int(rng.integers(1, 5))
        coming = [fresh + i for i in range(count)]
        fresh += count
        vectors = rng.normal(size=(count, WIDTH)).astype(np.float32)
        retriever.add(vectors, coming)
        held |= dict(zip(coming, vectors))
        leaving = rng.choice(np.array(list(held)), count, replace=False).tolist()
        retriever.remove(leaving)
        for item in leaving:
            del held[item]
        changed = rng.choice(np.array(list(held)), 2, replace=False).tolist()
        vectors = rng.normal(size=(2, WIDTH)).astype(np.float32)
        retriever.upsert(vectors, changed)
        held |= dict(zip(changed, vectors))
        if (n + 1) % REASSIGN_EVERY == 0:
            retriever.reassign()
        if (n + 1) % REBUILD_EVERY == 0:
            retriever.rebuild(seed=n)
        if (n + 1) % every == 0:
            looks += 1
            wrong += not _is_right(retriever, held, rng)
            memory.sample((n + 1) / cycles)
    seconds = time.monotonic() - start
    return LongRun("cycles of items", cycles, looks, wrong, seconds, memory)


def _is_right(retriever: Retriever, held: dict[int, np.ndarray], rng: np.random.Generator) -> bool:
    ids, vectors = np.array(list(held)), np.stack(list(held.values()))
    if not np.array_equal(np.sort(retriever.ids[retriever.ids >= 0]), np.sort(ids)):
        return False
    users = rng.normal(size=(4, WIDTH)).astype(np.float32)
    scores_UxN = users @ vectors.T
    best = -np.sort(-scores_UxN, axis=1)[:, :K]
    answer = retriever.search(users, K, budget=len(ids))
    score_of = dict(zip(ids.tolist(), scores_UxN.T))
    own = [[score_of[i][u] for i in row] for u, row in enumerate(answer.ids.tolist())]
    exact = np.allclose(answer.scores, best, atol=1e-4) and np.allclose(own, best, atol=1e-4)
    few, scores = retriever.search(users, K, budget=len(ids) // 10)
    rows = [[item for item in row if item >= 0] for row in few.tolist()]  # a list may hold few
    known = all(held.keys() >= set(row) and len(set(row)) == len(row) for row in rows)
    return bool(exact and known and (scores[:, 1:] <= scores[:, :-1]).all())
