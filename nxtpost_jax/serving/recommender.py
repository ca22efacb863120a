"""Fit the towers to sequences and recommend items: the package's front door."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nxtpost_jax.evaluation.ranking import Metrics
from nxtpost_jax.evaluation.scoring import encode_catalogue
from nxtpost_jax.events import content as contents
from nxtpost_jax.events.checks import as_sequences, check_below, check_times, item_ids
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving import reading, requests, saving
from nxtpost_jax.serving.answer import Answer
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.live_users import Event, LiveUsers
from nxtpost_jax.serving.reading import Backfill, EventFilter, Histories, Reader
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training import fitting
from nxtpost_jax.training.finite import check_arrays
from nxtpost_jax.training.objective import Objective, resolve

_ADAMW = optax.adamw(1e-3)  # one object: recommenders that share it share compiled steps


@dataclasses.dataclass(frozen=True)
class _State:
    """What changes, replaced as a whole."""

    params: Any
    catalogue: Catalogue
    num_fits: int = 0


class Recommender:
    """Recommend items by content, by id, or by both.

    Any thread may call any method at any time. A request answers by the parameters and the
    catalogue of the moment it begins; `add_items` and `remove_items` take turns, and what they
    change is seen by the requests that begin afterwards.

    Attributes:
      model: the towers.
      content: of the items 0 to num_items - 1, on the device, or None; see `content`.
      num_items: number of items at the start.
    """

    def __init__(
        self,
        config: NxtPostConfig,
        content=None,
        *,
        num_items: int | None = None,
        tx: optax.GradientTransformation | None = None,
        event_filter: EventFilter | None = None,
        backfill: Backfill | None = None,
    ):
        """Set up a recommender; `fit` draws its parameters.

        Args:
          config: see `model.NxtPostConfig`.
          content: float[n, C], row i the embedding of item i, or channels of such arrays and
            sets as `content` describes, or None to know items by id only. An array may be the
            path of an .npy file.
          num_items: size of the catalogue, needed without content.
          tx: optimizer; AdamW at 1e-3 when None.
          event_filter: tells which events count, bool[n_events]; applied to training events and
            to every history. Items are filtered by `remove_items`.
          backfill: fills short histories (see `backfill`), wherever one is read but in training.

        Raises:
          ValueError: content has another shape, NaN, or an item without any while there is no
            id embedding; or the catalogue's size is unknown.
        """
        if content is not None:
            content = contents.check(
                contents.load(content), num_items=num_items, allow_missing=config.id_embedding
            )
            content = jax.tree.map(jnp.asarray, content)
        elif num_items is None or num_items < 1:
            raise ValueError(f"num_items: expected at least 1 without content, found {num_items}")
        elif not config.id_embedding:
            raise ValueError("content: expected a matrix when id_embedding is off, found None")
        self.content = content
        self.num_items = num_items if content is None else contents.num_rows(content)
        self.model = NxtPost(config, self.num_items if config.id_embedding else None)
        self.tx = _ADAMW if tx is None else tx
        self.event_filter = event_filter
        self.backfill = backfill
        catalogue = Catalogue.of(jnp.zeros((self.num_items, config.d_model)))
        self._state = _State(None, catalogue)
        self._writing = threading.Lock()  # held by whoever replaces `_state`
        self._fitting = False
        self._live = LiveUsers()

    @property
    def params(self):
        """Give the model's parameters; None before `fit`."""
        return self._state.params

    @property
    def catalogue(self) -> Catalogue:
        """Give the items that can be recommended now, as an object that never changes."""
        return self._state.catalogue

    def fit(
        self,
        sequences: Histories,
        *,
        epochs: int,
        batch_size: int = 128,
        buckets: int = 1,
        objective: Objective | None = None,
        num_negatives: int | None = None,
        pretrain_epochs: int = 0,
        seed: int = 0,
        validation: Queries | None = None,
        validate_every: int = 1,
        log: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Train from newly drawn parameters; until it ends, requests are answered as before.

        Negatives come from the items that occur in `sequences`, so that an item held out of
        training is not taught to be wrong. Items removed before are in no history, label or
        negative; those removed meanwhile stay removed. Users of `update` keep their events.

        Args:
          sequences: training events, or lists of item ids, one per user; see `splits` for a part
            without leakage.
          epochs: passes over them.
          batch_size: rows a step.
          buckets: widths of rows, each half the next: short histories share narrow rows, more of
            them a step. Costs a compilation each; see `batches.batch_shapes`.
          objective: losses and negatives, see `objective.Objective`.
          num_negatives: short for `objective=Objective(num_negatives=...)`.
          pretrain_epochs: passes of post-to-post training before (see `post_to_post.pretrain`), by
            AdamW at 1e-3: the post tower starts from what is engaged with together.
          seed: draws parameters, order, negatives and dropout.
          validation: when given, the parameters of the epoch with the best NDCG@10 are kept.
          validate_every: epochs between two validations; the last epoch always has one.
          log: called with each epoch's record.

        Returns:
          One record an epoch: epoch, loss, seconds and, where validated, hr@10, ndcg@10, mrr.

        Raises:
          ValueError: an option is out of range, the events have an unknown item or times out of
            order, the catalogue has items that were added, or another fit is under way.
          FloatingPointError: training diverged: a loss, a parameter or a vector is NaN or infinite.

        A fit that raises changes nothing: the model before it, if any, goes on.
        """
        if epochs < 1:
            raise ValueError(f"epochs: expected at least 1, found {epochs}")
        if pretrain_epochs < 0:
            raise ValueError(f"pretrain_epochs: expected at least 0, found {pretrain_epochs}")
        objective = resolve(objective, num_negatives)
        sequences = as_sequences("sequences", sequences)
        check_below("sequences", sequences.items, self.num_items)
        check_times("sequences", sequences)
        reader = self._begin_fit()
        try:
            if validation is not None:  # refused now, not after an epoch
                reader.prepared("validation", validation.histories)
            params, records = fitting.fit(
                self.model,
                reader.filtered(sequences),
                content=self.content,
                tx=self.tx,
                epochs=epochs,
                batch_size=batch_size,
                buckets=buckets,
                objective=objective,
                pretrain_epochs=pretrain_epochs,
                seed=seed,
                validate=None if validation is None else partial(self._figures, reader, validation),
                validate_every=validate_every,
                log=log,
            )
            catalogue = Catalogue.of(self._encoded(params))
            with self._writing:  # what was removed meanwhile stays removed
                self._replace(params, _without(catalogue, self.catalogue.removed))
        finally:
            self._fitting = False
        return records

    def evaluate(self, queries: Queries, **options) -> Metrics:
        """Rank the queries' targets among all items of the catalogue.

        Options are those of `ranking.evaluate`, in item ids. Histories are filtered and
        backfilled as in `recommend`.

        Raises:
          ValueError: a target or candidate is not in the catalogue, or as in `recommend`.
        """
        return requests.rank_queries(self._reader(), queries, **options)

    def recommend(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool = True,
        filter=None,
        items=None,
    ) -> Answer:
        """Find the k best items for each history.

        Batches are padded to powers of two in both directions, so that calls of similar size
        run the same compiled function. Removed items and events that the `event_filter`
        refuses are left out of histories.

        Args:
          histories: B int arrays of item ids, oldest first; or `Sequences`, which carry times,
            actions, surfaces and static features too. Empty ones need a backfill or static
            features.
          k: items a history, at most the catalogue's size.
          exclude_seen: never return an item of the history.
          filter: bool[M], the ids that may be returned, M above all ids of the catalogue.
          items: int[m], the only ids that may be returned.

        Returns:
          An `Answer`: ids int32[B, k], the best first, and their cosines float32[B, k]. Where
          fewer than k items are left, the ids end in PAD and the cosines in -inf; `pairs` of the
          answer has neither.

        Raises:
          ValueError: k is out of range, a history is empty or has an unknown id or times out of
            order, `filter` or `items` fit no catalogue, or the model was trained with times,
            actions, surfaces or static features and gets none.
        """
        return requests.recommend(
            self._reader(), histories, k=k, exclude_seen=exclude_seen, filter=filter, items=items
        )

    def search(
        self,
        vectors,
        k: int,
        *,
        seen: Histories | None = None,
        filter=None,
        items=None,
    ) -> Answer:
        """Find the k best items for stored user vectors; else as `recommend`.

        Args:
          vectors: f32[B, D] of `embed_users` or `update`, under the same parameters.
          seen: B histories whose items are not returned; none when None.
        """
        reader = self._reader()
        return requests.search(reader, vectors, k=k, seen=seen, filter=filter, items=items)

    def similar_items(self, ids, k: int) -> Answer:
        """Find the k items nearest to each item, itself left out.

        Returns:
          ids int32[m, k] and cosines f32[m, k], an `Answer` as in `recommend`.

        Raises:
          ValueError: an id is unknown, or k is not below the catalogue's size.
        """
        return requests.similar(self._reader(), ids, k=k)

    def embed_users(self, histories: Histories) -> np.ndarray:
        """Compute users' vectors in a batch, to be stored and given to `search`: f32[B, D].

        Raises:
          ValueError: see `recommend`.
        """
        return requests.embed_users(self._reader(), histories)

    def update(
        self, user: Hashable, event: Event | int, *, history: Histories | None = None
    ) -> np.ndarray:
        """Add an event to a user's history and give the user's new vector, f32[D].

        It equals the row of `embed_users` for all events so far. See `live_users`.

        Args:
          user: any name; the events, the vector and a KV cache are kept under it.
          event: an item's id, or an `Event` with the time, action and surface the model reads.
          history: the user's events before, one sequence, at the user's first event here; it
            carries static features too.

        Raises:
          ValueError: the item is unknown or removed, the time lies before the last event's, a
            history is given twice, or as in `recommend`. The user is then as before.
        """
        self._reader()  # refuses an unfitted recommender before anything else
        event = event if isinstance(event, Event) else Event(event)
        if history is not None:
            history = as_sequences("history", history)
        return self._live.add(user, event, take=self._reader, history=history)

    def recommend_user(
        self, user: Hashable, k: int, *, exclude_seen: bool = True, filter=None, items=None
    ) -> Answer:
        """Find the k best items for a user of `update`: an `Answer` of one row.

        Raises:
          ValueError: the user is unknown, or as in `recommend`.
        """
        vector, events, reader = self._live.current(user, take=self._reader)
        seen = events if exclude_seen else None
        return requests.search(reader, vector[None], k=k, seen=seen, filter=filter, items=items)

    def forget_user(self, user: Hashable) -> None:
        """Drop the events and the cache that `update` keeps of a user."""
        self._live.forget(user)

    def add_items(self, content=None, ids=None) -> np.ndarray:
        """Make items findable at once, without training.

        An item that training did not know has no id vector: it is its content. Nothing is
        traced anew unless the catalogue's capacity doubles.

        Args:
          content: of m items, channels and widths as at the start; None to bring removed items
            of the start back, with the content they had.
          ids: int[m], new ones or removed ones; the next free ids when None.

        Returns:
          The items' ids, int32[m].

        Raises:
          ValueError: content has another shape, NaN, or an item without any; an id is in the
            catalogue, there twice or no id; nothing has changed then.
        """
        with self._writing:
            reader = self._reader()
            rows, ids = self._new_items(reader.catalogue, content, ids)
            if not len(ids):
                return ids
            if self._fitting and content is not None:
                raise ValueError(
                    "recommender: expected no fit under way, which would not know the new items, "
                    "found one"
                )
            padded = np.resize(np.arange(len(ids)), reading.power_of_two(len(ids)))
            rows = jax.tree.map(lambda part: part[padded], rows)
            vectors = np.asarray(_encode(self.model, reader.params, rows, ids[padded]))
            self._replace(reader.params, reader.catalogue.add(vectors[: len(ids)], ids))
        return ids

    def remove_items(self, ids) -> None:
        """Take items out: they are never recommended, and no history holds them any more.

        Before `fit` it keeps them out of training, too. For items that histories should keep,
        such as expired ones, use the `filter` of `recommend` instead.

        Raises:
          ValueError: an id is unknown or there twice; nothing has changed then.
        """
        with self._writing:
            self._replace(self.params, self.catalogue.remove(ids))

    def save(self, path: str | os.PathLike) -> None:
        """Write config, parameters, content and catalogue to a folder (see `saving`).

        Users of `update` are not part of it; give their `history` again.
        """
        now, config = self._reader(), self.model.config
        saving.save(path, config, self.num_items, now.params, self.content, now.catalogue)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        tx: optax.GradientTransformation | None = None,
        event_filter: EventFilter | None = None,
        backfill: Backfill | None = None,
    ) -> Recommender:
        """Read a recommender that `save` wrote; optimizer, filter and backfill are no part of it.

        Raises:
          ValueError: the folder holds no recommender, or one of another version.
        """
        saved = saving.load(path)
        recommender = cls(
            saved.config,
            saved.content,
            num_items=saved.num_items,
            tx=tx,
            event_filter=event_filter,
            backfill=backfill,
        )
        recommender._replace(jax.tree.map(jnp.asarray, saved.params), saved.catalogue)
        return recommender

    def _reader(self, *, fitted: bool = True) -> Reader:
        """Take what a request reads, as of now."""
        now = self._state
        if fitted and now.params is None:
            raise ValueError("recommender: expected a fitted one; call fit or load first")
        return Reader(
            model=self.model,
            params=now.params,
            catalogue=now.catalogue,
            event_filter=self.event_filter,
            backfill=self.backfill,
            num_fits=now.num_fits,
        )

    def _replace(self, params, catalogue: Catalogue) -> None:
        now = self._state
        self._state = _State(params, catalogue, now.num_fits + (params is not now.params))

    def _begin_fit(self) -> Reader:
        """Give a reader of the items at the start, less those removed, in slots of their own."""
        with self._writing:
            added = self.catalogue.sorted_ids[self.catalogue.sorted_ids >= self.num_items]
            if len(added):
                raise ValueError(
                    f"recommender: expected no added items at fit, found {added[0]}; build a new "
                    "one with their content"
                )
            if self._fitting:
                raise ValueError("recommender: expected no fit under way, found one")
            self._fitting = True
            reader = self._reader(fitted=False)
        width = self.model.config.d_model
        catalogue = Catalogue.of(jnp.zeros((self.num_items, width)), capacity=self.num_items)
        removed = reader.catalogue.removed
        return dataclasses.replace(reader, catalogue=_without(catalogue, removed))

    def _encoded(self, params):
        """Encode the items of the start: f32[N, D], all finite."""
        vectors_NxD = encode_catalogue(self.model, params, self.content)
        check_arrays("items", vectors_NxD)
        return vectors_NxD

    def _figures(self, reader: Reader, validation: Queries, params) -> dict[str, float]:
        """Validate parameters by the items that the fit began with."""
        catalogue = dataclasses.replace(reader.catalogue, vectors=self._encoded(params))
        reader = dataclasses.replace(reader, params=params, catalogue=catalogue)
        return requests.rank_queries(reader, validation, bootstrap=0).values

    def _new_items(self, catalogue: Catalogue, content, ids):
        """Check items to add before anything changes: their content and ids."""
        if content is None:
            ids = item_ids("ids", [] if ids is None else ids)
            unknown = ids[~catalogue.was_removed(ids) | (ids >= self.num_items)]
            if len(unknown) or not len(ids):
                found = unknown[0] if len(unknown) else "none"
                raise ValueError(
                    f"ids: expected removed items of the start without content, found {found}"
                )
            catalogue.checked_new_ids(ids, len(ids))
            return jax.tree.map(np.asarray, contents.take(self.content, ids)), ids
        if self.content is None:
            raise ValueError("content: expected None where items are known by id only, found some")
        content = contents.check(contents.load(content))
        expected, found = contents.describe(self.content), contents.describe(content)
        if found != expected:
            raise ValueError(f"content: expected one item's as {expected}, found {found}")
        return content, catalogue.checked_new_ids(ids, contents.num_rows(content))


def _without(catalogue: Catalogue, removed) -> Catalogue:
    """Take removed items out, and remember those that the catalogue never had as removed too."""
    catalogue = catalogue.remove(removed[catalogue.find(removed) != PAD])
    return dataclasses.replace(catalogue, removed=removed)


@partial(jax.jit, static_argnums=0)
def _encode(model, params, content, ids):
    return model.apply({"params": params}, content, ids, method="encode_items")
