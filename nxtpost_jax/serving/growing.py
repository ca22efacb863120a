"""What a fit that goes on begins with: the items and parameters of before, and room for more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nxtpost_jax.events import log as logs
from nxtpost_jax.events.checks import as_sequences, check_times
from nxtpost_jax.events.content import Content
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.serving import described, starting
from nxtpost_jax.serving.catalogue import unknown_item
from nxtpost_jax.serving.described import Described
from nxtpost_jax.serving.histories import is_known
from nxtpost_jax.serving.served import Served, Start, State
from nxtpost_jax.training.steps import TrainState, copied

_SPARSE = 1000  # numbers that new items may leave out, beside as many as there are items


def read(
    events: Any,
    *,
    columns: Mapping[str, str] | None,
    content: Described | None,
    served: Served,
) -> tuple[Start, Sequences]:
    """Read what a fit with `more` is given: the start of now with more items, and the events.

    Raises:
      ValueError: nothing was fitted, or see `Recommender.fit`.
    """
    now = served.now
    before = now.start
    if before is None or now.params is None:
        raise ValueError("more: expected a fitted recommender (by fit or load), found none")
    rows = dict(now.added)
    if not logs.is_table(events):
        starting.check_bare(columns, content)
        sequences = as_sequences("events", events)
        check_times("events", sequences)
        here = np.unique(sequences.items)
        _check_numbered(here, before, now)
        actions = before.actions
    else:
        log = logs.read_log(events, columns or before.columns)
        sequences, actions, here = _of_log(log, before, now)
        if content is not None:
            rows |= described.beside(content, before)
            here = np.union1d(here, np.fromiter(rows, np.int32, len(rows)))
    start = _grown(before, served, here=here, rows=rows)
    start = dataclasses.replace(start, actions=actions, columns=dict(columns or before.columns))
    is_read = "gaps" in now.params["user_tower"] or before.model.config.reads_times
    if sequences.times is not None and not is_read:
        sequences = dataclasses.replace(sequences, times=None)  # as this model was trained
    return start, sequences


def _of_log(log: logs.Log, before: Start, now: State) -> tuple[Sequences, OwnIds | None, Any]:
    """Number a log's items and actions as before, new ones after them."""
    config = before.model.config
    if isinstance(before.names, OwnIds):
        items = before.names.add("item", log.item)
    else:
        items = before.names.codes("item", log.item)
        _check_numbered(np.unique(items), before, now)
    actions, action_codes = starting.numbered_actions(log, before.actions)
    starting.check_actions(config, actions)
    sequences, _ = logs.grouped(log, items, action_codes)
    return sequences, actions if before.own_ids else before.actions, np.unique(items)


def _check_numbered(items: np.ndarray, before: Start, now: State) -> None:
    """Refuse items that nobody knows, where they cannot enter by their number alone."""
    new = items[~is_known(now.catalogue, items)]
    if not len(new):
        return
    if before.content is not None or before.own_ids:
        raise unknown_item("events", before.names.take(new[:1])[0])
    limit = 2 * before.num_items + _SPARSE
    if new.max() >= limit:
        raise ValueError(f"events: expected item ids below {limit}, found {new.max()}")


def _grown(before: Start, served: Served, *, here: np.ndarray, rows: Mapping[int, Any]) -> Start:
    """Make room for the items of the catalogue and those that are here; the rest is stale."""
    catalogue = served.now.catalogue
    present = np.union1d(catalogue.sorted_ids, here)
    num_items = max(before.num_items, int(present.max(initial=-1)) + 1, len(_own(before)))
    known = np.union1d(present, served.removed_by_caller())
    stale = np.setdiff1d(np.arange(num_items, dtype=np.int32), known).astype(np.int32)
    if not before.own_ids and len(stale) > len(known) + _SPARSE:
        raise ValueError(
            f"more: expected item ids below {2 * len(known) + _SPARSE}, as there are "
            f"{len(known)}, found {present[-1]}"
        )
    config = before.model.config
    return dataclasses.replace(
        before,
        model=type(before.model)(config, num_items if config.id_embedding else None),
        num_items=num_items,
        content=_with_rows(before.content, num_items, rows),
        stale=stale,
    )


def _own(before: Start) -> Any:
    return before.names if isinstance(before.names, OwnIds) else ()


def _with_rows(content: Content, num_items: int, rows: Mapping[int, Any]) -> Content:
    """Lengthen content, zeros where nothing is said, and put single items' rows in."""
    if content is None:
        return None

    def longer(part, *own):
        part = np.asarray(part)
        table = np.zeros((num_items, *part.shape[1:]), part.dtype)
        table[: len(part)] = part
        for code, row in zip(rows, own):
            table[code] = row
        return jnp.asarray(table)

    return jax.tree.map(longer, content, *rows.values())


def onward(params: Any) -> Callable[[Any], Any]:
    """Give what replaces newly drawn parameters by those of before, new rows of tables drawn.

    Raises, when that is called:
      ValueError: the parameters are of another model.
    """

    def replaced(drawn: Any) -> Any:
        if jax.tree.structure(drawn) != jax.tree.structure(params):
            raise ValueError(
                "events: expected the columns (times, actions, surfaces, static) that the model "
                "was trained with, found others"
            )
        return jax.tree.map(_lengthened, params, drawn)

    return replaced


def _lengthened(old: jax.Array, fresh: jax.Array) -> jax.Array:
    """Take an array of before, and the fresh one's rows beyond its end."""
    if old.shape == fresh.shape:
        return jnp.asarray(old)
    return jnp.concatenate([jnp.asarray(old), fresh[len(old) :]])


def carried(
    tx: optax.GradientTransformation, opt_state: Any
) -> Callable[[TrainState], TrainState] | None:
    """Give what puts an optimizer's state of before into a state to begin with, where it fits.

    It fits as it is where all shapes are equal. Where tables have grown, the moments per parameter
    get rows for the new items; an optimizer that keeps anything else by shape, as Shampoo does,
    begins anew.
    """
    if opt_state is None:
        return None

    def replaced(state: TrainState) -> TrainState:
        fresh = state.opt_state
        if jax.tree.structure(fresh) != jax.tree.structure(opt_state):
            return state
        same = jax.tree.map(lambda a, b: a.shape == b.shape, opt_state, fresh)
        if not all(jax.tree.leaves(same)):
            of_params = optax.tree.map_params(
                tx, lambda leaf: True, fresh, transform_non_params=lambda leaf: False
            )
            fits = jax.tree.map(lambda own, equal: own or equal, of_params, same)
            if not all(jax.tree.leaves(fits)):
                return state
        return state._replace(opt_state=copied(jax.tree.map(_lengthened, opt_state, fresh)))

    return replaced
