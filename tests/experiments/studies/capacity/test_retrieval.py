"""HSNN's search: what the program reads and gathers is what the formula says."""

import dataclasses

import pytest

from experiments.studies.capacity.retrieval import Catalogue, compile_search, compute_search

SMALL = Catalogue(
    items=4096, nodes=(8, 64, 512), width=8, budgets=(32, 64, 128), queries=4, k=5, slack=1.5
)


@pytest.mark.parametrize("devices", [2, 4])
def test_the_compiled_search_reads_and_gathers_what_is_computed(devices):
    row, deviation = compile_search(SMALL, devices)
    assert deviation < 0.01
    assert row.source == "compiled" and row.temporary > 0
    assert row.moved == 2 * 4 * 4 * 5 * devices  # ids and scores of k answers per query


def test_lists_and_vectors_are_dealt_and_the_rest_is_whole():
    one, four = compute_search(SMALL, 1), compute_search(SMALL, 4)
    slots = 512 * 12  # 1.5 times the mean of 8
    assert (one.lists, one.tiles) == (4 * slots, 4 * 8 * slots)
    assert (4 * four.lists, 4 * four.tiles) == (one.lists, one.tiles)
    assert one.whole == four.whole > 4 * 4096  # places of the items, at least
    assert one.flops - four.flops == 2 * 8 * 128 * 3 / 4


def test_the_large_catalogue_has_ids_of_32_bits():
    catalogue = Catalogue()
    row = compute_search(catalogue, 4096)
    assert row.lists * 4096 / 4 < 2**31  # a slot's number, node * capacity + column
    assert compute_search(dataclasses.replace(catalogue, slack=2.2), 4096).lists * 1024 > 2**31
