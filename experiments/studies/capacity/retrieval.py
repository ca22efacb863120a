"""HSNN over a large catalogue: the search of lists dealt over devices, and its joint training."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

import shampoo_jax
from experiments.harness.devices import make_mesh
from experiments.studies.capacity.case import AnyMesh, Case, Laid, bytes_per_device
from experiments.studies.capacity.models import RATE, by_rows, lay_training, traced_flops
from experiments.studies.capacity.program import costs_of
from hsnn_jax import JointConfig, LTIConfig, init_joint, joint_loss
from hsnn_jax.descent.descend import Level
from hsnn_jax.descent.sharded import sharded_search_levels
from hsnn_jax.lists.index import Index, Tiles
from hsnn_jax.monn.config import Features, preset
from hsnn_jax.monn.network import item_vectors, user_vectors
from hsnn_jax.monn.scorers import dot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Three levels of nodes over items, and what a search of them may visit.

    Attributes:
      items: n.
      nodes: K of each level, the coarsest first; the devices must divide the last.
      width: d of all vectors, float32.
      slack: slots of a list over the mean number of what a node lists.
      budgets: per index, most entries that a query scores.
      queries: of a batch; every device routes all of them.
      k: answers.
    """

    items: int = 10**9
    nodes: tuple[int, ...] = (1_000, 100_000, 10_002_432)
    width: int = 64
    slack: float = 1.3
    budgets: tuple[int, ...] = (2_000, 4_000, 16_000)
    queries: int = 64
    k: int = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchRow:
    """Figures of one device.

    Attributes:
      devices: their number.
      source: "compiled" or "computed".
      lists, tiles: bytes of its lists' ids and of their items' vectors, free slots included.
      whole: bytes of what every device has whole: nodes, their vectors, places of the items.
      temporary: bytes of workspace for a batch of queries; None where computed.
      moved: bytes that the all-gather of answers returns per batch.
      flops: per query, of the scorers: at most, by the budgets.
    """

    devices: int
    source: str
    lists: float
    tiles: float
    whole: float
    temporary: float | None
    moved: float
    flops: float

    @property
    def total(self) -> float:
        """Bytes of the index."""
        return self.lists + self.tiles + self.whole


def _levels(catalogue: Catalogue, mesh: AnyMesh) -> tuple[list[Level], list[Index]]:
    """Return the shapes of the levels and indexes, as `shard_index` places them."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shape(*dims: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(dims, dtype, sharding=everywhere)

    users = shape(catalogue.queries, catalogue.width)
    levels, indexes = [], []
    listed = (*catalogue.nodes[1:], catalogue.items)
    ids = functools.partial(shape, dtype=jnp.int32)
    for nodes, rows in zip(catalogue.nodes, listed):
        capacity = math.ceil(catalogue.slack * rows / nodes)
        vectors = shape(nodes, catalogue.width)
        of_nodes = (ids(nodes) for _ in range(3))
        counts, extents, representatives = of_nodes
        lists = ids(nodes, capacity)
        indexes.append(Index(vectors, lists, counts, extents, ids(rows), representatives, ids()))
        levels.append(Level(dot, None, users, shape(nodes, catalogue.width)))
    last = indexes[-1].lists.shape
    indexes[-1] = indexes[-1]._replace(lists=by_rows(mesh, last, jnp.int32))
    tiles = Tiles(by_rows(mesh, (*last, catalogue.width), jnp.float32))
    return [*levels, Level(dot, None, users, tiles)], indexes


def _sizes(levels: Sequence[Level], indexes: Sequence[Index]) -> dict[str, float]:
    lists = bytes_per_device(indexes[-1].lists)
    tiles = bytes_per_device(levels[-1].features)
    nodes = [level.features for level in levels[:-1]]
    return {
        "lists": lists,
        "tiles": tiles,
        "whole": bytes_per_device((tuple(indexes), nodes)) - lists,
    }


def compute_search(catalogue: Catalogue, devices: int) -> SearchRow:
    """Compute a row by the formula."""
    mesh = AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    levels, indexes = _levels(catalogue, mesh)
    # Coarse nodes are all scored; every level of nodes by each device, items by their owners.
    scored = catalogue.nodes[0] + sum(catalogue.budgets[:-1]) + catalogue.budgets[-1] / devices
    return SearchRow(
        devices=devices,
        source="computed",
        temporary=None,
        moved=2 * 4.0 * catalogue.queries * catalogue.k * devices,
        flops=2.0 * catalogue.width * scored,
        **_sizes(levels, indexes),
    )


def compile_search(catalogue: Catalogue, devices: int) -> tuple[SearchRow, float]:
    """Compile the search of a batch of queries.

    Returns:
      The row, and by what share of the program's own figures the formula is off at most: of the
      bytes that the collective returns, and of the index, of which the program may only read less.
    """
    mesh: Mesh = make_mesh(jax.devices()[:devices])
    levels, indexes = _levels(catalogue, mesh)
    beams = [math.ceil(budget * n / m) for budget, n, m in _beams(catalogue)]

    def find(features: list, indexes: list, users: Any) -> Any:
        read = [level._replace(users=users, features=f) for level, f in zip(levels, features)]
        # Places of items are read where items are excluded.
        exclude = jnp.zeros((catalogue.queries, 1), jnp.int32)
        return sharded_search_levels(
            read,
            indexes,
            k=catalogue.k,
            budgets=catalogue.budgets,
            max_beams=beams,
            exclude=exclude,
            mesh=mesh,
            axis="data",
        )

    features = [level.features for level in levels]
    lowered = jax.jit(find).lower(features, indexes, levels[0].users)
    compiled: Any = lowered.compile()
    memory, costs = compiled.memory_analysis(), costs_of(compiled.as_text() or "")
    computed = compute_search(catalogue, devices)
    moved = sum(costs.bytes.values())
    row = dataclasses.replace(
        computed,
        source="compiled",
        temporary=float(memory.temp_size_in_bytes),
        moved=moved,
    )
    read = computed.total + bytes_per_device(levels[0].users) - _unread(indexes, levels)
    off = abs(memory.argument_size_in_bytes - read) / read
    return row, max(off, abs(moved - computed.moved) / max(computed.moved, 1.0))


def _unread(indexes: Sequence[Index], levels: Sequence[Level]) -> float:
    """Sum the bytes of an index that no search reads."""
    del levels
    unread = [(i.nodes, i.representatives, i.overflow) for i in indexes]
    return bytes_per_device(unread)


def _beams(catalogue: Catalogue) -> list[tuple[int, int, int]]:
    """Return, per index, its budget, its nodes and how many entries they list."""
    listed = (*catalogue.nodes[1:], catalogue.items)
    return list(zip(catalogue.budgets, catalogue.nodes, listed))


def joint(
    name: str,
    *,
    codes: tuple[int, ...],
    content: int,
    rows: int,
    negatives: int,
    sizes: Mapping[str, str] | None = None,
) -> Case:
    """Return the joint training of codebooks and a model per level, `rows` pairs per device.

    Features come with the batch; the catalogue is not on the devices.

    Args:
      name: of the case.
      codes: of each level; its nodes are the sums of a code of every level down to it.
      content: width of the dense features of users and items.
      rows: pairs per device.
      negatives: that a batch shares.
      sizes: the paper's size of the models of "nodes" and "items".
    """
    sizes = sizes or {"nodes": "S", "items": "S"}
    user, item = Features(dense={"history": content}), Features(dense={"content": content})
    of = {key: preset(size, user=user, item=item) for key, size in sizes.items()}
    models = (*(of["nodes"] for _ in codes), of["items"])
    config = JointConfig(models=models, index=LTIConfig(num_nodes=codes, total_steps=1000))
    sample = {"content": jax.ShapeDtypeStruct((max(codes), content), jnp.float32)}

    def init_params(key: jax.Array) -> Any:
        features = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sample)
        return init_joint(key, config, item_features=features)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        del key
        value, _ = joint_loss(params, batch, step=config.index.total_steps, config=config)
        return value, {}

    def lay(mesh: AnyMesh) -> Laid:
        pairs = rows * mesh.size
        side = functools.partial(by_rows, mesh, (pairs, content), np.float32)
        everywhere = NamedSharding(mesh, PartitionSpec())
        shared = jax.ShapeDtypeStruct((negatives, content), np.float32, sharding=everywhere)
        batch: Any = {
            "users": ({"history": side()}, None),
            "items": ({"content": side()}, None),
            "representatives": tuple(({"content": side()}, None) for _ in codes),
            "labels": by_rows(mesh, (pairs, 1), np.float32),
            "negatives": {"content": shared},
        }
        laid = lay_training(
            mesh,
            init_params=init_params,
            loss=loss,
            batch=batch,
            layout="replicated",
            tx=shampoo_jax.shampoo(RATE),
        )
        return _with_index_loss(laid, config, shared, pairs=pairs, devices=mesh.size)

    about = (
        f"codebooks of {' x '.join(map(str, codes))}, models {sizes['nodes']} per level of nodes "
        f"and {sizes['items']} of items, {rows} pairs per device, {negatives:,} shared negatives"
    )
    return Case(name=name, layout="replicated", about=about, lay=lay)


def _with_index_loss(
    laid: Laid, config: JointConfig, shared: Any, *, pairs: int, devices: int
) -> Laid:
    """Add what the index loss moves: it reads the items' towers again, and compares whole batches.

    Every level of codes gathers the batch's vectors and sums the gradients of what all share.
    """
    params, last = laid.state.params, laid.state.params["models"][-1]
    codes, width = params["nodes"], params["nodes"][0].shape[1]
    negatives = shared.shape[0]
    summed = bytes_per_device((last["user_tower"], last["item_tower"]))
    summed += sum(4.0 * width * (pairs + negatives + of_level.shape[0]) for of_level in codes)
    gathered = len(codes) * (4.0 * width + 1) * pairs

    model, of_model = config.models[-1], params["models"][-1]
    own = pairs // devices
    user, item = laid.batch["users"][0]["history"], laid.batch["items"][0]["content"]

    def items(of_model: Any, features: Any) -> jax.Array:
        return item_vectors(model, of_model, features={"content": features})

    def users(of_model: Any, features: Any) -> jax.Array:
        return user_vectors(model, of_model, features={"history": features})

    total = lambda of_model, features: jnp.sum(items(of_model, features))  # noqa: E731
    # Every device encodes and quantises all negatives: three products each with codes and weights.
    whole = traced_flops(jax.grad(total), of_model, shared)
    whole += sum(12.0 * negatives * width * of_level.shape[0] for of_level in codes)
    # Both losses encode the pairs by the last model's towers; the compiler finds that out.
    twice = sum(
        traced_flops(encode, of_model, jax.ShapeDtypeStruct((own, x.shape[1]), x.dtype))
        for encode, x in ((items, item), (users, user))
    )
    moved = {"all-reduce": summed, "all-gather": gathered}
    # Five arrays of its own pairs by all pairs are alive at once (read off programs, not derived).
    growing = 5 * 4.0 * own**2
    further = whole * (1 - 1 / devices) - twice
    return dataclasses.replace(laid, moved=moved, further_flops=further, growing=growing)
