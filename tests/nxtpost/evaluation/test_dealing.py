"""Queries dealt over processes: every process gets the figures of one, bit for bit."""

import threading

import numpy as np
import pytest

from nxtpost_jax import Deal
from nxtpost_jax.evaluation.ranking import evaluate
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.splits import Queries

N = 30


def posed(count, seed=0):
    """Queries of users who have seen one to five items, and a table of scores with many ties."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, count)
    histories = Sequences(rng.integers(0, N, lengths.sum()), np.cumsum([0, *lengths]))
    queries = Queries(histories, rng.integers(0, N, count), np.arange(count) // 2)
    table = rng.integers(0, 4, (N, N)).astype(np.float32)
    table[3, 5] = np.nan
    return queries, lambda batch: table[batch["items"][:, 0]]


def in_processes(count, run):
    """Call `run` with the deal of each of several processes, as threads that wait for another."""
    given, found = [None] * count, [None] * count
    barrier = threading.Barrier(count, timeout=60)

    def gather_of(index):
        def gather(array):
            given[index] = array
            barrier.wait()
            gathered = np.stack(given)
            barrier.wait()
            return gathered

        return gather

    def process(index):
        found[index] = run(Deal(index, count, gather_of(index)))

    threads = [threading.Thread(target=process, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 8, 9, 41])
def test_each_process_gets_the_figures_of_one(count, processes):
    queries, scores = posed(count)
    asked = []

    def counted(batch):
        asked.append(len(batch["items"]))
        return scores(batch)

    how = {"max_len": 5, "ks": (1, 5), "batch_size": 8, "bootstrap": 20}
    alone = evaluate(scores, queries, **how)
    for each in in_processes(processes, lambda deal: evaluate(counted, queries, deal=deal, **how)):
        np.testing.assert_array_equal(each.ranks, alone.ranks)
        assert each.values == alone.values
    assert len(asked) == -(-count // 8)  # no batch is scored twice


def test_the_share_of_all_items_shown_is_not_dealt():
    queries, scores = posed(8)
    deal = Deal(0, 1, lambda array: array[None])
    with pytest.raises(ValueError, match="coverage: expected False beside deal, found True"):
        evaluate(scores, queries, max_len=5, coverage=True, deal=deal)
