"""One bar for engines, predictions and studies."""

from __future__ import annotations

import pytest

from bayeshlm.engines.progress import progress_bar


def test_it_shows_how_far_and_what_is_to_be_known(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich takes standard error for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("[SBC]", 8, shown=True, done=3) as show:
        show(5, "[1] failed")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "[SBC]" in shown.err
    assert "5/8" in shown.err
    assert "[1] failed" in shown.err


@pytest.mark.parametrize("shown", [True, False])
def test_it_is_nothing_where_nobody_looks(capsys, monkeypatch, shown) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with progress_bar("SBC", 8, shown=shown) as show:
        show(5, "a note")
    assert capsys.readouterr() == ("", "")


def test_it_is_gone_where_the_work_is_interrupted(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    def interrupted() -> None:
        with progress_bar("SBC", 8, shown=True) as show:
            show(5, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err.endswith("\x1b[2K")  # the line is cleared
