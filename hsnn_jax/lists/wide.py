"""Width-major tiles: item vectors by slot, so that many users times a page is one product.

`Tiles` hold a vector after the other, as scorers of any kind read them. Here a page holds all
slots' first coordinates, then all second ones, and so on: a product with it needs no transposition
(26 us where row-major tiles took 208), and a page is one contiguous slice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hsnn_jax.lists.index import Index, Tiles, pack, page_width


class WideTiles(NamedTuple):
    """Vectors laid out by slot, float32 [K, P, d, W]: slot c is lane c % W of page c // W.

    Free slots, and those beyond the capacity of a list, hold anything.
    """

    features: jax.Array


@jax.jit
def pack_wide(index: Index, vectors: jax.Array) -> WideTiles:
    """Copy vectors float [n, d] into the order of the lists, see `WideTiles`."""
    rows = jax.lax.map(lambda ids: _paged(vectors[jnp.maximum(ids, 0)]), index.lists)
    return WideTiles(rows)


def pack_like(tiles: Tiles | WideTiles, index: Index, *, vectors: jax.Array) -> Tiles | WideTiles:
    """Copy vectors float [n, d] into the order of the lists, in the layout of other tiles."""
    return (pack_wide if isinstance(tiles, WideTiles) else pack)(index, vectors)


def _paged(rows):
    """Return vectors [C, d] of a list as pages [P, d, W]."""
    capacity, width = rows.shape
    size = page_width(capacity)
    rows = jnp.pad(rows, ((0, -capacity % size), (0, 0)))
    return jnp.swapaxes(rows.reshape(-1, size, width), 1, 2)


def widened(tiles: WideTiles, capacity: int, *, factor: int) -> WideTiles:
    """Return tiles with so many times the slots a list; an item keeps its node and column."""

    def of_list(pages):
        rows = vectors_of_list(WideTiles(pages), capacity)
        return _paged(jnp.pad(rows, ((0, capacity * (factor - 1)), (0, 0))))

    return WideTiles(jax.lax.map(of_list, tiles.features))


def vectors_of_list(tiles: Tiles | WideTiles, capacity: int) -> jax.Array:
    """Return the vectors [C, d] of one node, from its part of the tiles, without the axis K."""
    if isinstance(tiles, Tiles):
        return tiles.features
    pages = jnp.swapaxes(tiles.features, 1, 2)
    return pages.reshape(-1, pages.shape[2])[:capacity]


def vectors_at(tiles: Tiles | WideTiles, *, node: jax.Array, column: jax.Array) -> jax.Array:
    """Return the vectors [..., d] at slots; those of slots out of range are anything."""
    if isinstance(tiles, Tiles):
        return tiles.features.at[node, column].get(mode="clip")
    width = tiles.features.shape[3]
    return tiles.features.at[node, column // width, :, column % width].get(mode="clip")


def with_vectors(
    tiles: Tiles | WideTiles, values: jax.Array, *, node: jax.Array, column: jax.Array
) -> Tiles | WideTiles:
    """Return tiles with vectors [b, d] put at slots [b]; what is out of range is dropped."""
    if isinstance(tiles, Tiles):
        return Tiles(tiles.features.at[node, column].set(values, mode="drop"))
    width = tiles.features.shape[3]
    at = tiles.features.at[node, column // width, :, column % width]
    return WideTiles(at.set(values, mode="drop"))
