"""`bh.report` and `bh.fit` are functions, though submodules have the same names."""

import importlib
import sys

import pytest

import bayeshlm as bh


@pytest.mark.parametrize(("name", "home"), [("report", "bayeshlm.report.html"), ("fit", "bayeshlm.fit")])
def test_importing_the_submodule_leaves_the_function(name: str, home: str) -> None:
    importlib.import_module(home)
    setattr(bh, name, sys.modules[f"bayeshlm.{name}"])  # what the import of a submodule does to its package
    assert getattr(bh, name) is getattr(sys.modules[home], name)


def test_errors_is_the_module() -> None:
    assert bh.errors is importlib.import_module("bayeshlm.errors")
