"""What is known of items: one content embedding each, or several channels, some of them sets.

Content is one of
  None                    items are known by id only;
  f32[N, C]               one channel, one vector an item;
  {name: channel, ...}    several channels, each f32[N, C] or a `ContentSet`, C its own.
An item lacks a channel where its vector is all zeros, or where its set has no vector. All of it
is one pytree whose arrays have the items on the first axis, so it passes through `jax.jit`.

Shape suffixes: N items, S vectors a set, C width of a channel.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from nxtpost_jax.arrays import Array


class ContentSet(NamedTuple):
    """Hold up to S vectors an item, such as those of a post's images, in any order.

    Attributes:
      vectors: f32[N, S, C]; what stands where the mask is False is never read.
      mask: bool[N, S], True at a vector. A vector of zeros counts as absent too.
    """

    vectors: Array
    mask: Array


Channel = Array | ContentSet
Content = Channel | Mapping[str, Channel] | None
# What callers give: anything that numpy makes an array of, or the path of an .npy file.
GivenChannel = ArrayLike | os.PathLike | ContentSet
GivenContent = GivenChannel | Mapping[str, GivenChannel] | None


def num_rows(content: Content) -> int:
    """Count the items that content describes; it must not be None."""
    return jax.tree.leaves(content)[0].shape[0]


@overload
def take(content: Array, ids: Array) -> jax.Array: ...
@overload
def take(content: Content, ids: Array) -> Content: ...
def take(content: Content, ids: Array) -> Content:
    """Gather the content of items: each array [N, ...] becomes [*ids.shape, ...].

    Ids out of range, PAD among them, are clipped to the nearest item. None stays None.
    """
    ids = jnp.maximum(ids, 0)
    return jax.tree.map(lambda table: jnp.take(table, ids, axis=0, mode="clip"), content)


def channels(content: Content) -> dict[str, Channel]:
    """Name the channels in a fixed order; the only channel of an array is called "content"."""
    if content is None:
        return {}
    if isinstance(content, Mapping):
        return {name: content[name] for name in sorted(content)}
    return {"content": content}


def present(channel: Channel) -> jax.Array:
    """Tell which items have a channel: bool[...] for f32[..., C] or a set of [..., S, C]."""
    if isinstance(channel, ContentSet):
        return jnp.any(present_in_set(channel), axis=-1)
    return jnp.any(channel != 0, axis=-1)


def present_in_set(channel: ContentSet) -> jax.Array:
    """Tell which vectors of sets are there: bool[..., S]."""
    return jnp.logical_and(channel.mask, jnp.any(channel.vectors != 0, axis=-1))


def check(
    content: GivenContent, *, num_items: int | None = None, allow_missing: bool = False
) -> Content:
    """Read content into numpy arrays and refuse what no embedding can be.

    Args:
      content: see the module.
      num_items: expected N; any when None.
      allow_missing: accept items that lack every channel, for models with an id embedding.

    Returns:
      The same content with float32 vectors and bool masks; None for None.

    Raises:
      ValueError: a channel has another shape, NaN or infinity, or another number of rows, a
        channel's name is no plain word, there is no channel, or an item lacks every channel.
    """
    if content is None:
        return None
    if isinstance(content, Mapping):
        if not content:
            raise ValueError("content: expected at least one channel, found an empty mapping")
        for name in content:
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"content: expected a word as a channel's name, found {name!r}")
        content = {name: _checked(f"content[{name!r}]", content[name]) for name in sorted(content)}
    else:
        content = _checked("content", content)
    rows = num_rows(content) if num_items is None else num_items
    for label, channel in zip(_labels(content), channels(content).values()):
        found = num_rows(channel)
        if found != rows:
            raise ValueError(f"{label}: expected {rows} rows, one per item, found {found}")
    if not allow_missing:
        _refuse_absent(content)
    return content


def of_catalogue(
    content: GivenContent,
    *,
    id_embedding: bool,
    num_items: int | None,
    told_absent_N: np.ndarray | None = None,
) -> tuple[Content, int]:
    """Read the content of a catalogue onto the device, or None where items are known by id only.

    A row of NaN says that an item has none, as readers of data put it. Such an item is known: it
    may be in histories and be trained on. Without an id embedding nothing is known of it, so it is
    never recommended.

    Args:
      content: see the module; arrays may be paths of .npy files.
      id_embedding: whether items have a vector of their own; then one may lack content.
      num_items: expected N, needed without content.
      told_absent_N: bool[N], items that have none, beside rows of NaN.

    Returns:
      The content, and N.

    Raises:
      ValueError: see `check`; or the number of items is unknown, or nothing is known of them.
    """
    if content is not None:
        given, nan_N = _without_nan_rows(load(content))
        checked = check(given, num_items=num_items, allow_missing=True)
        if not id_embedding:
            told = [rows for rows in (nan_N, told_absent_N) if rows is not None]
            _refuse_absent(checked, except_N=np.logical_or.reduce(told) if told else None)
        return jax.tree.map(jnp.asarray, checked), num_rows(checked)
    if num_items is None or num_items < 1:
        raise ValueError(
            f"num_items: expected at least 1 where there is no content, found {num_items}"
        )
    if not id_embedding:
        raise ValueError("content: expected a matrix when id_embedding is off, found None")
    return None, num_items


def with_nan_rows(vectors: np.ndarray) -> np.ndarray:
    """Mark the items without content in what `of_catalogue` gave, so that it may read it again."""
    return np.where(vectors.any(axis=1, keepdims=True), vectors, np.float32(np.nan))


def load(content: GivenContent) -> GivenContent:
    """Read .npy files where there are paths, in one channel or in each of several."""
    if isinstance(content, Mapping):
        return {name: _loaded(channel) for name, channel in content.items()}
    return None if content is None else _loaded(content)


def describe(content: Content) -> str:
    """Put the shapes of one item's content in words: equal for equal channels and shapes."""
    return ", ".join(
        f"{name} {[list(part.shape[1:]) for part in jax.tree.leaves(channel)]}"
        for name, channel in sorted(channels(content).items())
    )


def _loaded(channel: GivenChannel) -> GivenChannel:
    if isinstance(channel, (str, os.PathLike)):
        return np.load(channel, allow_pickle=False)
    return channel


def _without_nan_rows(content: GivenContent):
    """Put zeros in the place of rows of NaN: the content, and bool[N] of these rows or None."""
    if isinstance(content, Mapping):
        parts = {name: _without_nan_rows(channel) for name, channel in content.items()}
        told = [rows for _, rows in parts.values() if rows is not None]
        same = len({len(rows) for rows in told}) == 1  # else `check` refuses the content
        return (
            {name: channel for name, (channel, _) in parts.items()},
            np.logical_or.reduce(told) if same else None,
        )
    if isinstance(content, ContentSet):  # its mask says which vectors are there
        return content, None
    vectors = np.asarray(content)
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.size:
        return vectors, None
    rows = np.asarray(np.isnan(vectors).all(axis=1))
    return np.where(rows[:, None], vectors.dtype.type(0), vectors), rows


def absent_on_host(content: Content) -> np.ndarray:
    """Tell which items lack every channel: bool[N], of content of numpy arrays."""
    parts = channels(content).values()
    return ~np.logical_or.reduce([_present_on_host(part) for part in parts])


def _refuse_absent(content: Content, *, except_N: np.ndarray | None = None) -> None:
    absent_N = absent_on_host(content)
    if except_N is not None:
        absent_N &= ~except_N
    if absent_N.any():
        raise ValueError(
            "content: expected some of every item where there is no id embedding, found none of "
            f"item {np.flatnonzero(absent_N)[0]} (a row of zeros or an empty set; NaN marks an "
            "item without content)"
        )


def _labels(content) -> list[str]:
    if isinstance(content, Mapping):
        return [f"content[{name!r}]" for name in content]
    return ["content"]


def _checked(label: str, channel):
    if not isinstance(channel, ContentSet):
        return _checked_vectors(label, channel, "[n, d]")
    vectors = _checked_vectors(f"{label}.vectors", channel.vectors, "[n, s, d]")
    mask = np.asarray(channel.mask)
    if mask.dtype != bool or mask.shape != vectors.shape[:2]:
        raise ValueError(
            f"{label}.mask: expected bool of shape {vectors.shape[:2]}, found {mask.dtype} of "
            f"shape {mask.shape}"
        )
    return ContentSet(vectors, mask)


def _checked_vectors(label: str, vectors, shape: str) -> np.ndarray:
    vectors = np.asarray(vectors)
    if vectors.ndim != shape.count(",") + 1 or not vectors.size or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"{label}: expected real numbers of shape {shape}, found {vectors.dtype} of shape "
            f"{vectors.shape}"
        )
    vectors = vectors.astype(np.float32)
    finite = np.isfinite(vectors).all(axis=tuple(range(1, vectors.ndim)))
    broken = np.flatnonzero(~finite)
    if len(broken):
        raise ValueError(
            f"{label}: expected finite numbers, found NaN or infinity in row {broken[0]}"
        )
    return vectors


def _present_on_host(channel) -> np.ndarray:
    if isinstance(channel, ContentSet):
        return np.asarray((channel.mask & channel.vectors.any(axis=-1)).any(axis=-1))
    return channel.any(axis=-1)
