"""User vectors kept up to date one event at a time, by a cache of attention keys and values.

One event costs one position of the user tower instead of a whole history. The vectors equal
those of the full forward over the same events (tested to 1e-5 at every prefix).

A cache holds `max_len` events a user. Positions are counted from the oldest event read, and the
full forward reads the last `max_len`: once a history outgrows them every event moves to another
position, and no cached value can be kept. `extend` refuses a full row; `prefill` restarts it
from its last events. With all `max_len` of them the result is exact and the row is full again;
with fewer, say half, the next `max_len / 2` events are cheap, at the price of a shorter memory.

Shape suffixes: B users, M = max_len slots, Y layers, H heads, K head width, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nxtpost_jax.arrays import Array
from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.blocks import attention, causal_attention
from nxtpost_jax.towers.model import NxtPost, apply
from nxtpost_jax.towers.relative import Places, whole_seconds
from nxtpost_jax.towers.user_tower import places_of


class Cache(NamedTuple):
    """Hold what the user tower needs of past events; users are the first axis of every array.

    So rows are taken and replaced by `jax.tree.map` over a cache. Slots at or beyond a row's
    length are never read.

    Attributes:
      keys_BxYxMxHxK, values_BxYxMxHxK: f32, of each layer's attention.
      states_BxMxD: f32, the tower's outputs, which the pooling reads.
      seconds_BxM: uint32, whole seconds since the first event held; 0 where the tower does not
        read the time between events.
      lengths_B: int32, events held, at most M.
    """

    keys_BxYxMxHxK: jax.Array
    values_BxYxMxHxK: jax.Array
    states_BxMxD: jax.Array
    seconds_BxM: jax.Array
    lengths_B: jax.Array


def init_cache(model: NxtPost, batch_size: int) -> Cache:
    """Make a cache of users without events."""
    config = model.config
    heads = (config.num_heads, config.d_model // config.num_heads)
    memory = jnp.zeros((batch_size, config.num_layers, config.max_len, *heads))
    states = jnp.zeros((batch_size, config.max_len, config.d_model))
    seconds = jnp.zeros((batch_size, config.max_len), jnp.uint32)
    return Cache(memory, jnp.copy(memory), states, seconds, jnp.zeros(batch_size, jnp.int32))


@jax.jit
def joined(caches: Sequence[Cache]) -> Cache:
    """Put the caches of single users into one."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *caches)


@jax.jit
def parted(cache: Cache) -> list[Cache]:
    """Cut a cache into those of its single users."""
    count = len(cache.lengths_B)
    return [jax.tree.map(lambda part, row=row: part[row : row + 1], cache) for row in range(count)]


@partial(jax.jit, static_argnums=0)
def prefill(
    model: NxtPost,
    params: Any,
    *,
    histories: Mapping[str, Array],
    item_vectors_BxLxD: Array,
) -> tuple[Cache, jax.Array]:
    """Fill a cache by one forward over whole histories.

    Args:
      model, params: the towers.
      histories: dict of `sequences.pad_histories`, of at most max_len columns; rows may be empty.
      item_vectors_BxLxD: f32[B, L, D], the vectors of the histories' items.

    Returns:
      The cache, and the users' vectors f32[B, D].
    """
    items_BxL = histories["items"]
    places = places_of(model.config, histories)
    keys, values = [], []

    def attend(layer, q, k, v, *, bias):
        del layer
        keys.append(k)
        values.append(v)
        return causal_attention(q, k, v, bias=bias, places=places)

    states_BxLxD = apply(
        model, params, histories, item_vectors_BxLxD, attend=attend, method="encode_histories"
    )
    empty_slots = (0, model.config.max_len - items_BxL.shape[1])
    memory = [(0, 0), (0, 0), empty_slots, (0, 0), (0, 0)]
    seconds_BxL = jnp.zeros(items_BxL.shape, jnp.uint32)
    if places is not None and places.seconds_BxL is not None:
        seconds_BxL = places.seconds_BxL
    cache = Cache(
        jnp.pad(jnp.stack(keys, axis=1), memory),
        jnp.pad(jnp.stack(values, axis=1), memory),
        jnp.pad(states_BxLxD, [(0, 0), empty_slots, (0, 0)]),
        jnp.pad(seconds_BxL, [(0, 0), empty_slots]),
        jnp.sum(items_BxL != PAD, axis=1, dtype=jnp.int32),
    )
    return cache, apply(model, params, states_BxLxD, items_BxL, method="pool")


def extend(
    model: NxtPost,
    params: Any,
    *,
    cache: Cache,
    item_vectors_BxD: Array,
    features: dict,
    valid_B: Array | None = None,
) -> tuple[Cache, jax.Array]:
    """Add one event to each user's history.

    Args:
      model, params: the towers.
      cache: is donated, use the returned one.
      item_vectors_BxD: f32[B, D], the events' posts.
      features: what the model reads of `times` f32[B], the seconds since the user's previous
        event (taken as 0 at the first event held, as in `sequences.pad_histories`), `actions`
        int32[B], `surfaces` int32[B] and `static` int32[B, G], the same at every call.
      valid_B: bool[B], False where a user has no event now; all True when None.

    Returns:
      The cache, and the users' vectors f32[B, D]: of a user without an event now, the vector
      of the events so far; of one without any event, that of the static features alone.

    Raises:
      ValueError: a row with an event is full (see the module). Inside a trace, where lengths
        are unknown, such an event is left out instead.
    """
    lengths_B = cache.lengths_B
    valid_B = np.ones(lengths_B.shape, bool) if valid_B is None else valid_B
    if not any(isinstance(value, Tracer) for value in (lengths_B, valid_B)):
        # On the host: each operation on the device is a program of its own.
        full = np.flatnonzero(np.asarray(valid_B) & (np.asarray(lengths_B) >= model.config.max_len))
        if len(full):
            raise ValueError(
                f"cache: expected room for an event (prefill makes some), found row {full[0]} full "
                f"at max_len={model.config.max_len} events"
            )
    return _extend(model, params, cache, item_vectors_BxD, features, valid_B)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _extend(model, params, cache, item_vectors_BxD, features, valid_B):
    lengths_B, slots_M = cache.lengths_B, jnp.arange(model.config.max_len)
    rows_B = jnp.arange(len(lengths_B))
    visible_BxM = slots_M[None] <= lengths_B[:, None]
    keys, values = cache.keys_BxYxMxHxK, cache.values_BxYxMxHxK
    seconds_BxM = cache.seconds_BxM
    if model.config.reads_time_between:
        before_B = seconds_BxM[rows_B, jnp.maximum(lengths_B - 1, 0)]
        now_B = jnp.where(lengths_B == 0, 0, before_B + whole_seconds(features["times"]))
        seconds_BxM = seconds_BxM.at[rows_B, lengths_B].set(now_B, mode="drop")

    def places(slots_BxL):
        return Places(slots_BxL, jnp.take_along_axis(seconds_BxM, slots_BxL, axis=1, mode="clip"))

    def attend(layer, q_Bx1xHxK, k_Bx1xHxK, v_Bx1xHxK, *, bias):
        # The event stands in the first free slot; a full row has none and drops it.
        nonlocal keys, values
        keys = keys.at[rows_B, layer, lengths_B].set(k_Bx1xHxK[:, 0], mode="drop")
        values = values.at[rows_B, layer, lengths_B].set(v_Bx1xHxK[:, 0], mode="drop")
        known = (keys[:, layer], values[:, layer])
        visible_Bx1x1xM = visible_BxM[:, None, None]
        raised = None
        if bias is not None:
            held_BxM = jnp.broadcast_to(slots_M[None], visible_BxM.shape)
            raised = bias(places(lengths_B[:, None]), places(held_BxM))
        return attention(q_Bx1xHxK, *known, visible_Bx1x1xM, bias_BxHxLxM=raised)

    valid_B &= lengths_B < model.config.max_len
    event = {name: value[:, None] for name, value in features.items() if name != "static"}
    if "static" in features:
        event["static"] = features["static"]
    if "times" in event:
        event["times"] = jnp.where(lengths_B[:, None] == 0, 0, event["times"])
    # A row without an event is read as an empty one: all it may change is the first free slot,
    # which only a user without any event reads.
    event["items"] = jnp.where(valid_B, 0, PAD)[:, None]
    state_Bx1xD = apply(
        model,
        params,
        event,
        item_vectors_BxD[:, None],
        positions_BxL=lengths_B[:, None],
        attend=attend,
        method="encode_histories",
    )
    states_BxMxD = cache.states_BxMxD.at[rows_B, lengths_B].set(state_Bx1xD[:, 0], mode="drop")
    lengths_B += valid_B
    held_BxM = jnp.where(slots_M[None] < lengths_B[:, None], 0, PAD)
    vectors_BxD = apply(model, params, states_BxMxD, held_BxM, method="pool")
    return Cache(keys, values, states_BxMxD, seconds_BxM, lengths_B), vectors_BxD
