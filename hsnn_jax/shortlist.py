"""A few more than the k best of many rows, by a threshold: no heap, no sort, all in vectors."""

import jax
import jax.numpy as jnp

_WORD = 32  # slots whose choice is one integer
_GROUP = 8  # slots of which the best alone is looked at for the threshold
_LANES = 16


def ordered_bits(x: jax.Array) -> jax.Array:
    """Return int32 in the order of float32 numbers, but -0. below 0."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)


def shortlist(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Return slots that include the k best of each row, in any order.

    The threshold is a number that at least k group maxima reach, and hardly more; what reaches it
    is chosen. A slot is bit l of word w where it is l * words + w, so that neighbours lie in
    different words and groups, and every step runs along them.

    Args:
      scores: float32 [B, M] without NaN; -inf is never chosen.
      k: static, less than M / 8.

    Returns:
      (slots int32 [B, m], -1 beyond those chosen; bool [B], where more than m should have been).
    """
    size = -(-(k + max(k // 2, _WORD)) // _LANES) * _LANES
    scores = jnp.pad(scores, ((0, 0), (0, -scores.shape[1] % _WORD)), constant_values=-jnp.inf)
    num_rows, width = scores.shape
    words = width // _WORD
    groups = scores.reshape(num_rows, _GROUP, _WORD // _GROUP, words)
    keys = ordered_bits(jnp.max(groups, axis=1)).reshape(num_rows, -1)
    cut = _threshold(jax.lax.optimization_barrier(keys), k, spare=max(4, k // 8))
    chosen = (scores >= _number(cut)[:, None]).reshape(num_rows, _WORD, words)
    bits = (jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32))[None, :, None]
    chosen = jnp.sum(jnp.where(chosen, bits, jnp.uint32(0)), axis=1, dtype=jnp.uint32)
    chosen = jax.lax.optimization_barrier(chosen)
    ends = jax.lax.optimization_barrier(jnp.cumsum(_ones(chosen), axis=1))
    number = jnp.arange(size, dtype=jnp.int32)
    word = jax.vmap(lambda of: jnp.searchsorted(of, number, side="right"))(ends)
    word = jax.lax.optimization_barrier(jnp.minimum(word, words - 1).astype(jnp.int32))
    of_word, end = (jnp.take_along_axis(x, word, axis=1) for x in (chosen, ends))
    bit = _place_of_one(of_word, number[None, :] - end + _ones(of_word))
    slots = jnp.where(number[None, :] < ends[:, -1:], bit * words + word, -1)
    return jax.lax.optimization_barrier(slots), ends[:, -1] > size


def _threshold(keys, k: int, *, spare: int):
    """Return int32 [B] that k to about k + spare of the keys [B, G] reach, by bisection.

    Where fewer are above that of -inf, it is the least of these.
    """
    least = ordered_bits(jnp.float32(-jnp.inf)) + 1
    high = jnp.max(keys, axis=1)
    low = jnp.maximum(jnp.min(keys, axis=1), least)

    def halve(carry):
        low, high, done = carry
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # rounded up, and no overflow
        count = jnp.sum((keys >= middle[:, None]).astype(jnp.int32), axis=1)
        enough = count >= k
        low = jnp.where(enough & ~done, middle, low)
        high = jnp.where(enough | done, high, middle - 1)
        return low, high, done | (enough & (count <= k + spare)) | (low >= high)

    carry = low, high, low >= high
    return jax.lax.while_loop(lambda carry: ~jnp.all(carry[2]), halve, carry)[0]


def _number(key):
    """Return the float32 of `ordered_bits`."""
    bits = jnp.where(key < 0, key ^ jnp.iinfo(jnp.int32).max, key)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _ones(words):
    return jax.lax.population_count(words).astype(jnp.int32)


def _place_of_one(words, rank):
    """Return which bit of a word is its 1 with so many lower ones, by halves."""
    place = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        below = _ones((words >> place.astype(jnp.uint32)) & jnp.uint32(2**half - 1))
        above = rank >= below
        rank = jnp.where(above, rank - below, rank)
        place = jnp.where(above, place + half, place)
    return place
