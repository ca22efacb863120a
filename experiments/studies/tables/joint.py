"""Levels of MoNNs that are trained together by `Retriever.fit`, as a user of the package would."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.run_folder import Run
from experiments.retrieval.dealing import over_processes
from experiments.retrieval.kept_gain import NAMES
from experiments.retrieval.searchers import Requests, user_tower_flops
from experiments.studies.rated_scorer import K, model_config, optimizer
from experiments.studies.tables.config import TablesConfig
from experiments.studies.tables.served import BATCH
from experiments.tasks.neighbours import ages, neighbours_of
from experiments.tasks.rated_events import HALF_LIFE, Examples, parts_of, user_side
from hsnn_jax import LTIConfig, Retriever, Training
from hsnn_jax.cost_curves import Found
from hsnn_jax.monn import i2if
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.network import MoNNScorer, encode_items, encode_users

KEYS = 256  # followers of what a user liked that are counted
VALIDATED = 1000  # held-out pairs
TASK = "next"
HSNN, TOGETHER = "HSNN (", ", trained together"  # around the models of a row's name


def levels_of(sizes: tuple[str, ...], examples: Examples, *, crosses: tuple[str, ...]) -> Any:
    """Return a model a level, of the paper's sizes, that are trained on what was liked alone."""
    models = (model_config(size, examples, crosses=crosses) for size in sizes)
    return tuple(dataclasses.replace(model, tasks=(TASK,)) for model in models)


def sides_of(batch: Any, examples: Examples, *, crosses: tuple[str, ...]) -> Any:
    """Return the users that `Retriever` reads: features, and counts where there are crosses.

    Of followers, `KEYS` are counted a user: a column an item would not fit for all pairs.
    """
    genres, followers = jnp.asarray(examples.genres), jnp.asarray(examples.followers)
    names = examples.genre_names
    features, counts = user_side(batch, genres, num_genres=len(names), followers=followers)
    if not crosses:
        return features
    liked = batch["liked"]
    found = neighbours_of(followers, batch["fold"], items=liked)
    given = {"ages": ages(liked), "half_life": HALF_LIFE}
    counts = counts | {"follows": i2if.count_sparse(found, KEYS, **given)}
    return features, {name: counts[name] for name in crosses}


def items_of(examples: Examples, *, crosses: tuple[str, ...]) -> Any:
    """Return the items that `Retriever` reads: features, and attributes where there are crosses."""
    features, attributes = examples.item_side()
    return (features, {name: attributes[name] for name in crosses}) if crosses else features


def gathered(sides: Callable[..., Any], examples: Examples, rows: np.ndarray) -> Any:
    """Return what `sides` makes of the histories before the events `rows`, on the host."""
    parts = [jax.device_get(sides(examples.histories(part))) for part in parts_of(rows)]
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *parts)


@dataclasses.dataclass(eq=False)
class Joint:
    """HSNN with a model a level: trained when it is built, or loaded where the run has it.

    Attributes:
      name: in tables.
      run: whose folder keeps it.
      examples: that it is trained on.
      sizes: of the models, the coarsest first.
      nodes: of the level that lists the items.
      config: of the training.
      seed: of the training.
    """

    name: str
    run: Run
    examples: Examples
    sizes: tuple[str, str]
    nodes: int
    config: TablesConfig
    seed: int

    def build(self) -> None:
        """Train and list, or load."""
        label = "-".join((*self.sizes, str(self.nodes), str(self.seed)))
        path = self.run.folder / "retrievers" / label
        under_way = path.with_name(f"{label}-training")
        crosses = self.config.crosses or ()
        self._sides = jax.jit(lambda batch: sides_of(batch, self.examples, crosses=crosses))
        if path.exists():
            self.retriever = Retriever.load(path)
        else:
            self.retriever = self._trained(crosses, under_way if self.run.is_writer else None)
            if self.run.is_writer:
                self.retriever.save(path)
                shutil.rmtree(under_way)
            print(f"{self.name}, {self.nodes} nodes, seed {self.seed}: trained", flush=True)
        self._towers = self._tower_flops(crosses)

    def _trained(self, crosses: tuple[str, ...], checkpoint: Path | None) -> Retriever:
        examples, config = self.examples, self.config
        rng = np.random.default_rng([self.seed, 31])
        liked, held = examples.liked(0), examples.next_liked(1)
        rows = rng.choice(liked, min(config.pairs, len(liked)), replace=False)
        held = rng.choice(held, min(VALIDATED, len(held)), replace=False)
        rows = np.concatenate([rows, held])
        training = Training(
            steps=config.steps,
            batch_size=config.batch_size,
            negatives=config.negatives,
            evaluate_every=min(config.evaluate_every, config.steps),
            patience=None,
            validation=np.arange(len(rows) - len(held), len(rows)),
            k=min(K, examples.num_items),
            progress=False,
            checkpoint=checkpoint,
        )
        models = levels_of(self.sizes, examples, crosses=crosses)
        retriever = Retriever(LTIConfig(num_nodes=(self.nodes,)), model=models)
        retriever.fit(
            gathered(self._sides, examples, rows),
            items_of(self.examples, crosses=crosses),
            positives=examples.items[rows],
            tx=optimizer(config.scorers),
            training=training,
            seed=self.seed,
        )
        return retriever

    def _tower_flops(self, crosses: tuple[str, ...]) -> float:
        """Count both user towers; a search counts itself what scorers do once a user."""
        models = levels_of(self.sizes, self.examples, crosses=crosses)
        batch = self.examples.histories(self.examples.next_liked(1)[:1])
        users, items = (
            side if isinstance(side, tuple) else (side, None)
            for side in (self._sides(batch), items_of(self.examples, crosses=crosses))
        )
        of_models = self.retriever.params["models"]
        return sum(_tower_flops(m, p, users, items) for m, p in zip(models, of_models, strict=True))

    @over_processes
    def search(self, requests: Requests, k: int, *, budget: int) -> Found:
        """See `Searcher`; the user towers run here."""
        users = self._sides(requests.users[BATCH])
        few = requests.allowed
        exclude = requests.exclude if few is None else None
        answer = self.retriever.search(users, k, budget=budget, allowed=few, exclude=exclude)
        flops = float(answer.flops.mean()) + self._towers
        return Found(answer.ids, float(answer.items_scored.mean()), flops)


def _tower_flops(model: MoNNConfig, params: Any, users: Any, items: Any) -> float:
    encoded = encode_users(model, params, features=users[0], counts=users[1])
    catalogue = encode_items(model, params, features=items[0], attributes=items[1])
    scorer = MoNNScorer(model, TASK)
    return user_tower_flops(scorer, params, users=encoded, items=catalogue)


def joint_name(sizes: tuple[str, ...]) -> str:
    """Name levels as the paper does: HSNN (MoNN L, MoNN S)."""
    return f"{HSNN}{', '.join(NAMES[size] for size in sizes)}){TOGETHER}"
