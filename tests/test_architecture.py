"""Floors, doors and freedom from circles, read from the imports; and a cheap `import bayeshlm`."""

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
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

# Files that others import inside functions, each with its reason; a wing in DEFERRED_IN has one for all it imports so.
DEFERRED_IN = {"cli": "a command imports what it uses, so that an error about its input comes at once"}
DEFERRED = {
    "bayeshlm.engines.exact.density.compiled": "imports Numba, which only many groups with several effects need",
    "bayeshlm.engines.pymc.transform": "derives from a class of PyMC, which is not needed before a model is built",
    "bayeshlm.engines.quadrature.compiled": "imports Numba, which is not needed before a fit",
    "bayeshlm.engines.quadrature.likelihood": "imports Numba, which is not needed before a fit",
    "bayeshlm.posterior.left_out": "derives from a class of ArviZ, which is slow to import and needed by loo alone",
    "bayeshlm.report.contents": "draws with Matplotlib; the page of a study does without it",
    "bayeshlm.report.svg": "imports Matplotlib; the page of a study does without it",
}
# Circles that only a type checker sees.
CIRCLES_OF_TYPES = {
    frozenset({"bayeshlm.engines.exact.crossed.draws", "bayeshlm.engines.exact.crossed.interpolated"}):
        "draws are made from a density's coordinates, and the density draws: the record is named in a signature",
}  # fmt: skip


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


@dataclass(frozen=True)
class Arrow:
    """One import of a file of this package by another: `when` is "now", "deferred" (in a function) or "typing"."""

    source: str
    target: str
    when: str


class Arrows(ast.NodeVisitor):
    """The files that a file imports, and when it does."""

    def __init__(self, source, known):
        self.source, self.known, self.when, self.found = source, known, "now", set()

    def inside(self, when, nodes):
        before = self.when
        self.when = when
        for node in nodes:
            self.visit(node)
        self.when = before

    def visit_If(self, node):
        typing = "TYPE_CHECKING" in ast.dump(node.test)
        self.inside("typing" if typing else self.when, node.body)
        self.inside(self.when, node.orelse)

    def visit_FunctionDef(self, node):
        self.inside("deferred" if self.when == "now" else self.when, node.body)

    def visit_Import(self, node):
        for alias in node.names:
            self.add(alias.name)

    def visit_ImportFrom(self, node):
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.add(whole if whole in self.known else node.module)

    def add(self, name):
        if name in self.known and name != self.source:
            self.found.add(Arrow(self.source, name, self.when))


def file_name(path):
    """`bayeshlm.data.layout`; of a room its own name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows():
    files = {file_name(path): path for path in modules()}
    found = set()
    for name, path in files.items():
        visitor = Arrows(name, files)
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
        found |= visitor.found
    return found


def circles(chosen):
    """Sets of files each of which leads to every other (Tarjan's strongly connected components of more than one)."""
    graph = {}
    for arrow in chosen:
        graph.setdefault(arrow.source, set()).add(arrow.target)
        graph.setdefault(arrow.target, set())
    reach = {name: reachable(graph, name) for name in graph}
    return {
        frozenset({name} | {other for other in reach[name] if name in reach[other]})
        for name in graph if name in reach[name]
    }  # fmt: skip


def reachable(graph, start):
    found, waiting = set(), [start]
    while waiting:
        for target in graph[waiting.pop()] - found:
            found.add(target)
            waiting.append(target)
    return found


def test_no_circle_of_files():
    """Neither by what is imported at once nor by what a function imports: a deferred import hides no circle."""
    assert circles(arrow for arrow in arrows() if arrow.when != "typing") == set()


def test_circles_of_types_have_a_reason():
    """A name needed by a type checker alone may close a circle, where a reason for it stands in the list."""
    assert circles(arrows()) <= set(CIRCLES_OF_TYPES)


def test_deferred_imports_have_a_reason():
    deferred = [arrow for arrow in arrows() if arrow.when == "deferred"]
    elsewhere = [(a.source, a.target) for a in deferred if a.source.split(".")[1] not in DEFERRED_IN]
    unexplained = [pair for pair in elsewhere if pair[1] not in DEFERRED]
    assert unexplained == [], "import it at the top, or say in DEFERRED why not"


def test_the_test_sees_circles():
    """Of three files, one of which imports another when it runs."""
    chosen = [Arrow("a", "b", "now"), Arrow("b", "c", "now"), Arrow("c", "a", "deferred"), Arrow("c", "d", "now")]
    assert circles(chosen) == {frozenset("abc")}
    assert circles(chosen[:2]) == set()
    tree = ast.parse(
        "if TYPE_CHECKING:\n    from bayeshlm.a import x\nelse:\n    from bayeshlm import b\n"
        "def f():\n    import bayeshlm.c\n"
    )
    visitor = Arrows("bayeshlm.here", {"bayeshlm.a", "bayeshlm.b", "bayeshlm.c"})
    visitor.visit(tree)
    assert {(arrow.target, arrow.when) for arrow in visitor.found} == {
        ("bayeshlm.a", "typing"), ("bayeshlm.b", "now"), ("bayeshlm.c", "deferred"),
    }  # fmt: skip


def rooms():
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def room_map(room):
    """(the map's text, what others may import; None where it does not say)."""
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    doors = [ast.literal_eval(node.value) for node in tree.body
             if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]  # fmt: skip
    return ast.get_docstring(tree) or "", doors[0] if doors else None


@pytest.mark.parametrize("room", rooms(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_map_names_everything_inside(room):
    text, doors = room_map(room)
    inside = {path.stem for path in room.glob("*.py") if path.stem != "__init__"}
    inside |= {path.parent.name for path in room.glob("*/__init__.py")}
    assert {name for name in inside if not re.search(rf"\b{name}\b", text)} == set()
    assert set(doors or ()) <= inside


def test_nobody_imports_past_a_door():
    """From outside a room only what its map lists in `__all__` is imported."""
    doors = {file_name(room / "__init__.py"): room_map(room)[1] for room in rooms()}
    past = [
        (arrow.source, arrow.target)
        for arrow in arrows()
        for room, known in doors.items()
        if known is not None
        and arrow.target.startswith(f"{room}.")
        and not arrow.source.startswith(f"{room}.")
        and arrow.source != room
        and arrow.target.removeprefix(f"{room}.").split(".")[0] not in known
    ]
    assert past == []


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
