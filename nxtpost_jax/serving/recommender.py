"""Fit the towers to sequences and recommend items: the package's front door."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from nxtpost_jax.evaluation.ranking import Metrics
from nxtpost_jax.events import content as contents
from nxtpost_jax.events.checks import as_sequences, check_below, check_times
from nxtpost_jax.events.content import GivenContent
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving import entering, requests, saving
from nxtpost_jax.serving.answer import Answer
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.live_users import Event, LiveUsers
from nxtpost_jax.serving.reading import Backfill, EventFilter, Histories, Reader
from nxtpost_jax.serving.served import Served
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training import fitting
from nxtpost_jax.training.objective import Objective, resolve

_ADAMW = optax.adamw(1e-3)  # one object: recommenders that share it share compiled steps


class Recommender:
    """Recommend items by content, by id, or by both.

    Any thread may call any method at any time. A request answers by the parameters and the
    catalogue of the moment it begins; those that change them take turns.

    Attributes:
      model: the towers.
      content: of the items 0 to num_items - 1, on the device, or None; see `content`.
      num_items: number of items at the start.
    """

    def __init__(
        self,
        config: NxtPostConfig,
        content: GivenContent = None,
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
            path of an .npy file; a row of NaN is an item without content.
          num_items: size of the catalogue, needed without content.
          tx: optimizer; AdamW at 1e-3 when None.
          event_filter: tells which events count, bool[n_events]; applied to training events and
            to every history. Items are filtered by `remove`.
          backfill: fills short histories (see `backfill`), wherever one is read but in training.

        Raises:
          ValueError: content has another shape, NaN, or an item without any while there is no
            id embedding; or the catalogue's size is unknown.
        """
        self.content, self.num_items = contents.of_catalogue(
            content, id_embedding=config.id_embedding, num_items=num_items
        )
        if tx is not None and not isinstance(tx, optax.GradientTransformation):
            raise ValueError(
                f"tx: expected an optax transformation such as optax.adam(1e-3), found {tx!r:.60}"
            )
        self.model = NxtPost(config, self.num_items if config.id_embedding else None)
        self.tx = _ADAMW if tx is None else tx
        self.event_filter = event_filter
        self.backfill = backfill
        self._served = Served(self.num_items, config.d_model)
        self._live = LiveUsers()

    def __repr__(self) -> str:
        known = [] if self.content is None else [contents.describe(self.content)]
        known += ["ids"] if self.model.config.id_embedding else []
        state = "unfitted" if self.params is None else "fitted"
        return f"Recommender({len(self.catalogue):,} items by {' and '.join(known)}, {state})"

    @property
    def params(self) -> Any:
        """Give the model's parameters; None before `fit`."""
        return self._served.now.params

    @property
    def catalogue(self) -> Catalogue:
        """Give the items that can be recommended now, as an object that never changes."""
        return self._served.now.catalogue

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
        """Train anew; until it ends, and if it raises, requests are answered as before.

        Negatives come from the items that occur in `sequences`: an item held out of training is
        not taught to be wrong. Removed items are in no history, label or negative, and stay
        removed. Users of `update` keep their events.

        Args:
          sequences: training events, or lists of item ids, one per user; see `splits` for a part
            without leakage.
          epochs: passes over them.
          batch_size: rows a step.
          buckets: widths of rows, each half the next: see `batches.batch_shapes`.
          objective: losses and negatives, see `objective.Objective`.
          num_negatives: short for `objective=Objective(num_negatives=...)`.
          pretrain_epochs: passes of post-to-post training before, see `post_to_post.pretrain`.
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
        """
        sequences = as_sequences("sequences", sequences)
        check_below("sequences", sequences.items, self.num_items)
        check_times("sequences", sequences)
        with self._served.fitting() as catalogue:
            reader = self._reader(fitted=False).at(catalogue=catalogue)
            validate = None
            if validation is not None:
                reader.prepared("validation", validation.histories)  # refused now, not later
                validate = partial(requests.validated, reader, self.content, validation)
            params, records = fitting.fit(
                self.model,
                reader.filtered(sequences),
                content=self.content,
                tx=self.tx,
                epochs=epochs,
                batch_size=batch_size,
                buckets=buckets,
                objective=resolve(objective, num_negatives),
                pretrain_epochs=pretrain_epochs,
                seed=seed,
                validate=validate,
                validate_every=validate_every,
                log=log,
            )
            vectors = requests.encoded_items(self.model, params, self.content)
            self._served.finish_fit(params, vectors)
        return records

    def adopt(self, params: Any) -> None:
        """Serve by parameters of `model` that another loop has trained, as after `fit`.

        Raises:
          ValueError: they are not of this model, or as in `fit`.
          FloatingPointError: an item's vector is NaN or infinite.
        """
        with self._served.fitting():
            vectors = requests.items_of_foreign(self.model, params, self.content)
            self._served.finish_fit(params, vectors)

    def evaluate(self, queries: Queries, **options: Any) -> Metrics:
        """Rank the queries' targets among all items of the catalogue.

        Options are those of `ranking.evaluate`, in item ids (`candidates` too). Histories are
        filtered and backfilled as in `recommend`.

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
        allowed: ArrayLike | None = None,
        exclude: Histories | None = None,
    ) -> Answer:
        """Find the k best items for each history.

        Batches are padded to powers of two, so that calls of similar size run the same compiled
        function. Removed items and events that the `event_filter` refuses are in no history.

        Args:
          histories: B int arrays of item ids, oldest first; or `Sequences`, which carry times,
            actions, surfaces and static features too. Empty ones need a backfill or static
            features.
          k: items a history, at most the catalogue's size.
          exclude_seen: never return an item of the history.
          allowed: int[m], the only ids that may be returned; all of the catalogue when None. A
            removed one is never returned.
          exclude: B lists of ids that may not be returned to a history, such as int[B, E] padded
            by -1.

        Returns:
          An `Answer`: ids int32[B, k], the best first, and their cosines float32[B, k].

        Raises:
          ValueError: k is out of range, a history is empty or has an unknown id or times out of
            order, `allowed` or `exclude` has an unknown id, or the model was trained with times,
            actions, surfaces or static features and gets none.
          FloatingPointError: the best score is NaN.
        """
        reader = self._reader()
        return requests.recommend(
            reader, histories, k=k, exclude_seen=exclude_seen, allowed=allowed, exclude=exclude
        )

    def search(
        self,
        vectors: ArrayLike,
        k: int,
        *,
        allowed: ArrayLike | None = None,
        exclude: Histories | None = None,
    ) -> Answer:
        """Find the k best items for stored user vectors; else as `recommend`.

        Args:
          vectors: f32[B, D] of `embed_users` or `update`, under the same parameters.
        """
        reader = self._reader()
        return requests.search(reader, vectors, k=k, allowed=allowed, exclude=exclude)

    def similar(self, ids: ArrayLike, k: int) -> Answer:
        """Find the k items nearest to each item, itself left out: an `Answer` of m rows.

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
        return self._live.add(user, event, take=self._reader, history=history)

    def recommend_user(
        self,
        user: Hashable,
        k: int,
        *,
        exclude_seen: bool = True,
        allowed: ArrayLike | None = None,
        exclude: Histories | None = None,
    ) -> Answer:
        """Find the k best items for a user of `update`: an `Answer` of one row.

        The options are those of `recommend`; `exclude` is one list in a list.

        Raises:
          ValueError: the user is unknown, or as in `recommend`.
        """
        vector, events, reader = self._live.current(user, take=self._reader)
        seen = events if exclude_seen else None
        return requests.search(
            reader, vector[None], k=k, seen=seen, allowed=allowed, exclude=exclude
        )

    def forget_user(self, user: Hashable) -> None:
        """Drop the events and the cache that `update` keeps of a user."""
        self._live.forget(user)

    def add(self, content: GivenContent = None, ids: ArrayLike | None = None) -> np.ndarray:
        """Make items findable at once, without training.

        An item that training did not know has no id vector: it is its content. Nothing is
        traced anew unless the catalogue's capacity doubles.

        Args:
          content: of m items, channels and widths as at the start; None to bring removed items
            of the start back, with the content they had.
          ids: int[m], new ones or removed ones; the next free ids when None.

        Returns: the items' ids, int32[m].

        Raises:
          ValueError: content has another shape, NaN, or an item without any; an id is in the
            catalogue, there twice or no id; nothing has changed then.
        """
        with self._served.writing():
            now = self._reader()
            known = self.content
            rows, ids = entering.checked(now.catalogue, known, content=content, ids=ids)
            if content is not None:
                self._served.check_can_grow()
            if len(ids):
                vectors = entering.encoded(self.model, now.params, rows, ids)
                self._served.replace(now.params, now.catalogue.add(vectors, ids))
        return ids

    def remove(self, ids: ArrayLike) -> None:
        """Take items out: they are never recommended, and no history holds them any more.

        Before `fit` it keeps them out of training, too. For items that histories should keep,
        such as expired ones, use `allowed` of `recommend` instead.

        Raises:
          ValueError: an id is unknown or there twice; nothing has changed then.
        """
        with self._served.writing() as now:
            self._served.replace(now.params, now.catalogue.remove(ids))

    def save(self, path: str | os.PathLike) -> None:
        """Write config, parameters, content and catalogue to a folder, whole or not at all.

        Users of `update` are not part of it; give their `history` again.

        Raises:
          ValueError: the path is a file, or a folder with other files.
          OSError: it cannot be written; a recommender that was there still is.
        """
        now, config = self._reader(), self.model.config
        saved = saving.Saved(config, self.num_items, now.params, self.content, now.catalogue)
        saving.save(path, saved)

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
        recommender._served.replace(jax.tree.map(jnp.asarray, saved.params), saved.catalogue)
        return recommender

    def _reader(self, *, fitted: bool = True) -> Reader:
        """Take what a request reads, as of now."""
        now = self._served.now
        if fitted and now.params is None:
            raise ValueError(
                "recommender: expected a fitted one (call fit or load first), found none"
            )
        return Reader(self.model, now, event_filter=self.event_filter, backfill=self.backfill)
