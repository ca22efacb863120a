"""Items that enter a catalogue: checked, and encoded without training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from nxtpost_jax.events import content as contents
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.serving import described
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.histories import as_list, numbers
from nxtpost_jax.serving.programs import power_of_two
from nxtpost_jax.serving.reading import Reader
from nxtpost_jax.serving.served import Served
from nxtpost_jax.towers.model import NxtPost, apply


def checked(reader: Reader, *, content: Any, ids: Any) -> tuple[Content, np.ndarray]:
    """Read what `Recommender.add` is given.

    Args:
      reader: items as they are now.
      content: of m items, channels and widths as at the start; None for removed ones of the start.
      ids: m of the caller's, or one, or None.

    Returns:
      The items' content on the host, None where items are known by id only, and int32[m] ids.

    Raises:
      ValueError: see `Recommender.add`.
    """
    catalogue, known = reader.catalogue, reader.start.content
    if reader.start.own_ids and known is not None:
        content, ids = described.later(content, ids, reader.start)
    if content is None:
        ids = numbers("ids", [] if ids is None else ids, catalogue)
        back = catalogue.was_removed(ids)
        if known is not None:  # without content nothing can be added, so all are of the start
            back &= ids < contents.num_rows(known)
        unknown = ids[~back]
        if len(unknown) or not len(ids):
            found = catalogue.names.take(unknown)[0] if len(unknown) else "none"
            raise ValueError(
                f"ids: expected removed items of the start without content, found {found}"
            )
        catalogue.checked_new_ids(ids, len(ids))
        return rows_of(known, ids), ids
    if known is None:
        raise ValueError("content: expected None where items are known by id only, found some")
    content = contents.check(contents.load(content))
    expected, found = contents.describe(known), contents.describe(content)
    if found != expected:
        raise ValueError(f"content: expected one item's as {expected}, found {found}")
    return content, catalogue.checked_new_ids(_new(catalogue, ids), contents.num_rows(content))


def enter(served: Served, now: Reader, *, content: Any, ids: Any) -> np.ndarray:
    """Put items into the catalogue, and keep their content for a fit that goes on: int32[m] codes.

    Raises:
      ValueError: see `Recommender.add`.
    """
    rows, codes = checked(now, content=content, ids=ids)
    if content is not None:
        served.check_can_grow()
    if len(codes):
        vectors = encoded(now.model, now.params, rows, codes)
        added = without(served.now.added, codes)
        if content is not None:
            added |= {
                code: jax.tree.map(lambda part, i=i: np.asarray(part[i]), rows)
                for i, code in enumerate(codes.tolist())
            }
        served.add(vectors, codes, added=added)
    return codes


def without(added: Mapping[int, Any], codes: np.ndarray) -> dict[int, Any]:
    """Leave out what was added under some ids."""
    gone = set(codes.tolist())
    return {code: row for code, row in added.items() if code not in gone}


def _new(catalogue: Catalogue, ids: Any) -> np.ndarray | None:
    """Number the caller's ids; those of items that then do not enter harm nobody."""
    if isinstance(catalogue.names, OwnIds):
        return catalogue.names.add("ids", as_list(ids))
    return None if ids is None else numbers("ids", ids, catalogue)


def encoded(model: NxtPost, params: Any, content: Content, ids: np.ndarray) -> np.ndarray:
    """Encode m items, m at least 1, filled up to a power of two: f32[m, D]."""
    padded = _padded(len(ids))
    rows = jax.tree.map(lambda part: part[padded], content)
    return np.asarray(_encode(model, params, rows, ids[padded]))[: len(ids)]


def rows_of(content: Content, ids: np.ndarray) -> Content:
    """Gather m items' content, m at least 1, on the host."""
    rows = _take(content, ids[_padded(len(ids))])
    return jax.tree.map(lambda part: np.asarray(part)[: len(ids)], rows)


def _padded(count: int) -> np.ndarray:
    return np.resize(np.arange(count), power_of_two(count))


_take = jax.jit(contents.take)


@partial(jax.jit, static_argnums=0)
def _encode(model, params, content, ids):
    return apply(model, params, content, ids, method="encode_items")
