"""`bh.report` and `bh.fit` are functions, though submodules have the same names."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["report", "fit"])
def test_importing_the_submodule_first_leaves_the_function(name: str) -> None:
    home = {"report": "bayeshlm.report.html", "fit": "bayeshlm.fit"}[name]
    code = f"import importlib, bayeshlm as bh; importlib.import_module({home!r}); print(bh.{name}.__module__, bh.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [home, name]


def test_errors_is_the_module() -> None:
    import bayeshlm as bh

    assert bh.errors is importlib.import_module("bayeshlm.errors")
