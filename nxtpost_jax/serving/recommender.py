"""Fit the towers to events and recommend items: the package's front door."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from nxtpost_jax.evaluation.ranking import Metrics
from nxtpost_jax.evaluation.report import Report
from nxtpost_jax.events.content import Content, GivenContent
from nxtpost_jax.events.kinds import Told, checked_parts
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving import (
    entering,
    learning,
    live_users,
    reporting,
    requests,
    saving,
    starting,
    warming,
)
from nxtpost_jax.serving import histories as given
from nxtpost_jax.serving.answer import Answer
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.described import Described
from nxtpost_jax.serving.histories import Histories, Unknown
from nxtpost_jax.serving.learning import Setup, Validation
from nxtpost_jax.serving.live_users import Event, LiveUsers
from nxtpost_jax.serving.mirror import Index
from nxtpost_jax.serving.reading import Backfill, EventFilter, Reader
from nxtpost_jax.serving.served import Served, Start
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training import optimizers
from nxtpost_jax.training.fitting import Loop
from nxtpost_jax.training.objective import MIXED, Objective, resolve
from nxtpost_jax.training.optimizers import Optimizer


class Recommender:
    """Recommend items by content, by id, or by both.

    Items have the caller's own ids where `fit` was given a table: 64-bit whole numbers, texts, or
    any hashable values, in and out. Else they are numbers from 0, the rows of `content`.
    `Sequences` and `Queries` are always of such numbers.

    Any thread may call any method at any time. A request answers by the parameters and the
    catalogue of the moment it begins; those that change them take turns.
    """

    def __init__(
        self,
        config: NxtPostConfig | None = None,
        content: GivenContent = None,
        *,
        num_items: int | None = None,
        parts: Told | None = None,
        tx: Optimizer | None = None,
        event_filter: EventFilter | None = None,
        backfill: Backfill | None = None,
        index: Index | None = None,
    ):
        """Set up a recommender; `fit` draws its parameters.

        Args:
          config: see `model.NxtPostConfig`; when None, items in their order are all that is read,
            with an id vector each, and `fit` chooses the longest history.
          content: float[n, C], row i the embedding of item i, or channels as `content` describes;
            an array may be the path of an .npy file, a row of NaN is an item without content.
          num_items: size of the catalogue; read by `fit` when None without content.
          parts: {column: kind, encoder of texts or None} of items in a table, see `kinds`.
          tx: optimizer; AdamW at 2e-3 when None. "adamw" and "shampoo" are one after an epoch of
            warm-up, see `optimizers`.
          event_filter: tells which events count, bool[n_events], in training and histories.
          backfill: fills short histories (see `backfill`), wherever one is read but in training.
          index: finds the nearest items in place of a search through all, see `mirror.Index`.

        Raises: ValueError: content has another shape, NaN, or nothing of an item without an id.
        """
        self.tx: Optimizer = optimizers.checked(tx)
        self._config, self._parts = config, checked_parts(parts)
        self._given: Start | None = None
        if content is not None or num_items is not None:
            self._given = starting.of_numbers(config, content=content, num_items=num_items)
        self.event_filter = event_filter
        self.backfill = backfill
        self._served = Served(self._given, index)
        self._live = LiveUsers()

    def __repr__(self) -> str:
        return f"Recommender({self._served.now.described()})"

    @property
    def model(self) -> NxtPost:
        """Give the towers."""
        return self._served.start.model

    @property
    def content(self) -> Content:
        """Give the content of the items of the start, on the device, or None; see `content`."""
        return self._served.start.content

    @property
    def num_items(self) -> int:
        """Count the items at the start."""
        return self._served.start.num_items

    @property
    def params(self) -> Any:
        """Give the model's parameters; None before `fit`."""
        return self._served.now.params

    @property
    def catalogue(self) -> Catalogue:
        """Give the items that can be recommended now, as an object that never changes."""
        return self._served.now.catalogue

    @property
    def items(self) -> np.ndarray:
        """List the ids of the items that can be recommended now."""
        return self.catalogue.names.take(self.catalogue.sorted_ids)

    def fit(
        self,
        events: Histories,
        *,
        columns: Mapping[str, str] | None = None,
        content: Described | None = None,
        more: bool = False,
        epochs: int | None = None,
        batch_size: int | None = None,
        buckets: int | None = None,
        objective: Objective | None = None,
        num_negatives: int | None = None,
        pretrain_epochs: int = 0,
        seed: int = 0,
        validation: Validation | None = None,
        seen_filter: bool = True,
        validate_every: int = 1,
        select: str | None = None,
        patience: int | None = None,
        average: float | None = None,
        log: Callable[[dict[str, float]], None] | None = None,
        progress: bool | None = None,
        checkpoint: str | os.PathLike | None = None,
        mesh: Mesh | None = None,
        fsdp: bool = False,
        loop: Loop | None = None,
    ) -> list[dict[str, float]]:
        """Train anew, or go on; until it ends, and if it raises, requests are answered as before.

        Negatives come from the items that occur in `events`. Removed items are in no history, label
        or negative, and stay removed. Users of `update` keep their events.

        Args:
          events: a dict of columns or a DataFrame, see `roles` for their names; a second table's
            items replace the first's. Or `Sequences`, or lists of item numbers, one per user.
          columns: {role: name} of columns that are not recognised, such as {"user": "who"}.
          content: a table of items, or {id: record, text or vector}; see `described`.
          more: go on from these parameters and this catalogue, by all events that shall be
            remembered: a user's history in training is what is in them.
          epochs: passes over them; None holds some users' last events out, stops when they are
            predicted no better, and lets `report` tell.
          batch_size, buckets: rows per step and widths of rows, see `batches.batch_shapes`.
          objective, num_negatives: see `Objective`; or the number of mixed ones with logQ. What is
            None is chosen by the data, see docs/nxtpost/defaults.md.
          pretrain_epochs: passes of post-to-post training before, see `post_to_post.pretrain`.
          validation: queries, or a function from parameters to figures; the best epoch is kept.
          seen_filter: whether validation leaves a user's earlier items out, as in `evaluate`.
          validate_every: epochs between two validations; the last epoch always has one.
          select: one of `metrics.gains` or the function's; "ndcg@10", of held-out events "mlrr".
          patience: validations in a row without a new best that end the training.
          average: what is validated and served is an average of the parameters after all steps,
            whose mean age is this share of them (`averages`); .1 where None, 0 for the last ones.
          log: called with each epoch's record. progress: False for no line on a terminal.
          checkpoint: a folder; the same call goes on from the last epoch in it, to the same bits.
          mesh, fsdp: devices whose axis "data" the rows of a step are dealt over; and whether large
            parameters are too, which else are whole on each of them.
          seed, loop: what draws everything; what trains in place of the built-in loop, see `Loop`.

        Returns: one record an epoch: epoch, loss, seconds and, where validated, the figures.

        Raises:
          ValueError: an option is out of range, a column unclear, an item unknown, times are out of
            order, `more` is not set beside items of `add`, the checkpoint is of another call, or
            another fit is under way.
          Diverged: a loss, a parameter or a vector is NaN or infinite; its `params` were not yet.
          KeyboardInterrupt: Ctrl-C; after a validation the best epoch is served then.
        """
        made = self._config, self._given, self.tx, self.event_filter, self.backfill, self._parts
        named = dict[str, Any](columns=columns, content=content, more=more, epochs=epochs, log=log)
        named.update(batch_size=batch_size, buckets=buckets, pretrain_epochs=pretrain_epochs)
        named.update(validation=validation, seen_filter=seen_filter, select=select, seed=seed)
        named.update(validate_every=validate_every, patience=patience, progress=progress)
        named.update(average=average, checkpoint=checkpoint, mesh=mesh, fsdp=fsdp, loop=loop)
        named.update(objective=resolve(objective, num_negatives, rest=MIXED))
        return learning.learn(self._served, events, setup=Setup(*made), **named)

    def adopt(self, params: Any) -> None:
        """Serve by finite parameters of `model` from elsewhere; others raise ValueError."""
        start = self._served.start
        with self._served.fitting():
            self._served.blank(start)  # refuses items that it does not know
            vectors = requests.items_of_foreign(start.model, params, start.content)
            self._served.finish_fit(start, params, vectors)

    def report(self) -> Report:
        """Compare with popularity, Markov and KNN on events held out by `fit`, else ValueError."""
        return reporting.report(self._reader())

    def evaluate(self, queries: Queries | Histories, targets: Any = None, **how: Any) -> Metrics:
        """Rank targets among the catalogue by options of `ranking.evaluate`, as `recommend` reads.

        `queries` are of item numbers, or histories beside `targets`, the id that followed each.
        ValueError: a target or candidate is unknown, or as in `recommend`.
        """
        return requests.rank_queries(self._reader(), queries, targets=targets, **how)

    def recommend(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool = True,
        allowed: Any = None,
        exclude: Histories | None = None,
        unknown: Unknown = "refuse",
    ) -> Answer:
        """Find the k best items for each history.

        Removed items and events that the `event_filter` refuses are in no history. See `warm_up`.

        Args:
          histories: B lists of item ids, oldest first, or one; or a table as in `fit`; or
            `Sequences`. Empty ones need a backfill or static features.
          k: items a history, at most the catalogue's size.
          exclude_seen: never return an item of the history.
          allowed: m ids, the only ones that may be returned, or B lists of them; all when None.
          exclude: B lists of ids that may not be returned, such as int[B, E] padded by -1.
          unknown: what an item that the catalogue never had does: "refuse" names it in an error,
            "skip" leaves it out and counts it in the answer's `skipped`.

        Returns: an `Answer`: ids [B, k], the best first, and their scores float32[B, k].

        Raises: FloatingPointError: the best score is NaN. ValueError: k is out of range, a history
          is empty, an id is unknown, times are out of order, or the model was trained with times,
          actions, surfaces or static features and gets none.
        """
        which = dict[str, Any](exclude_seen=exclude_seen, allowed=allowed, exclude=exclude)
        return requests.recommend(self._reader(), histories, k=k, unknown=unknown, **which)

    def search(
        self,
        vectors: ArrayLike,
        k: int,
        *,
        allowed: Any = None,
        exclude: Histories | None = None,
    ) -> Answer:
        """Find the k best items for stored user vectors; else as `recommend`.

        `vectors` are f32[B, D] of `embed_users` or `update`, under the same parameters.
        """
        return requests.search(self._reader(), vectors, k=k, allowed=allowed, exclude=exclude)

    def warm_up(self, *, rows: int = 1, k: int = 10) -> None:
        """Compile what requests, adds and removals of up to `rows` rows and k items will need.

        No later one compiles until the catalogue outgrows its capacity or another fit begins. Rows
        and k are padded to powers of two: each of theirs, and of columns of histories, is compiled.
        Below 1 either is a ValueError.
        """
        warming.warm_up(self._reader(), rows=rows, k=k)

    def similar(self, ids: Any, k: int) -> Answer:
        """Find the k items nearest to an item or to each of m, itself left out: an `Answer`.

        Raises: ValueError: an id is unknown, or k is not below the catalogue's size.
        """
        return requests.similar(self._reader(), ids, k=k)

    def embed_users(self, histories: Histories) -> np.ndarray:
        """Compute the vectors of histories as in `recommend`, for `search`: f32[B, D]."""
        return requests.embed_users(self._reader(), histories)

    def update(
        self, user: Hashable | list, event: Event | Any, *, history: Histories | None = None
    ) -> np.ndarray:
        """Add an event to a user's history and give the user's new vector, f32[D].

        It equals the row of `embed_users` for all events so far. Lists of B users and B events are
        read together, f32[B, D].

        Args:
          user: any name; the events, the vector and a KV cache are kept under it.
          event: an item's id, or an `Event` with the time, action and surface the model reads.
          history: the user's events before, one sequence, at the user's first event here.

        Raises: ValueError: an item is unknown or removed, the time lies before the last event's, a
          history is given twice, or as in `recommend`. All users are then as before.
        """
        users, events = live_users.pairs(user, event, history)
        vectors = self._live.add(users, events, take=self._reader, history=history)
        return vectors if isinstance(user, list) else vectors[0]

    def recommend_user(
        self,
        user: Hashable,
        k: int,
        *,
        exclude_seen: bool = True,
        allowed: Any = None,
        exclude: Histories | None = None,
    ) -> Answer:
        """Find the k best items for a user of `update`: an `Answer` of one row.

        As `recommend`; `exclude` is one list in a list, and an unknown user is a ValueError.
        """
        vector, events, reader = self._live.current(user, take=self._reader)
        seen = events if exclude_seen else None
        return requests.search(
            reader, vector[None], k=k, seen=seen, allowed=allowed, exclude=exclude
        )

    def forget_user(self, user: Hashable) -> None:
        """Drop the events and the cache that `update` keeps of a user."""
        self._live.forget(user)

    def add(self, content: GivenContent | Described = None, ids: Any = None) -> np.ndarray:
        """Make items findable at once, without training; give their ids.

        An item that training did not know has no id vector: it is its content.

        Args:
          content: of m items, as at the start: channels, or what `fit` takes, a record too; None
            to bring removed items of the start back, with the content they had.
          ids: m of them, new or removed ones; where items are numbers, the next free when None.

        Raises: ValueError: content has another shape, NaN, or an item without any; an id is in the
          catalogue, there twice or no id; nothing has changed then.
        """
        with self._served.writing():
            now = self._reader()
            codes = entering.enter(self._served, now, content=content, ids=ids)
        return now.catalogue.names.take(codes)

    def remove(self, ids: Any) -> None:
        """Take items out: they are never recommended, and no history holds them any more.

        Before `fit` it keeps them out of training, too. `allowed` leaves out what histories keep.

        Raises: ValueError: an id is unknown or there twice; nothing has changed then.
        """
        with self._served.writing() as now:
            codes = given.numbers("ids", ids, now.catalogue)
            added = entering.without(now.added, codes)
            self._served.remove(codes, added=added)

    def save(self, path: str | os.PathLike) -> None:
        """Write all that is served and the users of `update` to a folder, whole or not at all.

        A recommender that was there is left by an OSError.

        Raises: ValueError: the path is a file, or a folder with other files; or the name of a user
          is no whole number, text or UUID.
        """
        users = self._live.kept()  # first: so the catalogue knows every item of theirs
        saving.save(path, self._reader().state, users)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        parts: Told | None = None,
        tx: Optimizer | None = None,
        event_filter: EventFilter | None = None,
        backfill: Backfill | None = None,
        index: Index | None = None,
    ) -> Recommender:
        """Read a recommender that `save` wrote; what else `__init__` takes is no part of it.

        Raises: ValueError: the folder holds no recommender, or one of another version.
        """
        saved, users = saving.load(path, parts=checked_parts(parts))
        start, config = saved.begun, saved.begun.model.config
        recommender = cls(config, tx=tx, event_filter=event_filter, backfill=backfill, parts=parts)
        recommender._given = None if start.own_ids else start
        recommender._served, recommender._live = Served.of(saved, index), LiveUsers.of(users)
        return recommender

    def _reader(self) -> Reader:
        """Take what a request reads, as of now."""
        return Reader(self._served.fitted, self.event_filter, self.backfill, self._served.mirror)
