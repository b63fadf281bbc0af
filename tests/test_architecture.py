"""The floors of the house, read from the imports; and a cheap `import bayeshlm`."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bayeshlm

PACKAGE = Path(bayeshlm.__file__).parent
FLOORS = {"arrays": 1, "errors": 1, "version": 1, "randomness": 2, "spec": 2, "storage": 2, "data": 3,
          "simulation": 3, "engines": 4, "posterior": 5, "fit": 5, "studies": 6, "report": 6, "cli": 7,
          "__main__": 8}  # fmt: skip
# Above the rule "only downward": within a floor these may use those.
BESIDE = {("simulation", "data"), ("fit", "posterior"), ("report", "studies")}
HEAVY = ("pymc", "arviz", "arviz_stats", "arviz_base", "arviz_plots", "matplotlib", "pandas", "xarray", "scipy",
         "narwhals",
         "duckdb", "formulaic", "numpy", "numba")  # fmt: skip


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def wing(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


class Imports(ast.NodeVisitor):
    """Wings of this package that a module imports, anywhere but under TYPE_CHECKING."""

    def __init__(self):
        self.found = set()

    def visit_If(self, node):  # the visitor's own naming
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self.generic_visit(node)
        for other in node.orelse:
            self.visit(other)

    def visit_Import(self, node):
        self.found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("bayeshlm.")}

    def visit_ImportFrom(self, node):
        assert node.level == 0, "imports name the package, so that they can be read"
        parts = (node.module or "").split(".")
        if parts[0] == "bayeshlm":
            assert len(parts) > 1, "the package's own names stand above all floors: import from where they are made"
            self.found.add(parts[1])


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_only_downward(path):
    visitor = Imports()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    here = wing(path)
    wrong = [
        there for there in visitor.found
        if there != here and FLOORS[there] >= FLOORS[here] and (here, there) not in BESIDE
    ]  # fmt: skip
    assert not wrong, f"{here} (floor {FLOORS[here]}) imports {wrong}"


def test_every_wing_has_a_floor():
    assert {wing(path) for path in modules()} <= set(FLOORS)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, bayeshlm; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "bayeshlm" in loaded
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("name", bayeshlm.__all__)
def test_every_public_name_resolves(name):
    assert getattr(bayeshlm, name).__name__.split(".")[-1] == name


def test_the_version_has_one_place():
    """The package's metadata take it from the module; the citation, which is data, repeats it."""
    root = PACKAGE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert root / project["tool"]["hatch"]["version"]["path"] == PACKAGE / "version.py"
    assert f"\nversion: {bayeshlm.__version__}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
    digits = re.compile(rf"[\"']{re.escape(bayeshlm.__version__)}[\"']")
    found = [path for path in modules() if digits.search(path.read_text(encoding="utf-8"))]
    assert found == [PACKAGE / "version.py"]
