"""Fit the towers to sequences and recommend items: the package's front door."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nxtpost_jax import saving, training
from nxtpost_jax.batches import train_batches
from nxtpost_jax.model import NxtPost, NxtPostConfig
from nxtpost_jax.ranking import Metrics, evaluate, unique_items
from nxtpost_jax.scoring import encode_catalogue, model_scores, top_items
from nxtpost_jax.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.splits import Queries

_ADAMW = optax.adamw(1e-3)  # one object: recommenders that share it share compiled steps
_SHORTEST_ROW = 16  # padded histories are no shorter, to bound the number of traced shapes


class Recommender:
    """Recommend items by content, by id, or by both.

    Attributes:
      model: the towers.
      content: f32[n, C] on the device, or None.
      num_items: size of the catalogue.
      params: the model's parameters; None before `fit`.
    """

    def __init__(
        self,
        config: NxtPostConfig,
        content: np.ndarray | str | os.PathLike | None = None,
        *,
        num_items: int | None = None,
        tx: optax.GradientTransformation | None = None,
    ):
        """Set up a recommender; `fit` draws its parameters.

        Args:
          config: see `model.NxtPostConfig`.
          content: float[n, C], row i the embedding of item i, or the path of an .npy file that
            holds it, or None to know items by id only.
          num_items: size of the catalogue, needed without content.
          tx: optimizer; AdamW at 1e-3 when None.

        Raises:
          ValueError: content has another shape, NaN, or a row of zeros while there is no id
            embedding; or the catalogue's size is unknown.
        """
        if content is not None:
            content = jnp.asarray(_checked_content(content, num_items, config.id_embedding))
        elif num_items is None or num_items < 1:
            raise ValueError(f"num_items: expected at least 1 without content, found {num_items}")
        elif not config.id_embedding:
            raise ValueError("content: expected a matrix when id_embedding is off, found None")
        self.content = content
        self.num_items = num_items if content is None else len(content)
        self.model = NxtPost(config, self.num_items if config.id_embedding else None)
        self.tx = _ADAMW if tx is None else tx
        self.params = None
        self._item_vectors = None

    def fit(
        self,
        sequences: Sequences,
        *,
        epochs: int,
        batch_size: int = 128,
        num_negatives: int = 256,
        seed: int = 0,
        validation: Queries | None = None,
        validate_every: int = 1,
        log: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Train from newly drawn parameters.

        Negatives come from the items that occur in `sequences`, so that an item held out of
        training is not taught to be wrong.

        Args:
          sequences: training events; see `splits` for a part without leakage.
          epochs: passes over them.
          batch_size: rows a step.
          num_negatives: uniform negatives a step, shared over the batch.
          seed: draws parameters, order, negatives and dropout.
          validation: when given, the parameters of the epoch with the best NDCG@10 are kept.
          validate_every: epochs between two validations; the last epoch always has one.
          log: called with each epoch's record.

        Returns:
          One record an epoch: epoch, loss, seconds and, where validated, hr@10, ndcg@10, mrr.
        """
        if epochs < 1:
            raise ValueError(f"epochs: expected at least 1, found {epochs}")
        _check_ids("sequences", sequences.items, self.num_items)
        candidates = jnp.asarray(np.unique(sequences.items))
        shapes = {"max_len": self.model.config.max_len, "batch_size": batch_size, "seed": seed}
        key = jax.random.key(seed)
        first = next(train_batches(sequences, epoch=0, **shapes))
        params, state = training.init(self.model, self.tx, first, self.content, key)
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
                num_negatives=num_negatives,
            )
            seconds = time.perf_counter() - start
            records.append({"epoch": epoch, "loss": mean_loss, "seconds": seconds})
            last = epoch == epochs - 1
            if validation is not None and (last or (epoch + 1) % validate_every == 0):
                metrics = self._evaluate(params, validation)
                records[-1] |= metrics.values
                if metrics["ndcg@10"] > best[0]:
                    best = metrics["ndcg@10"], jax.tree.map(jnp.copy, params)
            if log is not None:
                log(records[-1])
        self._set_params(params if validation is None else best[1])
        return records

    def evaluate(self, queries: Queries, **options) -> Metrics:
        """Rank the queries' targets among all items; options as in `ranking.evaluate`."""
        return self._evaluate(self._fitted(), queries, **options)

    def recommend(
        self, histories: Sequences | Sequence, k: int, *, exclude_seen: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best items for each history.

        Batches are padded to powers of two in both directions, so that calls of similar size
        run the same compiled function.

        Args:
          histories: B int arrays of item ids, oldest first, none empty; or `Sequences`, which
            carry times and actions too.
          k: items a history, at most the catalogue's size.
          exclude_seen: never return an item of the history.

        Returns:
          ids int32[B, k], the best first, and their cosines float32[B, k]. Where fewer than k
          items are left, the ids end in PAD and the cosines in -inf.

        Raises:
          ValueError: k is out of range, a history is empty or has an unknown id, or the model
            was trained with times or actions and gets none.
        """
        params = self._fitted()
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k: expected 1 to {self.num_items}, the catalogue's size, found {k}")
        histories = self._checked_histories(histories)
        count = len(histories)
        rows = np.resize(np.arange(count), _power_of_two(count))
        histories = histories.select(rows)
        longest = int(histories.lengths.max())
        width = min(self.model.config.max_len, max(_power_of_two(longest), _SHORTEST_ROW))
        left_out = np.full((len(rows), 1), PAD, np.int32)
        if exclude_seen:
            left_out = unique_items(histories, _power_of_two(longest))
        ids_Bxk, scores_Bxk = top_items(
            self.model,
            params,
            self._item_vectors,
            pad_histories(histories, width),
            left_out,
            k=k,
        )
        return np.asarray(ids_Bxk)[:count], np.asarray(scores_Bxk)[:count]

    def save(self, path: str | os.PathLike) -> None:
        """Write config, parameters and content to a folder (see `saving`)."""
        params = self._fitted()
        saving.save(path, self.model.config, self.num_items, params, self.content)

    @classmethod
    def load(
        cls, path: str | os.PathLike, *, tx: optax.GradientTransformation | None = None
    ) -> Recommender:
        """Read a recommender that `save` wrote; the optimizer is not part of it."""
        config, num_items, params, content = saving.load(path)
        recommender = cls(config, content, num_items=num_items, tx=tx)
        recommender._set_params(jax.tree.map(jnp.asarray, params))
        return recommender

    def _fitted(self):
        if self.params is None:
            raise ValueError("recommender: expected a fitted one; call fit or load first")
        return self.params

    def _set_params(self, params):
        self.params = params
        self._item_vectors = encode_catalogue(self.model, params, self.content)

    def _evaluate(self, params, queries: Queries, **options) -> Metrics:
        scores_fn = model_scores(self.model, params, self.content)
        return evaluate(scores_fn, queries, max_len=self.model.config.max_len, **options)

    def _checked_histories(self, histories) -> Sequences:
        if not isinstance(histories, Sequences):
            histories = _sequences(histories)
        if not len(histories):
            raise ValueError("histories: expected at least one, found none")
        empty = np.flatnonzero(histories.lengths == 0)
        if len(empty):
            raise ValueError(f"histories: number {empty[0]} is empty, expected at least one item")
        _check_ids("histories", histories.items, self.num_items)
        trained_with = self.params["user_tower"]
        for table, events in (("gaps", "times"), ("actions", "actions")):
            if table in trained_with and getattr(histories, events) is None:
                raise ValueError(
                    f"histories: expected Sequences with {events}, which this model was "
                    f"trained with, found none"
                )
        return histories


def _sequences(histories: Sequence) -> Sequences:
    """Join lists of ids, refusing what is no list of integers."""
    arrays = [np.asarray(history) for history in histories]
    for number, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(
                f"histories: number {number} is {array.dtype}{list(array.shape)}, expected a "
                "list of item ids"
            )
    offsets = np.cumsum([0] + [len(array) for array in arrays])
    return Sequences(np.concatenate([np.zeros(0, np.int64), *arrays]), offsets)


def _checked_content(content, num_items: int | None, masked: bool) -> np.ndarray:
    """Read content and refuse what no embedding can be; `masked`: rows of zeros are allowed."""
    if isinstance(content, (str, os.PathLike)):
        content = np.load(content, allow_pickle=False)
    content = np.asarray(content)
    if content.ndim != 2 or not content.size or content.dtype.kind not in "fiu":
        raise ValueError(
            f"content: expected real numbers of shape [n, d], found {content.dtype} of shape "
            f"{content.shape}"
        )
    if num_items is not None and num_items != len(content):
        raise ValueError(f"content: expected {num_items} rows, one an item, found {len(content)}")
    content = content.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(content).all(axis=1))
    if len(broken):
        raise ValueError(f"content: row {broken[0]} has NaN or infinity, expected finite numbers")
    absent = np.flatnonzero(~content.any(axis=1))
    if len(absent) and not masked:
        raise ValueError(
            f"content: row {absent[0]} is all zeros: an item without content needs an id embedding"
        )
    return content


def _check_ids(name: str, items: np.ndarray, num_items: int) -> None:
    unknown = items[(items < 0) | (items >= num_items)]
    if len(unknown):
        raise ValueError(f"{name}: expected item ids in [0, {num_items}), found {unknown[0]}")


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
