"""Users and items as sets of pairs."""

import numpy as np

from experiments.data.datasets import read
from experiments.tasks.pairs import pose_pairs


def test_pairs_are_split_without_overlap_and_by_seed(kinds):
    interactions = read(kinds)
    problem = pose_pairs(interactions, seed=0)
    parts = [set(zip(*p)) for p in (problem.train, problem.validation, problem.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == interactions.n_events
    assert len(parts[2]) == interactions.published_test.sum()
    assert set(zip(*problem.known)) == parts[0] | parts[1]
    again, other = (pose_pairs(interactions, seed=s).validation for s in (0, 1))
    np.testing.assert_array_equal(again.items, problem.validation.items)
    assert not np.array_equal(other.items, problem.validation.items)
    rows = np.array([0, 7])
    for row, items in zip(rows, problem.train.padded(rows)):
        assert {i for u, i in parts[0] if u == row} == set(items[items >= 0].tolist())
