"""What is in the table, what is kept from it, and that all models are asked the same."""

import dataclasses

import numpy as np
import pytest

from experiments.data.interactions import Events, from_events
from experiments.tasks import as_a_table
from experiments.tasks.as_a_table import tabled
from nxtpost_jax.evaluation.metrics import metrics_of_ranks

TEXTS = {"a": "ants and bees", "b": "bees and wasps", "c": "wasps", "d": "dragonflies", "e": ""}


def log(**changes):
    users = np.repeat(["ann", "bob", "cid"], (4, 3, 1))
    items = np.array(list("abcd" + "abe" + "c"))
    times = np.arange(8.0)
    return from_events("drawn", "0", Events(users, items, timestamps=times, texts=TEXTS, **changes))


def test_the_table_lacks_each_users_last_event_in_the_logs_own_ids():
    posed = tabled(log())
    assert posed.table["user"].tolist() == ["ann"] * 3 + ["bob"] * 2 + ["cid"]
    assert posed.table["item"].tolist() == list("abc") + list("ab") + ["c"]
    assert posed.table["time"].tolist() == [0, 1, 2, 4, 5, 7]
    assert posed.texts == {name: TEXTS[name] for name in "abc"}
    # Nobody can know d and e, so nobody is asked for them; they count as misses.
    assert posed.unanswerable == 2 and not len(posed.queries)
    assert posed.problem.split.test.targets.tolist() == [3, 4]
    assert posed.problem.candidates.tolist() == [0, 1, 2]


def test_baselines_learn_from_what_the_table_has():
    posed = tabled(log())
    assert len(posed.problem.split.train.items) == len(posed.table["item"])
    assert posed.problem.split.train[1].tolist() == [0, 1]


def test_whole_groups_are_kept_from_the_table():
    users = np.repeat([f"u{i}" for i in range(40)], 3)
    items = np.tile(list("abc"), 40)
    interactions = from_events("drawn", "0", Events(users, items))
    groups = np.arange(40, dtype=np.int32)
    names = tuple(f"package {i}" for i in range(40))
    posed = tabled(dataclasses.replace(interactions, groups=groups, group_names=names))
    asked = interactions.user_ids[posed.problem.split.test.users]
    assert len(asked) and not set(asked) & set(posed.table["user"])
    assert "time" not in posed.table and posed.texts is None
    assert posed.problem.protocol.seen_filter is False


def test_what_nobody_was_asked_is_a_miss_for_all():
    posed = tabled(log())
    few = dataclasses.replace(posed, asked=np.array([True, False]))
    metrics = metrics_of_ranks(np.array([1]))
    metrics.values["coverage@10"] = 0.5
    whole = as_a_table._of_all(metrics, few)
    assert whole["hr@10"] == pytest.approx(0.5) and whole.ranks.tolist()[0] == 1
    assert whole["coverage@10"] == 0.5
