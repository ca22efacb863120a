"""The kinds of faults that are tried, by name, and how often each."""

from __future__ import annotations

import dataclasses
import functools
import signal
from collections.abc import Callable

from experiments.studies.faults import disks, files, moments
from experiments.studies.faults.batches import SKIPPED, poisoned
from experiments.studies.faults.disks import failing
from experiments.studies.faults.files import damaged
from experiments.studies.faults.peers import bereft, crowded
from experiments.studies.faults.signals import signalled
from experiments.studies.faults.site import Site, Trial
from experiments.studies.faults.small_run import STEPS

Try = Callable[[Site, moments.Draw], Trial]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """How often each kind is tried.

    Attributes:
      kills: kill -9, half of them in a save.
      stops: SIGTERM and Ctrl-C, each kind.
      disks: that fail, each kind.
      files: that are damaged, each kind.
      others: batches of NaN, each kind, and second processes.
      pairs: of which one process is lost, each kind.
    """

    kills: int
    stops: int
    disks: int
    files: int
    others: int
    pairs: int


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault: its name, how often it is tried, and how."""

    name: str
    count: int
    attempt: Try


def kinds(counts: Counts) -> list[Kind]:
    """List the kinds that are tried at all."""
    found = (*_signals(counts), *_disks(counts), *_files(counts), *_others(counts))
    return [kind for kind in found if kind.count]


def _signals(counts: Counts) -> list[Kind]:
    in_saves = counts.kills // 2
    return [
        Kind(name, count, functools.partial(signalled, number=number, moment=moment))
        for name, count, number, moment in (
            ("kill -9", counts.kills - in_saves, signal.SIGKILL, moments.whole_life),
            ("kill -9 in a save", in_saves, signal.SIGKILL, moments.saving),
            ("SIGTERM in training", counts.stops, signal.SIGTERM, moments.training),
            ("SIGTERM in a save", counts.stops, signal.SIGTERM, moments.saving),
            ("SIGTERM in an evaluation", counts.stops, signal.SIGTERM, moments.evaluating),
            ("Ctrl-C in training", counts.stops, signal.SIGINT, moments.training),
        )
    ]


def _disks(counts: Counts) -> list[Kind]:
    return [
        Kind(name, counts.disks, functools.partial(failing, disk=disk, moment=moment))
        for name, disk, moment in (
            ("no room in training", disks.full, moments.training),
            ("no room in a save", disks.full, moments.saving),
            ("run folder read-only", disks.read_only, moments.training),
            ("run folder gone in training", disks.vanished, moments.training),
            ("run folder gone in a save", disks.vanished, moments.saving),
        )
    ]


def _files(counts: Counts) -> list[Kind]:
    return [
        Kind(name, counts.files, functools.partial(damaged, harm=harm))
        for name, harm in (
            ("newest checkpoint damaged", files.newest_checkpoint),
            ("all checkpoints damaged", files.all_checkpoints),
            ("config.json damaged", files.config),
            ("metrics.jsonl damaged", files.log),
        )
    ]


def _others(counts: Counts) -> list[Kind]:
    few, many = 1, SKIPPED // STEPS + 1  # epochs, of which the second makes a run end
    return [
        Kind(
            f"{few * STEPS} batches of NaN", counts.others, functools.partial(poisoned, epochs=few)
        ),
        Kind(
            f"{many * STEPS} batches of NaN",
            counts.others,
            functools.partial(poisoned, epochs=many),
        ),
        Kind("second process in the folder", counts.others, crowded),
        *(
            Kind(
                f"{who} of two {how}",
                counts.pairs,
                functools.partial(bereft, lost=lost, number=number),
            )
            for how, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP))
            for lost, who in enumerate(("coordinator", "worker"))
        ),
    ]
