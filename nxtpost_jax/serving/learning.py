"""A fit: what it begins with, the loop that trains, and what is served after it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.events.log import Table
from nxtpost_jax.events.sequences import Sequences
from nxtpost_jax.events.splits import Queries
from nxtpost_jax.serving import growing, requests, starting
from nxtpost_jax.serving.described import Described
from nxtpost_jax.serving.reading import Backfill, EventFilter, Reader
from nxtpost_jax.serving.served import Served, Start
from nxtpost_jax.towers.config import NxtPostConfig
from nxtpost_jax.training import fitting, optimizers
from nxtpost_jax.training.checkpoint import Checkpoint
from nxtpost_jax.training.fitting import Interrupted, Loop, Plan
from nxtpost_jax.training.objective import Objective
from nxtpost_jax.training.optimizers import Optimizer
from nxtpost_jax.training.post_to_post import pretrain
from nxtpost_jax.training.standing import Record, Standing
from nxtpost_jax.training.task import Task, digest_of_arrays, task

Validation = Queries | Callable[[Any], Mapping[str, float]]
SELECT = "ndcg@10"


class Setup(NamedTuple):
    """Hold what a recommender was set up with; see `Recommender`."""

    config: NxtPostConfig | None
    start: Start | None
    tx: Optimizer
    event_filter: EventFilter | None
    backfill: Backfill | None


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
    objective: Objective,
    batch_size: int,
    buckets: int,
    pretrain_epochs: int,
    seed: int,
    validation: Validation | None,
    seen_filter: bool,
    loop: Loop | None,
    checkpoint: str | os.PathLike | None,
    **plan: Any,
) -> list[Record]:
    """Train and serve by what came of it; arguments as in `Recommender.fit`.

    Raises:
      ValueError, FloatingPointError, KeyboardInterrupt: see `Recommender.fit`.
    """
    _check_alone(loop, checkpoint=checkpoint, **plan)
    _check_selection(validation, seen_filter=seen_filter, select=plan["select"])
    _check_pretraining(pretrain_epochs, more)
    with served.fitting():
        before = served.now
        read = growing.read if more else partial(starting.read, setup.config, setup.start)
        start, sequences = read(events, columns=columns, content=content, served=served)
        reader = Reader(served.blank(start), setup.event_filter, setup.backfill)
        if more:
            reader.at(params=before.params).checked("events", sequences)
        posed = task(
            start.model,
            reader.filtered(sequences),
            content=start.content,
            objective=objective,
            batch_size=batch_size,
            buckets=buckets,
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
        if loop is not None:
            trained = _by_loop(loop, posed, tx, planned)
            _serve(served, start, trained, encoded=requests.items_of_foreign)
            return trained.records
        carry = growing.carried(tx, before.opt_state) if more else None
        try:
            standing = fitting.train(posed, tx=tx, plan=planned, carry=carry)
        except Interrupted as stop:
            _serve(served, start, _trained(stop.standing))
            raise
        _serve(served, start, _trained(standing))
    return standing.records


def _trained(standing: Standing) -> Trained:
    return Trained(standing.kept.params, standing.records, standing.kept.opt_state)


def _serve(
    served: Served,
    start: Start,
    trained: Trained,
    *,
    encoded: Callable[..., jax.Array] = requests.encoded_items,
) -> None:
    params, opt_state = map(_on_one_device, (trained.params, trained.opt_state))
    vectors = encoded(start.model, params, start.content)
    served.finish_fit(start, params, vectors, opt_state=opt_state)


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
    names = ("epochs", "validate_every", "select", "patience")
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
    for name in ("progress", "checkpoint", "mesh"):
        if loop is not None and options[name] is not None:
            raise ValueError(
                f"{name}: expected None beside a loop of your own, found {options[name]!r:.60}"
            )


def _check_selection(validation: Validation | None, *, seen_filter: bool, select: str) -> None:
    if not seen_filter and not isinstance(validation, Queries):
        raise ValueError("seen_filter: expected validation queries beside False, found none")
    if validation is None and select != SELECT:
        raise ValueError(f"select: expected validation beside it, found {select!r} alone")


def _check_pretraining(epochs: int, more: bool) -> None:
    if epochs < 0:
        raise ValueError(f"pretrain_epochs: expected at least 0, found {epochs}")
    if epochs and more:
        raise ValueError(f"pretrain_epochs: expected 0 beside more=True, found {epochs}")
