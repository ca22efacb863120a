"""Damaged files of a run that had stopped: it goes on with the same bits, or is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from experiments.studies.faults.damage import BYTES, Damage, damage_file, damage_folder
from experiments.studies.faults.moments import Draw
from experiments.studies.faults.site import Site, Trial, broken, log_of, tree_of
from experiments.studies.faults.small_run import STAGE

Harm = Callable[[Path, Draw], Damage]


def damaged(site: Site, draw: Draw, *, harm: Harm) -> Trial:
    """Damage a file and resume."""
    folder = site.new()
    shutil.copytree(site.halted, folder)
    before = log_of(folder)
    done = harm(folder, draw)
    found = tree_of(folder)
    started = site.start(folder, resume=True)
    ended = started.end()
    what = f"{done.kind} {done.file.relative_to(folder)}"
    if ended.refused:
        if tree_of(folder) != found:
            return broken(f"{what}: refused, and yet changed", ended)
        return Trial("refused", seconds=ended.at - started.began)
    if ended.code != 0:
        return broken(f"{what}: neither refused nor gone on with", ended)
    named = ended.spoke and ended.spoke - started.began
    logs_too = done.file.name != "metrics.jsonl"  # another figure of a step past cannot be seen
    return site.judged(folder, before=before, seconds=named, logs_too=logs_too)


def newest_checkpoint(folder: Path, draw: Draw) -> Damage:
    """Damage a file of the newest checkpoint."""
    older, newest = _checkpoints(folder)
    return damage_folder(newest, draw, other=older)


def all_checkpoints(folder: Path, draw: Draw) -> Damage:
    """Damage a file of each checkpoint."""
    older, newest = _checkpoints(folder)
    damage_folder(older, draw, other=newest)
    return damage_folder(newest, draw, other=older)


def config(folder: Path, draw: Draw) -> Damage:
    """Damage config.json."""
    return damage_file(folder / "config.json", draw, kind=str(draw.choice(BYTES)))


def log(folder: Path, draw: Draw) -> Damage:
    """Damage metrics.jsonl."""
    return damage_file(folder / "metrics.jsonl", draw, kind=str(draw.choice(BYTES)))


def _checkpoints(folder: Path) -> list[Path]:
    """List the two that are kept, the older one first."""
    steps = [path for path in (folder / "checkpoints" / STAGE).iterdir() if path.name.isdecimal()]
    return sorted(steps, key=lambda path: int(path.name))
