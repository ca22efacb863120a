"""Answers of one moment: what a reader's parameters and catalogue say to a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.arrays import Array
from nxtpost_jax.evaluation.ranking import Metrics, ScoresFn, evaluate, last_times
from nxtpost_jax.evaluation.scoring import cosine_scores, encode_catalogue
from nxtpost_jax.events.columns import seconds
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving import choices
from nxtpost_jax.serving import histories as given
from nxtpost_jax.serving.answer import Answer
from nxtpost_jax.serving.choices import Choice
from nxtpost_jax.serving.histories import Histories, Unknown
from nxtpost_jax.serving.programs import (
    chunks,
    encoded_users,
    left_out_width,
    nearest,
    padded_k,
    vectors_at,
)
from nxtpost_jax.serving.reading import Backfill, Reader
from nxtpost_jax.towers.model import NxtPost
from nxtpost_jax.training.finite import check_arrays


def recommend(
    reader: Reader,
    histories: Histories,
    *,
    k: int,
    exclude_seen: bool = True,
    allowed: Any = None,
    exclude: Histories | None = None,
    unknown: Unknown = "refuse",
) -> Answer:
    """Find the k best items for each history, see `Recommender.recommend`."""
    _check_k(k, len(reader.catalogue))
    read = reader.read("histories", histories, unknown=unknown)
    seen = read.sequences if exclude_seen else None
    limits = {"seen": seen, "allowed": allowed, "exclude": exclude, "unknown": unknown}
    choice = choices.of_request(reader, len(read.sequences), **limits)
    encoded = _encoded(reader, read.sequences)
    answer = _found(reader, encoded, choice, k=k, raised=reader.raised())
    return dataclasses.replace(answer, users=read.users, skipped=read.skipped)


def search(
    reader: Reader,
    vectors: ArrayLike,
    *,
    k: int,
    seen: Sequences | None = None,
    allowed: Any = None,
    exclude: Histories | None = None,
) -> Answer:
    """Find the k best items for user vectors, see `Recommender.search`; `seen` ones left out."""
    _check_k(k, len(reader.catalogue))
    vectors = np.asarray(vectors, np.float32)
    width = reader.model.config.d_model
    if vectors.ndim != 2 or vectors.shape[1] != width or not len(vectors):
        raise ValueError(f"vectors: expected shape [B, {width}], found {list(vectors.shape)}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: expected finite numbers, found NaN or infinity")
    limits = {"seen": seen, "allowed": allowed, "exclude": exclude}
    choice = choices.of_request(reader, len(vectors), **limits)
    parts = ((rows, vectors[rows]) for rows in chunks(len(vectors)))
    return _found(reader, parts, choice, k=k, raised=reader.raised())


def similar(reader: Reader, ids: ArrayLike, *, k: int) -> Answer:
    """Find the k items nearest to each item, see `Recommender.similar`."""
    catalogue = reader.catalogue
    slots = catalogue.slots("ids", given.numbers("ids", ids, catalogue))
    _check_k(k, len(catalogue) - 1)
    choice = Choice(len(slots), left_out=Sequences(slots, np.arange(len(slots) + 1)))
    parts = ((rows, vectors_at(catalogue.items, slots[rows])) for rows in chunks(len(slots)))
    return _found(reader, parts, choice, k=k)


def embed_users(reader: Reader, histories: Histories) -> np.ndarray:
    """Compute users' vectors, f32[B, D], see `Recommender.embed_users`."""
    histories = reader.read("histories", histories).sequences
    parts = [np.asarray(vectors) for _, vectors in _encoded(reader, histories)]
    return np.concatenate(parts)[: len(histories)]


def rank_queries(
    reader: Reader,
    queries: Queries | Histories,
    *,
    targets: Any = None,
    candidates: ArrayLike | None = None,
    popularity: ArrayLike | None = None,
    backfill: Backfill | None = None,
    **options: Any,
) -> Metrics:
    """Rank the queries' targets among the catalogue, see `Recommender.evaluate`."""
    catalogue = reader.catalogue
    queries = _asked(reader, queries, targets)
    histories = reader.checked("queries", queries.histories)
    read = reader.in_slots(reader.prepared("queries", histories, backfill=backfill))
    followed = catalogue.slots("targets", queries.targets)
    allowed_S = catalogue.ids != PAD
    if candidates is not None:
        choices.refuse_mask("candidates", candidates)
        slots = catalogue.slots("candidates", given.numbers("candidates", candidates, catalogue))
        allowed_S = allowed_S & catalogue.mask(slots)
    scores = partial(cosine_scores, reader.model, reader.params, catalogue.vectors)
    if reader.state.trending is not None:
        scores, options = _raised_scores(reader, scores, histories, options)
    return evaluate(
        scores,
        Queries(reader.seen(histories), followed, queries.users),
        max_len=reader.model.config.max_len,
        candidates=allowed_S,
        popularity=None if popularity is None else catalogue.by_slot(popularity),
        backfill=lambda _: read,
        **options,
    )


def _raised_scores(
    reader: Reader, scores: ScoresFn, histories: Sequences, options: dict[str, Any]
) -> tuple[ScoresFn, dict[str, Any]]:
    """Raise scores by what was known at the moment of each query: that of its last event, or now.

    Raises:
      ValueError: a moment is no time.
    """
    trending, times = reader.state.trending, options.get("query_times")
    assert trending is not None  # the caller has looked
    if times is not None:
        times = seconds("query_times", times)
    elif histories.times is not None and histories.lengths.all():
        times = last_times(histories)
    else:
        times = np.full(len(histories), trending.trends.now)
    raised_MxS, table = trending.at(reader.params, reader.catalogue, times)

    def raised(batch):
        rest = {name: column for name, column in batch.items() if name != "query_times"}
        return scores(rest) + raised_MxS[table.moments(batch["query_times"])]

    return raised, options | {"query_times": times}


def _asked(reader: Reader, queries: Queries | Histories, targets: Any) -> Queries:
    """Read histories, and the id that followed each, as queries of a user each.

    Raises:
      ValueError: there is not one target per history, one is unknown, or as in `recommend`.
    """
    if isinstance(queries, Queries):
        if targets is not None:
            raise ValueError("targets: expected None beside Queries, found some")
        return queries
    if targets is None:
        raise ValueError("targets: expected the id that followed each history, found None")
    histories = reader.read("queries", queries).sequences
    followed = given.numbers("targets", targets, reader.catalogue)
    if len(followed) != len(histories):
        raise ValueError(
            f"targets: expected {len(histories)} ids, one per history, found {len(followed)}"
        )
    return Queries(histories, followed, np.arange(len(histories), dtype=np.int32))


def encoded_items(model: NxtPost, params: Any, content: Content) -> jax.Array:
    """Encode the items of the start: f32[N, D].

    Raises:
      FloatingPointError: a vector has NaN or infinity.
    """
    vectors_NxD = encode_catalogue(model, params, content=content)
    check_arrays("items", vectors_NxD)
    return vectors_NxD


def items_of_foreign(model: NxtPost, params: Any, content: Content) -> jax.Array:
    """Encode the items of the start by parameters that may not be of this model: f32[N, D].

    Raises:
      ValueError: they are not.
      FloatingPointError: a vector has NaN or infinity.
    """
    try:
        return encoded_items(model, params, content)
    except FloatingPointError:
        raise
    except Exception as error:  # of flax, whose types only model files import
        found = str(error).partition("\n")[0]
        raise ValueError(f"params: expected those of this model, found others: {found}") from error


def validation(
    reader: Reader, queries: Queries | None, *, seen_filter: bool = True, select: str = "ndcg@10"
) -> Callable[[Any], dict[str, float]] | None:
    """Give what ranks queries by parameters of a fit under way, among the items it began with.

    Args:
      reader: of the items.
      queries: histories and targets, or None.
      seen_filter: whether a user's earlier items are left out of the candidates.
      select: the figure that epochs are told apart by, which sets a cut-off beside 10.

    Raises:
      ValueError: a history is empty or `select` is no figure, now and not after an epoch.
    """
    if queries is None:
        return None
    reader.prepared("validation", queries.histories)
    ks = _cut_offs(select)

    def validate(params: Any) -> dict[str, float]:
        vectors = encoded_items(reader.model, params, reader.start.content)
        catalogue = reader.catalogue.of_vectors(vectors)
        now = reader.at(params=params, catalogue=catalogue)
        return rank_queries(now, queries, ks=ks, seen_filter=seen_filter, bootstrap=0).values

    return validate


def _cut_offs(select: str) -> tuple[int, ...]:
    figure, _, k = select.partition("@")
    if select in ("mrr", "mlrr"):
        return (10,)
    if figure not in ("hr", "ndcg") or not k.isdigit() or not int(k):
        raise ValueError(f"select: expected 'hr@k', 'ndcg@k', 'mrr' or 'mlrr', found {select!r}")
    return tuple(sorted({10, int(k)}))


def _encoded(reader: Reader, histories: Sequences) -> Iterator[tuple[np.ndarray, Array]]:
    """Encode checked histories, call by call: their numbers and vectors."""
    for rows, batch in reader.batches("histories", histories):
        items = reader.catalogue.items
        yield rows, encoded_users(reader.model, reader.params, items=items, histories=batch)


def _found(reader: Reader, parts, choice: Choice, *, k: int, raised: Array | None = None) -> Answer:
    """Search call by call, each of so many rows and vectors."""
    catalogue, found = reader.catalogue, []
    width = left_out_width(reader.model.config.max_len)
    for rows, vectors in parts:
        part = _by_index(reader, rows, vectors, choice, k=k)
        if part is None:
            left_out, allowed = choice.of_rows(rows, catalogue, width=width)
            limits = {"left_out_BxE": left_out, "allowed_BxS": allowed, "raised_S": raised}
            size = padded_k(k, catalogue.num_slots)
            slots, scores = nearest(vectors, choice.items(catalogue), **limits, k=size)
            part = catalogue.ids_of(slots), np.asarray(scores)
        found.append([each[:, :k] for each in part])
    ids, scores = (np.concatenate(each)[: choice.count] for each in zip(*found))
    if not (scores < np.inf).all():  # NaN is the highest score for a search, so none stays hidden
        raise FloatingPointError("scores: expected finite numbers, found NaN; fit again")
    return Answer(catalogue.names.take(ids), scores)


def _by_index(reader: Reader, rows: np.ndarray, vectors: Array, choice: Choice, *, k: int):
    """Ask the index, if there is one and it can say; rows and k are padded for it, too."""
    if reader.mirror is None or choice.allowed_lists is not None:
        return None
    catalogue = reader.catalogue
    limits = choice.in_ids(rows, catalogue)
    size = padded_k(k, len(catalogue))
    return reader.mirror.search(vectors, size, catalogue=catalogue, **limits)


def _check_k(k: int, most: int) -> None:
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
        raise ValueError(f"k: expected 1 to {most}, the catalogue's size, found {k!r}")
