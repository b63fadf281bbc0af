"""`simulate`: moments, names and labels as in the posterior, balance of treatments, errors."""

import numpy as np
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.errors import DesignError, PriorError
from bayeshlm.simulation.simulate_statistics import simulate_statistics

# |z| > 4.5 happens to a right simulation once in 150,000 checks; the seeds are fixed.
LIMIT = 4.5
H, N = bh.HalfNormal, bh.Normal
MODELS = {
    "nested": (
        bh.Model("y ~ log1p(x) + (1 | clinic/doctor)", family="lognormal"),
        bh.Design.nested(clinic=4, doctor=3, patient=5, covariates={"x": bh.Gamma(2, 1)}),
    ),
    "slopes": (
        bh.Model("y ~ x + (x | clinic) + (0 + x || doctor)", priors={
            "Intercept": N(), "x": N(), "1|clinic_sigma": H(), "x|clinic_sigma": H(), "x|doctor_sigma": H(),
            "sigma": H()}),
        bh.Design.nested(clinic=5, doctor=3, patient=4, covariates={"x": bh.Covariate(N(0, 1))}),
    ),
    "arms": (
        bh.Model("y ~ arm + x:arm + (1 | clinic)", family="lognormal"),
        bh.Design.nested(clinic=12, patient=[3, 4] * 6, covariates={"x": N(0, 1)},
                         treatments={"arm": bh.Treatment(["usual", "new", "best"], level="clinic")}),
    ),
    "se": (
        bh.Model("y ~ 1 + (1 | clinic)", se="s", priors={"Intercept": N(), "1|clinic_sigma": H()}),
        bh.Design.nested(clinic=8, patient=2, covariates={"s": bh.Uniform(0.5, 1)}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_truth_is_named_and_labelled_like_the_posterior(name):
    model, design = MODELS[name]
    world = bh.simulate(model, design, random_seed=4)
    posterior = bh.fit(model, world.data, draws=250, chains=2, random_seed=1)["posterior"].to_dataset()
    assert set(world.truth.data_vars) == set(posterior.data_vars)
    for variable, value in world.truth.data_vars.items():
        assert value.dims == posterior[variable].dims[2:]
        for dim in value.dims:
            assert value[dim].values.tolist() == posterior[dim].values.tolist()
    again = bh.simulate(model, design, random_seed=4)
    assert again.data.equals(world.data)
    assert again.truth.equals(world.truth)
    assert not bh.simulate(model, design, random_seed=5).data.equals(world.data)


def test_moments_of_a_nested_study():
    model, _ = MODELS["nested"]
    design = bh.Design.nested(clinic=300, doctor=10, patient=10, covariates={"x": bh.Gamma(2, 1)})
    params = {"Intercept": 1.5, "log1p(x)": -0.7, "1|clinic_sigma": 0.4, "1|clinic:doctor_sigma": 0.2, "sigma": 0.3}
    world = bh.simulate(model, design, params=params, random_seed=8)
    truth, d = world.truth, world.data
    for variable, sd in (("1|clinic", 0.4), ("1|clinic:doctor", 0.2)):
        u = truth[variable].values
        assert abs(u.mean()) < LIMIT * sd / np.sqrt(u.size)
        assert abs((u**2).mean() / sd**2 - 1) < LIMIT * np.sqrt(2 / u.size)
    doctor = [f"{c}:{k}" for c, k in zip(d.clinic, d.doctor, strict=True)]
    fitted = 1.5 - 0.7 * np.log1p(d.x) + truth["1|clinic"].sel(clinic=d.clinic.to_numpy()).values
    noise = np.log(d.y) - fitted - truth["1|clinic:doctor"].sel({"clinic:doctor": doctor}).values
    assert abs(noise.mean()) < LIMIT * 0.3 / np.sqrt(len(d))
    assert abs((noise**2).mean() / 0.09 - 1) < LIMIT * np.sqrt(2 / len(d))
    assert stats.kstest(noise / 0.3, "norm").pvalue > 1e-5
    assert abs(d.x.mean() - 2) < LIMIT * np.sqrt(2 / len(d))


def test_moments_of_correlated_slopes():
    model, _ = MODELS["slopes"]
    design = bh.Design.nested(clinic=4000, doctor=1, patient=1, covariates={"x": N(0, 1)})
    params = {"Intercept": 0, "x": 0, "1|clinic_sigma": 2.0, "x|clinic_sigma": 0.5, "corr|clinic": 0.6,
              "x|doctor_sigma": 1.0, "sigma": 1.0}  # fmt: skip
    truth = bh.simulate(model, design, params=params, random_seed=2).truth
    u, v = truth["1|clinic"].values, truth["x|clinic"].values
    assert abs(np.arctanh(np.corrcoef(u, v)[0, 1]) - np.arctanh(0.6)) < LIMIT / np.sqrt(4000)
    assert abs((v**2).mean() / 0.25 - 1) < LIMIT * np.sqrt(2 / 4000)
    assert abs(np.corrcoef(v, truth["x|doctor"].values)[0, 1]) < LIMIT / np.sqrt(4000)
    np.testing.assert_array_equal(truth["corr|clinic"].values, [[1, 0.6], [0.6, 1]])


@pytest.mark.parametrize(("weights", "se"), [("w", None), (None, "s"), ("w", "s")])
def test_weights_and_known_errors(weights, se):
    priors = {"Intercept": N(), "1|g_sigma": H()} | ({} if se else {"sigma": H()})
    model = bh.Model("y ~ 1 + (1 | g)", weights=weights, se=se, priors=priors)
    design = bh.Design.nested(g=2, i=10_000, covariates={"w": bh.Gamma(4, 1), "s": bh.Uniform(0.5, 2)})
    params = {"Intercept": 3.0, "1|g": [1.0, -1.0]} | ({} if se else {"sigma": 0.7})
    d = bh.simulate(model, design, params=params, random_seed=3).data
    scale = (d.s if se else 0.7) / (np.sqrt(d.w) if weights else 1)
    z = (d.y - 3 - np.where(d.g == 0, 1, -1)) / scale
    assert stats.kstest(z, "norm").pvalue > 1e-5


def test_params_in_every_shape():
    model, design = MODELS["arms"]
    base = {"Intercept": 1.0, "sigma": 0.1, "x:arm": 0.5}
    dim = "arm_dim"
    for value in ({"new": 1.0, "best": 2.0}, [1.0, 2.0], np.array([1.0, 2.0])):
        truth = bh.simulate(model, design, params={**base, "arm": value}, random_seed=1).truth
        assert truth["arm"].sel({dim: ["new", "best"]}).values.tolist() == [1.0, 2.0]
    assert truth["x:arm"].values.tolist() == [0.5] * 3
    effects = {k: k / 10 for k in range(12)}
    truth = bh.simulate(model, design, params={**base, "arm": 0, "1|clinic": effects}, random_seed=1).truth
    assert truth["1|clinic"].values.tolist() == list(effects.values())


@pytest.mark.parametrize("within", [None, "region"])
def test_treatments_are_balanced_as_promised(within):
    arm = bh.Treatment(["c", "b", "a"], level="clinic", within=within)
    design = bh.Design.nested(region=6, clinic=5, patient=2, treatments={"arm": arm})
    model = bh.Model("y ~ arm + (1 | clinic)", family="lognormal")
    for seed in range(5):
        d = bh.simulate(model, design, random_seed=seed).data
        assert d.groupby("clinic").arm.nunique().eq(1).all()
        clinics = d.drop_duplicates("clinic")
        blocks = [clinics] if within is None else [block for _, block in clinics.groupby(within)]
        for block in blocks:
            counts = block.arm.value_counts()
            assert counts.max() - counts.min() <= 1
    assert list(d.arm.cat.categories) == ["c", "b", "a"]


MODEL, DESIGN = MODELS["nested"]


@pytest.mark.parametrize(
    ("model", "design", "params", "error", "fragment"),
    [
        (bh.Model("y ~ x"), DESIGN, None, PriorError, "'Intercept', 'x', 'sigma'"),
        (MODEL, DESIGN, {"beta": 1}, DesignError, "params names 'beta'"),
        (MODEL, DESIGN, {"sigma": -1}, DesignError, "cannot be negative"),
        (MODEL, DESIGN, {"sigma": "big"}, DesignError, "must be numbers"),
        (MODEL, DESIGN, {"sigma": [1, 2]}, DesignError, "one finite number"),
        (MODEL, DESIGN, {"Intercept": np.nan}, DesignError, "one finite number"),
        (MODEL, DESIGN, {"Intercept": 1e4}, DesignError, "not finite"),
        (MODEL, DESIGN, {"1|clinic": [1.0]}, DesignError, "4 finite numbers"),
        (MODELS["slopes"][0], MODELS["slopes"][1], {"corr|clinic": 1.5}, DesignError, "positive definite"),
        (MODELS["slopes"][0], MODELS["slopes"][1], {"1|clinic": 0.0}, DesignError, "given together"),
        (MODELS["arms"][0], MODELS["arms"][1], {"arm": {"new": 1}}, DesignError, "'new', 'best'"),
        (MODEL, bh.Design.nested(clinic=2, doctor=2, i=2), None, DesignError, "makes no column 'x'"),
        (MODEL, bh.Design.nested(clinic=2, doctor=2, i=2, covariates={"x": N(-9, 1)}), None, DesignError, "log1p(x)"),
        (bh.Model("log(y) ~ 1"), DESIGN, None, DesignError, "an expression"),
        (bh.Model("x ~ 1", family="lognormal"), DESIGN, None, DesignError, "also a column of the design"),
        (bh.Model("y ~ (1 | clinic)", family="lognormal", weights="x"),
         bh.Design.nested(clinic=2, i=50, covariates={"x": N(0, 1)}), None, DesignError, "<= 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_simulated(model, design, params, error, fragment):
    with pytest.raises(error) as caught:
        bh.simulate(model, design, params=params, random_seed=0)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"clinic": 3}, "at least a group level and the unit"),
        ({"clinic": 0, "i": 3}, "at least 1"),
        ({"clinic": 2.5, "i": 3}, "an int, a list of ints"),
        ({"clinic": 3, "i": [1, 2]}, "2 sizes for 3 parents"),
        ({"clinic": 3, "i": bh.Flat()}, "no distribution of sizes"),
        ({"clinic": 3, "i": 2, "covariates": {"i": N()}}, "used twice"),
        ({"clinic": 3, "i": 2, "covariates": {"x": bh.Flat()}}, "proper distribution"),
        ({"clinic": 3, "i": 2, "covariates": {"x": bh.Covariate(N(), "city")}}, "unknown level 'city'"),
        ({"clinic": 3, "i": 2, "treatments": {"t": bh.Treatment(2, level="i")}}, "on the unit 'i'"),
        ({"clinic": 3, "i": 2, "treatments": {"t": bh.Treatment(2, level="clinc")}}, "did you mean 'clinic'"),
        ({"a": 3, "b": 2, "i": 2, "treatments": {"t": bh.Treatment(2, "a", within="b")}}, "not above"),
    ],
)
def test_impossible_designs(arguments, fragment):
    with pytest.raises(DesignError) as caught:
        bh.Design.nested(**arguments)
    assert fragment in str(caught.value)


def test_seed_study_as_written_and_with_both_caps():
    world = bh.seed_study(random_seed=12)
    d = world.data
    assert (len(d), d.instructor.nunique(), d.method.nunique()) == (100_000, 50, 5)
    assert d.instructor.value_counts().eq(2000).all()
    assert d.drop_duplicates("instructor").method.value_counts().eq(10).all()
    assert stats.kstest(d.hs_gpa, stats.norm(3, 0.25).cdf).pvalue > 1e-5
    one = d.drop_duplicates("instructor").instructor_effect
    assert stats.kstest(one, stats.norm(1, 0.1).cdf).pvalue > 1e-5
    assert stats.kstest(d.drop_duplicates("method").method_effect, stats.norm(1, 0.05).cdf).pvalue > 1e-5
    noise = d.score / ((20 + 20 * d.hs_gpa) * d.instructor_effect * d.method_effect)
    assert stats.kstest(noise, stats.norm(75, 10).cdf).pvalue > 1e-5
    assert d.hs_gpa.max() > 4
    assert d.score.max() > 100
    labels = [f"{m}:{i}" for m, i in zip(d.method, d.instructor, strict=True)]
    effect = world.truth["1|method:instructor"].sel({"method:instructor": labels}).values
    np.testing.assert_allclose(np.exp(effect), d.instructor_effect)
    capped = bh.seed_study(cap_gpa=True, cap_score=True, random_seed=12).data
    assert capped.hs_gpa.max() == 4
    assert capped.score.max() == 100
    np.testing.assert_allclose(capped.hs_gpa, np.minimum(d.hs_gpa, 4))
    below = (capped.score < 100) & (d.hs_gpa < 4)
    np.testing.assert_allclose(capped.score[below], d.score[below] / 80)
    with pytest.raises(DesignError, match="divide evenly"):
        bh.seed_study(students=101)


def test_numbered_arms_are_categories_and_no_dose() -> None:
    """Three arms called 0, 1 and 2 have two effects, not one slope."""
    design = bh.Design.nested(clinic=12, patient=2, treatments={"arm": bh.Treatment(3, level="clinic")})
    model = bh.Model("y ~ arm + (1 | clinic)", priors={
        "Intercept": bh.Normal(0, 1), "arm": bh.Normal(0, 1), "1|clinic_sigma": bh.HalfNormal(1),
        "sigma": bh.HalfNormal(1),
    })  # fmt: skip
    world = bh.simulate(model, design, random_seed=1)
    assert world.data["arm"].unique().tolist() == world.data["arm"].astype(str).unique().tolist()
    assert world.truth["arm"].sizes == {"arm_dim": 2}
    assert world.truth["arm_dim"].values.tolist() == ["1", "2"]
    compressed = simulate_statistics(model, design, random_seed=1)
    assert compressed.through == "statistics"
    assert compressed.truth["arm_dim"].values.tolist() == ["1", "2"]
