"""One stage's checkpoints: written atomically, the last two and the best kept.

A checkpoint holds the parameters, the optimizer's state and a small JSON record (progress and
config). Which one is the best is the caller's knowledge; it is told at every save.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from experiments.harness.errors import InputError
from experiments.harness.provenance import first_difference


class Checkpoints:
    """Save and restore the state of one stage."""

    def __init__(self, folder: Path, *, config: Mapping[str, Any]):
        self._folder = folder
        self._config = dict(config)
        self._preserved = _LastTwoAndBest()
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._preserved,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,  # a background write would disturb timings
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *unused: object) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        *,
        params: Any,
        opt_state: Any,
        progress: Mapping[str, Any],
        best_step: int | None = None,
    ) -> None:
        """Write one checkpoint, then delete all but the last two and that of `best_step`."""
        self._preserved.best_step = best_step
        record = {"progress": dict(progress), "config": self._config}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                optimizer=ocp.args.StandardSave(_never_empty(opt_state, step)),
                record=ocp.args.JsonSave(record),
            ),
        )

    def read_progress(self) -> dict[str, Any] | None:
        """Return the newest checkpoint's progress, or None where there is no checkpoint.

        Raises:
            InputError: it was written under another config; the message names the field.
        """
        if self.latest_step is None:
            return None
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = self._manager.restore(self.latest_step, args=args)["record"]
        difference = first_difference(record["config"], self._config)
        if difference:
            raise InputError(f"checkpoint {self._folder}: the config differs: {difference}")
        return record["progress"]

    def restore_params(self, step: int, like: Any) -> Any:
        """Restore the parameters of one step, laid out as the shapes and shardings of `like`."""
        args = ocp.args.Composite(params=ocp.args.StandardRestore(like))
        return self._manager.restore(step, args=args)["params"]

    def restore_opt_state(self, step: int, like: Any) -> Any:
        """Restore the optimizer's state of one step, laid out as `like`."""
        args = ocp.args.Composite(optimizer=ocp.args.StandardRestore(_never_empty(like, step)))
        return self._manager.restore(step, args=args)["optimizer"]["state"]


@dataclasses.dataclass
class _LastTwoAndBest(preservation_policy.PreservationPolicy):
    best_step: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: preservation_policy.PreservationContext,
    ) -> list[bool]:
        del context
        last_two = {checkpoint.step for checkpoint in checkpoints[-2:]}
        return [checkpoint.step in {*last_two, self.best_step} for checkpoint in checkpoints]


def _never_empty(opt_state: Any, step: int) -> dict[str, Any]:
    """Add a leaf: orbax refuses a tree without any, such as the state of plain SGD."""
    return {"state": opt_state, "step": jax.numpy.int32(step)}
