"""The progress bar, for whatever takes longer than a second or two: done of all, pace, time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(title: str, total: int, *, shown: bool, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show a bar on standard error; the function it hands out takes (done, note).

    It vanishes when all is done or interrupted, and is nothing where standard error is neither a terminal nor a
    notebook. `done` are there from the start, and do not count for the pace.
    """
    if not shown:
        yield lambda done, note: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    visible = console.is_terminal or console.is_jupyter
    with Progress(
        *columns, console=console, transient=True, disable=not visible, speed_estimate_period=120
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=total, completed=done, rate="", note="")

        def show(done: int, note: str) -> None:
            bar.update(task, completed=done, note=note, rate=_rate(bar.tasks[0].speed))

        yield show


def _rate(speed: float | None) -> str:
    """Per second, or seconds for one."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
