"""Least times by hand."""

import pytest

from experiments.studies.capacity.rooflines import H200, Machine, least_time

SLOW = Machine(
    name="slow",
    flops=100.0,
    memory=1e3,
    memory_rate=50.0,
    near=10.0,
    near_devices=4,
    far=1.0,
    source="made up",
)


def test_the_longest_of_three():
    moved = {"all-gather": 40.0, "all-reduce": 20.0}
    least = least_time(SLOW, devices=4, flops=500.0, held=100.0, moved=moved)
    assert (least.arithmetic, least.memory) == (5.0, 4.0)
    assert least.network == pytest.approx(0.75 * (40 + 2 * 20) / 10)
    assert (least.seconds, least.limit) == (6.0, "network")


def test_a_reduce_scatter_sends_all_parts_of_which_it_returns_one():
    moved = [{"reduce-scatter": 10.0}, {"all-gather": 40.0}]
    one, other = (least_time(SLOW, devices=4, flops=0, held=0, moved=each) for each in moved)
    assert one.network == other.network == 3.0


def test_beyond_the_near_devices_the_far_link_counts():
    near, far = (
        least_time(SLOW, devices=n, flops=0, held=0, moved={"all-gather": 8.0}) for n in (4, 8)
    )
    assert (near.network, far.network) == (0.6, 7.0)


def test_published_figures_are_in_bytes_and_seconds():
    least = least_time(H200, devices=1, flops=989e12, held=2.4e12, moved={})
    assert (least.arithmetic, least.memory, least.network) == (1.0, 1.0, 0.0)
