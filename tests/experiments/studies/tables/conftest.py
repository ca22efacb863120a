"""Models so small that they are compiled at once, and a run to keep what they leave."""

import dataclasses

import pytest

from experiments.harness.options import OneSeed
from experiments.harness.run_folder import open_run
from experiments.studies import rated_scorer
from hsnn_jax.monn.config import TowerConfig

TINY = TowerConfig(field_width=4, dense_fields=1, num_layers=0, hidden=4, attention_width=2)


def tiny_config(name, examples, *, crosses=()):
    """One of the sizes with towers of no layers."""
    config = rated_scorer.model_config(name, examples, crosses=crosses)
    towers = dict.fromkeys(("user_tower", "item_tower", "interaction_tower"), TINY)
    return dataclasses.replace(config, **towers, width=4, overarch_hidden=4)


@pytest.fixture
def run(tmp_path):
    """An open run."""
    with open_run("digits", OneSeed(out=tmp_path / "run"), arguments=()) as opened:
        yield opened
