from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.cli.simulating import load_study
from bayeshlm.errors import DesignError


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz", "d.parquet", "D.PQ"])
def test_simulate_writes_what_the_library_draws(run, study, tmp_path, name) -> None:
    done = run("simulate", study, "--out", name, "--truth", "truth.nc", "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "60 rows" in done.stdout
    loaded = load_study(str(study))
    world = bh.simulate(loaded.model, loaded.design, random_seed=3)
    read = pd.read_csv if ".csv" in name else pd.read_parquet
    pd.testing.assert_frame_equal(read(tmp_path / name), world.data, check_dtype=False, check_exact=True)
    with xr.open_dataset(tmp_path / "truth.nc", engine="h5netcdf") as truth:
        assert set(truth.data_vars) == set(world.truth.data_vars)
        np.testing.assert_array_equal(truth["1|arm:site"], world.truth["1|arm:site"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "study.py", "truth.nc"])


def test_a_named_study_and_its_params(run, study, tmp_path) -> None:
    done = run("simulate", f"{study}:pilot", "--out", "d.csv", "--truth", "truth.nc")
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv(tmp_path / "d.csv")) == 8
    with xr.open_dataset(tmp_path / "truth.nc", engine="h5netcdf") as truth:
        assert float(truth["Intercept"]) == 2.5


def test_an_object_with_attributes_is_a_study_too(study) -> None:
    study.write_text(study.read_text() + "class Small:\n    model, design = model, pilot['design']\n")
    assert load_study(f"{study}:Small").params is None


def test_a_study_imports_its_neighbours_and_leaves_nothing_behind(study, tmp_path) -> None:
    (tmp_path / "neighbour_of_study.py").write_text("sites = 7\n")
    study.write_text("from neighbour_of_study import sites\n" + study.read_text().replace("site=4", "site=sites"))
    path, modules = list(sys.path), set(sys.modules)
    assert load_study(str(study)).design.units == 3 * 7 * 5
    assert sys.path == path
    assert set(sys.modules) - modules <= {"neighbour_of_study"}
    del sys.modules["neighbour_of_study"]


def test_a_study_that_quits_is_an_error(study) -> None:
    study.write_text("import sys\n\nsys.exit(0)\n")
    with pytest.raises(DesignError, match=r"study.py, line 3: SystemExit: 0"):
        load_study(str(study))


def test_the_old_file_stays_where_writing_fails(run, study, tmp_path, monkeypatch) -> None:
    (tmp_path / "d.parquet").write_text("old")

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = run("simulate", study, "--out", "d.parquet")
    assert (done.exit_code, done.stderr) == (2, "Error: 'd.parquet' cannot be written: No space left on device.\n")
    assert (tmp_path / "d.parquet").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.parquet", "study.py"]


def test_neither_simulate_nor_fit_needs_pyarrow(study, tmp_path) -> None:
    study.write_text(
        study.read_text()
        .replace("score ~ x +", "score ~ x + kind +")
        .replace('"x": bh.Normal(0, 0.1),', '"x": bh.Normal(0, 0.1), "kind": bh.Normal(0, 0.1),')
        .replace("covariates=", "treatments={'kind': bh.Treatment(['new', 'old'], 'site')}, covariates=", 1)
    )
    code = (
        "import sys\n"
        "sys.modules['pyarrow'] = sys.modules['polars'] = None\n"
        "from bayeshlm.cli.commands import app\n"
        "def run(*arguments):\n"
        "    try:\n        app(list(arguments))\n"
        "    except SystemExit as end:\n        assert end.code == 0, end.code\n"
        "run('simulate', 'study.py', '--out', 'd.parquet', '--seed', '1')\n"
        "run('fit', 'd.parquet', '-f', 'score ~ x + kind + (1 | arm/site)', '--family', 'lognormal', '--seed', '1')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kind[old]" in done.stdout
