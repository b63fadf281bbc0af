"""What a command prints and how it ends: stages with times, tables, warnings, errors and exit codes.

Every string is printed as it is: a group named ``[red]x[/red]`` is no markup, control characters are shown, not sent.
"""

from __future__ import annotations

import errno
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from bayeshlm.cli.interrupts import interrupts_counted
from bayeshlm.errors import BayeshlmError, BayeshlmWarning, is_failure

# Exit codes: 70 as in sysexits.h, 130 as shells report SIGINT.
NOT_CONVERGED, USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 1, 2, 70, 130
STATUS_STYLES = {"PASS": "bold green", "REVIEW": "bold yellow", "FAIL": "bold red"}
NARROWEST_NAMES = 12  # a column of names narrower than this is unreadable: then rows are stacked
STAGE_WIDTH, DETAIL_WIDTH, TIME_WIDTH = 10, 56, 8
GAP = 2


@dataclass(frozen=True)
class Grid:
    """A table to print: names on the left, figures on the right.

    Attributes
    ----------
    title : str
    columns : tuple of str
    rows : tuple of tuples of str
    note : str
        A remark below the table.
    strong : frozenset of int
        Rows to print bold.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Terminal:
    """Standard output for results, standard error for everything else."""

    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))
    signals: list[int] = field(default_factory=list)

    def stage[T](self, name: str, work: Callable[[], T], detail: Callable[[T], str] = lambda _: "") -> T:
        """Do a piece of work under a running clock, then leave one line: name, what came out, seconds."""
        clock = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
            console=self.err, transient=True, disable=not self.err.is_terminal,
        )  # fmt: skip
        start = time.perf_counter()
        with clock:
            clock.add_task(name, total=None)
            result = work()
        self._done(name, detail(result), time.perf_counter() - start)
        return result

    def work[T](self, name: str, work: Callable[[], T], detail: Callable[[T], str] = lambda _: "") -> T:
        """As `stage`, for work that shows a progress bar of its own."""
        start = time.perf_counter()
        result = work()
        self._done(name, detail(result), time.perf_counter() - start)
        return result

    def _done(self, name: str, detail: str, took: float) -> None:
        self.stop_if_interrupted()
        room = max(0, min(DETAIL_WIDTH, self.out.width - STAGE_WIDTH - TIME_WIDTH - 3))
        line = Text(f"  {name:<{STAGE_WIDTH}}{clean(detail):<{room}}")
        line.append(f" {seconds(took):>{TIME_WIDTH}}", style="cyan")
        self.out.print(line, soft_wrap=True)

    def stop_if_interrupted(self) -> None:
        """Raise KeyboardInterrupt again where a library took Ctrl-C for a request to stop early (PyMC does)."""
        if self.signals:
            raise KeyboardInterrupt

    def say(self, text: str = "", style: str = "") -> None:
        """A paragraph, wrapped at the terminal's width."""
        self.out.print(Text(clean(text, keep="\n"), style=style))

    def line(self, text: str, style: str = "") -> None:
        """A line that is never broken, such as a path."""
        self.out.print(Text(clean(text), style=style), soft_wrap=True)

    def text(self, text: str) -> None:
        """Lines as they are, such as source text: nothing is wrapped or cut."""
        self.out.file.write(clean(text, keep="\n"))

    def heading(self, text: str) -> None:
        self.out.print()
        self.out.print(Text(clean(text), style="bold"))

    def verdict(self, text: str, status: str) -> None:
        """The decision, in a frame coloured by the convergence behind it."""
        self.out.print()
        self.out.print(
            Panel(Text(clean(text)), title="Verdict", title_align="left", border_style=STATUS_STYLES[status])
        )

    def status(self, status: str, text: str) -> None:
        """Convergence: the status in its colour, figures, and a line a message."""
        head, *messages = text.splitlines()
        self.out.print()
        shown = Text("Convergence ", style="bold")
        shown.append(status, style=STATUS_STYLES.get(status, "bold"))
        self.out.print(shown.append(clean(head.removeprefix(status)), style="not bold"))
        for message in messages:
            self.out.print(Text(clean(message), style="red" if status == "FAIL" else "yellow"))

    def grid(self, grid: Grid) -> None:
        """A table; where it is wider than the terminal, its rows one below the other."""
        if grid.title:
            self.heading(grid.title)
        rows = [[clean(cell) for cell in row] for row in grid.rows]
        widths = [max(cell_len(cell) for cell in column) for column in zip(grid.columns, *rows, strict=True)]
        needed = min(widths[0], NARROWEST_NAMES) + sum(widths[1:]) + GAP * (len(widths) - 1)
        if needed <= self.out.width:
            self.out.print(_table(grid, rows))
        else:
            self._stacked(grid, rows)
        if grid.note:
            self.out.print(Text(clean(grid.note), style="dim"))

    def _stacked(self, grid: Grid, rows: list[list[str]]) -> None:
        longest = max(len(name) for name in grid.columns[1:])
        if grid.columns[0]:
            self.out.print(Text(clean(grid.columns[0]), style="underline"))
        for k, (name, *cells) in enumerate(rows):
            self.out.print(Text(name, style="bold" if k in grid.strong else ""))
            for column, cell in zip(grid.columns[1:], cells, strict=True):
                self.out.print(Text(f"  {column:<{longest}} {cell.strip()}"))

    def warn(self, message: str) -> None:
        text = Text("Warning: ", style="bold yellow").append(clean(message), style="not bold yellow")
        self.err.print(text, soft_wrap=not self.err.is_terminal)

    def fail(self, message: str) -> None:
        text = Text("Error: ", style="bold red").append(clean(message, keep="\n"), style="not bold red")
        self.err.print(text, soft_wrap=not self.err.is_terminal)


@contextmanager
def session() -> Iterator[Terminal]:
    """A command's surroundings: warnings become yellow lines, errors one red message and an exit code.

    Raises
    ------
    typer.Exit
        With 2 for what the user can correct, 130 after Ctrl-C, 70 for anything that nobody foresaw.
    """
    terminal = Terminal()
    with _warnings_as_lines(terminal), interrupts_counted(terminal.signals):
        try:
            yield terminal
            terminal.stop_if_interrupted()
        except typer.Exit:
            raise
        except BaseException as error:
            if not (isinstance(error, KeyboardInterrupt) or is_failure(error)):
                raise
            if terminal.signals or isinstance(error, KeyboardInterrupt):
                terminal.fail("Interrupted. No file was left half written.")
                raise typer.Exit(INTERRUPTED) from error
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # `| head` closed the pipe: typer ends quietly
            message, code = _explained(error)
            terminal.fail(message)
            raise typer.Exit(code) from error


def _explained(error: BaseException) -> tuple[str, int]:
    """(message, exit code) of an error."""
    if isinstance(error, BayeshlmError):
        return str(error), USER_ERROR
    if isinstance(error, OSError):
        files = [repr(str(name)) for name in (error.filename, error.filename2) if name is not None]
        return f"{error.strerror or error}{': ' if files else ''}{' -> '.join(files)}", USER_ERROR
    duckdb = sys.modules.get("duckdb")
    if duckdb is not None and isinstance(error, duckdb.Error):  # a broken row shows only when the file is read
        return f"The data cannot be read: {str(error).strip()}", USER_ERROR
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "bayeshlm" in frame.filename]
    where = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
    return (
        f"Unforeseen {type(error).__name__}: {error}{where}. This is a bug of bayeshlm; please report it.",
        INTERNAL_ERROR,
    )


@contextmanager
def _warnings_as_lines(terminal: Terminal) -> Iterator[None]:
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in shown:  # once a command is enough
            shown.add(str(message))
            terminal.warn(str(message))

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=BayeshlmWarning)
        warnings.showwarning = show
        yield


def clean(text: str, keep: str = "") -> str:
    """Text with control characters written out, so that no name can steer the terminal."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text))


def seconds(value: float) -> str:
    """A duration with two digits that matter."""
    if value < 1:
        return f"{value:.2f} s"
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {value % 60:.0f} s"


def _console(*, stderr: bool) -> Console:
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def _table(grid: Grid, rows: list[list[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP // 2))
    for k, name in enumerate(grid.columns):
        table.add_column(Text(name), justify="right" if k else "left", no_wrap=k > 0, overflow="fold")
    for k, row in enumerate(rows):
        table.add_row(*(Text(cell) for cell in row), style="bold" if k in grid.strong else "")
    return table
