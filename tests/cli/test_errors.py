"""What the user can correct: one message on standard error, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import pytest

FIT = ["fit", "trial.csv", "-f", "y ~ (1 | arm/site)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere.csv", "-f", "y ~ 1 + (1 | g)"], "No file at 'nowhere.csv'"),
        (["fit", "trial.csv", "-f", "y ~ (1 | arm"], "Error: "),
        (["fit", "trial.csv", "-f", "y ~ (1 | arms)"], "did you mean 'arm' for 'arms'?"),
        ([*FIT, "--family", "poisson"], "poisson"),
        ([*FIT, "--prior", "sigma"], "'sigma' is not NAME=PRIOR"),
        ([*FIT, "--prior", "sigma=HalfNormal(-1)"], "must be > 0"),
        ([*FIT, "--prior", "sigma=Flat()", "--prior", "sigma=HalfNormal(1)"], "two priors"),
        ([*FIT, "--prior", "nobody=HalfNormal(1)"], "'nobody' is not a parameter"),
        ([*FIT, "--compare", "teacher"], "Cannot compare 'teacher'"),
        ([*FIT, "--out", "fit.txt"], "'fit.txt' must end in .nc"),
        ([*FIT, "--out", "no/fit.nc", "--report", "no/r.pdf"], "'no/r.pdf' must end in .html"),
        ([*FIT, "--draws", "0"], "--draws"),
        ([*FIT, "--seed", "-1"], "--seed"),
        ([*FIT, "--missing", "error"], "Missing values: 'y' in 1 rows"),
        (["fit", "trial.csv"], "--formula"),
        (["fit", "trial.csv", "study.py", "-f", "y ~ (1 | arm)"], "in quotes"),
        (["fit", "broken.csv", "-f", "a ~ (1 | b)"], "broken.csv"),
        (["fit", "broken.parquet", "-f", "a ~ (1 | b)"], "broken.parquet"),
        (["report", "nowhere.nc"], "No file at 'nowhere.nc'"),
        (["report", "broken.nc"], "cannot be read"),
        (["simulate", "nowhere.py", "--out", "d.csv"], "No study file at 'nowhere.py'"),
        (["simulate", "trial.csv", "--out", "d.csv"], "no Python file"),
        (["simulate", "study.py", "--out", "d.xlsx"], "'d.xlsx' must end in .csv"),
        (["simulate", "study.py:nobody", "--out", "d.csv"], "defines no 'nobody'"),
        (["simulate", "empty.py", "--out", "d.csv"], "'model' is missing; 'design' is missing"),
        (["simulate", "wrong.py", "--out", "d.csv"], "'model' is a int"),
        (["simulate", "failing.py", "--out", "d.csv"], "failing.py, line 2: ZeroDivisionError"),
        (["simulate", "unfinished.py", "--out", "d.csv"], "unfinished.py, line 1: SyntaxError"),
        (["demo", "--out-dir", "trial.csv"], "trial.csv"),
        (["bake"], "bake"),
    ],
)
def test_what_the_user_can_correct(run, trial, study, tmp_path, arguments, message) -> None:
    (tmp_path / "broken.csv").write_text("a,b\n" + "1,2\n" * 30_000 + 'x,"y\n', encoding="utf-8")
    (tmp_path / "broken.parquet").write_text("no parquet", encoding="utf-8")
    (tmp_path / "broken.nc").write_text("no netcdf", encoding="utf-8")
    (tmp_path / "empty.py").write_text("", encoding="utf-8")
    (tmp_path / "wrong.py").write_text("model, design, params = 1, 2, 3\n", encoding="utf-8")
    (tmp_path / "failing.py").write_text("zero = 0\n1 / zero\n", encoding="utf-8")
    (tmp_path / "unfinished.py").write_text("model = (\n", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    done = run(*arguments)
    assert done.exit_code == 2
    assert message.replace(" ", "") in "".join(done.stderr.split())  # wherever it is wrapped
    assert "Error" not in done.stdout
    assert "Traceback" not in done.output
    assert sorted(tmp_path.iterdir()) == before


def test_all_problems_with_files_are_named_at_once(run, trial) -> None:
    done = run(*FIT, "--out", "no/fit.txt", "--report", "no/r.pdf")
    for part in (
        "'no/fit.txt' must end",
        "the folder of 'no/fit.txt'",
        "'no/r.pdf' must end",
        "the folder of 'no/r.pdf'",
    ):
        assert part in done.stderr


def test_an_unforeseen_error_names_its_place_and_has_its_own_code(run, trial, monkeypatch) -> None:
    def fail(*_args, **_kwargs):
        raise RuntimeError("the moon is full")

    monkeypatch.setattr("bayeshlm.data.compress.compress", fail)
    done = run(*FIT)
    assert done.exit_code == 70
    assert "RuntimeError: the moon is full (line " in done.stderr
    assert "Traceback" not in done.output
