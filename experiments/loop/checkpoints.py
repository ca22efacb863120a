"""One stage's checkpoints: written atomically and sealed, the last two and the best kept.

A checkpoint holds the parameters, their average where there is one, the optimizer's state and a
small JSON record (progress, config, mesh). It is written aside, sealed with a digest of every file
and renamed to its place. One that is not as it was sealed is passed over, and the newest whole one
before it is used. Which one is the best is the caller's knowledge; it is told at every save.

Of several processes each writes what its devices hold; all else is done by the first one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import logging
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from experiments.harness.errors import InputError, disk_error
from experiments.harness.processes import decided_by_first, is_first
from experiments.harness.provenance import first_difference
from experiments.loop.sealed import check, flush_folder, seal

_ASIDE = ".writing-"
_RECORD = "record.json"


class Checkpoints:
    """Save and restore the state of one stage.

    Raises, when it is entered:
        InputError: there are checkpoints and none is whole. Nothing is changed.
    """

    def __init__(self, folder: Path, *, config: Mapping[str, Any], mesh: Mesh):
        """Look after a folder.

        Args:
            folder: made where it is missing.
            config: what a checkpoint must agree in to be gone on from.
            mesh: that the arrays lie on; its shape is noted.
        """
        self._folder = folder.absolute()
        self._config = dict(config)
        self._axes = dict(mesh.shape)
        self._checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        self._latest: int | None = None

    def __enter__(self) -> Checkpoints:
        def open_here() -> int | None:
            self._folder.mkdir(parents=True, exist_ok=True)
            return self._newest_whole()

        self._latest = decided_by_first(open_here)
        self._held = os.open(self._folder, os.O_RDONLY)
        return self

    def __exit__(self, *unused: object) -> None:
        os.close(self._held)
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return self._latest

    def save(
        self,
        step: int,
        *,
        params: Any,
        opt_state: Any,
        progress: Mapping[str, Any],
        best_step: int | None = None,
        average: Any = None,
    ) -> None:
        """Write one checkpoint, then delete all but the last two and that of `best_step`.

        Raises:
            InputError: it cannot be written; those before are as they were.
        """
        items = {"params": params, "optimizer": _never_empty(opt_state, step)}
        items |= {} if average is None else {"average": average}
        args = ocp.args.Composite(
            **{name: ocp.args.StandardSave(item) for name, item in items.items()}
        )
        record = {"progress": dict(progress), "config": self._config, "axes": self._axes}
        place = self._folder / str(step)
        aside = None
        try:
            aside = self._folder / decided_by_first(self._make_aside)
            with _quiet():
                self._checkpointer.save(aside / str(step), args=args)
            decided_by_first(functools.partial(self._finish, aside / str(step), record=record))
        except Exception as error:
            gone = os.strerror(errno.ENOENT) if self._is_gone() else None
            reason = gone or disk_error(error, folder=self._folder)
            if reason is None:
                raise
            raise InputError(f"{place}: cannot be saved ({reason})") from error
        finally:
            if aside is not None and is_first():
                shutil.rmtree(aside, ignore_errors=True)
                if self._is_gone():
                    self._remove_made_again()
        self._latest = step
        if is_first():
            last_two = [each for each in self._steps() if each <= step][-2:]
            for each in set(self._steps()) - {*last_two, best_step}:
                shutil.rmtree(self._folder / str(each), ignore_errors=True)

    def _make_aside(self) -> str:
        """Make the folder that a checkpoint is written in and return its name.

        A name of its own: after a failure threads of orbax may still write under the last one. And
        not by orbax, which makes a vanished run folder again, and so may do later on.
        """
        for left in self._folder.glob(f"{_ASIDE}*"):  # by a kill or a full disk
            shutil.rmtree(left, ignore_errors=True)
        name = f"{_ASIDE}{secrets.token_hex(4)}"
        (self._folder / name).mkdir()
        return name

    def _is_gone(self) -> bool:
        """Say whether the folder is no more, or is another that orbax made in its place."""
        try:
            return not os.path.samestat(os.fstat(self._held), os.stat(self._folder))
        except OSError:
            return True

    def _remove_made_again(self) -> None:
        """Remove the folders that orbax made: of the stage, of all stages, of the run."""
        for path in (self._folder, *self._folder.parents[:2]):
            with contextlib.suppress(OSError):  # it is not there, or not empty
                path.rmdir()

    def _finish(self, written: Path, *, record: Mapping[str, Any]) -> None:
        """Seal what all processes wrote, and rename it to its place."""
        if self._is_gone():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        place = self._folder / written.name
        (written / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        seal(written, name=self._name(int(written.name)))
        if place.exists():  # a damaged one, which was passed over
            os.rename(place, written.parent / "damaged")
        os.rename(written, place)
        flush_folder(self._folder)

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def _name(self, step: int) -> str:
        return f"{self._folder.name}/{step}"

    def _newest_whole(self) -> int | None:
        """Return the step of the newest checkpoint that is as it was sealed, and say what is not.

        One whose best epoch's checkpoint is damaged is none: the run's result would be lost.
        """
        steps, damages = self._steps(), []
        for step in reversed(steps):
            try:
                self._check(step)
            except InputError as error:
                damages.append(error)
                continue
            for damage in damages:
                print(f"{damage}; going on from step {step}", file=sys.stderr)
            return step
        if damages:
            raise InputError(f"{damages[0]}; no other checkpoint of {self._folder.name} is whole")
        return None

    def _check(self, step: int) -> None:
        check(self._folder / str(step), name=self._name(step))
        best = self._read_record(step)["progress"]["best_step"]
        if best not in (None, step):
            check(self._folder / str(best), name=self._name(best))

    def _read_record(self, step: int) -> dict[str, Any]:
        return json.loads((self._folder / str(step) / _RECORD).read_text(encoding="utf-8"))

    def _restore(self, step: int, args: ocp.args.Composite) -> Any:
        with _quiet():
            return self._checkpointer.restore(self._folder / str(step), args=args)

    def read_record(self) -> dict[str, Any] | None:
        """Return "progress" and "axes", the mesh's shape, of the newest checkpoint, or None.

        Raises:
          InputError: it was written under another config; the message names the field.
        """

        def read_here() -> dict[str, Any] | None:
            if self.latest_step is None:
                return None
            record = self._read_record(self.latest_step)
            difference = first_difference(record["config"], self._config)
            if difference:
                raise InputError(f"checkpoint {self._folder}: the config differs: {difference}")
            return record

        return decided_by_first(read_here)

    def restore_params(
        self, step: int, like: Any, *, name: Literal["params", "average"] = "params"
    ) -> Any:
        """Restore the parameters of one step, or their average, laid out as `like`."""
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(like)})
        return self._restore(step, args)[name]

    def restore_opt_state(self, step: int, like: Any) -> Any:
        """Restore the optimizer's state of one step, laid out as `like`."""
        args = ocp.args.Composite(optimizer=ocp.args.StandardRestore(_never_empty(like, step)))
        return self._restore(step, args)["optimizer"]["state"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the threads of orbax and TensorStore from printing tracebacks: the error is raised.

    After an error they are quiet for good: some still run, and the command is about to end.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def all_but_late_answers(args: Any) -> None:
        late = inspect.iscoroutine(args.object) or str(args.exc_value) == "Event loop is closed"
        if not late:
            hook(args)

    sys.unraisablehook = all_but_late_answers
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except BaseException:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise
    sys.unraisablehook = hook
    for logger, level in zip(loggers, levels):
        logger.setLevel(level)


def _never_empty(opt_state: Any, step: int) -> dict[str, Any]:
    """Add a leaf: orbax refuses a tree without any, such as the state of plain SGD."""
    return {"state": opt_state, "step": jax.numpy.int32(step)}
