"""Small data that several rooms are tested on."""

import numpy as np
import pytest

from experiments.data.drawn import drawn_ratings
from experiments.tasks.rated_events import make_examples


@pytest.fixture(scope="session")
def examples():
    """Rated events of drawn users."""
    return make_examples(drawn_ratings())


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """A LightGCN split: users like items of their own kind out of six."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    parts = {"train": [], "test": []}
    for user in range(150):
        own = user % 6 * 30 + rng.permutation(30)[:14]
        for name, items in (("train", own[:9]), ("test", own[9:])):
            parts[name].append(" ".join(map(str, [user, *items])))
    for name, lines in parts.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder
