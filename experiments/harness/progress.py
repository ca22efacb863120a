"""Show how far a loop is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def show_progress(
    label: str,
    *,
    total: int,
    completed: int = 0,
    console: Console | None = None,
    seconds_between_lines: float = 10.0,
) -> Iterator[Callable[[int, str], None]]:
    """Yield `update(completed, text)`, cheap enough to call at every step."""
    console = console or Console()
    if console.is_terminal:
        with _bar(label, total=total, completed=completed, console=console) as update:
            yield update
    else:
        with _lines(label, total=total, console=console, between=seconds_between_lines) as update:
            yield update


@contextlib.contextmanager
def _bar(
    label: str, *, total: int, completed: int, console: Console
) -> Iterator[Callable[[int, str], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(label, total=total, completed=completed, text="")
        yield lambda completed, text: progress.update(task, completed=completed, text=text)


@contextlib.contextmanager
def _lines(
    label: str, *, total: int, console: Console, between: float
) -> Iterator[Callable[[int, str], None]]:
    last = time.monotonic()
    waiting = ""

    def update(completed: int, text: str) -> None:
        nonlocal last, waiting
        waiting = f"{label}  {completed}/{total}  {text}".rstrip()
        if time.monotonic() - last >= between:
            show()

    def show() -> None:
        nonlocal last, waiting
        print(waiting, file=console.file, flush=True)
        last, waiting = time.monotonic(), ""

    yield update
    if waiting:
        show()
