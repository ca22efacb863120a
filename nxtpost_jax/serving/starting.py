"""What a fit begins with: sizes, names and towers, of the caller's arrays or read from a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nxtpost_jax.events import content as contents
from nxtpost_jax.events import log as logs
from nxtpost_jax.events.checks import as_sequences, check_below, check_times
from nxtpost_jax.events.content import GivenContent
from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.kinds import Told
from nxtpost_jax.events.log import Log
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.serving import described
from nxtpost_jax.serving.described import Described
from nxtpost_jax.serving.served import Served, Start
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig

# What towers are like where nobody says (docs/nxtpost/defaults.md): the shortest and the longest
# history that is read, the latter where a user has few and many events on average ...
_LENGTHS = 16, 64, 200
_MANY = 120
# ... and dropout, of small and large logs.
_DROPOUT = 0.5, 0.2
_LARGE = 500_000


def of_numbers(
    config: NxtPostConfig | None, *, content: GivenContent, num_items: int | None
) -> Start:
    """Begin with items that are numbers from 0.

    Raises:
      ValueError: see `content.of_catalogue`.
    """
    config = NxtPostConfig.default() if config is None else config
    content, num_items = contents.of_catalogue(
        content, id_embedding=config.id_embedding, num_items=num_items
    )
    return Start(_towers(config, num_items), num_items, content)


def read(
    config: NxtPostConfig | None,
    given: Start | None,
    events: Any,
    *,
    columns: Mapping[str, str] | None,
    content: Described | None,
    served: Served,
    parts: Told,
) -> tuple[Start, Sequences]:
    """Read what `fit` is given: what to begin with, and the events as sequences of item numbers.

    Args:
      config: see `Recommender`.
      given: of items that the caller sized, else None.
      events, columns, content: see `Recommender.fit`.
      served: what the fit before began with, if any, tells the numbers of its items.
      parts: see `Recommender`.

    Raises:
      ValueError: see `Recommender.fit`.
    """
    before = served.now.start
    if parts and (content is None or given is not None):
        found = f"content of {'numbers' if given is not None else 'nothing'}"
        raise ValueError(f"parts: expected content by the caller's own ids, found {found}")
    if logs.is_table(events):
        if content is not None and given is not None:
            raise _content_beside_numbers()
        log = logs.read_log(events, columns)
        if given is not None:
            return given, in_numbers(log, given)
        said = {"columns": columns, "content": content, "parts": parts}
        return of_log(log, config=config, before=before, **said)
    check_bare(columns, content)
    sequences = as_sequences("events", events)
    check_times("events", sequences)
    start = before if given is None else given
    start = of_sequences(config, sequences) if start is None else start
    check_below("events", sequences.items, start.num_items)
    return start, sequences


def check_bare(columns: Mapping[str, str] | None, content: Described | None) -> None:
    """Refuse what says nothing beside sequences of item numbers."""
    if content is not None:
        raise _content_beside_numbers()
    if columns is not None:
        raise ValueError(f"columns: expected None beside sequences, found {columns}")


def _content_beside_numbers() -> ValueError:
    return ValueError("content: expected None but beside a table with own ids, found some")


def of_sequences(config: NxtPostConfig | None, sequences: Sequences) -> Start:
    """Begin with the items up to the highest number of some sequences.

    Raises:
      ValueError: there is no event.
    """
    if not len(sequences.items):
        raise ValueError("events: expected at least one, found none")
    config = _sized(sequences) if config is None else config
    return of_numbers(config, content=None, num_items=int(sequences.items.max()) + 1)


def of_log(
    log: Log,
    *,
    config: NxtPostConfig | None,
    before: Start | None,
    columns: Mapping[str, str] | None,
    content: Described | None,
    parts: Told,
) -> tuple[Start, Sequences]:
    """Begin with the items of a log, under the caller's own ids.

    Args:
      log: what `log.read_log` gave.
      config: None for one that reads items in their order, and histories as long as the log's.
      before: what the fit before began with; its items keep their numbers.
      columns: {role: name}, kept for tables to come.
      content: what items say of themselves, or None.
      parts: what the caller says of that.

    Returns:
      The start, and the log's sequences.

    Raises:
      ValueError: an id is missing or of another kind than before, the log has no event, the
        config expects fewer actions, or as in `described.at_start`.
    """
    names, actions = OwnIds(), None
    if before is not None and isinstance(before.names, OwnIds):
        names, actions = before.names, before.actions
    items = names.add("item", log.item)
    actions, action_codes = numbered_actions(log, actions)
    sequences, _ = logs.grouped(log, items, action_codes)
    config = _sized(sequences) if config is None else config
    check_actions(config, actions)
    begun, here = None, items
    if content is not None:
        usual = log.item_column
        begun = described.at_start(content, names=names, items=items, told=parts, usual=usual)
        here = np.append(items, begun.codes)
    known, num_items = contents.of_catalogue(
        begun and begun.content,
        id_embedding=config.id_embedding,
        num_items=len(names),
        told_absent_N=begun and begun.absent_N,
    )
    start = Start(
        _towers(config, num_items),
        num_items,
        known,
        names,
        actions,
        columns=dict(columns or {}),
        descriptions=begun and begun.descriptions,
        stale=np.setdiff1d(np.arange(len(names), dtype=np.int32), here),
    )
    return start, sequences


def in_numbers(log: Log, start: Start) -> Sequences:
    """Group a log whose items are the numbers of a start.

    Raises:
      ValueError: an item is none of these.
    """
    items = start.names.codes("item", log.item)
    check_below("item", items, start.num_items)
    _, action_codes = numbered_actions(log, None)
    return logs.grouped(log, items, action_codes)[0]


def numbered_actions(log: Log, before: OwnIds | None) -> tuple[OwnIds | None, np.ndarray | None]:
    """Number actions in the order of their names; those of a fit before keep their numbers."""
    if log.action is None:
        return before, None
    actions = OwnIds() if before is None else before
    actions.add("action", sorted(set(np.asarray(log.action).tolist()), key=str))
    return actions, actions.codes("action", log.action)


def check_actions(config: NxtPostConfig, actions: OwnIds | None) -> None:
    """Refuse more actions than a config has rows for."""
    weights = config.action_weights
    size = config.num_actions or (0 if weights is None else len(weights))
    if size and actions is not None and len(actions) > size:
        raise ValueError(
            f"num_actions: expected at least {len(actions)}, the actions of the log, found {size}"
        )


def _sized(sequences: Sequences) -> NxtPostConfig:
    """Read items in their order: histories then are lists of ids, without times and actions."""
    shortest, short, long = _LENGTHS
    users, events = max(np.count_nonzero(sequences.lengths), 1), len(sequences.items)
    longest = long if events / users > _MANY else short
    max_len = int(np.clip(sequences.lengths.max(), shortest, longest))
    dropout = _DROPOUT[events >= _LARGE]
    return NxtPostConfig.default(max_len=max_len, time_features=False, dropout=dropout)


def _towers(config: NxtPostConfig, num_items: int) -> NxtPost:
    return NxtPost(config, num_items if config.id_embedding else None)
