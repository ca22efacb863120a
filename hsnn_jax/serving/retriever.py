"""The facade: fit, build, search, measure, save and load one retriever."""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from hsnn_jax.cost_curves import FrontierPoint, curve
from hsnn_jax.descent.descend import SearchResult
from hsnn_jax.descent.sharded import auto_mesh
from hsnn_jax.lists import living
from hsnn_jax.lists.checks import as_ids
from hsnn_jax.lists.index import Index
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.nodes.beam_aware import RouteConfig
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.lti import init_params, levels_of
from hsnn_jax.serving import artefact
from hsnn_jax.serving import state as nested
from hsnn_jax.serving.answer import Answer, answer_of
from hsnn_jax.serving.encoders import level_models, one_or_several, sums_of_codes
from hsnn_jax.serving.find import find, find_exact
from hsnn_jax.serving.request import Request, key_of, request_of
from hsnn_jax.serving.state import Nested


class Retriever:
    """Search items by a scorer through a learned index.

    An update replaces the index in one assignment: a search in another thread sees all of it or
    nothing, and an update that fails changes nothing. Updates from several threads wait for one
    another, so that none is lost.

    Users and items are vectors, or, with a `model`, what its towers read: users are
    (features, counts), or features alone where the model has no crosses, as `monn.encode_users`
    takes them; items are (features, attributes), or features alone, as `monn.encode_items`
    does. The retriever keeps the items encoded, and lists them by the item tower's vectors; a
    node is scored as its representative item.

    With a model a level (`search_levels`), items are listed and encoded by the last model,
    representatives of nodes by that of their level. To encode later ones, the retriever keeps what
    the models read of every item.

    Args:
      config: of the nodes, see `LTIConfig`.
      scorer: see `search`; the inner product by default. Not given with a model.
      params: the parameters of scorer or model. Of several models, {"models": one each,
        "ensemble": ..., "nodes": ...} as of `init_joint`; without the ensemble each level is
        ranked by its own output, and the nodes are those of the index until `fit` learns others.
      model: a MoNN; or one a level of nodes, the coarsest first, and one of the items.
      task: of the models', see `monn.MoNNScorer`.
      slack: capacity of a list over the mean number of items of a node.
      max_beam: static maximum of nodes visited, at each level or one a level; all by default.
      nested: whether residual levels are searched one after the other, as they always are with
        a model a level; otherwise the sums of their codes are the nodes of one index.
      mesh: spread the lists of items over its devices; answers are those of one device.
      axis: the mesh axis that the lists are spread over; the first one by default. Its size
        divides the number of nodes that list items.

    Raises:
      ValueError: config, scorer, params, model, task, mesh and axis do not fit together.
    """

    def __init__(
        self,
        config: LTIConfig,
        *,
        scorer: Callable | None = None,
        params: Any = None,
        model: MoNNConfig | Sequence[MoNNConfig] | None = None,
        task: str | None = None,
        slack: float = 2.0,
        max_beam: int | Sequence[int] | None = None,
        nested: bool = False,
        mesh: Mesh | None = None,
        axis: str | None = None,
    ) -> None:
        self.config = config
        self.params = params
        self.model = one_or_several(model)
        self.nested = nested or isinstance(self.model, tuple)
        self.task = task
        self.slack = slack
        self._num_indexes = config.num_levels if self.nested else 1
        self.max_beam = tuple(max_beam) if isinstance(max_beam, Iterable) else max_beam
        self.scorer = self._level_models(scorer).scorers[-1]
        # float32 [K, d]; a tuple of such, the coarsest first, where several levels are searched.
        self.nodes: jax.Array | tuple | None = None
        self._mesh = auto_mesh(mesh, axis, num_nodes=config.num_sums)
        self._now: Nested | None = None
        # Held from reading the state to publishing what was made of it.
        self._writing = threading.RLock()
        if isinstance(self.model, tuple) and "nodes" in params:
            self.nodes = self._sums(params["nodes"])

    @property
    def index(self) -> Index | None:
        """The index of the items, over rows."""
        return None if self._now is None else self._now.items.index

    @property
    def indexes(self) -> tuple[Index, ...]:
        """The indexes of all levels, the coarsest first."""
        return self._built().indexes

    @property
    def ids(self) -> np.ndarray:
        """The caller's id in each row, int64 [n]; -1 in a free row."""
        return self._built().items.ids.copy()

    def fit(
        self,
        user_vectors: Any,
        item_vectors: Any,
        *,
        positives: ArrayLike,
        tx: optax.GradientTransformation,
        seed: int = 0,
    ) -> list[dict[str, float]]:
        """Learn the nodes by LTI on pairs; return the records of the training.

        With a model, users and items are what it reads; the nodes are learned on
        `monn.user_vectors` and `monn.item_vectors` of the last one, and models stay as they are.

        Args:
          user_vectors, item_vectors, positives, tx: see `fit_index`, and what that raises.
          seed: of the start, the batches and the negatives.
        """
        key = key_of(seed)
        users = self._models.user_vectors("user_vectors", user_vectors)
        items, _ = self._models.items("item_vectors", item_vectors)
        config = self._config_for(items)
        fitted = fit_index(users, items, positives=positives, tx=tx, config=config, key=key)
        self.nodes = self._sums(fitted.params["nodes"])
        return fitted.metrics

    def build_index(
        self,
        item_vectors: Any,
        *,
        item_ids: ArrayLike | None = None,
        seed: int = 0,
        reserve: int = 0,
    ) -> dict[str, float]:
        """List the items by node, k-means' if `fit` has not run; return the new `stats`.

        Args:
          item_vectors: float [n, d], or what the model reads.
          item_ids: int [n], the caller's ids, >= 0; rows by default.
          seed: of k-means.
          reserve: rows kept free for `add`.

        Raises:
          ValueError: vectors are not finite, too long or not as wide as the nodes; ids repeat;
            there are more nodes than items.
        """
        key = key_of(seed)
        vectors, carried = self._models.items("item_vectors", item_vectors)
        rows = vectors.shape[0]
        ids = as_ids("item_ids", np.arange(rows) if item_ids is None else item_ids, size=rows)
        with self._writing:
            nodes = self.nodes
            if nodes is None:
                config = self._config_for(vectors)
                nodes = self._sums(init_params(key, jnp.asarray(vectors), config=config)["nodes"])
            now = nested.of_items(
                vectors,
                ids,
                nodes=levels_of(nodes),
                models=self._models,
                features=carried,
                slack=self.slack,
                reserve=reserve,
                distance=self.config.distance,
            )
            self._publish(now)
        return self.stats()

    def fit_routes(
        self,
        users: Any,
        tx: optax.GradientTransformation,
        *,
        k: int,
        config: RouteConfig,
        seed: int = 0,
        exclude: ArrayLike | None = None,
    ) -> list[float]:
        """Learn what nodes are scored by, so that the beam finds the exact best items.

        The scorer, the lists and all answers with a full budget stay as they are. Routes last
        until the next `build_index`; items come and go meanwhile. Returns the mean loss of each
        tenth of the steps.

        Args:
          users: float [U, d], or what the model reads: such users as will search.
          tx: any optax transform.
          k: items that a search is to find; the exact ones are computed first.
          config: see `RouteConfig`.
          seed: of the batches.
          exclude: of the users, see `search`.

        Raises:
          ValueError: there are several levels of nodes or models; or see `search`.
          FloatingPointError: training diverged; nothing has changed then.
        """
        with self._writing:
            now, models = self._built(), self._models
            asked = self._asked(now, users, k, None, exclude)
            given = {"tx": tx, "config": config, "key": key_of(seed)}
            now, losses = nested.with_routes(now, models, asked=asked, **given)
            self._publish(now)
        return losses

    def add(self, vectors: Any, ids: ArrayLike) -> None:
        """List new items in free slots, near what they resemble, without training.

        Args:
          vectors: float [b, d], or what the model reads.
          ids: int [b], ids that the index does not hold.

        Raises: see `living.add`; nothing has changed then.
        """
        self._update(nested.add, vectors=vectors, ids=ids)

    def remove(self, ids: ArrayLike) -> None:
        """Drop items; their rows and slots are free for others.

        Args:
          ids: int [b], ids that the index holds.

        Raises: see `living.remove`; nothing has changed then.
        """
        self._update(nested.remove, ids=ids)

    def reassign(self, vectors: Any = None, ids: ArrayLike | None = None) -> None:
        """List all items anew at the nodes as they are, some of them as they are now.

        Args:
          vectors: optional float [b, d], or what the model reads.
          ids: int [b], which items these are.

        Raises: see `living.reassign`; nothing has changed then.
        """
        self._update(nested.reassign, vectors=vectors, ids=ids)

    def drift(self) -> dict[str, float]:
        """Measure the index against its build; see `living.drift`."""
        return living.drift(self._built().items, distance=self.config.distance)

    def needs_rebuild(self, **thresholds: float) -> bool:
        """Tell whether new nodes are due; see `living.needs_rebuild` for the thresholds."""
        return living.needs_rebuild(self.drift(), **thresholds)

    def search(
        self,
        users: Any,
        k: int,
        *,
        budget: int | ArrayLike | tuple | None = None,
        allowed: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
    ) -> Answer:
        """Return each user's best items, in the caller's ids.

        Where the budget holds all allowed items, they are all scored: the answer is exact.

        Args:
          users: float [B, d], or what the model reads; B may be 0.
          k: items to return; padded by -1 where fewer are found.
          budget: most items to score for a user (the best list at least), a number or int [B];
            `request.default_budget` by default. From the number of items on the answer is exact,
            unless `max_beam` bounds it. Or a tuple, one per level of nodes: most of the next
            level's nodes to score, the last one most items; see `request.budgets_of`.
          allowed: optional int [m], ids that may be returned; unknown ones allow nothing.
          exclude: optional int [B, E], ids that a user must not get, -1 for padding; unknown ones
            exclude nothing.

        Raises:
          ValueError: there is no index; users have a wrong width or are not finite; k or budget
            is out of range; allowed or exclude are no integers or of a wrong shape.
        """
        now = self._built()  # held to the end, whatever replaces it meanwhile
        asked = self._asked(now, users, k, allowed, exclude)
        found = self._find(now, asked, budget)
        return answer_of(found, now.items.ids, k=k)

    def frontier(
        self,
        users: Any,
        k: int,
        *,
        budgets: Sequence[int | tuple],
        allowed: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
    ) -> list[FrontierPoint]:
        """Measure recall of the exact top k, that of all levels' ensemble, at several budgets.

        See `search`; a point has the last budget of a tuple. Shares are of the items held.
        """
        now = self._built()
        asked = self._asked(now, users, k, allowed, exclude)
        return curve(
            functools.partial(self._find, now, asked),
            find_exact(now, self._models, asked=asked),
            budgets=budgets,
            num_items=len(now.items.rows[0]),
        )

    def stats(self) -> dict[str, float]:
        """Measure how evenly the items fill the lists, see `nested.stats`."""
        return nested.stats(self._built())

    def save(self, path: str | os.PathLike) -> None:
        """Write index, items, ids, and the scorer's parameters and model to a folder.

        It is written whole or not at all, in place of what an earlier `save` wrote there.

        Raises:
          ValueError: there is no index, or something else is at the path.
        """
        artefact.write(path, artefact.content_of(self, self._built()))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        scorer: Callable | None = None,
        mesh: Mesh | None = None,
        axis: str | None = None,
    ) -> "Retriever":
        """Read what `save` wrote, on any mesh.

        Args:
          path: of the folder.
          scorer: the callable whose name was saved, the inner product by default; code is not
            stored. A model's scorer is made anew from its configuration.
          mesh, axis: where the lists of items go, as of a new retriever.

        Raises:
          ValueError: there is no such folder, it is damaged, or was saved with another scorer.
        """
        content = artefact.read(path)
        settings = artefact.settings_of(content, scorer=scorer, path=path)
        retriever = cls(content.config, **settings, mesh=mesh, axis=axis)
        now = artefact.state_of(content, retriever._models)
        nodes = tuple(index.nodes for index in now.indexes)
        retriever.nodes = nodes if retriever.nested else nodes[-1]
        retriever._publish(now)
        return retriever

    @property
    def _models(self):
        """What scores the levels, with the parameters as they are now."""
        return self._level_models(self.scorer if self.model is None else None)

    def _level_models(self, scorer):
        given: dict[str, Any] = {"model": self.model, "params": self.params, "task": self.task}
        return level_models(self._num_indexes + 1, scorer=scorer, **given)

    def _sums(self, codebooks):
        """Return `nodes` of the codes that a level of `LTIConfig` has."""
        return sums_of_codes(codebooks, self.config, by_level=self.nested)

    def _config_for(self, vectors) -> LTIConfig:
        """Return the config with the number of nodes that so many items have by default."""
        devices = 1 if self._mesh is None else self._mesh[0].shape[self._mesh[1]]
        return self.config.for_items(vectors.shape[0], multiple=devices)

    def _asked(self, now, users, k, allowed, exclude) -> Request:
        return request_of(now, self._models, users=users, k=k, allowed=allowed, exclude=exclude)

    def _find(self, now, asked: Request, budget) -> SearchResult:
        options = {"max_beam": self.max_beam, "mesh": self._mesh}
        return find(now, self._models, asked=asked, budget=budget, **options)

    def _update(self, change: Callable, **given: Any) -> None:
        with self._writing:
            now = change(self._built(), self._models, distance=self.config.distance, **given)
            self._publish(now)

    def _publish(self, now: Nested) -> None:
        """Let all searches from here on see this state."""
        mesh = self._mesh
        self._now = now if mesh is None else nested.place(now, mesh[0], axis=mesh[1])

    def _built(self) -> Nested:
        if self._now is None:
            raise ValueError("index: expected one, from build_index or load, found none")
        return self._now
