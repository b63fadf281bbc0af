"""The progress bar, for whatever takes longer than a second or two: done of all, pace, time left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LATE = 2.0  # seconds after which a bar appears


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


@contextlib.contextmanager
def late_bar(title: str, *, shown: bool, after: float = LATE) -> Iterator[Callable[[int, int], None]]:
    """`progress_bar` for what mostly is over before anybody would look: it appears after some seconds.

    The function it hands out takes (done, all that is expected). What is expected to take more than a minute is said.
    """
    if not shown:
        yield lambda done, expected: None
        return
    began, latest = time.monotonic(), [0, 1]
    with contextlib.ExitStack() as stack:
        lock, bars = threading.Lock(), []  # type: tuple[threading.Lock, list[Callable[[int, str], None] | None]]

        def appear() -> None:
            with lock:
                if not bars:
                    bars.append(stack.enter_context(progress_bar(title, latest[1], shown=True, done=latest[0])))

        def show(done: int, expected: int) -> None:
            latest[:] = [done, expected]
            with lock:
                if bars and bars[0] is not None:
                    seconds = (time.monotonic() - began) * (expected / max(done, 1) - 1)
                    bars[0](min(done, expected), f"about {seconds / 60:.0f} min to go" if seconds > 60 else "")

        timer = threading.Timer(after, appear)
        timer.daemon = True
        timer.start()
        try:
            yield show
        finally:
            timer.cancel()
            with lock:  # an appearance under way is waited for, a later one finds the place taken
                bars.append(None)


def _rate(speed: float | None) -> str:
    """Per second, or seconds for one."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
