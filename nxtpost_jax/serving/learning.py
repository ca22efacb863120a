"""A fit: what it begins with, the loop that trains, and what is served after it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.events.kinds import Told
from nxtpost_jax.events.log import Table
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.splits import Queries, Split, last_of_some
from nxtpost_jax.serving import growing, requests, starting
from nxtpost_jax.serving.described import Described
from nxtpost_jax.serving.reading import Backfill, EventFilter, Reader
from nxtpost_jax.serving.served import Held, Served, Start
from nxtpost_jax.serving.trending import Trending
from nxtpost_jax.towers.config import NxtPostConfig
from nxtpost_jax.training import fitting, optimizers
from nxtpost_jax.training.checkpoint import Checkpoint
from nxtpost_jax.training.fitting import Interrupted, Loop, Plan
from nxtpost_jax.training.objective import Objective, for_items
from nxtpost_jax.training.optimizers import Optimizer
from nxtpost_jax.training.post_to_post import pretrain
from nxtpost_jax.training.standing import Record, Standing
from nxtpost_jax.training.task import Task, digest_of_arrays, task

Validation = Queries | Callable[[Any], Mapping[str, float]]
SELECT = "ndcg@10"
# Of some hundred users NDCG stands still for a while by chance, and training would end too soon.
SELECT_HELD_OUT = "mlrr"
FEWEST = 25  # users of either kind below whom nothing is held out
EPOCHS = 20  # where nothing tells when to end
EPOCHS_MORE = 2
MOST_EPOCHS = 100
PATIENCE = 8
AVERAGE = 0.1
LONG = 32  # events


class Setup(NamedTuple):
    """Hold what a recommender was set up with; see `Recommender`."""

    config: NxtPostConfig | None
    start: Start | None
    tx: Optimizer
    event_filter: EventFilter | None
    backfill: Backfill | None
    parts: Told


class Trained(NamedTuple):
    """Hold what a loop gave."""

    params: Any
    records: list[Record]
    opt_state: Any = None


def learn(
    served: Served,
    events: Sequences | Table | list,
    *,
    setup: Setup,
    columns: Mapping[str, str] | None,
    content: Described | None,
    more: bool,
    objective: Objective | None,
    batch_size: int | None,
    buckets: int | None,
    pretrain_epochs: int,
    seed: int,
    validation: Validation | None,
    seen_filter: bool,
    loop: Loop | None,
    checkpoint: str | os.PathLike | None,
    epochs: int | None,
    **plan: Any,
) -> list[Record]:
    """Train and serve by what came of it; arguments as in `Recommender.fit`.

    Raises:
      ValueError, FloatingPointError, KeyboardInterrupt: see `Recommender.fit`.
    """
    _check_alone(loop, checkpoint=checkpoint, **plan)
    _check_pretraining(pretrain_epochs, more)
    with served.fitting():
        before = served.now
        begin = partial(starting.read, setup.config, setup.start, parts=setup.parts)
        read = growing.read if more else begin
        start, sequences = read(events, columns=columns, content=content, served=served)
        served.check_index(start)
        reader = Reader(served.blank(start), setup.event_filter, setup.backfill)
        if more:
            reader.at(params=before.params).checked("events", sequences)
        sequences = reader.filtered(sequences)
        trending = Trending.begun(start.model, sequences)
        reader = reader.at(trending=trending)
        plan["epochs"], held = epochs, None
        plan["average"] = AVERAGE if plan["average"] is None else plan["average"]
        if epochs is None:
            asked = None if more or validation is not None else _held_out(sequences, seed=seed)
            if asked is not None:
                sequences, validation = asked.train, asked.validation
                held = Held(asked.train, asked.test, seen_filter)
            plan |= _chosen(plan, more=more, validated=validation is not None)
        _check_selection(validation, seen_filter=seen_filter, select=plan["select"])
        plan["select"] = plan["select"] or (SELECT if held is None else SELECT_HELD_OUT)
        posed = task(
            start.model,
            sequences,
            content=start.content,
            objective=for_items(start.num_items) if objective is None else objective,
            batch_size=_rows_for(sequences) if batch_size is None else batch_size,
            buckets=_buckets_for(start.model.config) if buckets is None else buckets,
            seed=_another(seed, before.num_fits) if more else seed,
            start=growing.onward(before.params) if more else None,
        )
        validate = _validate(reader, validation, seen_filter=seen_filter, select=plan["select"])
        planned = Plan(validate=validate, checkpoint=None, **plan)
        if checkpoint is not None:
            call = _call(posed, planned, setup.tx) | {
                "pretrain_epochs": pretrain_epochs,
                "validation": _told(validation),
                "seen_filter": seen_filter,
                "more": digest_of_arrays(before.params) if more else None,
            }
            planned = dataclasses.replace(planned, checkpoint=Checkpoint(checkpoint, call))
        if pretrain_epochs:
            posed = _pretrained(posed, pretrain_epochs)
        size = posed.steps_per_epoch
        tx = optimizers.made(setup.tx, epochs=planned.epochs, steps_per_epoch=max(size, 1))
        kept: dict[str, Any] = {"held": held, "trending": trending}
        if loop is not None:
            trained = _by_loop(loop, posed, tx, planned)
            _serve(served, start, trained, encoded=requests.items_of_foreign, **kept)
            return trained.records
        carry = growing.carried(tx, before.opt_state) if more else None
        try:
            standing = fitting.train(posed, tx=tx, plan=planned, carry=carry)
        except Interrupted as stop:
            _serve(served, start, _trained(stop.standing), **kept)
            raise
        _serve(served, start, _trained(standing), **kept)
    return standing.records


def _rows_for(sequences: Sequences) -> int:
    """Choose the rows of a step: a power of two from 16 to 128, such that an epoch has many."""
    return 2 ** int(np.clip(math.log2(max(len(sequences), 1) / 25), 4, 7))


def _buckets_for(config: NxtPostConfig) -> int:
    """Choose the widths of rows: several where histories are long, and so of many lengths."""
    return 3 if config.max_len > LONG else 1


def _held_out(sequences: Sequences, *, seed: int) -> Split | None:
    """Hold out what tells when to end, and what is reported; None where there are few users."""
    split = last_of_some(sequences, seed=seed)
    return split if len(split.validation) >= FEWEST else None


def _chosen(plan: Mapping[str, Any], *, more: bool, validated: bool) -> dict[str, int | None]:
    """Choose how long to train where the caller does not say."""
    if more:
        return {"epochs": EPOCHS_MORE}
    if not validated:
        return {"epochs": EPOCHS}
    patience = PATIENCE if plan["patience"] is None else plan["patience"]
    return {"epochs": MOST_EPOCHS, "patience": patience}


def _trained(standing: Standing) -> Trained:
    return Trained(standing.kept.served, standing.records, standing.kept.opt_state)


def _serve(
    served: Served,
    start: Start,
    trained: Trained,
    *,
    encoded: Callable[..., jax.Array] = requests.encoded_items,
    **kept: Any,
) -> None:
    params, opt_state = map(_on_one_device, (trained.params, trained.opt_state))
    vectors = encoded(start.model, params, start.content)
    served.finish_fit(start, params, vectors, opt_state=opt_state, **kept)


def _on_one_device(tree: Any) -> Any:
    """Bring arrays that are dealt over several devices, or are on the host, to the default one."""

    def moved(array):
        if isinstance(array, jax.Array) and len(array.sharding.device_set) == 1:
            return array
        return jnp.asarray(np.asarray(array))

    return jax.tree.map(moved, tree)


def _by_loop(loop: Loop, posed: Task, tx: Any, plan: Plan) -> Trained:
    outcome = loop(
        posed,
        tx=tx,
        epochs=plan.epochs,
        validate=plan.validate,
        validate_every=plan.validate_every,
        select=plan.select,
        patience=plan.patience,
        log=plan.log,
    )
    if not isinstance(outcome, tuple) or len(outcome) != 2:
        raise ValueError(f"loop: expected (params, records) from it, found {outcome!r:.60}")
    return Trained(*outcome)


def _pretrained(posed: Task, epochs: int) -> Task:
    """Begin with a post tower that was trained on pairs of posts."""
    try:
        tower, _ = pretrain(
            posed.model, posed.sequences, content=posed.content, epochs=epochs, seed=posed.seed
        )
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} of pretraining; lower the learning rate") from None
    return dataclasses.replace(posed, start=lambda drawn: drawn | {"post_tower": tower})


def _validate(
    reader: Reader, validation: Validation | None, *, seen_filter: bool, select: str
) -> fitting.Validate | None:
    if callable(validation):
        return lambda params: {name: float(value) for name, value in validation(params).items()}
    return requests.validation(reader, validation, seen_filter=seen_filter, select=select)


def _call(posed: Task, plan: Plan, tx: Optimizer) -> dict[str, Any]:
    """Say what a training is of, for its checkpoints."""
    parts = [getattr(posed.sequences, field.name) for field in dataclasses.fields(posed.sequences)]
    call = {
        "config": dataclasses.asdict(posed.model.config),
        "num_items": posed.model.num_items,
        "objective": dataclasses.asdict(posed.objective),
        "events": digest_of_arrays(parts),
        "content": digest_of_arrays(posed.content),
        "devices": 1 if plan.mesh is None else plan.mesh.size,
        "tx": tx if isinstance(tx, str) else "a transformation",
    }
    call |= {name: getattr(posed, name) for name in ("batch_size", "buckets", "seed")}
    call |= {"fsdp": True} if plan.fsdp else {}
    names = ("epochs", "validate_every", "select", "patience", "average")
    return json.loads(json.dumps(call | {name: getattr(plan, name) for name in names}))


def _told(validation: Validation | None) -> str | None:
    if isinstance(validation, Queries):
        histories = validation.histories
        return digest_of_arrays(histories.items, histories.offsets, validation.targets)
    return None if validation is None else "a function"


def _another(seed: int, num_fits: int) -> int:
    """Draw another seed, so that a fit that goes on meets other draws than the fits before."""
    return int(np.random.SeedSequence((seed, num_fits)).generate_state(1)[0] >> 1)


def _check_alone(loop: Loop | None, **options: Any) -> None:
    """Refuse what is the built-in loop's beside another one."""
    for name in ("progress", "checkpoint", "mesh", "average"):
        if loop is not None and options[name] is not None:
            raise ValueError(
                f"{name}: expected None beside a loop of your own, found {options[name]!r:.60}"
            )


def _check_selection(
    validation: Validation | None, *, seen_filter: bool, select: str | None
) -> None:
    if not seen_filter and not isinstance(validation, Queries):
        raise ValueError("seen_filter: expected validation queries beside False, found none")
    if validation is None and select is not None:
        raise ValueError(f"select: expected validation beside it, found {select!r} alone")


def _check_pretraining(epochs: int, more: bool) -> None:
    if epochs < 0:
        raise ValueError(f"pretrain_epochs: expected at least 0, found {epochs}")
    if epochs and more:
        raise ValueError(f"pretrain_epochs: expected 0 beside more=True, found {epochs}")
