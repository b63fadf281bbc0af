from __future__ import annotations

import types

import numpy as np
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.cli import showcase
from bayeshlm.cli.terminal import Terminal


def test_demo_decides_looks_back_and_leaves_its_files(run, tmp_path) -> None:
    done = run("demo", "--out-dir", "out", "--seed", 4)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(showcase.FILES)
    posterior = bh.load(tmp_path / "out" / "fit.nc")
    found = bh.compare(posterior, "method", maximize=True)
    with xr.open_dataset(tmp_path / "out" / "truth.nc", engine="h5netcdf") as truth:
        best = int(truth["method"][int(np.argmax(truth["1|method"].to_numpy()))])
    flat = " ".join(done.stdout.replace("│", " ").split())
    assert found.verdict() in flat
    assert f"Method {best} is truly the best one" in flat
    assert ("the right choice" in flat) == (found.best == best)
    assert done.stderr == ""
    for name in showcase.FILES:
        assert f"out/{name}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("effects", "sentence"), [
    ([0.0, 0.1, -0.1], "Method 1 is truly the best one: the right choice."),
    ([0.2, 0.1, -0.1], "Choosing 1 instead costs 9.5 % of the score."),
])  # fmt: skip
def test_hindsight_counts_the_cost_of_a_wrong_choice(effects, sentence) -> None:
    import pandas as pd

    table = pd.DataFrame(
        {"multiplier": [1.0, 1.1, 0.9], "p_best": [0.2, 0.8, 0.0]}, index=pd.Index([0, 1, 2], name="method")
    )
    found = types.SimpleNamespace(
        leading=1, table=table, probability=lambda p: f"{p:.0%}"
    )  # all of a Comparison that hindsight reads
    truth = xr.Dataset({"1|method": ("method", effects)}, coords={"method": [0, 1, 2]})
    assert showcase.hindsight(found, showcase.multipliers(truth)).endswith(sentence)


def test_coverage_matches_groups_by_their_labels() -> None:
    import pandas as pd

    summary = pd.DataFrame({
        "variable": ["b", "1|g", "1|g"], "label": [None, "y", "x"], "mean": [1.0, 0.0, 0.0], "sd": [0.1, 0.1, 0.1],
        "lower": [0.8, -1.0, 4.0], "upper": [1.2, 1.0, 6.0],
    })  # fmt: skip
    truth = xr.Dataset({"b": 1.3, "1|g": ("g", [5.0, 0.0])}, coords={"g": ["x", "y"]})
    grid = showcase.coverage(summary, truth)
    assert [row[-1] for row in grid.rows] == ["no", "2 of 2"]
    assert grid.rows[0][1] == "1.30"
    Terminal().grid(grid)
