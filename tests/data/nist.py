"""NIST's nine ANOVA data sets SmLs01-SmLs09 in one table: sums of squares under offsets up to 1e12."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh

FOLDER = Path(__file__).parents[1] / "references" / "nist"
NAMES = [f"SmLs0{k}" for k in range(1, 10)]
MODEL = bh.Model("y ~ 1 + (1 | dataset/treatment)")


def nist_table() -> pd.DataFrame:
    """The nine data sets, one below the other: groups lie 1e12 apart and vary by 0.1."""
    spec = importlib.util.spec_from_file_location("smls", FOLDER / "smls.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = [(name, *module.smls(name)) for name in NAMES]
    return pd.concat([pd.DataFrame({"dataset": name, "treatment": t, "y": y}) for name, t, y in made])


def assert_nist(statistics: Any) -> None:
    """Sums of squares within the treatments of every data set, from cells alone."""
    answers = {a["name"]: a for a in json.loads((FOLDER / "smls.json").read_text())["datasets"]}
    names = [name for (name,) in statistics.members[0]]
    assert names == NAMES
    for k, name in enumerate(names):
        within = statistics.scatter[statistics.codes[:, 0] == k, 0, 0].sum()
        # y itself is spaced by eps * offset: sums of squares of deviations of 0.1 can be this exact and no more.
        tolerance = max(1e-13, 4 * np.finfo(float).eps * answers[name]["offset"])
        assert within == pytest.approx(answers[name]["of_doubles"]["within_ss"], rel=tolerance), name
