"""The bar of a study: done of all, failed, replicates a second, time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Bar:
    """Rich's progress bar on standard error; nothing where that is neither a terminal nor a notebook."""

    def __init__(self, description: str, total: int, done: int, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            console=console, transient=True, disable=not (shown and (console.is_terminal or console.is_jupyter)),
            speed_estimate_period=120,
        )  # fmt: skip
        self._task = self._progress.add_task(description, total=total, completed=done, rate="", note="")
        self._failed = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, *, failed: bool) -> None:
        """One replicate more."""
        self._failed += failed
        speed = self._progress.tasks[0].speed
        rate = "" if not speed else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        note = f"{self._failed} failed" if self._failed else ""
        self._progress.update(self._task, advance=1, rate=rate, note=note)
