"""Responses, offsets and censoring that a family cannot have: which error, and what it says, before anything runs."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import bayeshlm as bh
from bayeshlm.errors import DataError


def table(**changes):
    rng = np.random.default_rng(0)
    n = 60
    d = pd.DataFrame({"g": np.arange(n) % 6, "x": rng.normal(size=n), "real": rng.normal(5, 1, n),
                      "positive": rng.gamma(3, 1, n), "binary": rng.integers(0, 2, n), "count": rng.poisson(3, n),
                      "trials": 9, "exposure": rng.uniform(1, 2, n), "status": "none", "upper": np.nan})  # fmt: skip
    d["successes"] = rng.binomial(9, 0.4, n)
    for column, value in changes.items():
        d[column] = d[column].astype(object if isinstance(value, str) else float)
        d.loc[[3, 7], column] = value
    return d


def model(family, response, **arguments):
    return bh.Model(f"{response} ~ x + (1 | g)", family=family, **arguments)


BINOMIAL = "p(successes, trials)"
CASES = {
    "gamma at 0": (model("gamma", "positive"), table(positive=0), "'positive' is not positive, which gamma needs: 2 r"),
    "bernoulli 2": (model("bernoulli", "binary"), table(binary=2), "neither 0 nor 1, which bernoulli needs: 2 rows"),
    "bernoulli share": (model("bernoulli", "binary"), table(binary=0.5), "neither 0 nor 1"),
    "poisson share": (model("poisson", "count"), table(count=2.5), "no whole number >= 0, which poisson needs: 2 rows"),
    "negative count": (model("negative_binomial", "count"), table(count=-1), "which negative_binomial needs: 2 rows"),
    "count beyond floats": (model("poisson", "count"), table(count=1e17), "no whole number >= 0"),
    "trials < successes": (model("binomial", BINOMIAL), table(successes=12),
                           "more successes 'successes' than trials 'trials': 2 rows (the first at positions 3, 7"),
    "successes share": (model("binomial", BINOMIAL), table(successes=0.5), "'successes' are no whole number"),
    "no trials": (model("binomial", BINOMIAL), table(trials=0, successes=0), "rows without trials say nothing): 2 r"),
    "constant trials": (model("binomial", "p(successes, 3)"), table(), "more successes 'successes' than trials '3'"),
    "infinite": (model("student_t", "real"), table(real=np.inf), "'real' is infinite in 2 rows"),
    "log of exposure 0": (bh.Model("count ~ x + offset(log(exposure)) + (1 | g)", family="poisson"), table(exposure=0),
                          "offset 'log(exposure)' is not finite: 2 rows"),
    "exposure, not its log": (bh.Model("count ~ x + offset(exposure) + (1 | g)", family="poisson"), table(exposure=1e4),
                              "it is the log, offset(log(exposure))): 2 rows"),
    "text offset": (bh.Model("count ~ x + offset(status)", family="poisson"), table(), "A number is needed: 'status'"),
    "text response": (model("bernoulli", "status"), table(), "A number is needed: 'status'"),
    "boolean counts": (model("poisson", "binary"), table().assign(binary=lambda d: d["binary"] == 1),
                       "A number is needed: 'binary' is Boolean"),
    "above the cap": (model("gaussian", "real", censored=(None, 9)), table(real=9.5), "'real' exceeds its cap of 9"),
    "below the bound": (model("gaussian", "real", censored=(1, None)), table(real=0.5), "is below its bound of 1"),
    "unknown word": (model("gaussian", "real", censored="status"), table(status="capped"), "holds 'capped'; it must"),
    "status as number": (model("gaussian", "real", censored="binary"), table(), "must hold the words none, left"),
    "interval alone": (model("gaussian", "real", censored="status"), table(status="interval"),
                       "give censored=('status', their column)"),
    "reversed interval": (model("gaussian", "real", censored=("status", "upper")), table(status="interval", upper=-9),
                          "upper end 'upper' of an interval is not above its lower end 'real': 2 rows"),
    "open interval": (model("poisson", "count", censored=("status", "upper")), table(status="interval", upper=20.5),
                      "'upper' is no whole number: 2 rows"),
    "missing status column": (model("gaussian", "real", censored="stat"), table(), "did you mean 'status' for 'stat'"),
    "statistics for counts": (model("poisson", "count"), bh.compress(model("gaussian", "real"), table()),
                              "only priors may differ"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_responses_are_refused(case):
    study, data, fragment = CASES[case]
    with pytest.raises(DataError) as caught:
        bh.fit(study, data, draws=10, chains=1, random_seed=0)
    assert fragment in str(caught.value)


def test_upper_ends_may_be_missing_outside_intervals():
    study = model("gaussian", "real", censored=("status", "upper"))
    d = table(status="interval", upper=99.0)
    from bayeshlm.data.table import tabulate

    for frame in (d, pl.from_pandas(d)):
        rows = tabulate(study, frame)
        assert rows.rows == len(d)
        assert rows.upper[3] == 99.0
        assert np.flatnonzero(rows.status == 3).tolist() == [3, 7]
    gap = d.assign(upper=np.nan)
    with pytest.warns(bh.errors.BayeshlmWarning, match="2 of 60 rows dropped for missing values in 'upper'"):
        assert tabulate(study, gap).rows == len(d) - 2


def test_compress_refuses_what_sums_cannot_hold():
    with pytest.raises(DataError, match="not enough for family 'poisson'"):
        bh.compress(model("poisson", "count"), table())
    with pytest.raises(DataError, match="not enough for censored responses"):
        bh.compress(model("gaussian", "real", censored=(None, 99)), table())


def test_an_offset_is_taken_off_a_gaussian_response():
    d = table()
    shifted = d.assign(real=d["real"] + d["exposure"])
    plain = bh.compress(bh.Model("real ~ x + (1 | g)"), d)
    moved = bh.compress(bh.Model("real ~ x + offset(exposure) + (1 | g)"), shifted)
    np.testing.assert_allclose(moved.scatter, plain.scatter, atol=1e-12)
    logged = bh.Model("positive ~ x + offset(log(exposure)) + (1 | g)", family="lognormal")
    scaled = bh.compress(logged, d.assign(positive=d["positive"] * d["exposure"]))
    np.testing.assert_allclose(scaled.scatter, bh.compress(model("lognormal", "positive"), d).scatter, atol=1e-12)
    assert scaled.log_jacobian == pytest.approx(-np.log(d["positive"] * d["exposure"]).sum())


def test_default_priors_of_student_t_and_capped_models_are_scaled_by_the_data():
    d = table()
    gaussian = bh.scaled_priors(model("gaussian", "real"), d)
    heavy = bh.scaled_priors(model("student_t", "real"), d)
    assert heavy.complete_priors == {**gaussian.complete_priors, "nu": bh.Gamma(2, 0.1)}
    capped = bh.scaled_priors(model("gaussian", "real", censored=(None, 99)), d)
    assert capped.complete_priors == gaussian.complete_priors
