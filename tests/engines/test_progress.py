"""The bar that appears only where something takes longer than a moment."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from bayeshlm.engines import progress


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the bar is told, in order."""
    told: list[object] = []

    @contextlib.contextmanager
    def bar(title: str, total: int, *, shown: bool, done: int = 0) -> Iterator[Callable[[int, str], None]]:
        told.append((title, total))
        yield lambda done, note: told.append((done, note))
        told.append("gone")

    monkeypatch.setattr(progress, "progress_bar", bar)
    return told


def test_a_quick_job_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = recorded(monkeypatch)
    with progress.late_bar("fitting", shown=True, after=60.0) as show:
        show(1, 2)
    assert told == []


def test_a_long_job_shows_a_bar_and_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is told before it appears; a hundredth in a fifth of a second is a minute and more."""
    told = recorded(monkeypatch)
    with progress.late_bar("fitting", shown=True, after=0.05) as show:
        while not told:
            time.sleep(0.01)
        time.sleep(0.2)
        show(1, 1000)
        show(1000, 1000)
    assert told[0] == ("fitting", 1)
    done, note = told[1]  # type: ignore[misc]
    assert done == 1
    assert "min to go" in note
    assert told[2:] == [(1000, ""), "gone"]


def test_an_interruption_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    told = recorded(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress.late_bar("fitting", shown=True, after=60.0):
        raise KeyboardInterrupt
    time.sleep(0.05)
    assert told == []
