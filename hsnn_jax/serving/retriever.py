"""The facade: fit, build, search, measure, save and load one retriever."""

import copy
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hsnn_jax.cost_curves import FrontierPoint, curve
from hsnn_jax.descent.sharded import auto_mesh
from hsnn_jax.lists import drift as of_drift
from hsnn_jax.lists import living
from hsnn_jax.lists.index import Index
from hsnn_jax.monn.model import Model
from hsnn_jax.nodes.beam_aware import RouteConfig
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.serving import artefact, building, updates
from hsnn_jax.serving import state as nested
from hsnn_jax.serving.answer import Answer, answer_of
from hsnn_jax.serving.calibration import calibrate
from hsnn_jax.serving.encoders import models_of, nodes_in, one_or_several
from hsnn_jax.serving.find import find, find_exact
from hsnn_jax.serving.fitting import fit_model
from hsnn_jax.serving.pool import Pool
from hsnn_jax.serving.request import Budget, Request, key_of, request_of
from hsnn_jax.serving.state import Nested
from hsnn_jax.serving.warming import Several, warm_up
from hsnn_jax.training.loop import Record, Training
from hsnn_jax.training.optimizers import Optimizer, Transform


class Retriever:
    """Search items by a scorer through a learned index.

    An update replaces the index in one assignment: a search in another thread sees all of it or
    nothing. One that fails changes nothing, and several at once wait for one another.

    Users and items are vectors or, with a `model`, what its towers read: of a MoNN (features,
    counts), (features, attributes), or features alone. Items are kept encoded, listed by the item
    tower's vectors; a node is scored as its representative item. With a model a level, items are
    listed and encoded by the last one, nodes by their own.

    Args:
      config: of the nodes, see `LTIConfig`.
      scorer: see `search`; the inner product by default. Not given with a model.
      params: of scorer or model, drawn by `fit` otherwise. Of several models, {"models": one each,
        "ensemble": ..., "nodes": ...} as of `init_joint`; without the ensemble each level is ranked
        by its own output, and without nodes k-means makes them.
      model: a MoNN or `Towers`; or one per level of nodes, the coarsest first, and of the items.
      task: of the models', see `monn.MoNNScorer`.
      slack: capacity of a list over the mean number of items of a node.
      max_beam: static maximum of nodes visited, at each level or one a level; all by default.
      nested: whether residual levels are searched one after the other, as they always are with
        a model a level; otherwise the sums of their codes are the nodes of one index.
      candidates: a cheap scorer that chooses which items of the visited lists the scorer or the
        model scores, see `Pool`; all of them by default.
      mesh, axis: spread the lists of items over its devices; answers are those of one device. The
        axis is the first by default; its size divides the nodes that list items.

    Raises:
      ValueError: config, scorer, params, model, task, mesh and axis do not fit together.
    """

    def __init__(
        self,
        config: LTIConfig,
        *,
        scorer: Callable | None = None,
        params: Any = None,
        model: Model | Sequence[Model] | None = None,
        task: str | None = None,
        slack: float = 2.0,
        max_beam: int | Sequence[int] | None = None,
        nested: bool = False,
        candidates: Pool | None = None,
        mesh: Mesh | None = None,
        axis: str | None = None,
    ) -> None:
        self.config = config
        self.params = params
        self.model = one_or_several(model)
        self.nested = nested or isinstance(self.model, tuple)
        self.task = task
        self.slack = slack
        self.candidates = candidates
        self.max_beam = tuple(max_beam) if isinstance(max_beam, Iterable) else max_beam
        self.given_scorer = scorer
        self.scorer = models_of(self, untrained=True).scorers[-1]
        # float32 [K, d]; a tuple of such, the coarsest first, where several levels are searched.
        self.nodes: jax.Array | tuple | None = nodes_in(params, config, model=self.model)
        self._listed_at = None  # when the index was built: others are from a later fit
        self._mesh = auto_mesh(mesh, axis, num_nodes=config.num_sums)
        self._now: Nested | None = None
        self._writing = threading.RLock()  # from reading the state to publishing the next one

    @property
    def index(self) -> Index | None:
        """The index of the items, over rows."""
        return None if self._now is None else self._whole().items.index

    @property
    def indexes(self) -> tuple[Index, ...]:
        """The indexes of all levels, the coarsest first."""
        return self._whole().indexes

    @property
    def ids(self) -> np.ndarray:
        """The caller's id in each row, int64 [n]; -1 in a free row. Or object [n], None there."""
        return self._whole().items.ids.copy()

    def fit(
        self,
        users: Any,
        items: Any,
        *,
        positives: Any,
        labels: Any = None,
        tx: Optimizer = "adamw",
        training: Training | None = None,
        item_ids: Any = None,
        reserve: int = 0,
        seed: int = 0,
    ) -> list[Record]:
        """Train the model from features, then list the items at k-means' nodes of its vectors.

        Parameters are drawn where there are none, else trained on. With a model a level, all are
        trained jointly, and the nodes with them. See `fitting.fit_model` for the arguments, what is
        returned and what is raised (nothing has changed then), `build_index` for the other ones;
        the seed is of parameters and batches too.
        """
        building.check_items(items, item_ids, config=self.config)  # before training, not after
        given = {"positives": positives, "labels": labels, "tx": tx, "training": training}
        with self._writing:
            after = copy.copy(self)
            after.params, records = fit_model(users, items, retriever=self, seed=seed, **given)
            after.nodes = nodes_in(after.params, self.config, model=self.model)
            after.build_index(items, users=users, item_ids=item_ids, reserve=reserve, seed=seed)
            vars(self).update(vars(after))
        return records

    def fit_nodes(
        self, user_vectors: Any, item_vectors: Any, *, positives: Any, tx: Transform, seed: int = 0
    ) -> list[Record]:
        """Learn nodes by LTI on pairs (a model's vectors), for the next build; return the records.

        See `fit_index` for the arguments and what is raised; the seed is of start and negatives.
        """
        given = building.plan_of(self, self._mesh) | {"positives": positives, "key": key_of(seed)}
        self.nodes, records = building.fit(user_vectors, item_vectors, tx=tx, **given)
        return records

    def build_index(
        self,
        item_vectors: Any,
        *,
        item_ids: Any = None,
        seed: int = 0,
        reserve: int = 0,
        users: Any = None,
    ) -> dict[str, float]:
        """List the items by node, k-means' without `fit_nodes`; return the new `stats`.

        Nodes are spread where items crowd; `SkewWarning`: a fifth lie away from home even so.

        Args:
          item_vectors: float [n, d], or what the model reads.
          item_ids: [n], integers >= 0, the fastest, or anything hashable; rows by default.
          seed: of k-means and the calibration.
          reserve: rows kept free for `add`, which makes more where they run out.
          users: such as will search, see `calibration.calibrate`.

        Raises:
          ValueError: vectors are not finite or of another width, ids repeat, items are too few.
        """
        items = building.items_with_ids(self._models, item_vectors, ids=item_ids)
        with self._writing:
            self._build(items, self.nodes, seed=seed, reserve=reserve, users=users)
        return self.stats()

    def rebuild(self, *, seed: int = 0, reserve: int | None = None) -> dict[str, float]:
        """List what the index holds at new nodes, as `needs_rebuild` asks; return the new `stats`.

        The nodes are those of `fit_nodes` since the build, else k-means' of the items as they are;
        to keep the nodes, `reassign`. Searches go on in the old index until the new one is whole,
        updates wait. Routes end. `reserve` is as now by default.

        Raises:
          ValueError: there is no index or it holds no items; see `build_index`.
        """
        with self._writing:
            items, free = building.held(self._whole())
            nodes = None if self.nodes is self._listed_at else self.nodes
            self._build(items, nodes, seed=seed, reserve=free if reserve is None else reserve)
        return self.stats()

    def fit_routes(
        self,
        users: Any,
        tx: Transform,
        *,
        k: int,
        config: RouteConfig,
        seed: int = 0,
        exclude: Any = None,
    ) -> list[float]:
        """Learn what nodes are scored by, so that the beam finds the exact best items.

        Scorer, lists and answers with a full budget stay as they are. Routes last until the next
        build. Returns the mean loss of each tenth of the steps.

        Args:
          users, k, exclude: of searches such as will come; their exact answers are computed first.
          tx, config, seed: an optax transform; see `RouteConfig`; of the batches.

        Raises:
          ValueError: there are several levels of nodes or models; or see `search`.
          FloatingPointError: training diverged; nothing has changed then.
        """
        given = {"tx": tx, "config": config, "key": key_of(seed)}
        with self._writing:
            now = self._whole()
            asked = self._asked(now, users, k=k, exclude=exclude, few_sizes=False)
            now, losses = nested.with_routes(now, self._models, asked=asked, **given)
            self._publish(calibrate(now, self._models, users=users, seed=seed))
        return losses

    def add(self, vectors: Any, ids: Any) -> None:
        """Take new items in, without training; the next search finds them.

        They wait in a side list, which every search scores whole beside its budget, until it is
        full, see `updates.add`; over a mesh, with `candidates`, several levels or models they do
        not wait, and each `add` copies the lists.

        Args:
          vectors: float [b, d], or what the model reads.
          ids: [b], ids that the index does not hold, integers where it holds integers.
        """
        self._update(updates.add, vectors=vectors, ids=ids, beside=self._mesh is None)

    def upsert(self, vectors: Any, ids: Any) -> None:
        """Take items in as they are now, known and new, in one update; see `add`."""
        self._update(updates.upsert, vectors=vectors, ids=ids, beside=self._mesh is None)

    def remove(self, ids: Any) -> None:
        """Drop items by id, [b]; their rows and slots are free for others; see `living.remove`."""
        self._update(updates.remove, ids=ids)

    def reassign(self, vectors: Any = None, ids: Any = None) -> None:
        """List all items anew at the nodes, those of `ids` as now; see `living.reassign`."""
        self._update(updates.reassign, vectors=vectors, ids=ids)

    def drift(self) -> dict[str, float]:
        """Measure the index against its build; see `living.drift`."""
        return living.drift(self._whole().items, distance=self.config.distance)

    def needs_rebuild(self, **thresholds: float) -> bool:
        """Tell whether `rebuild` is due; see `drift.needs_rebuild` for the thresholds."""
        return of_drift.needs_rebuild(self.drift(), **thresholds)

    def search(
        self,
        users: Any,
        k: int,
        *,
        budget: Budget = None,
        recall: float | None = None,
        allowed: Any = None,
        exclude: Any = None,
    ) -> Answer:
        """Return each user's best items, in the caller's ids.

        Where the budget holds all allowed items, the answer is exact. What waits (`add`) is on top.

        Args:
          users: float [B, d], or what the model reads; B may be 0.
          k: items to return; padded by -1 where fewer are found.
          budget: most listed items to score for a user (a list at least), a number or int [B];
            `request.default_budget` by default. From the number of items on the answer is exact,
            unless `max_beam` or a pool bounds it. Or a tuple of such, see `request.budgets_of`.
          recall: score as many items as `Answer.recall` needs to reach it; `budget` is the limit
            of a round then, all items by default.
          allowed: optional [m], ids that may be returned; or [B, m], each user's, padded as
            `exclude`. Unknown ones allow nothing.
          exclude: optional [B, E], ids that a user must not get, padded by -1, or None where ids
            are no integers; unknown ones exclude nothing.

        Raises:
          ValueError: there is no index; users are of a wrong width or not finite; k, budget or
            recall is out of range; allowed or exclude are no ids or of a wrong shape.
        """
        one = copy.copy(self)  # parameters and index of one moment, whatever comes meanwhile
        asked = one._asked(one._built(), users, k=k, allowed=allowed, exclude=exclude)
        found = one._find(one._built(), asked, recall=recall)(budget)
        return answer_of(found, one._built(), k=k)

    def warm_up(
        self, users: Any = None, *, k: Several, batch: Several, exclude: Several = 0
    ) -> None:
        """Compile what requests of these sizes run; again after a build, or rows that ran out.

        And what `add` runs, but for a model's towers, which the first items compile. See
        `warming.warm_up` for the arguments; users are not needed for vectors.
        """
        one, at, beside = copy.copy(self), self.config.distance, self._mesh is None
        one._now = updates.warmed(self._built(), self._models, distance=at, beside=beside)
        width = None if self.model else one._now.items.index.nodes.shape[1]
        warm_up(one.search, users, width=width, k=k, batch=batch, exclude=exclude)

    def frontier(
        self, users: Any, k: int, *, budgets: Sequence, allowed: Any = None, exclude: Any = None
    ) -> list[FrontierPoint]:
        """Measure recall of the exact top k, that of all levels' ensemble, at several budgets.

        See `search`; a point has the last budget of a tuple. Shares are of the items held.
        """
        now = self._whole()
        asked = self._asked(now, users, k=k, allowed=allowed, exclude=exclude)
        exact, held = find_exact(now, self._models, asked=asked), living.size(now.items)
        return curve(self._find(now, asked), exact, budgets=budgets, num_items=held)

    def stats(self) -> dict[str, float]:
        """Measure how evenly the items fill the lists, see `nested.stats`."""
        return nested.stats(self._whole())

    def save(self, path: str | os.PathLike) -> None:
        """Write all of it to a folder, whole or not at all, see `artefact.write`."""
        artefact.write(path, artefact.content_of(self, self._whole()))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        scorer: Callable | None = None,
        candidates: Callable | None = None,
        model: Model | Sequence[Model] | None = None,
        mesh: Mesh | None = None,
        axis: str | None = None,
    ) -> "Retriever":
        """Read what `save` wrote, on any mesh.

        Args:
          scorer, candidates, model: of the saved names; by default inner products, and MoNNs.
          mesh, axis: where the lists of items go, as of a new retriever.

        Raises:
          ValueError: there is no such folder, it is damaged, or was saved with other functions.
        """
        content = artefact.read(path)
        settings = artefact.settings_of(content, path, scorer=scorer, cheap=candidates, model=model)
        retriever = cls(content.config, **settings, mesh=mesh, axis=axis)
        retriever._publish(artefact.state_of(content, retriever._models))
        retriever._listed_at = retriever.nodes = nested.nodes(retriever._built(), retriever.nested)
        return retriever

    @property
    def _models(self):
        """What scores the levels, with the parameters as they are now."""
        return models_of(self)

    def _build(self, items, nodes, **options: Any) -> None:
        at, options = self.nodes, options | building.plan_of(self, self._mesh)
        self._publish(building.build(items, nodes, slack=self.slack, **options))
        self._listed_at = at

    def _asked(self, now, users, **options: Any) -> Request:
        return request_of(now, self._models, users=users, **options)

    def _find(self, now, asked: Request, **options: Any) -> Callable:
        options |= {"asked": asked, "max_beam": self.max_beam, "mesh": self._mesh}
        return lambda budget: find(now, self._models, budget=budget, **options)

    def _update(self, change: Callable, **given: Any) -> None:
        with self._writing:
            given |= {"distance": self.config.distance}
            self._publish(change(self._built(), self._models, **given))

    def _publish(self, now: Nested) -> None:
        """Let all searches from here on see this state."""
        self._now = now if self._mesh is None else nested.place(now, self._mesh)

    def _whole(self) -> Nested:
        """The state with all items in the lists, from now on for all unless a writer is at work."""
        now = self._built()
        whole = updates.merged(now, self._models, distance=self.config.distance)
        if whole is not now and self._writing.acquire(blocking=False):
            try:
                self._now = whole if self._now is now else self._now
            finally:
                self._writing.release()
        return whole

    def _built(self) -> Nested:
        if self._now is None:
            raise ValueError("index: expected one, from build_index or load, found none")
        return self._now
