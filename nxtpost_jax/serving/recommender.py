"""Fit the towers to sequences and recommend items: the package's front door."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nxtpost_jax.evaluation.ranking import Metrics, evaluate
from nxtpost_jax.evaluation.scoring import (
    cosine_scores,
    encode_catalogue,
    nearest_items,
    top_items,
    user_vectors,
)
from nxtpost_jax.events import content as contents
from nxtpost_jax.events.batches import train_batches
from nxtpost_jax.events.checks import as_sequences, check_below, check_times, checked_mask, item_ids
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving import reading, saving
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.live_users import Event, LiveUsers
from nxtpost_jax.serving.reading import Backfill, EventFilter, Histories
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training import steps as training
from nxtpost_jax.training.negatives import log_popularity
from nxtpost_jax.training.objective import Objective, resolve
from nxtpost_jax.training.post_to_post import pretrain

_ADAMW = optax.adamw(1e-3)  # one object: recommenders that share it share compiled steps


class Recommender:
    """Recommend items by content, by id, or by both.

    Attributes:
      model: the towers.
      content: of the items 0 to num_items - 1, on the device, or None; see `content`.
      num_items: number of items at the start.
      params: the model's parameters; None before `fit`.
      catalogue: the items that can be recommended now; see `add_items` and `remove_items`.
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
        self.params = None
        self.catalogue = Catalogue(jnp.zeros((self.num_items, config.d_model)))
        self._live: LiveUsers | None = None

    def fit(
        self,
        sequences: Sequences,
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
        """Train from newly drawn parameters; until it ends, the recommender is unfitted.

        Negatives come from the items that occur in `sequences`, so that an item held out of
        training is not taught to be wrong. Items removed before are in no history, label or
        negative.

        Args:
          sequences: training events; see `splits` for a part without leakage.
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
            order, or the catalogue has items that were added.
        """
        if epochs < 1:
            raise ValueError(f"epochs: expected at least 1, found {epochs}")
        if pretrain_epochs < 0:
            raise ValueError(f"pretrain_epochs: expected at least 0, found {pretrain_epochs}")
        objective = resolve(objective, num_negatives)
        check_below("sequences", sequences.items, self.num_items)
        check_times("sequences", sequences)
        self._start_anew()
        if validation is not None:
            self._read("validation", validation.histories)  # refused now, not after an epoch
        sequences = reading.filtered(sequences, self.catalogue, self.event_filter)
        candidates = jnp.asarray(np.unique(sequences.items))
        popularity = log_popularity(sequences, self.num_items) if objective.logq else None
        shapes = {
            "max_len": self.model.config.max_len,
            "batch_size": batch_size,
            "buckets": buckets,
            "seed": seed,
            "num_labels": objective.num_labels,
        }
        key = jax.random.key(seed)
        first = next(train_batches(sequences, epoch=0, **shapes))
        params, state = training.init(self.model, self.tx, first, self.content, key)
        if pretrain_epochs:
            towers, _ = pretrain(
                self.model, sequences, self.content, epochs=pretrain_epochs, seed=seed
            )
            params = params | {"post_tower": towers}
        records, best = [], (-np.inf, params)
        for epoch in range(epochs):
            start = time.perf_counter()
            params, state, mean_loss = training.train_epoch(
                self.model,
                self.tx,
                params,
                state,
                train_batches(sequences, epoch=epoch, **shapes),
                self.content,
                jax.random.fold_in(key, epoch),
                candidates,
                objective=objective,
                log_popularity=popularity,
            )
            seconds = time.perf_counter() - start
            records.append({"epoch": epoch, "loss": mean_loss, "seconds": seconds})
            last = epoch == epochs - 1
            if validation is not None and (last or (epoch + 1) % validate_every == 0):
                vectors = encode_catalogue(self.model, params, self.content)
                metrics = self._evaluate(params, vectors, validation, bootstrap=0)
                records[-1] |= metrics.values
                if metrics["ndcg@10"] > best[0]:
                    best = metrics["ndcg@10"], jax.tree.map(jnp.copy, params)
            if log is not None:
                log(records[-1])
        params = params if validation is None else best[1]
        removed = self.catalogue.removed
        catalogue = Catalogue(encode_catalogue(self.model, params, self.content))
        catalogue.remove(removed)
        self._set(params, catalogue)
        return records

    def evaluate(self, queries: Queries, **options) -> Metrics:
        """Rank the queries' targets among all items of the catalogue.

        Options are those of `ranking.evaluate`, in item ids. Histories are filtered and
        backfilled as in `recommend`.

        Raises:
          ValueError: a target or candidate is not in the catalogue, or as in `recommend`.
        """
        return self._evaluate(self._fitted(), self.catalogue.vectors, queries, **options)

    def recommend(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool = True,
        filter=None,
        items=None,
    ) -> tuple[np.ndarray, np.ndarray]:
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
          ids int32[B, k], the best first, and their cosines float32[B, k]. Where fewer than k
          items are left, the ids end in PAD and the cosines in -inf.

        Raises:
          ValueError: k is out of range, a history is empty or has an unknown id or times out of
            order, `filter` or `items` fit no catalogue, or the model was trained with times,
            actions, surfaces or static features and gets none.
        """
        params = self._fitted()
        self._check_k(k, len(self.catalogue))
        allowed_S = self._allowed(filter, items)
        histories = self._checked("histories", histories, params)
        seen = self._seen(histories) if exclude_seen else None
        parts = [
            top_items(
                self.model,
                params,
                self.catalogue.vectors,
                batch,
                reading.left_out(seen, rows),
                allowed_S,
                k=k,
            )
            for rows, batch in self._rows("histories", histories)
        ]
        return self._named(parts, len(histories))

    def search(
        self,
        vectors,
        k: int,
        *,
        seen: Histories | None = None,
        filter=None,
        items=None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best items for stored user vectors; else as `recommend`.

        Args:
          vectors: f32[B, D] of `embed_users` or `update`, under the same parameters.
          seen: B histories whose items are not returned; none when None.
        """
        self._fitted()
        self._check_k(k, len(self.catalogue))
        allowed_S = self._allowed(filter, items)
        vectors = np.asarray(vectors, np.float32)
        width = self.model.config.d_model
        if vectors.ndim != 2 or vectors.shape[1] != width or not len(vectors):
            raise ValueError(f"vectors: expected shape [B, {width}], found {list(vectors.shape)}")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors: expected finite numbers, found NaN or infinity")
        if seen is not None:
            seen = as_sequences("seen", seen)
            if len(seen) != len(vectors):
                raise ValueError(f"seen: expected {len(vectors)} histories, found {len(seen)}")
            reading.check_known("seen", seen, self.catalogue)
            seen = self._seen(seen)
        parts = [
            nearest_items(
                vectors[rows], self.catalogue.vectors, reading.left_out(seen, rows), allowed_S, k=k
            )
            for rows in reading.chunks(len(vectors))
        ]
        return self._named(parts, len(vectors))

    def similar_items(self, ids, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k items nearest to each item, itself left out.

        Returns:
          ids int32[m, k] and cosines f32[m, k], as in `recommend`.

        Raises:
          ValueError: an id is unknown, or k is not below the catalogue's size.
        """
        self._fitted()
        slots = self.catalogue.slots("ids", item_ids("ids", ids))
        self._check_k(k, len(self.catalogue) - 1)
        catalogue = self.catalogue
        parts = [
            nearest_items(
                catalogue.vectors[slots[rows]],
                catalogue.vectors,
                slots[rows][:, None],
                catalogue.present,
                k=k,
            )
            for rows in reading.chunks(len(slots))
        ]
        return self._named(parts, len(slots))

    def embed_users(self, histories: Histories) -> np.ndarray:
        """Compute users' vectors in a batch, to be stored and given to `search`: f32[B, D].

        Raises:
          ValueError: see `recommend`.
        """
        params = self._fitted()
        histories = self._checked("histories", histories, params)
        parts = [
            user_vectors(self.model, params, self.catalogue.vectors, batch)
            for _, batch in self._rows("histories", histories)
        ]
        return np.concatenate([np.asarray(part) for part in parts])[: len(histories)]

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
        params = self._fitted()
        event = event if isinstance(event, Event) else Event(event)
        if history is not None:
            history = as_sequences("history", history)
        self.catalogue.slots("event", item_ids("event", [event.item]))
        return self._updated(params, user, event, history)

    def recommend_user(
        self, user: Hashable, k: int, *, exclude_seen: bool = True, filter=None, items=None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best items for a user of `update`: ids int32[k], cosines f32[k].

        Raises:
          ValueError: the user is unknown, or as in `recommend`.
        """
        params = self._fitted()
        events = self._live.events(user)
        vector = self._updated(params, user, None, None)
        seen = events if exclude_seen else None
        ids, cosines = self.search(vector[None], k, seen=seen, filter=filter, items=items)
        return ids[0], cosines[0]

    def forget_user(self, user: Hashable) -> None:
        """Drop the events and the cache that `update` keeps of a user."""
        self._fitted()
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
        params = self._fitted()
        rows, ids = self._new_items(content, ids)
        if not len(ids):
            return ids
        padded = np.resize(np.arange(len(ids)), reading.power_of_two(len(ids)))
        rows = jax.tree.map(lambda part: part[padded], rows)
        vectors = np.asarray(_encode(self.model, params, rows, ids[padded]))[: len(ids)]
        back = self.catalogue.was_removed(ids).any()
        self.catalogue.add(vectors, ids)
        if back:
            self._live.read_anew()
        return ids

    def remove_items(self, ids) -> None:
        """Take items out: they are never recommended, and no history holds them any more.

        Before `fit` it keeps them out of training, too. For items that histories should keep,
        such as expired ones, use the `filter` of `recommend` instead.

        Raises:
          ValueError: an id is unknown or there twice; nothing has changed then.
        """
        self.catalogue.remove(ids)

    def save(self, path: str | os.PathLike) -> None:
        """Write config, parameters, content and catalogue to a folder (see `saving`).

        Users of `update` are not part of it; give their `history` again.
        """
        params = self._fitted()
        config = self.model.config
        saving.save(path, config, self.num_items, params, self.content, self.catalogue)

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
        recommender._set(jax.tree.map(jnp.asarray, saved.params), saved.catalogue)
        return recommender

    def _fitted(self):
        if self.params is None:
            raise ValueError("recommender: expected a fitted one; call fit or load first")
        return self.params

    def _set(self, params, catalogue: Catalogue) -> None:
        self.params, self.catalogue = params, catalogue
        self._live = LiveUsers(self.model, params)

    def _start_anew(self) -> None:
        """Be unfitted, with every item in its own slot; what was removed stays so."""
        added = self.catalogue.ids[self.catalogue.ids >= self.num_items]
        if len(added):
            raise ValueError(
                f"recommender: expected no added items at fit, found {added[0]}; build a new one "
                "with their content"
            )
        removed = self.catalogue.removed
        removed = removed[removed < self.num_items]
        self.params = self._live = None
        self.catalogue = Catalogue(jnp.zeros((self.num_items, self.model.config.d_model)))
        self.catalogue.remove(removed)

    def _evaluate(self, params, vectors_SxD, queries: Queries, **options) -> Metrics:
        """Evaluate in slots, of which `vectors_SxD` may hold the first ones only."""
        num_slots = len(vectors_SxD)
        histories = self._checked("queries", queries.histories, params)
        backfill = options.pop("backfill", self.backfill)
        read = reading.in_slots(self._read("queries", histories, backfill), self.catalogue)
        targets = self.catalogue.slots("targets", queries.targets)
        allowed_S = np.asarray(self.catalogue.present)[:num_slots]
        candidates = options.pop("candidates", None)
        if candidates is not None:
            allowed_S = allowed_S & self.catalogue.mask("candidates", candidates)[:num_slots]
        if options.get("popularity") is not None:
            options["popularity"] = self.catalogue.by_slot(options["popularity"])
        return evaluate(
            partial(cosine_scores, self.model, params, vectors_SxD),
            Queries(self._seen(histories), targets, queries.users),
            max_len=self.model.config.max_len,
            candidates=allowed_S,
            backfill=lambda _: read,
            **options,
        )

    def _checked(self, name: str, histories: Histories, params) -> Sequences:
        config = self.model.config
        return reading.check_readable(name, histories, self.catalogue, config, params)

    def _read(self, name: str, histories: Sequences, backfill=None) -> Sequences:
        """Filter and backfill checked histories, still in ids."""
        return reading.prepared(
            name,
            histories,
            self.catalogue,
            self.model.config,
            event_filter=self.event_filter,
            backfill=self.backfill if backfill is None else backfill,
        )

    def _seen(self, histories: Sequences) -> Sequences:
        """Name what checked histories hold by slots, removed items left out."""
        known = reading.without_removed(histories, self.catalogue)
        return reading.in_slots(known, self.catalogue)

    def _rows(self, name: str, histories: Sequences) -> Iterator[tuple[np.ndarray, dict]]:
        """Prepare checked histories and cut them into calls: their numbers and padded rows."""
        read = reading.in_slots(self._read(name, histories), self.catalogue)
        for rows in reading.chunks(len(read)):
            yield rows, reading.padded(read.select(rows), self.model.config.max_len)

    def _named(self, parts, count: int) -> tuple[np.ndarray, np.ndarray]:
        slots, cosines = (np.concatenate([np.asarray(x) for x in part]) for part in zip(*parts))
        return self.catalogue.ids_of(slots[:count]), cosines[:count]

    def _updated(self, params, user, event, history) -> np.ndarray:
        return self._live.update(
            user,
            event,
            history=history,
            prepare=lambda events: self._read("history", self._checked("history", events, params)),
            find=self.catalogue.find,
            vectors_SxD=self.catalogue.vectors,
        )

    def _new_items(self, content, ids):
        """Check items to add before anything changes: their content and ids."""
        if content is None:
            ids = item_ids("ids", [] if ids is None else ids)
            unknown = ids[~self.catalogue.was_removed(ids) | (ids >= self.num_items)]
            if len(unknown) or not len(ids):
                found = unknown[0] if len(unknown) else "none"
                raise ValueError(
                    f"ids: expected removed items of the start without content, found {found}"
                )
            self.catalogue.checked_new_ids(ids, len(ids))
            return jax.tree.map(np.asarray, contents.take(self.content, ids)), ids
        if self.content is None:
            raise ValueError("content: expected None where items are known by id only, found some")
        content = contents.check(contents.load(content))
        expected, found = contents.describe(self.content), contents.describe(content)
        if found != expected:
            raise ValueError(f"content: expected one item's as {expected}, found {found}")
        return content, self.catalogue.checked_new_ids(ids, contents.num_rows(content))

    def _allowed(self, filter, items):
        """Join the catalogue's items with a request's restrictions: bool[S]."""
        allowed_S = self.catalogue.present
        if filter is not None:
            allowed_S = allowed_S & self.catalogue.mask("filter", checked_mask("filter", filter))
        if items is not None:
            allowed_S = allowed_S & self.catalogue.mask("items", item_ids("items", items))
        return allowed_S

    def _check_k(self, k: int, most: int) -> None:
        if not 1 <= k <= most:
            raise ValueError(f"k: expected 1 to {most}, the catalogue's size, found {k}")


@partial(jax.jit, static_argnums=0)
def _encode(model, params, content, ids):
    return model.apply({"params": params}, content, ids, method="encode_items")
