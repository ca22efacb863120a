"""Tables 2 and 3: every recipe from every seed, trained, then measured on the test part."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness.remembered import remember
from experiments.harness.run_folder import Run
from experiments.retrieval.kept_gain import TWO_TOWER
from experiments.studies.rated_scorer import optimizer
from experiments.studies.tables.brute import PARTS, Trained, train_one
from experiments.studies.tables.compared import slug
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.recipe_measured import measure_recipe
from experiments.studies.tables.recipe_training import Problem
from experiments.studies.tables.recipes import Recipe, recipes_of


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A recipe over S seeds, on the test part.

    Attributes:
      hits, hits_of_all: float [S, U], through the nodes at the budget, and over all items.
      losses: float [S, E], whose mean is NE; None where no negatives were observed.
      items_scored, used: means over users and seeds; nodes that list an item.
    """

    hits: np.ndarray
    hits_of_all: np.ndarray
    losses: np.ndarray | None
    items_scored: float
    used: float


@dataclasses.dataclass(frozen=True, eq=False)
class Ablated:
    """Trains and measures the recipes of tables 2 and 3; what was done is remembered.

    Attributes:
      run, config, mesh: of the command.
      trained: the models of table 1, by size, of each of its seeds.
    """

    run: Run
    config: TablesConfig
    mesh: Mesh
    trained: Mapping[str, Sequence[Trained]]

    def train(self) -> None:
        """Train every recipe from every seed: nothing is left to do before the test is seen."""
        for seed in self._seeds:
            problem = self._problem(seed)
            for recipe in self._recipes:
                self._params(problem, recipe)

    def measure(self) -> dict[str, Found]:
        """Measure every recipe of every seed on the test part."""
        measured: dict[str, list[Mapping[str, np.ndarray]]] = {}
        for seed in self._seeds:
            problem = self._problem(seed)
            for recipe in self._recipes:
                measured.setdefault(recipe.name, []).append(self._measured(problem, recipe))
        return {name: _over_seeds(seeds) for name, seeds in measured.items()}

    @property
    def _recipes(self) -> list[Recipe]:
        return recipes_of(self.config.show)

    @property
    def _seeds(self) -> range:
        first = self.trained[TWO_TOWER][0].seed
        return range(first, first + self.config.ablation_seeds)

    def _problem(self, seed: int) -> Problem:
        two_tower, teacher = (self._alone[name][seed] for name in (TWO_TOWER, self.config.largest))
        return Problem(two_tower.scorer.examples, self.config, seed, two_tower, teacher)

    @functools.cached_property
    def _alone(self) -> dict[str, dict[int, Trained]]:
        """Two tower and teacher of every seed, trained alone, here where table 1 did not."""
        found: dict[str, dict[int, Trained]] = {}
        options = {"config": self.config, "mesh": self.mesh}
        for name in (TWO_TOWER, self.config.largest):
            scorer = self.trained[name][0].scorer
            found[name] = {own.seed: own for own in self.trained[name]}
            for seed in self._seeds:
                if seed not in found[name]:
                    found[name][seed] = train_one(self.run, scorer, name, seed=seed, **options)
        return found

    @functools.cached_property
    def _tx(self) -> Any:
        scorers = self.config.scorers
        return optimizer(dataclasses.replace(scorers, steps=self.config.ablation_steps))

    def _params(self, problem: Problem, recipe: Recipe) -> Any:
        def measure() -> dict[str, Any]:
            params = jax.device_get(problem.train(recipe, self._tx))
            print(f"{recipe.name}, seed {problem.seed}: trained", flush=True)
            return {str(n): leaf for n, leaf in enumerate(jax.tree.leaves(params))}

        name = f"recipe-{slug(recipe.name)}-{problem.seed}-trained"
        leaves = remember(self.run, name, measure=measure)
        structure = jax.tree.structure(problem.start(recipe))
        return structure.unflatten([leaves[str(n)] for n in range(len(leaves))])

    def _measured(self, problem: Problem, recipe: Recipe) -> Mapping[str, np.ndarray]:
        def measure() -> dict[str, Any]:
            found = measure_recipe(problem, recipe, self._params(problem, recipe), part=2)
            print(f"{recipe.name}, seed {problem.seed}: {PARTS[2]} measured", flush=True)
            return found

        name = f"recipe-{slug(recipe.name)}-{problem.seed}-{PARTS[2]}"
        return remember(self.run, name, measure=measure)


def _over_seeds(seeds: Sequence[Mapping[str, np.ndarray]]) -> Found:
    losses = np.stack([own["losses"] for own in seeds])
    return Found(
        hits=np.stack([own["hits"] for own in seeds]),
        hits_of_all=np.stack([own["hits of all items"] for own in seeds]),
        losses=losses if losses.size else None,
        items_scored=float(np.mean([own["items_scored"] for own in seeds])),
        used=float(np.mean([own["used"] for own in seeds])),
    )
