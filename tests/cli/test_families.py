"""`bayeshlm fit` of other families: options, tables and files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayeshlm.cli.fitting import parse_censored
from bayeshlm.errors import DataError


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (None, None), (",100", (None, 100.0)), ("0,", (0.0, None)), ("-1.5, 2e3", (-1.5, 2000.0)),
        ("status", "status"), ("status,upper end", ("status", "upper end")),
    ],
)  # fmt: skip
def test_censored_option(text, meaning) -> None:
    assert parse_censored(text) == meaning


@pytest.mark.parametrize("text", ["100", "a,1", "1,2,3", "", "a,", "a,b,c"])
def test_impossible_censored_options(text) -> None:
    with pytest.raises(DataError, match="--censored"):
        parse_censored(text)


@pytest.fixture
def clinics(tmp_path):
    rng = np.random.default_rng(1)
    clinic = np.repeat(np.arange(12), 15)
    odds = 0.2 + 0.9 * (clinic % 2) + rng.normal(0, 0.3, 12)[clinic]
    data = pd.DataFrame({"clinic": clinic, "arm": np.where(clinic % 2, "new", "usual")})
    data["cured"] = rng.binomial(20, 1 / (1 + np.exp(-odds)))
    data["patients"] = 20
    data.to_csv(tmp_path / "clinics.csv", index=False)
    return data


def test_fit_of_shares(run, clinics, tmp_path) -> None:
    del clinics
    done = run(
        "fit", "clinics.csv", "--family", "binomial", "-f", "p(cured, patients) ~ arm + (1 | clinic)",
        "--compare", "arm", "--out", "fit.nc", "--report", "fit.html", "--seed", 1, "--draws", 300,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "quadrature engine" in done.stdout
    assert "odds multiplier" in done.stdout
    assert "probability" in done.stdout
    assert "multiplies the odds" in done.stdout
    assert "latent scale of log odds" in " ".join(done.stdout.split())
    page = (tmp_path / "fit.html").read_text(encoding="utf-8")
    assert "Binomial(patients" in page
    again = run("report", "fit.nc", "--by", "clinic", "--out", "again.html")
    assert again.exit_code == 0, again.output


def test_engine_and_family_are_checked_before_anything_is_fitted(run, clinics) -> None:
    del clinics
    done = run("fit", "clinics.csv", "--family", "poisson", "-f", "cured ~ (1 | clinic)", "--engine", "exact")
    assert done.exit_code == 2
    assert "engine='auto'" in done.stderr
    done = run("fit", "clinics.csv", "--family", "bernoulli", "-f", "cured ~ (1 | clinic)")
    assert done.exit_code == 2
    assert "neither 0 nor 1" in done.stderr
    done = run("fit", "clinics.csv", "--family", "lognormal", "--censored", ",5", "-f", "patients ~ (1 | clinic)")
    assert done.exit_code == 2
    assert "exceeds its cap of 5" in done.stderr
