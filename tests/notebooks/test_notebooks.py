"""The notebooks as they were committed, and run from top to bottom in a clean kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
FIGURE = "application/vnd.plotly.v1+json"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def assert_clean(notebook: dict[str, Any]) -> None:
    """No errors, no warnings, one figure."""
    found = outputs(notebook)
    assert not [output for output in found if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert len([output for output in found if FIGURE in output.get("data", {})]) == 1


def test_all_notebooks_are_there() -> None:
    assert NAMES == [
        "how_many_instructors.ipynb", "is_it_calibrated.ipynb", "star_class_size.ipynb", "teaching_methods.ipynb",
        "three_schools.ipynb",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_complete_small_and_clean(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    notebook = json.loads(text)
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert_clean(notebook)
    assert len(text) < 1_000_000
    assert not [path for path in ("/home/", "/root/", "/tmp/", "/work/", "site-packages") if path in text]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name: str) -> None:
    """Needs the extra `notebooks`: python -m uv run --extra notebooks pytest -m long tests/notebooks."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        cell["outputs"], cell["execution_count"] = [], None
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert_clean(notebook)
