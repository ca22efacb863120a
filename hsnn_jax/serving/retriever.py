"""The facade: fit, build, search, measure, save and load one retriever."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from hsnn_jax.cost_curves import FrontierPoint, curve
from hsnn_jax.descent.search import brute_force_levels, search_levels
from hsnn_jax.descent.sharded import auto_mesh, sharded_search_levels
from hsnn_jax.lists import living
from hsnn_jax.lists.checks import check_ids, check_vectors
from hsnn_jax.lists.index import Index
from hsnn_jax.lists.living import Living
from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.nodes.beam_aware import RouteConfig, fit_routes_to_exact
from hsnn_jax.nodes.fit import fit_index
from hsnn_jax.nodes.lti import LTIConfig, init_params, levels_of
from hsnn_jax.serving import artefact
from hsnn_jax.serving import state as nested
from hsnn_jax.serving.encoders import level_models, one_or_several, sums_of_codes
from hsnn_jax.serving.state import Nested


class Answer(NamedTuple):
    """What `Retriever.search` returns, as numpy arrays."""

    ids: np.ndarray  # int64 [B, k]; the caller's ids, -1 where fewer than k items were found
    scores: np.ndarray  # float32 [B, k]; -inf there
    items_scored: np.ndarray  # int32 [B]
    flops: np.ndarray  # float32 [B]
    nodes_scored: np.ndarray  # int32 [B]


class Retriever:
    """Search items by a scorer through a learned index.

    An update makes a new index and replaces the old one in a single assignment: a search in
    another thread sees all of it or nothing, and an update that fails changes nothing. Updates
    themselves must come from one thread at a time.

    Users and items are vectors, or, with a `model`, what its towers read: users are
    (features, counts), or features alone where the model has no crosses, as `monn.encode_users`
    takes them; items are (features, attributes), or features alone, as `monn.encode_items`
    does. The retriever keeps the items encoded, and lists them by the item tower's vectors; a
    node is scored as its representative item.

    With a model a level, it is the search of several levels (`search_levels`): items are listed
    and encoded by the last model, representatives of nodes by that of their level. To encode
    later ones, the retriever keeps what the models read of every item.

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
      ValueError: a model comes with a scorer or without parameters, a task without a model,
        config, models and params have different numbers of levels, or the axis has no mesh, is
        unknown or does not divide the nodes.
    """

    def __init__(
        self,
        config: LTIConfig,
        *,
        scorer=None,
        params=None,
        model: MoNNConfig | Sequence[MoNNConfig] | None = None,
        task: str | None = None,
        slack=2.0,
        max_beam: int | Sequence[int] | None = None,
        nested: bool = False,
        mesh: Mesh | None = None,
        axis: str | None = None,
    ):
        self.config = config
        self.params = params
        self.model = one_or_several(model)
        self.nested = nested or isinstance(self.model, tuple)
        self.task = task
        self.slack = slack
        self._num_indexes = len(config.level_sizes) if self.nested else 1
        self.max_beam = max_beam if np.ndim(max_beam) == 0 else tuple(max_beam)
        self.scorer = self._level_models(scorer).scorers[-1]
        # float32 [K, d]; a tuple of such, the coarsest first, where several levels are searched.
        self.nodes: jax.Array | tuple | None = None
        num_nodes = math.prod(config.level_sizes)
        self._mesh = auto_mesh(mesh, axis, num_nodes=num_nodes)
        self._now: Nested | None = None
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

    def fit(self, user_vectors, item_vectors, positives, tx: optax.GradientTransformation, *, key):
        """Learn the nodes by LTI on pairs; see `fit_index` for the arguments.

        With a model, both are what it reads; the nodes are learned on `monn.user_vectors` and
        `monn.item_vectors` of the last one, and models stay as they are.

        Returns:
          The records of the training.
        """
        user_vectors = self._models.user_vectors("user_vectors", user_vectors)
        item_vectors, _ = self._models.items("item_vectors", item_vectors)
        check_vectors("item_vectors", item_vectors)
        fitted = fit_index(user_vectors, item_vectors, positives, tx, config=self.config, key=key)
        self.nodes = self._sums(fitted.params["nodes"])
        return fitted.metrics

    def build_index(
        self, item_vectors, *, item_ids=None, key=None, reserve: int = 0
    ) -> dict[str, float]:
        """List the items by node.

        Args:
          item_vectors: float [n, d], or what the model reads.
          item_ids: int [n], the caller's ids, >= 0; rows by default.
          key: PRNG key of k-means, needed when `fit` has not run.
          reserve: rows kept free for `add`.

        Returns:
          `stats` of the new index.

        Raises:
          ValueError: vectors are not finite or not as wide as the nodes; ids repeat; no key.
        """
        vectors, carried = self._models.items("item_vectors", item_vectors)
        check_vectors("item_vectors", vectors)
        ids = np.arange(vectors.shape[0]) if item_ids is None else np.asarray(item_ids)
        check_ids("item_ids", ids, vectors.shape[0])
        nodes = self.nodes
        if nodes is None:
            if key is None:
                raise ValueError("build_index needs key (for k-means) when fit has not run")
            nodes = self._sums(init_params(key, jnp.asarray(vectors), self.config)["nodes"])
        distance = self.config.distance
        *coarser, index = nested.build(
            vectors, levels_of(nodes), slack=self.slack, reserve=reserve, distance=distance
        )
        ids = np.pad(ids.astype(np.int64), (0, reserve), constant_values=-1)
        items = living.start(index, vectors, ids, distance=distance, features=carried)
        self._publish(nested.start(coarser, items, self._models, distance=distance))
        return self.stats()

    def fit_routes(
        self,
        users,
        tx: optax.GradientTransformation,
        *,
        k: int,
        config: RouteConfig,
        key,
        exclude=None,
    ) -> list[float]:
        """Learn what nodes are scored by, so that the beam finds the exact best items.

        The scorer, the lists and all answers with a full budget stay as they are. Routes last
        until the next `build_index`; items come and go meanwhile.

        Args:
          users: float [U, d], or what the model reads: such users as will search.
          tx: any optax transform.
          k: items that a search is to find; the exact ones are computed first.
          config: see `RouteConfig`.
          key: PRNG key of the batches.
          exclude: of the users, see `search`.

        Returns:
          The mean loss of each tenth of the steps.

        Raises:
          ValueError: there are several levels of nodes or a model a level; or see `search`.
        """
        now, models = self._built(), self._models
        if len(now.indexes) > 1 or models.ensemble is not None or len(models.models) > 1:
            raise ValueError("routes are of one level of nodes that the items' scorer scores")
        users, masks = self._request(now, users, k, exclude, None)
        nodes, items = nested.levels(now._replace(routes=None), models, users, by_row=True)
        index, exclude = now.items.index, masks["exclude"]
        routes, losses = fit_routes_to_exact(
            nodes, items, index, tx, k=k, config=config, key=key, exclude=exclude
        )
        self._publish(now._replace(routes=routes))
        return losses

    def add(self, vectors, ids) -> None:
        """List new items in free slots, near what they resemble, without training.

        Args:
          vectors: float [b, d], or what the model reads.
          ids: int [b], ids that the index does not hold.

        Raises:
          ValueError: see `living.add`; nothing has changed then.
        """
        now, distance = self._built(), self.config.distance
        vectors, carried = self._models.items("vectors", vectors, by_batches=True)
        items = living.add(now.items, vectors, ids, distance=distance, features=carried)
        self._publish(nested.follow(now, items, self._models, distance=distance))

    def remove(self, ids) -> None:
        """Drop items; their rows and slots are free for others.

        Args:
          ids: int [b], ids that the index holds.

        Raises:
          ValueError: see `living.remove`; nothing has changed then.
        """
        now, distance = self._built(), self.config.distance
        items = living.remove(now.items, ids, distance=distance)
        self._publish(nested.follow(now, items, self._models, distance=distance))

    def reassign(self, vectors=None, ids=None) -> None:
        """List all items anew at the nodes as they are, some of them as they are now.

        Args:
          vectors: optional float [b, d], or what the model reads.
          ids: int [b], which items these are.

        Raises:
          ValueError: see `living.reassign`; nothing has changed then.
        """
        now, carried, changed, distance = self._built(), None, None, self.config.distance
        if vectors is not None:
            vectors, carried = self._models.items("vectors", vectors, by_batches=True)
        items = living.reassign(now.items, vectors, ids, distance=distance, features=carried)
        if ids is not None:
            changed = living.rows_of(items, np.asarray(ids))
        self._publish(nested.follow(now, items, self._models, changed=changed, distance=distance))

    def drift(self) -> dict[str, float]:
        """Measure the index against its build; see `living.drift`."""
        return living.drift(self._built().items, distance=self.config.distance)

    def needs_rebuild(self, **thresholds) -> bool:
        """Tell whether new nodes are due; see `living.needs_rebuild` for the thresholds."""
        return living.needs_rebuild(self.drift(), **thresholds)

    def search(self, users, k: int, *, budget=None, exclude=None, filter=None) -> Answer:
        """Return each user's best items, in the caller's ids.

        Args:
          users: float [B, d], or what the model reads.
          k: items to return, at most the number that the index holds and `filter` allows.
          budget: most items to score for a user, a number or an array int [B]; all by default.
            The coarser levels then have `nested.default_budgets`. Or a tuple, one an index: most
            of the next level's nodes to score, the last one most items.
          exclude: optional int [B, E] of the caller's ids, -1 for padding; unknown ids exclude
            nothing.
          filter: optional bool [n] in the order of `ids`, free rows included; True allows. One
            that allows nothing gives an empty answer, as does an index without items.

        Raises:
          ValueError: there is no index; users have a wrong width or NaN; k or budget is out of
            range; filter has a wrong shape.
        """
        now = self._built()  # held to the end, whatever replaces it meanwhile
        users, masks = self._request(now, users, k, exclude, filter)
        found = self._find(now, users, k, budget, masks)
        return Answer(np.where(found.ids < 0, -1, now.items.ids[found.ids]), *found[1:])

    def frontier(self, users, k: int, *, budgets, exclude=None, filter=None) -> list[FrontierPoint]:
        """Measure recall of the exact top k, that of all levels' ensemble, at several budgets.

        Args:
          users, k, exclude, filter: see `search`.
          budgets: each a number or a tuple, see `search`.

        Returns:
          A point a budget; of a tuple, `budget` is the last one, that of the items. Shares are
          of the items that the index holds.
        """
        now = self._built()
        users, masks = self._request(now, users, k, exclude, filter)
        levels = nested.levels(now, self._models, users, by_row=True)
        exact = brute_force_levels(levels, now.indexes, k, ensemble=self._models.ensemble, **masks)
        return curve(
            lambda budget: self._find(now, users, k, budget, masks),
            jax.device_get(exact),
            budgets=budgets,
            num_items=len(now.items.rows[0]),
        )

    def stats(self) -> dict[str, float]:
        """Measure how evenly the items fill the lists, see `nested.stats`."""
        return nested.stats(self._built())

    def save(self, path) -> None:
        """Write index, items, ids, and the scorer's parameters and model as one .npz file.

        The file appears under its name only when it is complete.
        """
        content = artefact.content_of(
            self._built(),
            params=self.params,
            config=self.config,
            scorer=self.scorer.__name__,
            slack=self.slack,
            max_beam=self.max_beam,
            model=self.model,
            task=self.task,
            nested=self.nested,
        )
        artefact.write(path, content)

    @classmethod
    def load(
        cls, path, *, scorer=None, mesh: Mesh | None = None, axis: str | None = None
    ) -> "Retriever":
        """Read what `save` wrote, on any mesh.

        Args:
          path: the file.
          scorer: the callable whose name was saved, the inner product by default; code is not
            stored. A model's scorer is made anew from its configuration.
          mesh, axis: where the lists of items go, as of a new retriever.

        Raises:
          ValueError: the file is not such an artefact, or was saved with another scorer.
        """
        content = artefact.read(path)
        retriever = cls(
            content.config,
            scorer=artefact.scorer_of(content, scorer, path),
            params=content.params,
            model=content.model,
            task=content.task,
            slack=content.slack,
            max_beam=content.max_beam,
            nested=content.nested,
            mesh=mesh,
            axis=axis,
        )
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
        levels = self._num_indexes + 1
        given = dict(scorer=scorer, model=self.model, params=self.params, task=self.task)
        return level_models(levels, **given)

    def _sums(self, codebooks):
        """Return `nodes` of the codes that a level of `LTIConfig` has."""
        return sums_of_codes(codebooks, self.config, by_level=self.nested)

    def _request(self, now, users, k, exclude, filter):
        """Return (what each level reads of the users, masks over rows)."""
        users = self._models.users("users", users, width=now.items.index.nodes.shape[1])
        rows = None if exclude is None else living.rows_of(now.items, np.asarray(exclude))
        return users, {"exclude": rows, "allowed": _allowed(now.items, filter, k)}

    def _find(self, now, users, k, budget, masks):
        if not isinstance(budget, tuple):
            budget = nested.default_budgets(now, budget)
        beams, search = self.max_beam, search_levels
        if self._mesh is not None:
            mesh, axis = self._mesh
            search = functools.partial(sharded_search_levels, mesh=mesh, axis=axis)
        found = search(
            nested.levels(now, self._models, users),
            now.indexes,
            k,
            budgets=budget,
            ensemble=self._models.ensemble,
            max_beams=beams if isinstance(beams, tuple) else (beams,) * self._num_indexes,
            **masks,
        )
        return jax.device_get(found)

    def _publish(self, now: Nested) -> None:
        """Let all searches from here on see this state."""
        self._now = now if self._mesh is None else nested.place(now, *self._mesh)

    def _built(self) -> Nested:
        if self._now is None:
            raise ValueError("there is no index: call build_index or load first")
        return self._now


def _allowed(now: Living, filter, k):
    """Return `filter` as an array, or None, once k is known to be within what it leaves."""
    present = now.ids >= 0
    if filter is None:
        items = int(present.sum())
        if k > items > 0:
            raise ValueError(f"k must be in [1, {items}] (number of items), got {k=}")
        return None
    allowed = np.asarray(filter, bool)
    if allowed.shape != present.shape:
        raise ValueError(
            f"filter must have shape [{present.size}], one entry a row, got shape {allowed.shape}"
        )
    allowed = allowed & present
    if 0 < allowed.sum() < k:
        raise ValueError(f"k must be at most {allowed.sum()} (items that filter allows), got {k}")
    return allowed
