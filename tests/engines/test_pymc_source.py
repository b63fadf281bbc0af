"""The printed PyMC source runs, and has the density of the model written out row by row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pymc as pm
import pytest

import bayeshlm as bh
from bayeshlm.data.compress import complete_rows, moments
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.pymc.source.writer import pymc_source
from bayeshlm.errors import EngineError, PriorError
from tests.engines.dense import CASES, Case, DenseLevel, make_frame, make_model, one, only_x, with_x
from tests.engines.generative import Twin, random_points, row_density

# The text multiplies matrices with @, as people do; without PyMC's default (compiled) mode that wants a BLAS library.
pytestmark = pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS:UserWarning")
MORE = {
    "crossed": Case("y ~ x + (1 | a) + (1 | g)", with_x, (DenseLevel(("a",), one), DenseLevel(("g",), one))),
    "two children of one parent": Case(
        "y ~ x + (1 | a) + (1 | a:b) + (1 | a:g)", with_x,
        (DenseLevel(("a",), one), DenseLevel(("a", "b"), one), DenseLevel(("a", "g"), one)),
    ),
    "nothing but groups": Case("y ~ 0 + (1 | a/b)", lambda frame: np.zeros((len(frame), 0)),
                               (DenseLevel(("a",), one), DenseLevel(("a", "b"), one))),
}  # fmt: skip
ALL = CASES | MORE


def statistics_of(model: bh.Model, data: pd.DataFrame) -> Statistics:
    return moments(model, complete_rows(model, data, "drop"))


def run(source: str, data: pd.DataFrame) -> pm.Model:
    names: dict[str, object] = {}
    exec(compile(source, "source", "exec"), names)
    return names["build"](data)


def twin_of(case: Case, model: bh.Model) -> Twin:
    common, at = {}, 0
    for term in model.terms.common:
        width = 2 if term.name == "arm" else 1
        common[term.name] = lambda frame, at=at, width=width: case.common(frame)[:, at : at + width]
        at += width
    levels = []
    for level in case.levels:
        name = ":".join(level.keys)
        groups = [group for group in model.terms.groups if group.level_name == name]
        levels.append((level, name, [group.effect_name(effect) for group in groups for effect in group.effects]))
    return Twin(common, tuple(levels))


def assert_density(source: str, model: bh.Model, twin: Twin, data: pd.DataFrame, noncentred: dict[str, bool]) -> None:
    points = random_points(run(source, data), 4, seed=1)
    y = data["y"].to_numpy()
    mine = [
        twin.log_joint(
            model, data, values, noncentred,
            lambda eta, values=values: row_density(model.family, y, eta, values, data, model)("none", y).sum(),
        )
        for values in points.values
    ]  # fmt: skip
    # The slow twin speaks of p in root_21 = 2 p - 1, the text of the Cholesky factor itself (of 2 x 2 matrices here).
    pairs = sum(kind == "correlation" for kind in model.parameters.values())
    np.testing.assert_allclose(points.density, np.array(mine) - pairs * np.log(2), rtol=1e-8)


CENTRED = [name for name, case in ALL.items() if all(level.columns is one for level in case.levels)]


@pytest.mark.parametrize(
    ("name", "parameterization"),
    [*((name, "noncentered") for name in ALL if name != "weights"), *((name, "centered") for name in CENTRED)],
)
def test_source_has_the_density_of_the_rows(name: str, parameterization: str) -> None:
    case, rng = ALL[name], np.random.default_rng(len(name))
    data = make_frame(rng)
    model = make_model(case, rng)
    source = pymc_source(statistics_of(model, data), parameterization=parameterization)
    levels = {":".join(level.keys): level for level in case.levels}
    noncentred = {n: parameterization == "noncentered" or level.columns is not one for n, level in levels.items()}
    assert_density(source, model, twin_of(case, model), data, noncentred)


FAMILIES = ("student_t", "cv_normal", "gamma", "bernoulli", "binomial", "poisson", "negative_binomial")


def family_case(family: str, rng: np.random.Generator, **options: object) -> tuple[bh.Model, pd.DataFrame, Twin]:
    data = make_frame(rng).assign(t=7)
    discrete = {"bernoulli": (data.y > 2).astype(int), "binomial": np.minimum(data.y.round(), 7).astype(int)}
    if family in FAMILIES[3:]:
        data["y"] = discrete.get(family, data.y.round().astype(int))
    response = "p(y, t)" if family == "binomial" else "y"
    priors = {"Intercept": bh.Normal(0.2, 1), "x": bh.Normal(0, 1), "1|a_sigma": bh.HalfNormal(1)}
    priors |= {"sigma": bh.HalfStudentT(3, 1)} if family in ("student_t", "cv_normal") else {}
    model = bh.Model(f"{response} ~ x + (1 | a)", family=family, priors=priors, **options)
    twin = Twin({"Intercept": one, "x": only_x}, ((DenseLevel(("a",), one), "a", ["1|a"]),))
    return model, data, twin


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    weights = "w" if family in ("student_t", "cv_normal", "gamma") else None
    model, data, twin = family_case(family, np.random.default_rng(3), weights=weights)
    source = pymc_source(statistics_of(model, data), parameterization="noncentered")
    assert_density(source, model, twin, data, {"a": True})


@pytest.mark.parametrize("family", ["lognormal", "student_t", "gamma", "negative_binomial"])
def test_bounds_and_status_columns_are_the_same_censoring(family: str) -> None:
    """A cap, told by its bound and by a column: the same density, which is that of the tail for the rows at the cap."""
    rng = np.random.default_rng(5)
    model, data, twin = family_case(family, rng, censored=(1.0, 3.0))
    data["y"] = data.y.clip(1.0, 3.0)
    data["status"] = np.where(data.y >= 3, "right", np.where(data.y <= 1, "left", "none"))
    told = bh.Model(model.formula, family=family, priors=model.priors, censored="status")
    y = data.y.to_numpy()

    def rows(eta: np.ndarray, values: dict[str, np.ndarray]) -> float:
        law = row_density(family, y, eta, values, data, model)
        parts = [law(word, y)[(data.status == word).to_numpy()].sum() for word in ("none", "left", "right")]
        return float(sum(parts))

    for m in (model, told):
        points = random_points(
            run(pymc_source(statistics_of(m, data), parameterization="noncentered"), data), 3, seed=2
        )
        mine = [
            twin.log_joint(m, data, values, {"a": True}, lambda eta, values=values: rows(eta, values))
            for values in points.values
        ]
        np.testing.assert_allclose(points.density, mine, rtol=1e-7)


def test_intervals_and_their_missing_upper_ends() -> None:
    rng = np.random.default_rng(6)
    model, data, twin = family_case("gamma", rng, censored=("status", "upper"))
    data["status"] = np.where(np.arange(len(data)) % 3 == 0, "interval", "none")
    data["upper"] = np.where(data.status == "interval", data.y * 1.5, np.nan)
    points = random_points(
        run(pymc_source(statistics_of(model, data), parameterization="noncentered"), data), 3, seed=2
    )
    y, inside = data.y.to_numpy(), (data.status == "interval").to_numpy()

    def rows(eta: np.ndarray, values: dict[str, np.ndarray]) -> float:
        law = row_density("gamma", y, eta, values, data, model)
        width = np.exp(law("left", data.upper.to_numpy())[inside]) - np.exp(law("left", y)[inside])
        return float(law("none", y)[~inside].sum() + np.log(width).sum())

    mine = [
        twin.log_joint(model, data, values, {"a": True}, lambda eta, values=values: rows(eta, values))
        for values in points.values
    ]
    np.testing.assert_allclose(points.density, mine, rtol=1e-7)


def test_offset_constants_of_the_data_and_missing_rows() -> None:
    rng = np.random.default_rng(7)
    data = make_frame(rng)
    data["y"] = data.y.round().astype(int)
    model = bh.Model(
        "y ~ center(x) + scale(w) + I(x**2) + C(b) + offset(log(s)) + (1 | a)", family="poisson",
        priors={"Intercept": bh.StudentT(4, 0, 2), "scale(w)": bh.Cauchy(0, 1), "C(b)": bh.Flat(),
                "center(x)": bh.Normal(0, 2.5), "I(x**2)": bh.Normal(0, 2.5), "1|a_sigma": bh.HalfNormal(0.5)},
    )  # fmt: skip
    statistics = statistics_of(model, data)
    holes = pd.concat([data, data.head(2).assign(x=np.nan)], ignore_index=True)
    built = run(pymc_source(statistics), holes)
    points = random_points(built, 3, seed=2)

    def scaled(frame: pd.DataFrame) -> np.ndarray:
        return ((frame[["w"]] - data.w.mean()) / data.w.std(ddof=0)).to_numpy()

    categories = sorted(data.b.unique())[1:]
    twin = Twin(
        {"Intercept": one, "center(x)": lambda f: f[["x"]].to_numpy() - data.x.mean(), "scale(w)": scaled,
         "I(x ** 2)": lambda f: f[["x"]].to_numpy() ** 2,
         "C(b)": lambda f: np.column_stack([f.b == k for k in categories]).astype(float)},
        ((DenseLevel(("a",), one), "a", ["1|a"]),),
    )  # fmt: skip
    noncentred = {"a": "1|a_offset" in built.named_vars}
    mine = [
        twin.log_joint(
            model, data, values, noncentred,
            lambda eta, v=values: row_density("poisson", 0, eta + np.log(data.s.to_numpy()), v, data, model)(
                "none", data.y.to_numpy()).sum(),
        )
        for values in points.values
    ]  # fmt: skip
    np.testing.assert_allclose(points.density, mine, rtol=1e-8)


def test_any_names_and_labels() -> None:
    """Names that are no identifiers, keywords, quotes, categories that would break a string: the text still runs."""
    rng = np.random.default_rng(8)
    data = make_frame(rng).rename(columns={"x": 'x "quoted"\\', "a": "class", "y": "sigma"})
    data["größe'"] = np.array(['a"b', "c\\n", "\N{SNOWMAN}"])[data.g % 3]
    data["pm"] = data.w > 1
    model = bh.Model(
        'sigma ~ `x "quoted"\\` + `größe\'` + pm + (1 | `class`/b)', family="lognormal",
    )  # fmt: skip
    statistics = statistics_of(model, data)
    built = run(pymc_source(statistics), data)
    assert built.coords["größe'_dim"] == tuple(statistics.layout.categories["größe'"][1:])
    assert list(built.coords["class:b"]) == statistics.labels(1)
    assert np.isfinite(built.compile_logp(mode="FAST_COMPILE")(built.initial_point()))
    assert {"1|class", "1|class:b", "sigma", "pm", 'x "quoted"\\'} <= set(built.named_vars)
    assert "pm = " not in pymc_source(statistics).split("with pm.Model")[0].replace("pm_ = ", "")


def test_what_cannot_be_written() -> None:
    data = make_frame(np.random.default_rng(9))
    with pytest.raises(PriorError, match=r"'Intercept', 'x', '1\|a_sigma', 'sigma'"):
        pymc_source(statistics_of(bh.Model("y ~ x + (1 | a)"), data))
    model = bh.Model("y ~ x + (1 | a)", family="lognormal")
    with pytest.raises(EngineError, match="parameterization='best'"):
        pymc_source(statistics_of(model, data), parameterization="best")
