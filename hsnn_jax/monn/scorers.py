"""Scorers: callables scorer(params, users, items) -> scores, shared by training and search.

users is an array [B, ...] (or a pytree of such), items [B, m, ...], the scores are [B, m]. A
scorer whose attribute `shares_items` is true also takes items [1, m, ...] that all users share.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hsnn_jax.distance import unit


def dot(params: Any, users: jax.Array, items: jax.Array) -> jax.Array:
    """Return the inner products of users [B, d] and items [B or 1, m, d]; `params` is not used."""
    del params
    if items.shape[0] == 1:
        return users @ items[0].T
    # Items first: with users first XLA:CPU transposes a shared catalogue in every call.
    return jnp.einsum("bmd,bd->bm", items, users)


dot.shares_items = True  # pyright: ignore[reportFunctionMemberAccess]  # read by `score_all`


def init_mol(
    key: jax.Array,
    user_width: int,
    *,
    item_width: int,
    user_parts: int = 8,
    item_parts: int = 4,
    part_width: int = 32,
    hidden: int = 64,
) -> dict:
    """Draw the parameters of `mol`.

    Args:
      key: PRNG key.
      user_width, item_width: widths of the vectors.
      user_parts, item_parts: component embeddings P_u and P_x of a user and an item.
      part_width: their width.
      hidden: width of the pair gate's hidden layer.
    """
    keys = jax.random.split(key, 6)
    pairs = user_parts * item_parts
    return {
        "user_parts": _dense(keys[0], (user_width, user_parts, part_width)),
        "item_parts": _dense(keys[1], (item_width, item_parts, part_width)),
        "user_gate": _dense(keys[2], (user_width, pairs)),
        "item_gate": _dense(keys[3], (item_width, pairs)),
        **init_mixture(keys[4:], pairs, hidden=hidden),
    }


def init_mixture(keys: jax.Array, pairs: int, *, hidden: int, temperature: float = 0.05) -> dict:
    """Draw the parameters of `mixture` for this many cosines, from two keys."""
    return {
        "pair_hidden": _dense(keys[0], (pairs, hidden)),
        "pair_gate": _dense(keys[1], (hidden, pairs)),
        "log_temperature": jnp.asarray(math.log(temperature)),
    }


def mol(params: dict, users: jax.Array, items: jax.Array) -> jax.Array:
    """Score by a mixture of logits: a gated mean of the cosines of component embeddings.

    The gate is softmax(user gate * item gate + MLP(cosines)), so that the mixture depends on
    user, item and pair.

    Args:
      params: from `init_mol`.
      users: float [B, d].
      items: float [B, m, d].

    Source: Zhai et al. 2023, "Revisiting Neural Retrieval on Accelerators", section 3.
    """
    u_BxPxW = unit(jnp.einsum("bd,dpw->bpw", users, params["user_parts"]))
    x_BxMxQxW = unit(jnp.einsum("bmd,dqw->bmqw", items, params["item_parts"]))
    user_gate = jax.nn.silu(users @ params["user_gate"])
    item_gate = items @ params["item_gate"]
    return mixture(
        params, component_products(u_BxPxW, x_BxMxQxW), user_gate=user_gate, item_gate=item_gate
    )


def component_products(u_BxPxW: jax.Array, x_BxMxQxW: jax.Array) -> jax.Array:
    """Return the inner products of all components of users and items: [B, M, P, Q].

    The items may be [1, M, Q, W], shared by all users.
    """
    return jnp.einsum("bpw,bmqw->bmpq", u_BxPxW, x_BxMxQxW)


def mixture(
    params: dict, cosines: jax.Array, *, user_gate: jax.Array, item_gate: jax.Array
) -> jax.Array:
    """Average cosines under a gate and divide by the temperature: [B, M].

    Args:
      params: from `init_mixture`.
      cosines: float [B, M, P, Q] or [B, M, P * Q].
      user_gate: float [B, P * Q].
      item_gate: float [B, M, P * Q], or [1, M, P * Q] of items that all users share.
    """
    # As one matrix: XLA:CPU takes twice as long for the weights' gradients over two axes of rows.
    rows = cosines.reshape(cosines.shape[0] * cosines.shape[1], -1)
    cosines = rows.reshape(*cosines.shape[:2], -1)
    pair_gate = jax.nn.silu(rows @ params["pair_hidden"]) @ params["pair_gate"]
    gate = user_gate[:, None, :] * item_gate + pair_gate.reshape(cosines.shape)
    gate = jax.nn.softmax(gate, axis=-1)
    return jnp.sum(gate * cosines, axis=-1) / jnp.exp(params["log_temperature"])


def score_all(scorer: Callable, params: Any, *, users: Any, items: Any) -> jax.Array:
    """Score every user [B, ...] with the same items [m, ...]; the items are not repeated."""
    if getattr(scorer, "shares_items", False):
        return scorer(params, users, jax.tree.map(lambda x: x[None], items))

    def of_user(user):
        one = jax.tree.map(lambda feature: feature[None], (user, items))
        return scorer(params, *one)[0]

    return jax.vmap(of_user)(users)


def pair_flops(scorer: Callable, params: Any, *, users: Any, items: Any) -> tuple[float, float]:
    """Count a scorer's floating-point operations, see `count_flops`.

    Args:
      scorer: the callable.
      params, users, items: arrays or shapes; items are [n, ...] (no user axis).

    Returns:
      (operations once a user, operations a further item of that user).
    """
    one = _count(scorer, params, users, items, 1)
    two = _count(scorer, params, users, items, 2)
    return 2 * one - two, two - one


def _count(scorer, params, users, items, num_items):
    shape_of = functools.partial(_with_leading, ())
    params = jax.tree.map(shape_of, params)
    users = jax.tree.map(lambda x: _with_leading((1,), x, drop=1), users)
    items = jax.tree.map(lambda x: _with_leading((1, num_items), x, drop=1), items)
    return count_flops(scorer, params, users, items)


def count_flops(function: Callable, *arguments: Any) -> float:
    """Count a function's floating-point operations with XLA's cost model; nothing is run.

    Args:
      function: jittable.
      *arguments: arrays or shapes.
    """
    costs = jax.jit(function).lower(*arguments).cost_analysis() or {}
    return costs.get("flops", 0.0)


def _with_leading(leading, x, drop=0):
    return jax.ShapeDtypeStruct((*leading, *x.shape[drop:]), x.dtype)


def _dense(key, shape):
    return jax.random.normal(key, shape) / math.sqrt(shape[0])
