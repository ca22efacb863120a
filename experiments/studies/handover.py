"""What the whole path leaves behind to be used: a recommender on disk, and a few of its answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.interactions import Interactions
from experiments.harness.run_folder import Run
from experiments.tasks.next_item import Problem
from nxtpost_jax import NxtPost, Recommender

FOLDER, ITEMS = "recommender", "items.csv"
EXAMPLES, SHOWN, ANSWERS = 3, 4, 5  # histories, their last items, what is recommended
LONGEST = 72  # characters of a line


def hand_over(
    run: Run, problem: Problem, interactions: Interactions, *, model: NxtPost, params: Any
) -> Recommender:
    """Save the trained towers as a recommender, and beside it what the items are called.

    `recommender/` is what `Recommender.load` opens; `items.csv` has a row per item: the number by
    which the recommender knows it, its id in the data, its text.
    """
    recommender = Recommender(model.config, problem.content, num_items=problem.num_items)
    recommender.adopt(params)
    if run.is_writer:
        recommender.save(run.folder / FOLDER)
        _write_items(run.folder / ITEMS, interactions)
    return recommender


def _write_items(path: Path, interactions: Interactions) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("item", "id", "text"))
        texts = interactions.item_texts or [""] * interactions.n_items
        writer.writerows(zip(range(interactions.n_items), interactions.item_ids.tolist(), texts))
    temporary.replace(path)


def example_lines(
    recommender: Recommender, problem: Problem, interactions: Interactions, *, seed: int
) -> Iterator[str]:
    """Write a few test histories and what is recommended to them, by name."""
    queries = problem.split.test
    rows = np.random.default_rng(seed).choice(
        len(queries), min(EXAMPLES, len(queries)), replace=False
    )
    histories = queries.histories.select(rows)
    answer = recommender.recommend(histories, ANSWERS, exclude_seen=problem.protocol.seen_filter)
    for i in range(len(rows)):
        met = [name_of(interactions, item) for item in histories[i][-SHOWN:]]
        yield f"after   {_cut(', '.join(met))}"
        for item, score in answer.pairs(i):
            yield f"        {score:.2f}  {_cut(name_of(interactions, item))}"


def name_of(interactions: Interactions, item: int) -> str:
    """Call an item by its text, or by its id where it has none or one that begins with the id."""
    known, texts = str(interactions.item_ids[item]), interactions.item_texts
    text = " ".join(texts[item].split()) if texts is not None else ""
    return known if not text or _letters(text).startswith(_letters(known)) else text


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST - 14 else f"{text[: LONGEST - 17]}..."


def how_to_load(run: Run) -> str:
    """Say how the recommender is opened."""
    return (
        f'recommender: nxtpost_jax.Recommender.load("{run.folder / FOLDER}"); '
        f"{ITEMS} beside it names its items"
    )
