"""What the documents name is there: files, names in the code, Python that can be read."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document):
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+\.(?:py|ipynb|md))`", text)) | set(re.findall(r"\]\(([\w./]+\.md)\)", text))
    there = [f"/{path.relative_to(ROOT).as_posix()}" for part in ("bayeshlm", "tests", "models", "notebooks", "docs")
             for path in (ROOT / part).rglob("*.*")]  # fmt: skip
    there += [f"/{path.name}" for path in ROOT.glob("*.md")]
    missing = {name for name in named if not any(path.endswith(f"/{name}") for path in there)}
    assert missing == set()


def test_names_of_the_notation_are_those_of_the_code():
    """The middle column of every table: identifiers, each of which the package has as a word."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "bayeshlm").rglob("*.py"))
    words = set(re.findall(r"\w+", code))
    rows = [
        line.replace("\\|", "/") for line in (ROOT / "docs" / "notation.md").read_text(encoding="utf-8").splitlines()
    ]
    cells = [line.split("|")[2] for line in rows if line.startswith("|")]
    names = {word for cell in cells for name in re.findall(r"`([A-Za-z_.]+)`", cell) for word in name.split(".")}
    assert len(names) > 60, "the tables are read"
    assert names - words == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_a_document_can_be_read(document):
    for block in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(block)


def test_the_source_distribution_has_the_documents():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"} <= set(included)
