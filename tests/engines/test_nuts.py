"""The NUTS engine: the same tree as the exact engine's, compiled once, reproducible, and in agreement with it."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from scipy.stats import norm

import bayeshlm as bh
from bayeshlm.engines.pymc import nuts
from bayeshlm.engines.pymc.nuts import fit_nuts
from bayeshlm.engines.pymc.observations import from_statistics
from bayeshlm.engines.result import EngineResult

FALSE_ALARM = 1e-4  # over all comparisons of one test
FIGURES = {
    "mean": (np.mean, {"method": "mean"}),
    "sd": (np.std, {"method": "sd"}),
    "5 %": (lambda draws: np.quantile(draws, 0.05), {"method": "quantile", "prob": 0.05}),
    "95 %": (lambda draws: np.quantile(draws, 0.95), {"method": "quantile", "prob": 0.95}),
}
MODEL = bh.Model(
    "y ~ x + (1 | g)",
    priors={"Intercept": bh.Normal(10, 5), "x": bh.Normal(0, 2), "1|g_sigma": bh.HalfNormal(2),
            "sigma": bh.HalfNormal(2)},
)  # fmt: skip


def grouped(seed: int, offset: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(10), 12)
    x = rng.normal(3, 1, 120)
    return pd.DataFrame({"g": g + offset, "x": x, "y": 8 + x + rng.normal(0, 1, 10)[g] + rng.normal(0, 1, 120)})


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return bh.fit(MODEL, grouped(1), engine="nuts", random_seed=1, progress=False)


def scalars(values: np.ndarray) -> list[np.ndarray]:
    return list(np.moveaxis(values.reshape(*values.shape[:2], -1), 2, 0))


def assert_same_marginals(left: EngineResult, right: EngineResult) -> None:
    """Means, sds and 5 % and 95 % quantiles, with errors from both sides' MCSE, Bonferroni over all figures."""
    assert list(left.variables) == list(right.variables)
    z = {}
    for name, variable in left.variables.items():
        both = zip(scalars(variable.values), scalars(right.variables[name].values), strict=True)
        for k, (mine, theirs) in enumerate(both):
            if np.ptp(mine) < 1e-12 and np.allclose(mine, theirs, rtol=1e-12):  # the diagonal of a correlation matrix
                continue
            for label, (figure, mcse) in FIGURES.items():
                error = np.hypot(array_stats.mcse(mine, **mcse), array_stats.mcse(theirs, **mcse))
                z[f"{label} of {name} {k}"] = (figure(mine) - figure(theirs)) / error
    limit = norm.isf(FALSE_ALARM / 2 / len(z))
    off = {name: round(float(value), 2) for name, value in z.items() if not abs(value) < limit}
    assert not off, f"beyond {limit:.2f} Monte Carlo errors, of {len(z)} figures: {off}"


def result_of(tree: xr.DataTree) -> EngineResult:
    from bayeshlm.engines.result import Variable

    draws = tree["posterior"].to_dataset()
    return EngineResult({str(k): Variable(v.values) for k, v in draws.data_vars.items()}, {}, {})


def test_tree_is_the_exact_engines(tree: xr.DataTree) -> None:
    exact = bh.fit(MODEL, grouped(1), random_seed=1)
    assert exact.attrs["engine"] == "exact"
    assert set(tree.children) == set(exact.children)
    ours, theirs = tree["posterior"].to_dataset(), exact["posterior"].to_dataset()
    assert list(ours.data_vars) == list(theirs.data_vars)
    for name in ours.data_vars:
        assert ours[name].dims == theirs[name].dims
        assert ours[name].shape == theirs[name].shape
    for dim in ours.coords:
        assert ours[dim].values.tolist() == theirs[dim].values.tolist()
    xr.testing.assert_identical(tree["statistics"].to_dataset(), exact["statistics"].to_dataset())
    assert tree.attrs["engine"] == "nuts"
    assert "asked for" in tree.attrs["engine_reason"]
    assert tree.attrs["sampler"] == "nutpie"
    assert json.loads(tree.attrs["parameterization"]) == {"g": "centered"}
    assert set(exact.attrs) - set(tree.attrs) == {
        "acceptance", "efficiency", "evaluations", "log_evidence", "log_evidence_se", "pareto_k", "thinning",
    }  # fmt: skip
    assert_same_marginals(result_of(exact), result_of(tree))


def test_diagnosis_sees_rhat_ess_and_divergences(tree: xr.DataTree) -> None:
    found = bh.diagnose(tree)
    assert found.status == tree.attrs["status"]
    assert 1.0 <= found.max_rhat < 1.02
    assert found.min_ess > 400
    assert np.isnan(found.pareto_k)
    broken = tree.copy(deep=True)
    broken["sample_stats"]["diverging"][:, :50] = 1.0
    assert bh.diagnose(broken).status == "FAIL"
    assert bh.diagnose(broken).divergences == 200 + int(tree["sample_stats"]["diverging"][:, 50:].sum())


def test_second_fit_of_a_shape_does_not_compile(tree: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("compiled again")

    bh.fit(MODEL, grouped(1), engine="nuts", random_seed=1, progress=False)  # the fixture's may be dropped by now
    monkeypatch.setattr(nuts, "_compile", never)
    # These data are sampled in the same form as the first; where another form is quicker, "auto" compiles that.
    other = bh.fit(MODEL, grouped(3, offset=100), engine="nuts", draws=300, random_seed=1, progress=False)
    assert other.attrs["compiled_before"] == 1
    assert other["posterior"]["g"].values.tolist() == list(range(100, 110))
    exact = bh.fit(MODEL, grouped(3, offset=100), draws=300, random_seed=1)
    assert_same_marginals(result_of(exact), result_of(other))
    # The same seed gives the same draws, whatever was fitted in between.
    again = bh.fit(MODEL, grouped(1), engine="nuts", random_seed=1, progress=False)
    xr.testing.assert_identical(again["posterior"].to_dataset(), tree["posterior"].to_dataset())
    another = bh.fit(MODEL, grouped(1), engine="nuts", draws=100, random_seed=2, progress=False)
    assert not np.array_equal(another["posterior"]["x"].values, tree["posterior"]["x"].values[:, :100])


def test_auto_hands_over_what_the_exact_engine_refuses_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(statistics: bh.Statistics, *_: object, **__: object) -> EngineResult:
        asked.append(statistics.model)
        raise bh.errors.EngineError("stop here")

    # By its module: the package's own `fit` is the function of that name.
    monkeypatch.setattr(importlib.import_module("bayeshlm.fit"), "fit_nuts", note)
    data = grouped(1).assign(cap=lambda d: d["y"].clip(upper=12.0), count=lambda d: d["y"].round().clip(lower=0))
    cauchy = MODEL.with_priors({"x": bh.Cauchy(0, 1)})
    slopes = {**MODEL.priors, "x|g_sigma": bh.HalfNormal(1), "corr|g": bh.LKJ(2)}  # which quadrature leaves to NUTS
    capped = bh.Model("cap ~ x + (x | g)", censored=(None, 12), priors=slopes)
    with (
        pytest.warns(bh.errors.BayeshlmWarning, match=r"needs Normal or Flat priors .* NUTS samples"),
        pytest.raises(bh.errors.EngineError, match="stop here"),
    ):
        bh.fit(cauchy, data)
    with pytest.raises(bh.errors.EngineError, match="stop here"):
        bh.fit(capped, data)  # as of a family that is NUTS' own
    for model, reason in ((cauchy, "needs Normal or Flat priors"), (capped, "censored rows")):
        with pytest.raises(bh.errors.EngineError, match=f"{reason}.* engine='auto' finds one"):
            bh.fit(model, data, engine="exact")
    counts = bh.Model("count ~ x + (x | g)", family="poisson")
    with pytest.raises(bh.errors.EngineError, match="stop here"):
        bh.fit(counts, data)  # a family that is NUTS' own needs no warning: one would be an error here
    with pytest.raises(bh.errors.EngineError, match="the family 'poisson' has another one"):
        bh.fit(counts, data, engine="exact")
    assert asked == [cauchy, capped, bh.scaled_priors(counts, data)]


def test_interrupted_it_ends_at_once_and_the_next_fit_is_sound(
    tree: xr.DataTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGINT while nutpie's threads sample."""
    shown: list[tuple[int, str]] = []

    @contextlib.contextmanager
    def bar(title: str, total: int, **_: object) -> Iterator[Callable[[int, str], None]]:
        def show(done: int, note: str) -> None:  # the first news from the threads
            shown.append((done, note))
            if done:
                signal.raise_signal(signal.SIGINT)

        yield show

    monkeypatch.setattr(nuts, "progress_bar", bar)
    with pytest.raises(KeyboardInterrupt):
        bh.fit(MODEL, grouped(1), engine="nuts", draws=10_000_000, chains=1, random_seed=1, progress=True)
    assert 0 < shown[-1][0] < 5_000_000  # in full it would take an hour
    monkeypatch.undo()
    again = bh.fit(MODEL, grouped(1), engine="nuts", random_seed=1, progress=False)
    xr.testing.assert_identical(again["posterior"].to_dataset(), tree["posterior"].to_dataset())


def test_pymc_takes_over_where_nutpie_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    import nutpie

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(nutpie, "compile_pymc_model", refuse)
    statistics = bh.compress(bh.Model("y ~ 1", priors={"Intercept": bh.Normal(10, 5), "sigma": bh.HalfNormal(3)}),
                             grouped(3))  # fmt: skip
    with pytest.warns(bh.errors.BayeshlmWarning, match="nutpie cannot compile this model"):
        ours = fit_nuts(statistics, from_statistics(statistics), draws=500, chains=2, seed=1)
    nuts.forget_compiled()
    assert ours.attrs["sampler"] == "pymc"
    exact = bh.fit(statistics.model, statistics, draws=500, chains=2, random_seed=1)
    assert_same_marginals(ours, result_of(exact))
