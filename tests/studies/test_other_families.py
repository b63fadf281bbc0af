"""Studies of models that need their rows: other families, censoring, misspecified worlds, and NUTS behind them.

Most go through an engine that is exact in its own cheap way: draws from the prior, weighed by scipy's row densities and
drawn again by their weights. Designs are tiny, so that enough of these draws count.
"""

from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.table import Table, tabulate
from bayeshlm.engines.pymc import nuts
from bayeshlm.engines.pymc.observations import Observations
from bayeshlm.errors import BayeshlmWarning, DataError, DesignError, EngineError, PriorError
from bayeshlm.studies import analysis
from bayeshlm.studies.quantities import choose_quantities
from bayeshlm.studies.recover import prior_variance
from bayeshlm.studies.worlds import Capped, HeavyTails
from tests.engines.generative import row_density

DESIGN = bh.Design.nested(
    g=2, i=8, covariates={"x": bh.Normal(0, 1), "t": bh.Uniform(1, 12), "e": bh.Uniform(0.5, 3)}
)  # fmt: skip
PRIORS = {"Intercept": bh.Normal(0.5, 0.5), "x": bh.Normal(0, 0.5), "sigma": bh.LogNormal(-0.5, 0.3),
          "nu": bh.Gamma(4, 0.5), "alpha": bh.Gamma(4, 1)}  # fmt: skip
# label -> (family, right side, further options of the model)
CASES = {
    "student_t": ("student_t", "x", {"weights": "e"}),
    "cv_normal": ("cv_normal", "x", {}),
    "gamma": ("gamma", "x", {"weights": "e"}),
    "bernoulli": ("bernoulli", "x", {}),
    "binomial": ("binomial", "x", {}),
    "poisson": ("poisson", "x + offset(log(e))", {}),
    "negative_binomial": ("negative_binomial", "x + offset(log(e))", {}),
    "lognormal between bounds": ("lognormal", "x", {"censored": (0.8, 3.0)}),
    "gaussian with known errors and a cap": ("gaussian", "x", {"se": "e", "censored": (None, 1.0)}),
}
CANDIDATES, DRAWS = 4000, 49
OPTIONS = {"random_seed": 1, "n_jobs": 1, "progress": False}
RARE = 1e-3  # false alarms of a study, over all its quantities; the seeds are fixed
LIMIT = 4.5  # standard errors: a right score is farther off once in 150,000


def model_of(family: str, right: str, **options: object) -> bh.Model:
    bare = bh.Model(f"{'p(y, t)' if family == 'binomial' else 'y'} ~ {right}", family=family, **options)
    return bare.with_priors({name: PRIORS[name] for name in bare.parameters})


def log_likelihood(table: Table, values: dict[str, np.ndarray]) -> np.ndarray:
    """(candidates,) by scipy."""
    model = table.statistics.model
    eta = table.offset + values["Intercept"][:, None] * table.columns[:, 0] + values["x"][:, None] * table.columns[:, 1]
    frame = pd.DataFrame({"e": table.weight**-0.5 if model.se else table.weight, "t": table.trials})
    family = "binomial" if model.family == "bernoulli" else model.family
    extra = {name: values[name][:, None] for name, _ in model.extra}
    law = row_density(family, table.response, eta, extra, frame, model)
    with np.errstate(all="ignore"):  # each row is evaluated as all three, of which one counts
        rows = law("none", table.response)
        if model.censored is not None:
            left, right = law("left", table.response), law("right", table.response)
            rows = np.select([table.status == 1, table.status == 2], [left, right], rows)
    return np.asarray(rows.sum(axis=1))


def from_prior(model: bh.Model, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    priors = model.complete_priors
    drawn = {name: np.asarray(priors[name].sample(rng, count)) for name in model.parameters}
    point = priors["Intercept"].point if isinstance(priors["Intercept"], bh.At) else {}  # of plain columns
    return drawn | {"Intercept": drawn["Intercept"] - sum(place * drawn[name] for name, place in point.items())}


def right(table: Table, draws: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = from_prior(table.statistics.model, CANDIDATES, rng)
    density = log_likelihood(table, values)
    weight = np.exp(density - density.max())
    chosen = rng.choice(CANDIDATES, draws, p=weight / weight.sum())
    return {name: value[chosen] for name, value in values.items()}


def data_ignored(table: Table, draws: int, seed: int) -> dict[str, np.ndarray]:
    return from_prior(table.statistics.model, draws, np.random.default_rng(seed))


def censoring_ignored(table: Table, draws: int, seed: int) -> dict[str, np.ndarray]:
    return right(dataclasses.replace(table, status=np.zeros_like(table.status)), draws, seed)


def offset_ignored(table: Table, draws: int, seed: int) -> dict[str, np.ndarray]:
    return right(dataclasses.replace(table, offset=np.zeros_like(table.offset)), draws, seed)


def studied(case: str, engine: object, replicates: int) -> dict[str, float]:
    """Adjusted p-value of every quantity."""
    family, formula, given = CASES[case]
    model = model_of(family, formula, **given)
    tree = bh.sbc(model, DESIGN, replicates=replicates, draws=DRAWS, engine=engine, **OPTIONS)
    assert tree.attrs["failed"] == 0
    assert tree["replicates"]["rows"].values.tolist() == [1.0] * replicates
    found = tree["verdict"]["p_adjusted"].to_series().to_dict()
    assert list(found) == [*model.parameters, "log_likelihood"]
    return found


@pytest.mark.parametrize("case", ["bernoulli", "gaussian with known errors and a cap"])
def test_a_right_posterior_passes(case: str) -> None:
    assert min(studied(case, right, 30).values()) > RARE


@pytest.mark.parametrize(
    ("case", "fault", "where"),
    [
        ("negative_binomial", data_ignored, "log_likelihood"), ("poisson", offset_ignored, "log_likelihood"),
        ("lognormal between bounds", censoring_ignored, "sigma"),
    ],
)  # fmt: skip
def test_planted_faults_are_caught(case: str, fault: object, where: str) -> None:
    """Not just below the limit: far below, so that other seeds catch them too."""
    found = studied(case, fault, 30)
    assert found[where] < 1e-5
    if fault is data_ignored:  # draws from the prior: of every other quantity they are calibrated
        assert min(p for name, p in found.items() if name != where) > RARE


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_every_family_passes_if_right_and_fails_if_the_data_are_ignored(case: str) -> None:
    assert min(studied(case, right, 300).values()) > RARE
    assert studied(case, data_ignored, 60)["log_likelihood"] < 1e-5


def test_a_ceiling_that_is_ignored_shows_as_bias_and_a_censored_fit_has_none() -> None:
    """The same capped worlds, made in two ways, under two analyses."""
    capped = model_of("lognormal", "x", censored=(None, 2.0))
    ignoring = model_of("lognormal", "x")
    given = {"params": {"Intercept": 0.5, "x": 0.3, "sigma": 0.6}, "draws": DRAWS, "replicates": 24, **OPTIONS}
    wrong = bh.recover(capped, DESIGN, fit_model=ignoring, **given).sel(quantity="sigma")
    assert float(wrong["bias"] / wrong["bias_se"]) < -LIMIT
    good = bh.recover(
        ignoring, DESIGN, fit_model=capped, world=Capped(ignoring, DESIGN, cap=2.0), engine=right, **given
    ).sel(quantity="sigma")  # fmt: skip
    assert good["rows"].values.tolist() == [1.0] * 24
    assert float(good["bias"]) > float(wrong["bias"]) + 3 * float(np.hypot(good["bias_se"], wrong["bias_se"]))
    assert float(good["coverage"].sel(level=0.95)) > 0.75


def test_another_family_analyses_the_data_and_the_page_says_so(tmp_path) -> None:
    """What only the analysis has (alpha) has no truth, and then neither has the log likelihood."""
    poisson, negative = (model_of(family, "x + offset(log(e))") for family in ("poisson", "negative_binomial"))
    tree = bh.sbc(poisson, DESIGN, replicates=10, draws=DRAWS, fit_model=negative, engine=right, **OPTIONS)
    assert tree["verdict"]["quantity"].values.tolist() == ["Intercept", "x"]
    page = bh.report(tree, tmp_path / "sbc.html").read_text(encoding="utf-8")
    assert "The data were analysed by another model: y ~ x + offset(log(e)), negative_binomial." in page
    assert "Gamma(4, 1)" in page


def test_heavy_tails_of_a_censored_model_are_recorded_at_its_bounds() -> None:
    model = model_of("gaussian", "x", censored=(None, 1.0))
    world = HeavyTails(model, DESIGN)({"sigma": 0.5, "Intercept": 1.0}, np.random.SeedSequence(1))
    assert world.data["y"].max() == 1.0
    assert 1 < (world.data["y"] == 1.0).sum() < len(world.data)
    for wrong in (model_of("bernoulli", "x"), model_of("cv_normal", "x")):
        with pytest.raises(DesignError, match="must be gaussian or lognormal"):
            HeavyTails(wrong, DESIGN)


def test_contraction_of_counts_shares_has_no_prior_variance() -> None:
    """They depend on the mean count of each world; with a shape without variance they have none either."""
    design = bh.Design.nested(g=4, i=6)
    priors = {"Intercept": bh.Normal(0.5, 0.5), "1|g_sigma": bh.HalfNormal(0.5)}
    for family, extra, known in (
        ("poisson", {}, False), ("bernoulli", {}, True), ("gamma", {"alpha": bh.Gamma(4, 1)}, True),
        ("gamma", {"alpha": bh.InverseGamma(0.4, 0.3)}, False),
    ):  # fmt: skip
        model = bh.Model("y ~ 1 + (1 | g)", family=family, priors={**priors, **extra})
        world = bh.simulate(model, design, params=dict.fromkeys(extra, 1.0), random_seed=1)
        statistics = tabulate(model, world.data).statistics
        values = {str(name): value.values for name, value in world.truth.data_vars.items()}
        chosen = choose_quantities(statistics, values, fixed_sizes=True).without("log_likelihood")
        found = dict(zip(chosen.names, prior_variance(statistics, chosen), strict=True))
        assert np.isfinite(found["ICC|g"]) == known
        assert found["1|g[0]"] == pytest.approx(0.25, rel=0.15)  # 4,000 draws of a scale mixture


@dataclasses.dataclass(frozen=True)
class Odd:
    """Worlds of a bernoulli model, with something wrong in them: always, or in a third of them."""

    what: str
    always: bool

    def __call__(self, params: object, seed: np.random.SeedSequence) -> object:
        world = bh.simulate(model_of("bernoulli", "x"), DESIGN, params=params, random_seed=seed)
        if not self.always and seed.generate_state(1)[0] % 3:
            return world
        return {
            "support": dataclasses.replace(world, data=world.data.assign(y=2)),
            "truth": dataclasses.replace(world, truth=world.truth.assign(x=np.nan)),
            "column": dataclasses.replace(world, data=world.data.drop(columns="x")),
            "type": world.data,
        }[self.what]


ODD = {
    "support": (DataError, "'y' is neither 0 nor 1"), "truth": (DesignError, "no finite numbers for 'x'"),
    "column": (DataError, "Column not in the data: 'x'"), "type": (DesignError, "world= returned a DataFrame"),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_worlds_that_cannot_be_are_refused_before_the_work_or_are_rows(what: str) -> None:
    model, (error, message) = model_of("bernoulli", "x"), ODD[what]
    with pytest.raises(error, match=message):
        bh.recover(model, DESIGN, world=Odd(what, True), replicates=3, draws=DRAWS, engine=right, **OPTIONS)
    if what != "support":
        return
    with pytest.warns(BayeshlmWarning, match="of 12 replicates failed; the first.*neither 0 nor 1"):
        found = bh.recover(
            model, DESIGN, world=Odd(what, False), replicates=12, draws=DRAWS, engine=right, **OPTIONS
        )  # fmt: skip
    assert 0 < found.attrs["failed"] < 12
    assert all("neither 0 nor 1" in str(error) for error in found["failure_error"].values)


def test_what_cannot_work_is_refused_before_any_work() -> None:
    flat = model_of("gamma", "x").with_priors({"alpha": bh.Flat()})
    with pytest.raises(PriorError, match="Neither a value nor a proper prior for 'alpha'"):
        bh.sbc(flat, DESIGN, **OPTIONS)
    with pytest.raises(EngineError, match="the family 'bernoulli' has another one"):
        bh.sbc(model_of("bernoulli", "x"), DESIGN, engine="exact", **OPTIONS)
    with pytest.raises(DesignError, match="which rows that censors cannot be drawn"):
        bh.sbc(model_of("gamma", "x", censored="status"), DESIGN, **OPTIONS)


def sampled(function: object, *arguments: object, **options: object) -> object:
    """A study by NUTS; an unconverged fit counts as any other, and its warning is none of the test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeshlmWarning)
        return function(*arguments, **{"engine": "nuts", "n_jobs": 1, "progress": False, "draws": 60, **options})


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models compiled from here on."""
    found: list[object] = []
    compile_ = nuts._compile

    def counted(model: object, wanted: list[str]) -> object:
        found.append(model)
        return compile_(model, wanted)

    nuts.forget_compiled()
    monkeypatch.setattr(nuts, "_compile", counted)
    return found


def test_nuts_is_calibrated_recovers_resumes_and_is_compiled_once(compiled: list[object], tmp_path) -> None:
    model = bh.Model("y ~ 1 + (1 | g)", family="bernoulli",
                     priors={"Intercept": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(0.5)})  # fmt: skip
    design = bh.Design.nested(g=6, i=8)
    options = {"random_seed": 3, "store": tmp_path}
    first = sampled(bh.sbc, model, design, replicates=5, **options)
    tree = sampled(bh.sbc, model, design, replicates=10, **options)
    assert np.array_equal(tree["replicates"]["seconds"][:5], first["replicates"]["seconds"])  # read, not run
    assert tree.attrs["failed"] == 0
    assert float(tree["verdict"]["p_adjusted"].min()) > RARE
    assert tree["verdict"]["quantity"].values.tolist()[-2:] == ["ICC|g", "log_likelihood"]
    ess = tree["replicates"]["ess"].values
    assert (ess >= 60).all()
    assert tree["replicates"]["rows"].values.tolist() == [1.0] * 10
    assert json.loads(tree.attrs["parameterization"]) == {"g": "noncentered"}
    given = {"Intercept": 0.8, "1|g_sigma": 0.4}
    found = sampled(bh.recover, model, design, params=given, replicates=6, random_seed=3)
    assert found.attrs["failed"] == 0
    intercept = found.sel(quantity="Intercept")
    assert intercept["truth"].values.tolist() == [0.8] * 6
    left = 1 - float(intercept["contraction"])  # the prior's share: it pulls towards its mean, 0
    assert 0 < left < 0.5
    assert abs(float(intercept["bias"]) + left * 0.8) < LIMIT * float(intercept["bias_se"])
    assert len(compiled) == 1


def test_nuts_is_calibrated_for_censored_responses_whether_or_not_a_row_is(
    compiled: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worlds with and without rows at the bound are of one shape."""
    at_bound = []

    def seen(statistics: Statistics, observations: Observations, **options: object) -> object:
        at_bound.append(bool((observations.status > 0).any()))
        return nuts.fit_nuts(statistics, observations, **options)

    monkeypatch.setattr(analysis, "fit_nuts", seen)
    model = bh.Model("y ~ 1", family="gaussian", censored=(None, 1.0),
                     priors={"Intercept": bh.Normal(0, 0.8), "sigma": bh.HalfNormal(1)})  # fmt: skip
    design = bh.Design.nested(g=1, i=20)
    tree = sampled(bh.sbc, model, design, replicates=10, random_seed=1)
    assert tree.attrs["failed"] == 0
    assert float(tree["verdict"]["p_adjusted"].min()) > RARE
    assert tree["verdict"]["quantity"].values.tolist() == ["Intercept", "sigma", "log_likelihood"]
    assert set(at_bound) == {True, False}
    assert len(compiled) == 1
