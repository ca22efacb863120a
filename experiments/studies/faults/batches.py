"""Batches that are NaN: the run ends as one that never had them."""

from __future__ import annotations

from experiments.studies.faults.moments import Draw
from experiments.studies.faults.site import Site, Trial, bits_of, broken
from experiments.studies.faults.small_run import STEPS, TOTAL

SKIPPED = 10  # in a row, after which a run ends: the default of `train`


def poisoned(site: Site, draw: Draw, *, epochs: int) -> Trial:
    """Poison whole epochs of batches; from `SKIPPED` of them on the run ends once in between."""
    count = epochs * STEPS
    first = int(draw.integers(TOTAL - count + 1))
    numbers = [str(number) for number in range(first, first + count)]
    folder, clean = site.new(), site.new()
    ended = site.start(folder, "--poisoned", *numbers).end()
    if count >= SKIPPED:
        if not ended.refused:
            return broken(f"{SKIPPED} steps skipped in a row, and no line with exit code 2", ended)
        ended = site.start(folder, resume=True).end()
    if ended.code != 0:
        return broken(f"batches {first} to {first + count - 1} are NaN", ended)
    expected = site.start(clean, "--without", *numbers).end()
    if expected.code != 0:
        return broken("the run without these batches", expected)
    if bits_of(folder).state != bits_of(clean).state:
        return broken(f"another state than without batches {first} to {first + count - 1}")
    return Trial("same bits", again=0)
