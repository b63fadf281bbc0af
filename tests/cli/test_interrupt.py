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


IMPORTING = """
import os, signal, sys
from bayeshlm.cli.interrupts import in_extension_import, interrupts_counted

when, seen, sent = int(sys.argv[1]), [], []

def at_a_nested_import(event, arguments):
    if event == "import" and not sent and in_extension_import(sys._getframe()):
        seen.append(arguments[0])
        if len(seen) == when:
            sent.append(arguments[0])
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(at_a_nested_import)
signals = []
try:
    with interrupts_counted(signals):
        import scipy.optimize, scipy.stats
        for _ in range(10_000):  # it may have been the last import
            pass
        import threading
        threading.Event().wait(60)
except KeyboardInterrupt:
    print("interrupted", len(sent), len(signals) >= 2)
"""


@pytest.mark.parametrize("when", [1, 40, 90, 130, 150])
def test_ctrl_c_inside_the_import_of_a_compiled_module(when) -> None:
    """SciPy's Cython cannot pass a KeyboardInterrupt on: Python would print it with a traceback, and go on."""
    done = subprocess.run([sys.executable, "-c", IMPORTING, str(when)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("interrupted 1 True\n", "")


IGNORED = """
import os, signal
from bayeshlm.cli.interrupts import interrupts_counted

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))

class Broken:
    def __del__(self):
        raise ValueError("told as ever")

try:
    with interrupts_counted([]):
        Broken()
        Finalised()
        import threading
        threading.Event().wait(60)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_inside_a_finaliser_is_neither_printed_nor_lost() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORED], capture_output=True, text=True, check=False)
    assert done.stdout == "interrupted\n"
    assert "ValueError: told as ever" in done.stderr
    assert "KeyboardInterrupt" not in done.stderr


def test_ctrl_c_before_a_command_begins(tmp_path) -> None:
    code = (
        "import os, signal, sys\n"
        "sys.addaudithook(lambda event, arguments: event == 'import' and arguments[0] == 'rich.table' "
        "and os.kill(os.getpid(), signal.SIGINT))\n"
        "from bayeshlm.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Error: Interrupted.\n")


def test_ctrl_c_during_a_fit(trial, tmp_path) -> None:
    arguments = ["fit", "trial.csv", "-f", "y ~ (1 | arm/site)", "--draws", "400000", "--out", "fit.nc"]
    code, errors = interrupted(arguments, "  read", tmp_path)
    assert code == 130
    assert errors.endswith("Error: Interrupted. No file was left half written.\n")
    assert "Traceback" not in errors
    assert [p.name for p in tmp_path.iterdir()] == ["trial.csv"]
