"""Calibration: planted faults are caught, right posteriors pass, and the result is what its readers expect."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import bayeshlm as bh
from bayeshlm.engines.exact.fit import fit_exact
from bayeshlm.errors import BayeshlmWarning, DesignError, EngineError, PriorError
from bayeshlm.simulation.parameters import draw_parameters
from bayeshlm.studies.analysis import Analysis
from bayeshlm.studies.likelihood import log_likelihood
from bayeshlm.studies.quantities import choose_quantities
from bayeshlm.studies.sbc import judge, rank
from tests.engines.dense import CASES, make_frame, make_model

MODEL = bh.Model(
    "y ~ x + (1 | a/b)",
    family="lognormal",
    priors={
        "Intercept": bh.Normal(1, 0.5), "x": bh.Normal(0, 0.5), "1|a_sigma": bh.HalfNormal(0.5),
        "1|a:b_sigma": bh.HalfNormal(0.5), "sigma": bh.HalfNormal(0.5),
    },
)  # fmt: skip
DESIGN = bh.Design.nested(a=6, b=4, unit=5, covariates={"x": bh.Normal(0, 1)})
KNOWN_ERRORS = bh.Model("y ~ x", se="s", priors={"Intercept": bh.Normal(0, 1), "x": bh.Normal(0, 1)})
PLAIN = bh.Design.nested(g=3, unit=4, covariates={"x": bh.Normal(), "s": bh.Uniform(0.5, 1)})
OPTIONS = {"random_seed": 1, "n_jobs": 1, "progress": False}
REPLICATES, DRAWS = 120, 99


@functools.cache
def right_draws(key: tuple[int, int, float]) -> dict[str, np.ndarray]:
    """One fit serves all faults of the draws: the same replicate comes with the same seed."""
    statistics = right_draws.statistics  # type: ignore[attr-defined]
    result = fit_exact(statistics, draws=key[1], chains=1, seed=key[0])
    return {name: variable.values[0] for name, variable in result.variables.items()}


def right(statistics, draws, seed):
    right_draws.statistics = statistics
    return dict(right_draws((seed, draws, float(statistics.log_jacobian))))


def tau_doubled(statistics, draws, seed):
    values = right(statistics, draws, seed)
    return values | {"1|a_sigma": 2 * values["1|a_sigma"]}


def likelihood_dropped(statistics, draws, seed):
    rng = np.random.default_rng(seed)
    labels = [statistics.labels(k) for k in range(2)]
    prior = [draw_parameters(MODEL, statistics.layout, labels, {}, rng).values for _ in range(draws)]
    return {name: np.stack([draw[name][1] for draw in prior]) for name in prior[0]}


def labels_shuffled(statistics, draws, seed):
    values = right(statistics, draws, seed)
    order = np.random.default_rng(seed).permutation(values["1|a:b"].shape[1])
    return values | {"1|a:b": values["1|a:b"][:, order]}


def parent_off_by_one(statistics, draws, seed):
    """Every instructor is said to teach the next method."""
    codes = statistics.codes.copy()
    codes[:, 0] = (codes[:, 0] + 1) % 6
    result = fit_exact(dataclasses.replace(statistics, codes=codes), draws=draws, chains=1, seed=seed)
    return {name: variable.values[0] for name, variable in result.variables.items()}


def too_narrow(statistics, draws, seed):
    """10 % narrower than the posterior."""
    result = fit_exact(statistics, draws=draws, chains=1, seed=seed)
    values = {name: variable.values[0] for name, variable in result.variables.items()}
    return {name: v.mean(axis=0) + 0.9 * (v - v.mean(axis=0)) for name, v in values.items()}


def smallest(tree: xr.DataTree) -> dict[str, float]:
    return tree["verdict"]["p_adjusted"].to_series().to_dict()


@pytest.fixture(scope="module")
def clean() -> xr.DataTree:
    return bh.sbc(MODEL, DESIGN, replicates=REPLICATES, draws=DRAWS, engine=right, **OPTIONS)


def test_a_right_posterior_passes(clean) -> None:
    assert clean.attrs["passed"] == 1
    assert clean["verdict"].attrs["passed"] == 1
    covered = clean["verdict"]["coverage"] - clean["verdict"]["level"]
    assert float(abs(covered / clean["verdict"]["coverage_se"]).max()) < 4.5


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (tau_doubled, "1|a_sigma"),
        (likelihood_dropped, "log_likelihood"),
        (labels_shuffled, "log_likelihood"),
        (parent_off_by_one, "log_likelihood"),
    ],
)
def test_planted_faults_are_caught(clean, fault, where) -> None:
    """Not just below the limit: far below, so that other seeds catch them too."""
    tree = bh.sbc(MODEL, DESIGN, replicates=REPLICATES, draws=DRAWS, engine=fault, **OPTIONS)
    assert tree.attrs["passed"] == 0
    assert smallest(tree)[where] < 1e-5


def test_without_the_log_likelihood_a_dropped_likelihood_would_pass() -> None:
    """The prior's draws are calibrated for every parameter: only the joint log likelihood tells."""
    tree = bh.sbc(MODEL, DESIGN, replicates=REPLICATES, draws=DRAWS, engine=likelihood_dropped, **OPTIONS)
    found = smallest(tree)
    assert {name for name, p in found.items() if p < 0.01} == {"log_likelihood"}


@pytest.mark.parametrize(
    ("priors", "replicates"),
    [({"1|a_sigma": bh.HalfNormal(3.0)}, 150), ({"Intercept": bh.Normal(2.5, 0.5)}, 60)],
    ids=["wide tau", "shifted"],
)
def test_a_wrong_prior_is_caught(priors, replicates) -> None:
    model = MODEL.with_priors({"1|a_sigma": bh.HalfNormal(0.3)})
    few = bh.Design.nested(a=3, b=3, unit=4, covariates={"x": bh.Normal(0, 1)})
    tree = bh.sbc(model, few, replicates=replicates, draws=DRAWS, fit_model=model.with_priors(priors), **OPTIONS)
    assert tree.attrs["passed"] == 0
    assert min(smallest(tree).values()) < 1e-3


def test_ten_per_cent_too_narrow_is_caught() -> None:
    """With 1,500 replicates; the same without the fault passes."""
    tree = bh.sbc(KNOWN_ERRORS, PLAIN, replicates=1500, draws=DRAWS, engine=too_narrow, **OPTIONS)
    assert min(smallest(tree).values()) < 1e-3
    assert bh.sbc(KNOWN_ERRORS, PLAIN, replicates=300, draws=DRAWS, **OPTIONS).attrs["passed"] == 1


def mock_study(rng, replicates: int, draws: int, shrink: float = 1.0) -> xr.Dataset:
    """theta ~ N(0, 1), y ~ N(theta, 1): conjugate draws of theta, theta^2, |theta - 1| and the log likelihood."""
    uniform = np.empty((replicates, 4))
    for k in range(replicates):
        theta, noise = rng.standard_normal(2)
        y = theta + noise
        posterior = y / 2 + shrink * np.sqrt(0.5) * rng.standard_normal(draws)

        def functions(t, y=y):
            return np.stack([t, t**2, np.abs(t - 1), -((y - t) ** 2)], axis=-1)

        uniform[k] = rank(functions(theta), functions(posterior), rng)[1]
    return judge(uniform, list("abcd"), draws)


def test_false_alarms_of_clean_studies() -> None:
    """400 clean studies of four dependent quantities: at most 1 % false alarms, and not none (binomial, 1e-4)."""
    rng = np.random.default_rng(5)
    alarms = sum(float(mock_study(rng, 50, 20)["p_adjusted"].min()) < 0.01 for _ in range(400))
    assert alarms <= stats.binom.ppf(1 - 1e-4, 400, 0.01)
    loose = sum(float(mock_study(rng, 50, 20)["p_adjusted"].min()) < 0.2 for _ in range(200))
    assert loose >= stats.binom.ppf(1e-4, 200, 0.2 / 4)  # a test that never rejects would catch nothing
    caught = sum(float(mock_study(rng, 1000, 100, shrink=0.8)["p_adjusted"].min()) < 0.01 for _ in range(4))
    assert caught == 4


def test_ranks_break_ties_at_random() -> None:
    rng = np.random.default_rng(1)
    ranks = np.array([rank(np.zeros(1), np.zeros((4, 1)), rng)[0][0] for _ in range(5000)])
    assert stats.chisquare(np.bincount(ranks, minlength=5)).pvalue > 1e-5
    found, uniform = rank(np.array([0.5, -1.0, 9.0]), np.array([[0.0] * 3, [0.4] * 3, [1.0] * 3]), rng)
    assert found.tolist() == [2, 0, 3]
    assert ((uniform * 4 >= found) & (uniform * 4 <= found + 1)).all()


@pytest.mark.parametrize("name", CASES)
def test_the_log_likelihood_of_the_statistics_is_that_of_the_rows(name) -> None:
    """At random parameters, over all kinds of model, against scipy row by row."""
    rng = np.random.default_rng(11)
    frame = make_frame(rng)
    model = make_model(CASES[name], rng)
    statistics = bh.compress(model, frame)
    labels = [statistics.labels(k) for k in range(len(statistics.layout.levels))]
    drawn = [draw_parameters(model, statistics.layout, labels, {}, rng) for _ in range(3)]
    values = {n: np.stack([d.values[n][1] for d in drawn]) for n in drawn[0].values}
    from bayeshlm.data.frames.rows import prepare
    from bayeshlm.simulation.simulate import _groups, _parts

    rows = prepare(model, frame)
    columns = [np.ones(rows.used)] + [
        rows.frame.select(v=rows.column(c))["v"].to_numpy() for c in rows.layout.columns[1:]
    ]  # fmt: skip
    y = rows.frame.select(v=rows.response(model))["v"].to_numpy()
    scale = np.ones(rows.used)
    if model.weights:
        scale = scale / np.sqrt(frame[model.weights].to_numpy())
    if model.se:
        scale = scale * frame[model.se].to_numpy()
    jacobian = -y.sum() if model.family == "lognormal" else 0.0
    for one, found in zip(drawn, log_likelihood(statistics, values), strict=True):
        mean = sum(b * columns[c] for b, c in zip(one.common, rows.layout.common_columns, strict=True))
        for level, effects in zip(rows.layout.levels, one.effects, strict=True):
            code, _ = _groups(rows, level)
            mean = mean + sum(e[code] * columns[c] for e, c in zip(effects, level.columns, strict=True))
        sigma = one.sigma if rows.layout.residual is None else one.extra["sigma"][_parts(model, rows)]
        expected = stats.norm.logpdf(y, mean, sigma * scale).sum() + jacobian
        assert found == pytest.approx(expected, rel=1e-9)


def test_quantities_are_the_default_ones(clean) -> None:
    names = clean["verdict"]["quantity"].values.tolist()
    assert names[:5] == ["Intercept", "x", "1|a_sigma", "1|a:b_sigma", "sigma"]
    assert [n for n in names if n.startswith("1|a[")] == [f"1|a[{k}]" for k in range(6)]
    assert sum(n.startswith("1|a:b[") for n in names) == 10  # of 24
    assert sum(n.startswith("contrast|a[") for n in names) == 15
    assert names[-3:] == ["ICC|a", "ICC|a:b", "log_likelihood"]


def test_sampled_groups_follow_random_sizes() -> None:
    design = bh.Design.nested(a=bh.Uniform(3, 30), b=2, unit=3, covariates={"x": bh.Normal(0, 1)})
    tree = bh.sbc(MODEL, design, replicates=12, draws=19, **OPTIONS)
    assert tree.attrs["failed"] == 0
    assert sum(str(n).startswith("1|a[at ") for n in tree["verdict"]["quantity"].values) >= 3


def test_derived_quantities_are_those_of_summarize() -> None:
    world = bh.simulate(MODEL, DESIGN, random_seed=3)
    statistics = bh.compress(MODEL, world.data)
    posterior = bh.fit(MODEL, statistics, draws=250, random_seed=1)
    values = {str(n): v.values.reshape(-1, *v.shape[2:]) for n, v in posterior["posterior"].data_vars.items()}
    chosen = choose_quantities(statistics, {name: v[0] for name, v in values.items()}, fixed_sizes=True)
    found = dict(zip(chosen.names, chosen.evaluate(statistics, values).T, strict=True))
    summary = bh.summarize(posterior).set_index(["variable", "label"])
    for level in ("a", "a:b"):
        assert found[f"ICC|{level}"].mean() == pytest.approx(summary.loc[("ICC", level), "mean"], rel=1e-12)
    pairs = values["1|a"][:, 1] - values["1|a"][:, 4]
    assert np.array_equal(found["contrast|a[1 - 4]"], pairs)


def test_layout_is_simuks_and_arviz_plots_draws_it(clean) -> None:
    import arviz_plots

    group = clean["prior_sbc"].to_dataset()
    assert all(variable.dims[:2] == ("chain", "draw") for variable in group.data_vars.values())
    assert (group.sizes["chain"], group.sizes["draw"]) == (1, REPLICATES)
    values = group["sigma"].values
    assert ((values > 0) & (values < 1)).all()
    assert np.array_equal(np.floor(values * (DRAWS + 1)), clean["ranks"]["sigma"].values)
    plotted = arviz_plots.plot_ecdf_pit(clean, var_names=["sigma", "1|a", "log_likelihood"], backend="none")
    assert "ecdf_lines" in plotted.viz.children
    drawn = arviz_plots.plot_ecdf_pit(clean, var_names=["sigma"], backend="matplotlib")
    assert drawn is not None


def test_files_keep_it(clean, tmp_path) -> None:
    clean.to_netcdf(tmp_path / "sbc.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "sbc.nc", engine="h5netcdf") as read:
        assert read.attrs["passed"] == 1
        assert read["verdict"].to_dataset().load().equals(clean["verdict"].to_dataset())


def test_rows_statistics_and_other_workers_give_one_study(tmp_path) -> None:
    options = {"replicates": 21, "draws": 19, "random_seed": 7, "progress": False}
    one = bh.sbc(MODEL, DESIGN, n_jobs=1, store=tmp_path, **options)
    two = bh.sbc(MODEL, DESIGN, n_jobs=2, **options)
    assert two["prior_sbc"].to_dataset().equals(one["prior_sbc"].to_dataset())
    assert one["replicates"]["rows"].values.sum() == 2  # every twentieth
    again = bh.sbc(MODEL, DESIGN, n_jobs=1, store=tmp_path, **options)
    assert again["prior_sbc"].to_dataset().equals(one["prior_sbc"].to_dataset())
    assert np.array_equal(again["replicates"]["seconds"], one["replicates"]["seconds"])  # read, not run


def test_another_formula_is_analysed_from_the_rows() -> None:
    other = bh.Model("y ~ (1 | a)", family="lognormal", priors=dict.fromkeys(["1|a_sigma", "sigma"], bh.HalfNormal(1)))
    tree = bh.sbc(MODEL, DESIGN, replicates=4, draws=19, fit_model=other, **OPTIONS)
    assert tree["replicates"]["rows"].values.tolist() == [1.0] * 4
    names = tree["verdict"]["quantity"].values.tolist()
    assert "sigma" in names
    assert "x" not in names


def failing(statistics, draws, seed):
    if seed % 3 == 0:
        raise FloatingPointError("no luck")
    return right(statistics, draws, seed)


def test_failures_are_shown_and_do_not_pass() -> None:
    with pytest.warns(BayeshlmWarning, match=r"of 30 replicates failed; the first.*no luck"):
        tree = bh.sbc(MODEL, DESIGN, replicates=30, draws=DRAWS, engine=failing, **OPTIONS)
    failed = tree["failures"].to_dataset()
    assert tree.attrs["failed"] == failed.sizes["failure"] > 0
    assert tree.attrs["finished"] == 30 - failed.sizes["failure"] == tree["prior_sbc"].sizes["draw"]
    assert tree.attrs["passed"] == 0
    assert not set(failed["replicate"].values) & set(tree["replicates"]["replicate"].values)


def always_failing(statistics, draws, seed):
    raise FloatingPointError("no luck")


@pytest.mark.parametrize(
    ("arguments", "error", "fragment"),
    [
        ({"draws": 3}, DesignError, "draws=3"),
        ({"engine": "stan"}, DesignError, "engine='stan'"),
        ({"fit_model": "y ~ x"}, DesignError, "fit_model is a str"),
        ({"replicates": 0}, DesignError, "replicates=0"),
        ({"fit_model": bh.Model("y ~ x + (1 | a/b)")}, PriorError, "No prior for 'Intercept'"),
        ({"fit_model": bh.Model("y ~ z", family="lognormal")}, bh.errors.DataError, "Column not in the data: 'z'"),
        ({"engine": always_failing}, FloatingPointError, "no luck"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(arguments, error, fragment) -> None:
    with pytest.raises(error, match=fragment):
        bh.sbc(MODEL, DESIGN, **{"replicates": 5, **OPTIONS, **arguments})
    with pytest.raises(PriorError, match="Neither a value nor a proper prior"):
        bh.sbc(MODEL.with_priors({"sigma": bh.Flat()}), DESIGN, **OPTIONS)


def test_where_every_replicate_fails_there_is_no_verdict(monkeypatch) -> None:
    from bayeshlm.studies import sbc as module

    def broken(*_):
        raise FloatingPointError("later")

    monkeypatch.setattr(module, "rank", broken)
    with pytest.warns(BayeshlmWarning), pytest.raises(EngineError, match="All 3 replicates failed"):
        bh.sbc(MODEL, DESIGN, replicates=3, draws=19, **OPTIONS)


@pytest.mark.parametrize(("repeats", "asked"), [(1, [(500, True)]), (8, [(500, True), (2000, False)])])
def test_markov_chains_are_thinned_by_their_effective_size(monkeypatch, repeats, asked) -> None:
    """The way of NUTS, with the exact engine's chains made sticky; what did not converge is run in the other form."""
    found = sticky(monkeypatch, repeats)
    done = STICKY.replicate(1, np.random.SeedSequence(3))
    assert found == asked
    assert done.draws["1|a"].shape == (99, 6)
    assert done.notes["ess"] >= 99
    assert done.notes["unconverged"] == 0


def test_chains_that_are_too_short_are_run_longer_in_the_same_form(monkeypatch) -> None:
    found = sticky(monkeypatch, 2)
    short = dataclasses.replace(STICKY, draws=450)
    monkeypatch.setattr("bayeshlm.studies.analysis.PER_DRAW", 1)
    done = short.replicate(1, np.random.SeedSequence(3))
    assert found == [(500, True), (2000, True)]
    assert done.draws["1|a"].shape == (450, 6)


@pytest.mark.parametrize(("diverging", "asked"), [(2, [(500, True)]), (3, [(500, True), (2000, False)])])
def test_chains_that_diverge_are_run_in_the_other_form(monkeypatch, diverging, asked) -> None:
    found = sticky(monkeypatch, 1, diverging)
    assert STICKY.replicate(1, np.random.SeedSequence(3)).notes["unconverged"] == 0
    assert found == asked


def test_where_no_form_mixes_the_replicate_fails(monkeypatch) -> None:
    found = sticky(monkeypatch, 200)
    with pytest.raises(EngineError, match=r"4000 draws are worth \d+ independent ones, fewer than the 99 wanted"):
        STICKY.replicate(1, np.random.SeedSequence(3))
    assert found == [(500, True), (2000, False), (2000, True)]


# What the study knows of its levels lets all of them be centred.
STICKY = Analysis(MODEL, MODEL, DESIGN, None, "auto", 99, information=(100.0, 100.0))


def sticky(monkeypatch, repeats: int, diverging: int = 0) -> list[tuple[int, bool]]:
    """Every draw comes `repeats` times, so many diverge where all is centred; returns what will have been asked for."""
    from bayeshlm.engines.select import Choice
    from bayeshlm.studies import analysis

    asked = []

    def chains(statistics, observations, *, draws, chains, seed, plans):
        centred = all(plan.centred for plan in plans)
        asked.append((draws, centred))
        result = fit_exact(statistics, draws=draws, chains=chains, seed=seed)
        places = np.arange(draws) // repeats
        held = {n: dataclasses.replace(v, values=v.values[:, places]) for n, v in result.variables.items()}
        told = np.zeros((chains, draws))
        told[0, : diverging * centred] = 1.0
        return dataclasses.replace(result, variables=held, sample_stats=result.sample_stats | {"diverging": told})

    monkeypatch.setattr(analysis, "choose_engine", lambda *_: Choice("nuts", "asked for"))
    monkeypatch.setattr(analysis, "fit_nuts", chains)
    return asked
