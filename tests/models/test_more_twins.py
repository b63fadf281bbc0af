"""The gallery's other studies: the hand-written twin and `to_pymc` are one model, and `simulate` draws from it.

The bridge between them is the joint density written out with scipy, from parameters as users know them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy.stats import ks_2samp

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.pymc.model import to_pymc
from tests.engines.dense import DenseLevel, one
from tests.engines.generative import Points, Twin, Values, random_points, row_density
from tests.models.gallery import ByLot, load_study

MODE = "FAST_COMPILE"
WORLDS = 150
FALSE_ALARM = 1e-4  # over all summaries of a study; the seeds are fixed


@dataclass(frozen=True)
class Study:
    """A small design whose worlds differ by exchangeable labels only, and the design matrices by hand.

    `noncentred` are the levels whose effects the twin samples in units of their standard deviation; `told` the columns
    whose values tell worlds apart.
    """

    design: bh.Design
    response: str
    common: dict[str, Callable[[pd.DataFrame], np.ndarray]]
    levels: tuple[tuple[str, ...], ...]
    noncentred: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def twin(self) -> Twin:
        named = ((DenseLevel(keys, one), ":".join(keys), [f"1|{':'.join(keys)}"]) for keys in self.levels)
        return Twin(self.common, tuple(named))

    def flags(self, noncentred: bool | None = None) -> dict[str, bool]:
        names = [":".join(keys) for keys in self.levels]
        return {name: name in self.noncentred if noncentred is None else noncentred for name in names}


def log_gpa(data: pd.DataFrame) -> np.ndarray:
    return np.log1p(data[["hs_gpa"]].to_numpy())


def is_(column: str, value: str) -> Callable[[pd.DataFrame], np.ndarray]:
    return lambda data: (data[[column]] == value).to_numpy().astype(float)


# hs_gpa, severity: 0, 1 or 2 by lot in equal numbers, so that two worlds have the same values, in another order.
TEACHING = Study(
    bh.Design.nested(method=4, instructor=3, student=5,
                     covariates={"hs_gpa": bh.Covariate(ByLot(), level="instructor")}),
    "score", {"Intercept": one, "log1p(hs_gpa)": log_gpa}, (("method",), ("method", "instructor")), told=("hs_gpa",),
)  # fmt: skip
STUDIES = {
    "teaching_methods_as_written": TEACHING,
    "capped_scores": TEACHING,
    "geo_experiment": Study(
        bh.Design.nested(region=4, city=4, user=3, treatments={
            "price": bh.Treatment(("current", "higher"), level="city", within="region")}),
        "revenue", {"Intercept": one, "price": is_("price", "higher")}, (("region",), ("region", "city")),
        told=("price",),
    ),
    "clinic_trial": Study(
        bh.Design.nested(site=6, clinic=6, patient=8,
                         treatments={"therapy": bh.Treatment(("usual", "new"), level="site")},
                         covariates={"severity": bh.Covariate(ByLot(), level="clinic")}),
        "recovered", {"Intercept": one, "therapy": is_("therapy", "new"),
                      "severity": lambda data: data[["severity"]].to_numpy().astype(float)},
        (("clinic",),), noncentred=("clinic",), told=("therapy", "severity"),
    ),
    "eight_schools": Study(
        bh.Design.nested(school=8, estimate=1, covariates={"se": bh.Uniform(9.99, 10.01)}),
        "effect", {"Intercept": one}, (("school",),), noncentred=("school",),
    ),
}  # fmt: skip


def log_rows(model: bh.Model, data: pd.DataFrame, response: str) -> Callable[[np.ndarray, Values], float]:
    y = data[response].to_numpy()
    capped = np.zeros(len(y), dtype=bool) if model.bounds is None else y >= model.bounds[1]

    def density(eta: np.ndarray, values: Values) -> float:
        law = row_density(model.family, y, eta, values, data, model)
        return float(law("none", y)[~capped].sum() + law("right", y)[capped].sum())

    return density


@pytest.mark.parametrize("name", STUDIES)
def test_twin_and_generative_model_have_one_density(name: str) -> None:
    study, file = STUDIES[name], load_study(name)
    model = file.model
    near_the_cap = {"Intercept": 4.2, "log1p(hs_gpa)": 0.4} if name == "capped_scores" else {}
    data = bh.simulate(model, study.design, params=near_the_cap, random_seed=11).data
    if name == "capped_scores":
        assert 0 < (data.score == 100).sum() < len(data)
    rows = log_rows(model, data, study.response)

    def reference(points: Points, noncentred: dict[str, bool]) -> np.ndarray:
        return np.array([
            study.twin.log_joint(model, data, values, noncentred, lambda eta, values=values: rows(eta, values))
            for values in points.values
        ])  # fmt: skip

    by_hand = random_points(file.pymc_model(data), 4, seed=1, spread=0.3)
    expected = reference(by_hand, study.flags())
    np.testing.assert_allclose(by_hand.density, expected, rtol=1e-8)
    np.testing.assert_allclose(np.diff(by_hand.density), np.diff(expected), rtol=1e-7)
    by_rows = random_points(to_pymc(model, data, parameterization="noncentered", rows=True), 3, seed=2, spread=0.3)
    np.testing.assert_allclose(by_rows.density, reference(by_rows, study.flags(False)), rtol=1e-8)
    compressed = random_points(to_pymc(model, data, parameterization="centered"), 3, seed=3, spread=0.3)
    apart = compressed.density - reference(compressed, study.flags(False))
    np.testing.assert_allclose(apart, apart[0], rtol=0, atol=1e-8 * max(1.0, np.abs(compressed.density).max()))


@pytest.mark.parametrize("name", ["geo_experiment", "eight_schools"])
def test_collapsed_density_is_the_twins_integrated(name: str) -> None:
    """Given the standard deviations all else is Gaussian, so that Laplace's formula is exact."""
    study, file = STUDIES[name], load_study(name)
    model = file.model
    data = bh.simulate(model, study.design, random_seed=12).data
    twin = file.pymc_model(data)
    density = twin.compile_logp(jacobian=False, mode=MODE)
    scales = {n: n for n, kind in model.parameters.items() if kind == "scale"}
    latent = [v for v in twin.value_vars if v.name.removesuffix("_log__") not in scales]
    gradient = twin.compile_dlogp([twin.values_to_rvs[v] for v in latent], jacobian=False, mode=MODE)
    start = twin.initial_point()
    shapes = {v.name: np.shape(start[v.name]) for v in latent}
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    given = {"1|school_sigma": 7.0, "1|region_sigma": 0.2, "1|region:city_sigma": 0.1, "sigma": 0.6}
    fixed = {f"{n}_log__": np.log(given[n]) for n in scales}

    def at(flat: np.ndarray) -> dict[str, np.ndarray]:
        parts = np.split(flat, np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1])
        return {**{n: p.reshape(shapes[n]) for n, p in zip(shapes, parts, strict=True)}, **fixed}

    origin = gradient(at(np.zeros(size)))
    precision = -np.array([gradient(at(unit)) - origin for unit in np.eye(size)])
    mode = np.linalg.solve(precision, origin)
    theirs = float(density(at(mode))) + 0.5 * size * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(precision)[1]
    problem = build_problem(bh.compress(model, data))
    roots = [np.full((1, 1, 1), given[f"1|{':'.join(keys)}_sigma"]) for keys in study.levels]
    sigma = np.array([given["sigma"] if model.se is None else 1.0])
    mine = Marginal(problem).sweep(sigma, roots).log_likelihood[0]
    mine += sum(float(model.complete_priors[n].logpdf(np.array(given[n]))) for n in scales)
    assert mine == pytest.approx(theirs, rel=1e-8)


def spreads(study: Study, model: bh.Model, data: pd.DataFrame, y: np.ndarray) -> dict[str, np.ndarray]:
    """What worlds y (worlds, rows) look like, whatever the order of their groups."""
    rows = pd.DataFrame(np.log(y.T) if model.family == "lognormal" else y.T.astype(float))
    inner = data.groupby(list(study.levels[-1]), sort=True).ngroup().to_numpy()
    means = rows.groupby(inner).mean()
    out = {"mean": rows.mean(), "inner groups": means.std()}
    if rows.shape[0] > means.shape[0]:
        within = (rows - means.loc[inner].to_numpy()).std()
        out["within"] = within
        out["within against mean"] = within / rows.mean().abs().clip(1e-9)
    if len(study.levels) > 1:
        out["outer groups"] = rows.groupby(data[study.levels[0][0]].to_numpy()).mean().std()
    for name in study.told:
        arms = rows.groupby(data[name].astype(str).to_numpy()).mean()
        out |= {f"{name} {arm}": arms.loc[arm] - arms.iloc[0] for arm in arms.index[1:]}
    if model.bounds is not None:
        out["at the cap"] = (pd.DataFrame(y.T) >= model.bounds[1]).mean()
    return {name: np.asarray(value) for name, value in out.items()}


@pytest.mark.parametrize("name", STUDIES)
def test_prior_predictive_is_the_same(name: str) -> None:
    """Kolmogorov-Smirnov on each summary, 150 worlds a side."""
    study, file = STUDIES[name], load_study(name)
    worlds = [bh.simulate(file.model, study.design, random_seed=[5, k]) for k in range(WORLDS)]
    mine: dict[str, list[np.ndarray]] = {}
    for world in worlds:
        y = world.data[study.response].to_numpy()[None]
        for label, value in spreads(study, file.model, world.data, y).items():
            mine.setdefault(label, []).append(value)
    twin = file.pymc_model(worlds[0].data)
    drawn = pm.sample_prior_predictive(WORLDS, model=twin, random_seed=5, compile_kwargs={"mode": MODE})
    rows = drawn["prior_predictive"][study.response].to_numpy()[0]
    theirs = spreads(study, file.model, worlds[0].data, rows)
    p = {label: ks_2samp(np.concatenate(mine[label]), theirs[label]).pvalue for label in theirs}
    assert min(p.values()) > FALSE_ALARM / len(p), p


def test_real_eight_schools() -> None:
    """The published posterior: means of school effects between the pooled mean and each estimate, in their order."""
    file = load_study("eight_schools")
    posterior = bh.fit(file.model, file.load(), random_seed=1)
    assert posterior.attrs["engine"] == "exact"
    table = bh.summarize(posterior).set_index(["variable", "label"])
    assert 5 < table.loc[("Intercept", np.nan), "mean"] < 10  # Gelman et al. (2013), section 5.5: about 8
    effects = posterior["posterior"]["1|school"].mean(("chain", "draw")).to_series()
    assert effects.idxmax() in ("A", "G")
    assert effects.idxmin() == "E"
