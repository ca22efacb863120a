"""Whether the parts of a recommender from a folder belong together.

Digests tell that files are as they were saved. They tell nothing of a folder that somebody made:
its parts are looked at before a request reads them, which would else answer anything.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

from nxtpost_jax.events.ids import OwnIds
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.serving.served import Start
from nxtpost_jax.towers.config import NxtPostConfig
from nxtpost_jax.towers.model import NxtPost


def config_of(said: Mapping[str, Any], arrays: int) -> NxtPostConfig:
    """Make the configuration that a header says, of a model of so many arrays.

    Raises:
      ValueError: a value is of another type than the configuration's, or out of range.
    """
    usual = NxtPostConfig()
    for name, value in said.items():
        was = getattr(usual, name, None)
        if was is None or isinstance(was, tuple):
            numbers = value if isinstance(value, list) else [value]
            same = value is None or all(map(_is_number, numbers))
        elif isinstance(was, float):
            same = _is_number(value)
        else:
            same = type(value) is type(was)
        if not same:
            raise ValueError(f"{name}: expected a value such as {was!r}, found {value!r:.60}")
    config = NxtPostConfig(**said)
    if config.num_layers > arrays:  # before a layer each is made
        raise ValueError(f"num_layers: expected at most {arrays}, found {config.num_layers}")
    return config


def check_num_items(num_items: Any, content: Any) -> None:
    """Refuse a number of items that is none, or is not that of the content's rows.

    Raises:
      ValueError: it is that.
    """
    check_range("num_items", np.asarray(num_items), least=1, below=2**31, axes=0)
    for leaf in jax.tree.leaves(content):
        if len(leaf) != num_items:
            raise ValueError(f"content: expected {num_items} rows, found {len(leaf)}")


def check_params(model: NxtPost, params: Any, content: Any) -> None:
    """Refuse parameters that are not the model's: other names, shapes or types, NaN or infinity.

    Raises:
      ValueError: they are not.
    """
    config, example = model.config, dict[str, np.ndarray](items=np.zeros((1, 2), np.int32))
    # A model without gaps is made where the log has no times.
    if "gaps" in params["user_tower"] or config.reads_time_between:
        example["times"] = np.zeros((1, 2), np.float32)
    if config.num_actions or config.action_weights is not None:
        example["actions"] = example["items"]
    if config.num_surfaces:
        example["surfaces"] = example["items"]
    if config.static_sizes:
        example["static"] = np.zeros((1, len(config.static_sizes)), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    expected = _shapes(jax.eval_shape(model.init, key, example, content)["params"])
    found = _shapes(params)
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if wrong:
        name = min(wrong)
        raise ValueError(f"{name}: expected {expected.get(name)}, found {found.get(name)}")
    check_finite(params)


def check_finite(tree: Any) -> None:
    """Refuse NaN and infinity.

    Raises:
      ValueError: there is some; the array is named.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if np.asarray(leaf).dtype.kind == "f" and not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{name}: expected finite numbers, found NaN or infinity")


def check_catalogue(arrays: Mapping[str, np.ndarray], start: Start) -> None:
    """Refuse slots that are no catalogue of this model's: one vector and at most one id each.

    Args:
      arrays: `vectors`, `ids`, `removed` and `recent` as of `Catalogue.restore`.
      start: what the catalogue began with.

    Raises:
      ValueError: they are not that.
    """
    vectors, ids, removed = (arrays[name] for name in ("vectors", "ids", "removed"))
    width = start.model.config.d_model
    if vectors.dtype != np.float32 or vectors.shape != (len(ids), width):
        found = f"{vectors.dtype} of shape {list(vectors.shape)}"
        raise ValueError(f"vectors: expected float32 of shape [{len(ids)}, {width}], found {found}")
    check_finite({"vectors": vectors})
    check_range("recent", arrays["recent"], least=0, below=len(ids), axes=0)
    most = _num_named(start)
    check_range("ids", ids, least=PAD, below=most)
    check_range("removed", removed, least=0, below=most)
    both = np.concatenate([ids[ids != PAD], removed])
    if len(np.unique(both)) < len(both) or (np.diff(removed) < 0).any():
        raise ValueError("ids: expected each in one place, in order, found others")


def check_start(start: Start) -> None:
    """Refuse names that are fewer than the items, and items without a name of their own.

    Raises:
      ValueError: there are such.
    """
    if _num_named(start) < start.num_items:
        raise ValueError(f"names: expected at least {start.num_items}, found {_num_named(start)}")
    check_range("stale", start.stale, least=0, below=start.num_items)


def check_added(added: Mapping[int, Any], start: Start) -> None:
    """Refuse content of later items that is not such as that of the first ones.

    Raises:
      ValueError: it is not.
    """
    first = jax.tree.map(lambda part: part[0], start.content)
    for rows in added.values():
        if _shapes(rows) != _shapes(first):
            raise ValueError(f"content: expected {_shapes(first)}, found {_shapes(rows)}")
        check_finite(rows)


def check_trends(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse events that are no items and finite times, as many of either.

    Raises:
      ValueError: they are none.
    """
    items, times = arrays["items"], arrays["times"]
    check_range("items", items, least=0, below=2**31)
    if times.dtype.kind != "f" or times.shape != items.shape:
        found = f"{times.dtype} of shape {list(times.shape)}"
        raise ValueError(f"times: expected {len(items)} floats, found {found}")
    check_finite({"times": times})


def check_users(users: Mapping[Hashable, Sequences], start: Start) -> None:
    """Refuse events of items that nobody named.

    Raises:
      ValueError: there are some.
    """
    most = _num_named(start)
    for events in users.values():
        check_range("items", events.items, least=0, below=most)
        if events.times is not None:
            check_finite({"times": events.times})


def check_range(name: str, values: np.ndarray, *, least: int, below: int, axes: int = 1) -> None:
    """Refuse what is no array of whole numbers, or has some that are out of range.

    Raises:
      ValueError: it is that.
    """
    if values.dtype.kind not in "iu" or values.ndim != axes:
        found = f"{values.dtype} of shape {list(values.shape)}"
        raise ValueError(f"{name}: expected integers of {axes} dimensions, found {found}")
    if values.size and not least <= values.min() <= values.max() < below:
        found = f"{values.min()} to {values.max()}"
        raise ValueError(f"{name}: expected {least} to {below - 1}, found {found}")


def _num_named(start: Start) -> int:
    return len(start.names) if isinstance(start.names, OwnIds) else np.iinfo(np.int32).max


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
