"""Answers of one moment: what a reader's parameters and catalogue say to a request."""

from __future__ import annotations

from functools import partial

import numpy as np

from nxtpost_jax.evaluation.ranking import Metrics, evaluate
from nxtpost_jax.evaluation.scoring import cosine_scores, nearest_items, top_items, user_vectors
from nxtpost_jax.events.checks import as_sequences, checked_mask, item_ids
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving.answer import Answer
from nxtpost_jax.serving.reading import Histories, Reader, chunks, left_out


def recommend(
    reader: Reader, histories: Histories, *, k: int, exclude_seen: bool, filter, items
) -> Answer:
    """Find the k best items for each history, see `Recommender.recommend`."""
    _check_k(k, len(reader.catalogue))
    allowed_S = _allowed(reader, filter, items)
    histories = reader.checked("histories", histories)
    seen = reader.seen(histories) if exclude_seen else None
    parts = [
        top_items(
            reader.model,
            reader.params,
            reader.catalogue.vectors,
            batch,
            left_out(seen, rows),
            allowed_S,
            k=k,
        )
        for rows, batch in reader.batches("histories", histories)
    ]
    return _named(reader, parts, len(histories))


def search(reader: Reader, vectors, *, k: int, seen: Histories | None, filter, items) -> Answer:
    """Find the k best items for user vectors, see `Recommender.search`."""
    _check_k(k, len(reader.catalogue))
    allowed_S = _allowed(reader, filter, items)
    vectors = np.asarray(vectors, np.float32)
    width = reader.model.config.d_model
    if vectors.ndim != 2 or vectors.shape[1] != width or not len(vectors):
        raise ValueError(f"vectors: expected shape [B, {width}], found {list(vectors.shape)}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: expected finite numbers, found NaN or infinity")
    if seen is not None:
        seen = as_sequences("seen", seen)
        if len(seen) != len(vectors):
            raise ValueError(f"seen: expected {len(vectors)} histories, found {len(seen)}")
        reader.check_known("seen", seen.items)
        seen = reader.seen(seen)
    parts = [
        nearest_items(vectors[rows], reader.catalogue.vectors, left_out(seen, rows), allowed_S, k=k)
        for rows in chunks(len(vectors))
    ]
    return _named(reader, parts, len(vectors))


def similar(reader: Reader, ids, *, k: int) -> Answer:
    """Find the k items nearest to each item, see `Recommender.similar_items`."""
    catalogue = reader.catalogue
    slots = catalogue.slots("ids", item_ids("ids", ids))
    _check_k(k, len(catalogue) - 1)
    parts = [
        nearest_items(
            catalogue.vectors[slots[rows]],
            catalogue.vectors,
            slots[rows][:, None],
            catalogue.present,
            k=k,
        )
        for rows in chunks(len(slots))
    ]
    return _named(reader, parts, len(slots))


def embed_users(reader: Reader, histories: Histories) -> np.ndarray:
    """Compute users' vectors, f32[B, D], see `Recommender.embed_users`."""
    histories = reader.checked("histories", histories)
    parts = [
        user_vectors(reader.model, reader.params, reader.catalogue.vectors, batch)
        for _, batch in reader.batches("histories", histories)
    ]
    return np.concatenate([np.asarray(part) for part in parts])[: len(histories)]


def rank_queries(
    reader: Reader, queries: Queries, *, candidates=None, popularity=None, backfill=None, **options
) -> Metrics:
    """Rank the queries' targets among the catalogue, see `Recommender.evaluate`."""
    catalogue = reader.catalogue
    histories = reader.checked("queries", queries.histories)
    read = reader.in_slots(reader.prepared("queries", histories, backfill=backfill))
    targets = catalogue.slots("targets", queries.targets)
    allowed_S = np.asarray(catalogue.present)
    if candidates is not None:
        allowed_S = allowed_S & catalogue.mask("candidates", candidates)
    return evaluate(
        partial(cosine_scores, reader.model, reader.params, catalogue.vectors),
        Queries(reader.seen(histories), targets, queries.users),
        max_len=reader.model.config.max_len,
        candidates=allowed_S,
        popularity=None if popularity is None else catalogue.by_slot(popularity),
        backfill=lambda _: read,
        **options,
    )


def _allowed(reader: Reader, filter, items):
    """Join the catalogue's items with a request's restrictions: bool[S]."""
    catalogue = reader.catalogue
    allowed_S = catalogue.present
    if filter is not None:
        allowed_S = allowed_S & catalogue.mask("filter", checked_mask("filter", filter))
    if items is not None:
        allowed_S = allowed_S & catalogue.mask("items", item_ids("items", items))
    return allowed_S


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"k: expected 1 to {most}, the catalogue's size, found {k}")


def _named(reader: Reader, parts, count: int) -> Answer:
    slots, scores = (np.concatenate([np.asarray(x) for x in part]) for part in zip(*parts))
    if not (scores < np.inf).all():  # NaN is the highest score for a search, so none stays hidden
        raise FloatingPointError("scores: expected finite numbers, found NaN; fit again")
    return Answer(reader.catalogue.ids_of(slots[:count]), scores[:count])
