from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bayeshlm.cli.commands import app

STUDY = """
import bayeshlm as bh

model = bh.Model(
    "score ~ x + (1 | arm/site)", family="lognormal",
    priors={"Intercept": bh.Normal(1, 0.1), "x": bh.Normal(0, 0.1), "1|arm_sigma": bh.HalfNormal(0.1),
            "1|arm:site_sigma": bh.HalfNormal(0.1), "sigma": bh.HalfNormal(0.2)},
)
design = bh.Design.nested(arm=3, site=4, unit=5, covariates={"x": bh.Normal(0, 1)})
pilot = {"model": model, "design": bh.Design.nested(arm=2, site=2, unit=2, covariates={"x": bh.Normal(0, 1)}),
         "params": {"Intercept": 2.5}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command in an empty folder, as if piped into a file of 80 columns."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TERMINAL_WIDTH"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: object, columns: int | None = None) -> Any:
        env = {} if columns is None else {"COLUMNS": str(columns)}
        return CliRunner().invoke(app, [str(a) for a in arguments], env=env)

    return invoke


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.py"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A small trial: 4 arms with awkward names, 6 sites each, 5 rows a site; a missing outcome."""
    rng = np.random.default_rng(5)
    arms = ["[red]x[/red]", "plain", "a\x1b[31mred", "a very long name of an arm that goes on, and on, and on"]
    arm, site = np.repeat(np.arange(4), 30), np.repeat(np.arange(24), 5)
    effect = np.array([0.0, 0.5, 0.1, -0.4])[arm] + rng.normal(0, 0.1, 24)[site]
    outcome = 3 + effect + rng.normal(0, 0.3, 120)
    outcome[7] = np.nan
    path = tmp_path / "trial.csv"
    pd.DataFrame({"arm": np.array(arms)[arm], "site": site, "y": outcome}).to_csv(path, index=False)
    return path


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the report's writer: what the command line asks of it, without drawing figures."""
    asked: list[dict[str, Any]] = []

    def report(
        posterior: Any, path: Path, *, by: str | None = None, maximize: bool | None = None, reference: Any = None
    ) -> Path:
        asked.append(
            {
                "model": posterior.attrs["model"],
                "path": Path(path),
                "by": by,
                "maximize": maximize,
                "reference": reference,
            }
        )
        Path(path).write_text("<html></html>", encoding="utf-8")
        return Path(path)

    stand_in = types.ModuleType("bayeshlm.report.html")
    stand_in.report = report  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, "bayeshlm.report.html", stand_in)
    return asked
