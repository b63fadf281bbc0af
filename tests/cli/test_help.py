from __future__ import annotations

import json
import subprocess
import sys

import pytest

import bayeshlm

HEAVY = ["arviz_base", "arviz_stats", "duckdb", "matplotlib", "numpy", "pandas", "pymc", "pytensor", "scipy", "xarray"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from bayeshlm.cli import main\n"
        "sys.argv = ['bayeshlm', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        f"    print(json.dumps([end.code, [m for m in {HEAVY!r} if m in sys.modules]]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *shown, last = out.splitlines()
    assert json.loads(last) == [0, []]
    assert any("simulate" in line for line in shown)


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "bayeshlm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"bayeshlm {bayeshlm.__version__}\n"


@pytest.mark.parametrize("command", ["demo", "fit", "simulate", "report"])
def test_every_command_has_examples(run, command) -> None:
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"  bayeshlm {command} " in shown.output
    assert "\x1b" not in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def test_no_arguments_show_the_commands(run) -> None:
    assert "simulate" in run().output


@pytest.mark.parametrize("command", ["sbc", "recover", "plan", "pymc"])
def test_commands_of_later_issues_are_not_promised(run, command) -> None:
    assert run(command).exit_code == 2
