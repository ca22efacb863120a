"""Every contender of every seed, chosen on validation, then measured on the test part."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
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
from experiments.studies.tables.filtered import (
    AMONG_FEW,
    FILTERED,
    filtered,
    mean_left,
    stands_filters,
)
from experiments.studies.tables.served import asked_of, model_of
from hsnn_jax.monn.network import module_flops


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
    """Chooses and measures all contenders; what was measured or trained is remembered.

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

    def choose(self) -> dict[str, str]:
        """Choose every contender's setting on validation, from the first seed, and build it of all.

        Building trains what is to be trained: nothing is left to do before the test part is seen.

        Returns:
          the label of each contender's setting, by its name; none of one that there is not.
        """
        chosen: dict[str, str] = {}
        for seed, models in self._seeds():
            asked, _ = self._asked(models, 1)
            for rival in self._contenders(models, asked):
                if rival.reason:
                    continue
                if rival.name not in chosen:
                    chosen[rival.name] = self._chosen(rival, asked)
                self._build(rival, chosen[rival.name], seed=seed)
        return chosen

    def measure(self, chosen: Mapping[str, str]) -> tuple[list[Row], dict[str, Answered]]:
        """Measure every contender of every seed on the test part.

        Args:
          chosen: see `choose`.

        Returns:
          (contenders, what every model costs by brute force on the first users, from the first
          seed, by size).
        """
        rows: dict[str, Row] = {}
        costs: dict[str, Answered] = {}
        for seed, models in self._seeds():
            asked, ms = self._asked(models, 2)
            if not costs:
                costs = {
                    name: self._cost(own, asked[:1], tower=ms[own.label])
                    for name, own in models.items()
                }
            for rival in self._contenders(models, asked):
                label = chosen.get(rival.name, "")
                tried = min(self.config.trials, len(rival.settings))
                row = Row(rival.name, rival.model, rival.reason, label, tried, [])
                row = rows.setdefault(rival.name, row)
                if not rival.reason:
                    towers = sum(ms[name] for name in rival.reads)
                    row.answers.append(self._answered(rival, label, asked, seed, towers=towers))
        return list(rows.values()), costs

    def far(self) -> np.ndarray:
        """Tell whose next item no seed's two tower has within the budget, bool [users], of test."""
        found = []
        for _, models in self._seeds():
            own = models[TWO_TOWER]

            def measure(own: Trained = own) -> dict[str, Any]:
                asked, _ = asked_of(own.scorer.examples, 2, models=[own])
                searcher = Exact(own.label, model_of(own, asked))
                budget = self.config.budget(own.scorer.examples.num_items)
                return {"near": answer(searcher, asked, k=budget, budget=0).hits}

            name = f"{own.stage}-{PARTS[2]}-near"
            found.append(remember(self.run, name, measure=measure)["near"])
        return ~np.any(found, axis=0)

    def filtered(self, chosen: Mapping[str, str]) -> list[Row]:
        """Measure models by brute force, HSNN and what is not trained under `filtered` requests.

        Returns:
          of the test part, the models first, the two tower before all.
        """
        rows: dict[str, Row] = {}

        def add(row: Row, found: Answered) -> None:
            rows.setdefault(row.name, row).answers.append(found)

        for seed, models in self._seeds():
            asked, _ = self._asked(models, 2)
            few = filtered(asked, num_items=self._num_items)
            for own in models.values():
                found = self._by_filter(own, few)
                add(Row(own.label, own.label, "", "", 1, []), found)
            for rival in self._contenders(models, asked):
                if not rival.reason and stands_filters(rival.name):
                    label = chosen[rival.name]
                    row = Row(rival.name, rival.model, "", label, 1, [])
                    add(row, self._answered(rival, label, few, seed, towers=0.0, under=FILTERED))
        return list(rows.values())

    def _seeds(self) -> Iterator[tuple[int, dict[str, Trained]]]:
        """Yield each seed with its models by size."""
        for number, first in enumerate(self.trained[TWO_TOWER]):
            yield first.seed, {name: seeds[number] for name, seeds in self.trained.items()}

    def _asked(
        self, models: Mapping[str, Trained], part: Part
    ) -> tuple[list[Asked], dict[str, float]]:
        examples = models[TWO_TOWER].scorer.examples
        return asked_of(examples, part, models=list(models.values()))

    def _contenders(self, models: Mapping[str, Trained], asked: Sequence[Asked]) -> list[Rival]:
        options = {"best": self.best, "config": self.config, "mesh": self.mesh}
        return contenders(self.run, models, asked, **options)

    def _chosen(self, rival: Rival, asked: Sequence[Asked]) -> str:
        def measure() -> dict[str, Any]:
            label = choose(rival, asked, k=self._k, trials=self.config.trials)
            return {"label": np.array(label)}

        return str(remember(self.run, f"{slug(rival.name)}-chosen", measure=measure)["label"])

    def _build(self, rival: Rival, label: str, *, seed: int) -> None:
        def measure() -> dict[str, Any]:
            rival.built(label)
            return {"label": np.array(label)}

        remember(self.run, f"{slug(rival.name)}-{seed}-built", measure=measure)

    def _answered(
        self,
        rival: Rival,
        label: str,
        asked: Sequence[Asked],
        seed: int,
        *,
        towers: float,
        under: str = "",
    ) -> Answered:
        """Measure one rival.

        Args:
          rival, label, asked, seed: what is measured.
          towers: milliseconds a user of the user towers that it reads.
          under: `FILTERED` where requests are.
        """

        def measure() -> dict[str, Any]:
            searcher, budget = rival.built(label)
            found = answer(searcher, asked, k=AMONG_FEW if under else self._k, budget=budget)
            print(f"{rival.name}, seed {seed}: {PARTS[2]} {under} measured", flush=True)
            return as_arrays(found._replace(cpu_ms=found.cpu_ms + towers))

        name = f"{slug(rival.name)}-{seed}-{PARTS[2]}{under and '-' + under}"
        return from_arrays(remember(self.run, name, measure=measure))

    def _by_filter(self, own: Trained, few: Sequence[Asked]) -> Answered:
        """Measure one model by brute force over what each filter leaves."""

        def measure() -> dict[str, Any]:
            found = answer(Exact(own.label, model_of(own, few)), few, k=AMONG_FEW, budget=0)
            costs, left = module_flops(own.scorer.config), mean_left(few)
            flops = costs["user"] + costs["pair"] * left
            # The scan of everything is how it is found here, not what it costs.
            found = found._replace(items_scored=left, flops=flops, cpu_ms=float("nan"))
            return as_arrays(found)

        name = f"{own.stage}-{PARTS[2]}-{FILTERED}"
        return from_arrays(remember(self.run, name, measure=measure))

    def _cost(self, own: Trained, asked: Sequence[Asked], *, tower: float) -> Answered:
        """Measure one model by brute force; `tower` are milliseconds a user of its user tower."""

        def measure() -> dict[str, Any]:
            found = answer(Exact(own.label, model_of(own, asked)), asked, k=self._k, budget=0)
            return as_arrays(found._replace(cpu_ms=found.cpu_ms + tower))

        return from_arrays(remember(self.run, f"{own.stage}-{PARTS[2]}-cost", measure=measure))

    @property
    def _k(self) -> int:
        return min(K, self._num_items)

    @property
    def _num_items(self) -> int:
        return self.trained[TWO_TOWER][0].scorer.examples.num_items


def slug(name: str) -> str:
    """Write a name such that a file may have it."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
