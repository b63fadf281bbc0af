"""`sbc`, `recover` and `plan` on a small study: files, verdicts, exit codes, what an interrupted one keeps."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.cli.simulating import load_study
from bayeshlm.errors import DesignError

PLANNED = """
params = {"Intercept": 1.0, "x": 0.0, "1|arm_sigma": 0.1, "1|arm:site_sigma": 0.05, "sigma": 0.1}
designs = bh.Design.grid(arm=3, site=[3, 6], unit=5, covariates={"x": bh.Normal(0, 1)})
decide = "arm"
costs = {"site": 100, "unit": 1}
target = {"width": 9.0}
plan_params = {"sigma": 0.1}
"""
MODELS = Path(__file__).parents[2] / "models"
ATTACK = "a'\"<script>alert(1)</script>$x$"


@pytest.fixture
def planned(study: Path) -> Path:
    study.write_text(study.read_text(encoding="utf-8") + PLANNED, encoding="utf-8")
    return study


@pytest.mark.parametrize("kind", ["sbc", "recover", "plan"])
def test_each_writes_its_result_and_its_page(run, planned, tmp_path, kind) -> None:
    done = run(kind, planned, "--replicates", 8, "--jobs", 1, "--out", "r.nc", "--seed", 4)
    assert done.exit_code == 0, done.output
    assert "Verdict" in done.stdout
    assert "8 replicates, seed 4" in done.stdout
    with xr.open_datatree(tmp_path / "r.nc", engine="h5netcdf") as stored:
        assert stored.attrs["kind"] == kind
        assert int(stored.attrs["replicates"]) == 8
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or "<!doctype html>" in page[:20]
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page), "the page needs nothing else"
    figures = re.findall(r"<svg[^>]*>", page)
    assert figures
    assert all("aria-label=" in figure and 'role="img"' in figure for figure in figures)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.nc", "study.py"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sbc", "recover"])
@pytest.mark.parametrize("name", ["clinic_trial", "capped_scores", "teaching_methods_as_written"])
def test_studies_that_nuts_samples(run, tmp_path, kind, name) -> None:
    """The models of the gallery, with few groups and few rows in each: a fit of the whole designs takes a minute."""
    text = (MODELS / f"{name}.py").read_text(encoding="utf-8")
    for level, size in {"method": 3, "instructor": 4, "student": 15, "clinic": 9, "patient": 20}.items():
        text = re.sub(rf"^    {level}=\d+,$", f"    {level}={size},", text, flags=re.MULTILINE)
    (tmp_path / "few.py").write_text(text, encoding="utf-8")
    done = run(kind, "few.py", "--replicates", 2, "--jobs", 1, "--seed", 3, "--out", "r.nc")
    assert done.exit_code == 0 or kind == "recover", done.output  # two studies may well miss a parameter twice
    assert "2 replicates, seed 3" in done.stdout
    with xr.open_datatree(tmp_path / "r.nc", engine="h5netcdf") as stored:
        assert (int(stored.attrs["finished"]), int(stored.attrs["failed"])) == (2, 0)
    assert "<svg" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_command_and_the_library_agree(run, planned, tmp_path) -> None:
    assert run("plan", planned, "-n", 3, "-j", 1, "--seed", 4).exit_code == 0
    found = load_study(str(planned))
    direct = bh.plan(
        found.model, found.designs, decide="arm", params=found.plan_params, costs=found.costs, target=found.target,
        replicates=3, n_jobs=1, random_seed=4, progress=False,
    )  # fmt: skip
    with xr.open_dataset(tmp_path / "plan.nc", engine="h5netcdf") as stored:
        xr.testing.assert_identical(stored["loss"].load(), direct["loss"])
        assert stored.attrs["recommendation"] == direct.attrs["recommendation"]
    assert direct.attrs["recommended"] == "site 3"
    assert "site 3" in (tmp_path / "plan.html").read_text(encoding="utf-8")


def test_no_design_that_meets_the_target_is_exit_code_1(run, planned, tmp_path) -> None:
    planned.write_text(planned.read_text().replace('"width": 9.0', '"width": 1e-6'), encoding="utf-8")
    done = run("plan", planned, "-n", 4, "-j", 1)
    assert done.exit_code == 1, done.output
    assert "None of the 2 designs meets the target" in " ".join(done.stdout.replace("│", "").split())
    assert (tmp_path / "plan.html").is_file()


def test_a_calibration_that_fails_is_exit_code_1(run, planned, monkeypatch) -> None:
    from bayeshlm.studies import sbc as module

    right = module.rank

    def low(truth, draws, rng):
        return right(truth, draws + 10.0, rng)

    monkeypatch.setattr(module, "rank", low)
    done = run("sbc", planned, "-n", 20, "-j", 1)
    assert done.exit_code == 1, done.output
    assert "Not calibrated" in done.stdout


@pytest.mark.parametrize(
    ("kind", "lacking", "message"),
    [("plan", "designs", "plan needs designs"), ("plan", "decide", "plan needs decide"),
     ("recover", "params", "recover needs params")],
)  # fmt: skip
def test_what_the_file_lacks_is_named(run, planned, kind, lacking, message) -> None:
    planned.write_text(re.sub(rf"(?m)^{lacking} =.*$", "", planned.read_text()), encoding="utf-8")
    done = run(kind, planned, "-n", 2)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_impossible_files_are_refused_before_any_work(run, planned) -> None:
    assert "must end in .nc" in " ".join(run("sbc", planned, "--out", "x.html").stderr.split())
    assert "No study file" in run("plan", "nowhere.py").stderr
    planned.write_text(
        planned.read_text().replace('costs = {"site"', 'costs = [{"site"').replace('"unit": 1}', '"unit": 1}]')
    )
    with pytest.raises(DesignError, match="'costs' is a list"):
        load_study(str(planned))


def test_names_that_attack_the_page_are_shown_and_do_nothing(run, study, tmp_path) -> None:
    text = study.read_text(encoding="utf-8") + (
        f"designs = {{{ATTACK!r}: design}}\ndecide = 'arm'\ncosts = {{'site': 1}}\n"
    )
    study.write_text(text, encoding="utf-8")
    done = run("plan", study, "-n", 2, "-j", 1)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_ctrl_c_tells_what_is_kept_and_a_rerun_goes_on(planned, tmp_path) -> None:
    planned.write_text(planned.read_text().replace('target = {"width": 9.0}', ""))  # one replicate is sure of nothing
    command = [sys.executable, "-m", "bayeshlm", "plan", "study.py", "--store", "kept", "--jobs", "1", "--seed", "3"]
    process = subprocess.Popen(
        [*command, "--replicates", "5000"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("kept/*/*.npz")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)  # waits for another process, which has no other way to say so
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Finished replicates are kept in 'kept'" in errors
    assert "--seed 3" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("plan.*"))
    kept = len(list(tmp_path.glob("kept/*/*.npz")))
    again = [*command, "--replicates", str(kept)]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("kept/*/*.npz"))) == kept
