"""A real Ctrl-C on a real process: exit code 130, one line, nothing half written."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

WAITING = "import threading\nprint('waiting', flush=True)\n"


def interrupted(arguments: list[str], line: str, folder) -> tuple[int, str]:
    """Start, wait for a line of output, send SIGINT; (exit code, standard error)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bayeshlm", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        seen = []
        for shown in process.stdout:
            seen.append(shown)
            if line in shown:
                break
        else:
            pytest.fail("".join(seen) + process.stderr.read())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    "waits",
    [
        "threading.Event().wait(60)\n",
        "try:\n    threading.Event().wait(60)\nexcept KeyboardInterrupt:\n    pass\n",
    ],
)
def test_ctrl_c_while_a_study_runs_even_if_it_is_swallowed(study, tmp_path, waits) -> None:
    study.write_text(WAITING + waits + study.read_text())
    code, errors = interrupted(["simulate", "study.py", "--out", "d.csv"], "waiting", tmp_path)
    assert (code, errors) == (130, "Error: Interrupted. No file was left half written.\n")
    assert [p.name for p in tmp_path.iterdir()] == ["study.py"]


def test_ctrl_c_during_a_fit(trial, tmp_path) -> None:
    arguments = ["fit", "trial.csv", "-f", "y ~ (1 | arm/site)", "--draws", "400000", "--out", "fit.nc"]
    code, errors = interrupted(arguments, "  read", tmp_path)
    assert code == 130
    assert errors.endswith("Error: Interrupted. No file was left half written.\n")
    assert "Traceback" not in errors
    assert [p.name for p in tmp_path.iterdir()] == ["trial.csv"]
