"""A row of table 3 differs from the full recipe in one part, and tables share what they compare."""

import dataclasses

from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.recipes import BY_TABLE, FULL, LEARNERS, PARTS, recipes_of
from hsnn_jax import LTIConfig


def changed(recipe):
    fields = [field.name for field in dataclasses.fields(recipe) if field.name != "name"]
    return [name for name in fields if getattr(recipe, name) != getattr(FULL, name)]


def test_each_row_changes_one_thing():
    assert [changed(own) for own in BY_TABLE[LEARNERS]] == [["learner"], ["learner"]]
    parts = [changed(own) for own in BY_TABLE[PARTS]]
    assert parts == [["schedule"], ["balance"], ["warmup"], ["distillation"], ["ensemble"]]


def test_the_index_is_that_of_the_package_but_for_the_part():
    whole = FULL.index(7, steps=1500)
    assert whole == LTIConfig(num_nodes=(7,), total_steps=1500)
    found = {own.name: own.index(7, steps=1500) for own in BY_TABLE[PARTS]}
    assert found["LTI without schedule"] == dataclasses.replace(whole, alpha_exponent=0.0)
    assert found["LTI without balance"] == dataclasses.replace(whole, balance_weight=0.0)
    assert found["LTI without warm-up"] == dataclasses.replace(whole, warmup_steps=0)
    assert found["LTI without ensemble"] == whole
    assert FULL.index(7, steps=20).warmup_steps == 2  # few steps are not all warm-up


def test_the_full_recipe_is_trained_once_for_both_tables():
    names = [own.name for own in recipes_of((1, 2, 3))]
    assert names[0] == "LTI" and len(set(names)) == len(names) == 8
    assert [own.name for own in recipes_of((2,))] == ["LTI", "k-means", "EM"]
    assert recipes_of((1,)) == []
    assert TablesConfig().show == (1,)  # the others take hours
