"""Times that need processes of their own: another environment, other threads, another interpreter.

Workers take turns as whole processes, round by round; each prints one line of JSON with the
milliseconds of its steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from experiments.harness.errors import bad_input


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """One contestant: a command and what it changes in the environment (None unsets a name)."""

    command: Sequence[str]
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def milliseconds(self) -> list[float]:
        """Run the command once.

        Raises:
          InputError: the command failed, or there is none.
        """
        environment = {**os.environ, **self.environment}
        kept = {name: value for name, value in environment.items() if value is not None}
        expected = "a command that ends well"
        try:
            done = subprocess.run(
                self.command, env=kept, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise bad_input(self.command[0], expected=expected, found=str(error)) from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise bad_input(self.command[0], expected=expected, found=last)
        return json.loads(done.stdout.splitlines()[-1])["milliseconds"]


def take_turns(workers: Mapping[str, Worker], *, rounds: int) -> dict[str, list[float]]:
    """Return the mean milliseconds of every worker, one per round."""
    found: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            found[name].append(statistics.fmean(worker.milliseconds()))
    return found


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Keep `count` cores busy meanwhile."""
    loop = "while True: sum(range(100_000))"
    neighbours = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
