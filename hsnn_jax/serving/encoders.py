"""What scores the levels of an index, and what it reads of users, items and nodes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hsnn_jax.chunks import num_rows
from hsnn_jax.lists.checks import as_features, as_vectors, check_encoded
from hsnn_jax.lists.edits import batches, padded
from hsnn_jax.lists.levels import residual_nodes
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.model import Encoders, Model, Towers, encoders_of
from hsnn_jax.monn.scorers import dot
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.lti import levels_of
from hsnn_jax.serving.pool import Pool
from hsnn_jax.serving.sizes import batch_size, repeated


class LevelModels(NamedTuple):
    """The scorers of N levels, the coarsest first, the last one of the items. One of three kinds.

    Without a model, the scorer reads vectors, those of items and of nodes themselves. One model
    scores all levels, a node as its representative item. With a model a level, the level's own
    encodes that item: the coarse ones, which may be large, encode the representatives alone.
    `Towers.nodes` read a node's own vector instead.
    """

    scorers: tuple
    params: tuple  # of each scorer
    models: tuple[Encoders, ...]  # none, one, or N
    ensemble: Any  # see `search_levels`; None ranks each level by its own scores
    pool: Pool | None = None  # of a cheap scorer that goes first

    def user_vectors(self, name: str, users: Any) -> np.ndarray | jax.Array:
        """Return float [B, d], in the space of the items' vectors."""
        if self.models:
            users = np.asarray(self._user_vectors(self._inputs(name, users)))
        return as_vectors(name, users)

    def _inputs(self, name, given):
        return as_features(name, self.models[-1].inputs(given))

    def _user_vectors(self, inputs):
        return self.models[-1].user_vectors(self.params[-1], inputs)

    def users(
        self, name: str, users: Any, *, width: int, few_sizes: bool = False
    ) -> tuple[tuple, jax.Array | None, int]:
        """Return what each level's scorer reads of the users, and the pool's, and their number.

        Args:
          name: of the argument, for errors.
          users: float [B, width]; or the inputs of models, see `Encoders`.
          width: of the items' vectors.
          few_sizes: whether rows that repeat the last user are added, see `sizes.batch_size`.

        Raises:
          ValueError: users have a wrong width, or are not finite or of one number of rows.
        """
        if not self.models:
            users = as_vectors(name, users, width=width, empty=True)
            # On the host still: a call of its own to the device takes longer than one with more.
            padded_users = _in_few_sizes(users) if few_sizes else users
            vectors = None if self.pool is None else padded_users
            return (padded_users,) * len(self.scorers), vectors, users.shape[0]
        inputs = self._inputs(name, users)
        rows = num_rows(inputs)
        inputs = _in_few_sizes(inputs) if few_sizes else inputs
        encoded = [model.users(params, inputs) for model, params in zip(self.models, self.params)]
        check_encoded(name, encoded)
        read = tuple(encoded if len(encoded) > 1 else encoded * len(self.scorers))
        return read, None if self.pool is None else self._user_vectors(inputs), rows

    def items(self, name: str, items: Any, *, by_batches: bool = False) -> tuple:
        """Return (vectors [n, d], what moves with the items, a dict of [n, ...], or None).

        The latter has `encoded`, what the last level's scorer reads, and `inputs`, from which
        nodes are encoded, where there is a model a level.

        Args:
          name: of the argument, for errors.
          items: float [n, d]; or the inputs of models, see `Encoders`.
          by_batches: in the few sizes of an update, so that nothing is traced anew.

        Raises:
          ValueError: features are not finite or not of one number of rows.
        """
        if not self.models:
            return as_vectors(name, items, empty=by_batches), None
        inputs = self._inputs(name, items)
        rows = num_rows(inputs)
        if by_batches:
            vectors, carried = self._in_batches(inputs, rows)
        else:
            vectors, encoded = self._encoded(inputs)
            vectors, carried = np.asarray(vectors), {"encoded": encoded}
        check_encoded(name, carried)
        vectors = as_vectors(name, vectors, empty=by_batches)
        if len(self.models) > 1:
            carried["inputs"] = jax.device_get(inputs)
        return vectors, carried

    def nodes(self, level: int, inputs: Any) -> Any:
        """Encode nodes of a level by `inputs` of their representatives; with a model a level."""
        return self.models[level].items(self.params[level], inputs)

    def own_nodes(self, level: int, vectors: jax.Array) -> Any | None:
        """Return what the scorer reads of nodes [K, d] themselves; None where of other items."""
        model = self.models[level if len(self.models) > 1 else -1]
        return None if model.nodes is None else model.nodes(self.params[level], vectors)

    def _encoded(self, inputs):
        model, params = self.models[-1], self.params[-1]
        return model.item_vectors(params, inputs), model.items(params, inputs)

    def _in_batches(self, inputs, rows):
        inputs, found = jax.tree.map(np.asarray, inputs), []
        for part, size in batches(max(rows, 1)):
            some = jax.tree.map(lambda x, part=part: x[part], inputs)
            whole = self._encoded(jax.tree.map(lambda x, size=size: padded(x, size, value=0), some))
            kept = num_rows(some)
            found.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], whole))
        vectors, encoded = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        return vectors, {"encoded": encoded}


def one_or_several(model: Model | Sequence[Model] | None) -> Model | tuple[Model, ...] | None:
    """Return a model as it is, several as a tuple.

    Raises:
      ValueError: one is neither a MoNN nor towers, or there are both.
    """
    several = (model,) if isinstance(model, Model) else tuple(model or ())
    kinds = {type(each) for each in several}
    if len(kinds) > 1 or not kinds <= {MoNNConfig, Towers}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"model: expected MoNNConfig, or Towers, found {names}")
    return model if model is None or isinstance(model, Model) else several


def nodes_in(params: Any, config: LTIConfig, *, model: Any) -> tuple | None:
    """Return the nodes of all levels that joint training has put into parameters, if it has."""
    if not isinstance(model, tuple) or "nodes" not in (params or {}):
        return None
    return sums_of_codes(params["nodes"], config, by_level=True)


def sums_of_codes(codebooks: Any, config: LTIConfig, *, by_level: bool) -> Any:
    """Return the nodes of residual codebooks: those of all levels, or of the last one alone.

    Raises:
      ValueError: the codebooks are not of the sizes that the config says.
    """
    sizes = tuple(codes.shape[0] for codes in levels_of(codebooks))
    expected = sizes[:1] if config.num_nodes is None else config.level_sizes
    if sizes != expected:
        raise ValueError(f"nodes: expected {expected} by level, found {sizes}")
    sums, _ = residual_nodes(levels_of(codebooks))
    return sums if by_level else sums[-1]


def models_of(retriever: Any, *, untrained: bool = False) -> "LevelModels":
    """Return what scores a retriever's levels, with its parameters as they are now.

    Args:
      retriever: see `Retriever`; its attributes are read.
      untrained: whether a model may be without parameters.

    Raises:
      ValueError: it has no parameters, or what it was given does not fit together.
    """
    if retriever.model is not None and retriever.params is None and not untrained:
        raise ValueError("params: expected those of the model, given or from fit, found none")
    return level_models(
        retriever.config.num_levels + 1 if retriever.nested else 2,
        scorer=retriever.given_scorer,
        model=retriever.model,
        params=retriever.params,
        task=retriever.task,
        pool=retriever.candidates,
    )


def level_models(
    num_levels: int,
    *,
    scorer: Callable | None = None,
    model: Model | Sequence[Model] | None = None,
    params: Any = None,
    task: str | None = None,
    pool: Pool | None = None,
) -> "LevelModels":
    """Sort out what a retriever is given.

    Args:
      num_levels: N, those of nodes and that of the items.
      scorer: see `search`; the inner product by default. Not given with a model.
      model: one, or N of them, see `monn.model.Model`.
      params: of scorer or model, None before training; of N models, {"models": N trees,
        "ensemble": optional}.
      task: see `monn.MoNNScorer`.
      pool: see `Pool`.

    Raises:
      ValueError: these do not fit together.
    """
    if pool is not None and not isinstance(pool, Pool):
        raise ValueError(f"candidates: expected a Pool, found {pool!r}")
    if model is None:
        if task is not None:
            raise ValueError(f"task: expected none without a model, found {task!r}")
        return LevelModels((scorer or dot,) * num_levels, (params,) * num_levels, (), None, pool)
    if scorer is not None:
        raise ValueError(f"scorer: expected none with a model, found {scorer!r}")
    if isinstance(model, Model):
        one = encoders_of(model, task)
        scorers = (one.scorer,) * num_levels
        return LevelModels(scorers, (params,) * num_levels, (one,), None, pool)
    models = tuple(model)
    if pool is not None and pool.nodes:
        raise ValueError(f"candidates: expected nodes=False with {len(models)} models, found True")
    if len(models) != num_levels:
        raise ValueError(
            f"model: expected one, or {num_levels}, one per level of nodes and one of the items, "
            f"found {len(models)}"
        )
    params = {"models": (None,) * num_levels} if params is None else params
    of_models = params.get("models", ())
    if len(of_models) != num_levels:
        raise ValueError(
            f'params: expected "models", {num_levels} of them, found {len(of_models)} in '
            f"{sorted(params)}"
        )
    ensemble = params.get("ensemble")
    if ensemble is not None and len(ensemble["bias"]) != num_levels:
        raise ValueError(f"ensemble: expected {num_levels} levels, found {len(ensemble['bias'])}")
    tasks = {model.tasks for model in models if isinstance(model, MoNNConfig)}
    if len(tasks) > 1:
        raise ValueError(f"model: expected the same tasks, found {sorted(tasks)}")
    of_levels = tuple(encoders_of(model, task) for model in models)
    scorers = tuple(each.scorer for each in of_levels)
    return LevelModels(scorers, tuple(of_models), of_levels, ensemble, pool)


def _in_few_sizes(users):
    rows = num_rows(users)
    return repeated(users, batch_size(rows)) if rows else users
