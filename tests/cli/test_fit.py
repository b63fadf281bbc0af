from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from bayeshlm.cli.fitting import parse_priors
from bayeshlm.cli.terminal import clean
from bayeshlm.errors import PriorError
from bayeshlm.posterior.compare import compare
from bayeshlm.posterior.store import load
from bayeshlm.spec.priors import HalfNormal, Normal

FIT = ["fit", "trial.csv", "-f", "y ~ (1 | arm/site)", "--seed", "1", "--draws", "250"]


def test_fit_decides_saves_and_reports(run, trial, reports, tmp_path) -> None:
    done = run(
        *FIT,
        "--compare",
        "arm",
        "--maximize",
        "--out",
        "fit.nc",
        "--report",
        "r.html",
        "--prior",
        "1|arm_sigma=HalfNormal(1)",
    )
    assert done.exit_code == 0, done.output
    posterior = load(tmp_path / "fit.nc")
    found = compare(posterior, "arm", maximize=True)
    assert posterior.attrs["random_seed"] == 1
    assert '"1|arm_sigma": {"name": "HalfNormal", "sigma": 1.0}' in posterior.attrs["model"]
    assert found.best == "plain"
    flat = " ".join(done.stdout.replace("│", " ").split())
    assert clean(found.verdict()) in flat
    assert f"{found.table.loc['plain', 'difference']:.2f}" in done.stdout
    assert reports == [
        {
            "model": posterior.attrs["model"],
            "path": tmp_path.relative_to(tmp_path) / "r.html",
            "by": "arm",
            "maximize": True,
            "reference": None,
        }
    ]
    for heading in ("Convergence", "Common effects", "Variance components", "Shares of variance"):
        assert heading in done.stdout


def test_figures_are_those_of_the_posterior(run, trial, tmp_path) -> None:
    done = run(*FIT, "--out", "fit.nc")
    sigma = load(tmp_path / "fit.nc")["posterior"]["sigma"].to_numpy()
    row = next(line for line in done.stdout.splitlines() if line.startswith("sigma"))
    shown = [float(x) for x in row.split()[1:5]]
    half_a_digit = 0.5 * 10.0 ** -len(row.split()[1].partition(".")[2])
    expected = [sigma.mean(), sigma.std(ddof=1), *np.quantile(sigma, [0.025, 0.975])]
    assert np.abs(np.array(shown) - expected).max() <= half_a_digit * 1.0001


def test_csv_parquet_and_glob_give_the_same(run, trial, tmp_path) -> None:
    table = pd.read_csv(trial)
    table.to_parquet(tmp_path / "trial.parquet")
    for k, part in enumerate((table[:50], table[50:])):
        part.to_csv(tmp_path / f"part-{k}.csv", index=False)
    outputs = []
    for source in ("trial.csv", "trial.parquet", "part-*.csv"):
        done = run("fit", source, *FIT[2:])
        assert done.exit_code == 0, done.output
        outputs.append([line for line in done.stdout.splitlines() if line.startswith(("sigma", "Intercept", "1|"))])
    assert len(outputs[0]) == 4
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_fit_that_did_not_converge_ends_with_1_and_says_so(run, trial, reports) -> None:
    done = run(*FIT, "--draws", "1", "--chains", "1", "--compare", "arm", "--minimize", "--out", "fit.nc")
    assert done.exit_code == 1
    assert "Convergence FAIL" in done.stdout
    assert "THE FIT DID NOT CONVERGE" in done.stdout
    assert "Variance components" in done.stdout
    again = run("report", "fit.nc")
    assert again.exit_code == 1
    assert "Convergence FAIL" in again.stdout


def test_warnings_are_clean_lines_on_standard_error(run, trial) -> None:
    done = run(*FIT)
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 2
    assert all(line.startswith("Warning: ") for line in lines)
    assert "1 of 120 rows dropped" in lines[0]
    assert ".py" not in done.stderr
    assert "Warning" not in done.stdout


@pytest.mark.parametrize("columns", [None, 60, 40])
def test_nothing_is_cut_off_or_coloured_in_a_pipe(run, trial, columns) -> None:
    done = run(*FIT, "--compare", "arm", "--minimize", columns=columns)
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "…" not in done.output
    width = columns or 80
    tables = done.stdout[done.stdout.index("Convergence") :]
    assert max(map(len, tables.splitlines())) <= width
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", tables).split())
    assert "P(best)" in words
    assert "R-hat" in words
    assert "a very long name of an arm that goes on, and on, and on" in words or columns is None or columns > 40
    assert len(re.findall(r"\d+\.\d", words)) > 40


def test_names_are_no_markup_and_cannot_steer_the_terminal(run, trial) -> None:
    done = run(*FIT, "--compare", "arm", "--minimize", columns=120)
    assert "[red]x[/red]" in done.stdout
    assert r"a\x1b[31mred" in done.stdout


def test_colours_where_they_are_asked_for(run, trial, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;32mPASS" in run(*FIT).stdout


def test_report_of_a_saved_posterior(run, trial, reports, tmp_path) -> None:
    assert run(*FIT, "--out", "fit.nc").exit_code == 0
    done = run("report", "fit.nc", "--by", "arm", "--maximize")
    assert done.exit_code == 0, done.output
    assert [(r["path"].name, r["by"], r["maximize"]) for r in reports] == [("report.html", "arm", True)]
    assert "Choose arm plain" in done.stdout
    assert "Choose" not in run("report", "fit.nc", "--by", "arm").stdout
    unknown = run("report", "fit.nc", "--by", "teacher")
    assert unknown.exit_code == 2
    assert len(reports) == 2


@pytest.mark.parametrize(
    ("option", "name", "prior"),
    [
        ("sigma=HalfNormal(0.2)", "sigma", HalfNormal(0.2)),
        ("1|method_sigma = HalfNormal( 0.2 )", "1|method_sigma", HalfNormal(0.2)),
        ("C(x)=Normal(mu=0, sigma=2)", "C(x)", Normal(0, 2)),
        ("I(x==1)=Normal(0, sigma=2)", "I(x==1)", Normal(0, 2)),
        ("a=log(b)=Normal(1, 2)", "a=log(b)", Normal(1, 2)),
    ],
)
def test_the_name_of_a_prior_may_hold_anything(option, name, prior) -> None:
    assert parse_priors([option]) == {name: prior}


def test_every_prior_that_cannot_be_read_is_named() -> None:
    with pytest.raises(
        PriorError, match=r"'one' is not NAME=PRIOR.*'b': Unknown prior 'Foo'.*'c': Cannot read"
    ) as caught:
        parse_priors(["one", "a=Normal(0, 1)", "b=Foo(1)", "c=Normal(__import__('os'))"])
    assert "'a'" not in str(caught.value)


def test_the_treatments_question_on_the_command_line(run, tmp_path) -> None:
    """A 0/1 column, a number, a subgroup and a reference; without a direction nothing is chosen."""
    rng = np.random.default_rng(2)
    clinic = np.repeat(np.arange(16), 10)
    data = pd.DataFrame({"clinic": clinic, "treated": clinic % 2, "sex": rng.choice(["f", "m"], 160)})
    data["dose"] = clinic % 4
    data["arm"] = np.array(["new", "old", "usual care"])[clinic % 3]
    data["pain"] = 5 - 1.5 * data["treated"] + rng.normal(0, 0.2, 16)[clinic] + rng.normal(0, 1, 160)
    data.to_csv(tmp_path / "pain.csv", index=False)
    fit = ("fit", "pain.csv", "--seed", "1", "--draws", "250", "-f")

    def words(formula: str, *options: str) -> str:
        done = run(*fit, formula, *options)
        assert done.exit_code == 0, done.output
        return " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stdout).split())

    two = words("pain ~ treated * sex + (1 | clinic)", "--compare", "treated", "--compare", "treated:sex")
    assert "1 against 0: -1." in two
    assert "P(smallest)" in two
    assert "Effect of treated 1 against 0, by sex: f: -1." in two
    assert "Choose" not in two
    assert "Choose treated 1: it is the best (smallest)" in words(
        "pain ~ treated + (1 | clinic)", "--compare", "treated", "--minimize"
    )
    dose = words("pain ~ dose + (1 | clinic)", "--compare", "dose", "--minimize")
    assert "One more unit of dose" in dose
    assert "More dose is better with probability" in dose
    arms = words("pain ~ arm + (1 | clinic)", "--compare", "arm", "--reference", "usual care")
    assert "old against usual care" in arms
    assert "new against usual care" in arms
    named = words('pain ~ C(arm, Treatment("usual care")) + (1 | clinic)', "--compare", "arm")
    assert "old against usual care" in named
    refused = run(*fit, "pain ~ arm + (1 | clinic)", "--compare", "arm", "--reference", "placebo")
    assert refused.exit_code == 2
    assert "reference='placebo' is none of 'arm'" in refused.stderr
