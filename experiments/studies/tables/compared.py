"""Every contender of every seed, chosen on validation, then measured on a part."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments.harness.remembered import remember
from experiments.harness.run_folder import Run
from experiments.retrieval.kept_gain import TWO_TOWER
from experiments.retrieval.rivals import (
    Answered,
    Asked,
    Rival,
    answer,
    as_arrays,
    choose,
    from_arrays,
)
from experiments.retrieval.searchers import Exact
from experiments.studies.rated_scorer import K
from experiments.studies.tables.brute import PARTS, Part, Trained
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.contenders import contenders
from experiments.studies.tables.served import asked_of, model_of
from hsnn_jax.cost_curves import Searcher


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One contender over all seeds.

    Attributes:
      name, model, reason: see `Rival`.
      setting: that validation chose.
      tried: settings that it chose from.
      answers: of each seed; none where there is a reason.
    """

    name: str
    model: str
    reason: str
    setting: str
    tried: int
    answers: list[Answered]

    @property
    def hits(self) -> np.ndarray:
        """Whether each user's next item was found, float [seeds, users]."""
        return np.stack([answered.hits for answered in self.answers])

    def mean(self, figure: str) -> float:
        """Return the mean of a cost over seeds."""
        return float(np.mean([getattr(answered, figure) for answered in self.answers]))


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """Measures all contenders on a part; what was measured or trained is remembered.

    Attributes:
      run, config, mesh: of the command.
      trained: the models, by size, of each seed.
      best: of the sizes, the one that finds most on validation.
    """

    run: Run
    config: TablesConfig
    mesh: Mesh
    trained: Mapping[str, Sequence[Trained]]
    best: str

    def rows(self, part: Part) -> list[Row]:
        """Measure every contender of every seed on a part.

        Settings are chosen on validation, from the first seed, so validation comes first.
        """
        rows: dict[str, Row] = {}
        chosen: dict[str, str] = {}
        for number in range(len(self.trained[TWO_TOWER])):
            models = {name: seeds[number] for name, seeds in self.trained.items()}
            examples = models[TWO_TOWER].scorer.examples
            asked, ms = asked_of(examples, part, models=list(models.values()))
            options = {"best": self.best, "config": self.config, "mesh": self.mesh}
            for rival in contenders(self.run, models, asked, **options):
                if not number:
                    label = "" if rival.reason else self._chosen(rival, asked, part)
                    chosen[rival.name] = label
                    tried = min(self.config.trials, len(rival.settings))
                    rows[rival.name] = Row(rival.name, rival.model, rival.reason, label, tried, [])
                if not rival.reason:
                    seed = models[TWO_TOWER].seed
                    towers = sum(ms[name] for name in rival.reads)
                    label = chosen[rival.name]
                    own = self._answered(rival, label, asked, part, seed=seed, towers=towers)
                    rows[rival.name].answers.append(own)
        return list(rows.values())

    def _chosen(self, rival: Rival, asked: Sequence[Asked], part: Part) -> str:
        def measure() -> dict[str, Any]:
            if part != 1:
                raise ValueError(f"part: expected settings chosen on validation, found part {part}")
            label = choose(rival, asked, k=self._k, trials=self.config.trials)
            return {"label": np.array(label)}

        return str(remember(self.run, f"{slug(rival.name)}-chosen", measure=measure)["label"])

    def _answered(
        self,
        rival: Rival,
        label: str,
        asked: Sequence[Asked],
        part: Part,
        *,
        seed: int,
        towers: float,
    ) -> Answered:
        """Measure one rival; `towers` are milliseconds a user of the user towers that it reads."""

        def measure() -> dict[str, Any]:
            searcher, budget = rival.built(label)
            found = answer(searcher, asked, k=self._k, budget=budget)
            print(f"{rival.name}, seed {seed}: {PARTS[part]} measured", flush=True)
            return as_arrays(found._replace(cpu_ms=found.cpu_ms + towers))

        name = f"{slug(rival.name)}-{seed}-{PARTS[part]}"
        return from_arrays(remember(self.run, name, measure=measure))

    def exact(self, part: Part) -> dict[str, Answered]:
        """Cost every model by brute force on the first users of a part, from the first seed."""
        models = {name: seeds[0] for name, seeds in self.trained.items()}
        examples = models[TWO_TOWER].scorer.examples
        asked, ms = asked_of(examples, part, models=list(models.values()))

        def measure(own: Trained) -> dict[str, Any]:
            searcher: Searcher = Exact(own.label, model_of(own, asked))
            found = answer(searcher, asked[:1], k=self._k, budget=0)
            return as_arrays(found._replace(cpu_ms=found.cpu_ms + ms[own.label]))

        def cost(own: Trained) -> Answered:
            name = f"{own.stage}-{PARTS[part]}-cost"
            return from_arrays(remember(self.run, name, measure=functools.partial(measure, own)))

        return {name: cost(own) for name, own in models.items()}

    @property
    def _k(self) -> int:
        return min(K, self.trained[TWO_TOWER][0].scorer.examples.num_items)


def slug(name: str) -> str:
    """Write a name such that a file may have it."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
