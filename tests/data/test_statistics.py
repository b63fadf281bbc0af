"""`compress`: the same numbers from every frame, and the right ones; merging; large offsets; NIST."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeshlm as bh
from bayeshlm.data.checks.table import check_statistics
from bayeshlm.errors import BayeshlmWarning, DataError
from tests.data.nist import MODEL as NIST
from tests.data.nist import assert_nist, nist_table
from tests.data.tables import KINDS, assert_same, by_cell, convert, moments, table

MODELS = {
    "categories": bh.Model("y ~ arm*x + C(grade) + (1 + x | school/teacher)"),
    "lognormal": bh.Model("z ~ log1p(x) + center(w) + scale(se):x + (1 | school)", family="lognormal"),
    "weights": bh.Model("y ~ x + I(x**2) + (x || school)", weights="w"),
    "se": bh.Model("y ~ arm + (1 | school)", se="se"),
    "weights and se": bh.Model("y ~ 0 + arm + (1 | school:teacher)", weights="w", se="se"),
    "no groups": bh.Model("y ~ x + expm1(z)"),
}
CENTRED = bh.Model("y ~ arm*center(x) + scale(z) + center(x):scale(z) + w + (1 + center(x) | school)")
PARTED = {**MODELS, "centred": CENTRED, "sigma by arm": bh.Model("y ~ x + (1 | school); sigma ~ arm")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_every_frame_gives_the_same_statistics(kind, name, tmp_path):
    data = table()
    expected = bh.compress(MODELS[name], data)
    assert_same(expected, bh.compress(MODELS[name], convert(kind, data, tmp_path)), 1e-12)


def by_hand(name, d):
    """(columns, weight, groups) as a reader of the formula would write them."""
    small, plain = (d.arm == "small") * 1.0, (d.arm == "plain") * 1.0
    ones = np.ones(len(d))
    if name == "categories":
        columns = [plain, small, d.x, (d.grade == 2) * 1.0, (d.grade == 3) * 1.0, plain * d.x, small * d.x, d.y]
        keys = zip(((s,) for s in d.school), zip(d.school, d.teacher, strict=True), strict=True)
        return columns, ones, list(keys)
    if name == "lognormal":
        columns = [np.log1p(d.x), d.w - d.w.mean(), (d.se - d.se.mean()) / d.se.std(ddof=0) * d.x, np.log(d.z)]
        return columns, ones, [((s,),) for s in d.school]
    if name == "weights":
        return [d.x, d.x**2, d.y], d.w, [((s,),) for s in d.school]
    if name == "se":
        return [plain, small, d.y], 1 / d.se**2, [((s,),) for s in d.school]
    if name == "weights and se":
        columns = [(d.arm == "aide") * 1.0, plain, small, d.y]
        return columns, d.w / d.se**2, [((s, t),) for s, t in zip(d.school, d.teacher, strict=True)]
    return [d.x, np.expm1(d.z), d.y], ones, [()] * len(d)


@pytest.mark.parametrize("name", MODELS)
def test_statistics_are_those_of_plain_loops(name):
    d = table(90, seed=5)
    statistics = bh.compress(MODELS[name], d)
    columns, weight, group = by_hand(name, d)
    expected = moments(np.column_stack(columns), np.asarray(weight), group)
    found = by_cell(statistics)
    assert found.keys() == expected.keys()
    for label, parts in expected.items():
        for left, right in zip(found[label], parts, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)
    assert statistics.sum_log_weight == pytest.approx(np.log(weight).sum(), rel=1e-12)
    assert statistics.log_jacobian == pytest.approx(-np.log(d.z).sum() if name == "lognormal" else 0, rel=1e-12)
    total_weight, mean, scatter = statistics.total()
    whole = moments(np.column_stack(columns), np.asarray(weight), [0] * len(d))[0]
    np.testing.assert_allclose(total_weight, whole[1], rtol=1e-13)
    np.testing.assert_allclose(mean + statistics.shift, whole[2], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(scatter, whole[3], rtol=1e-11, atol=1e-11)


@given(st.lists(st.integers(0, 2), min_size=20, max_size=60), st.integers(0, 10_000))
@settings(max_examples=7, deadline=None, derandomize=True)
@pytest.mark.parametrize("name", ["categories", "weights and se", "centred", "sigma by arm"])
def test_parts_add_up_to_the_whole(name, part, seed):
    """Parts may lack groups, arms and grades, and may hold a single row."""
    d = table(len(part), seed)
    whole = bh.compress(PARTED[name], d)
    part = np.array(part)
    parts = [bh.compress(PARTED[name], d[part == k], site="here") for k in np.unique(part)]
    rng = np.random.default_rng(seed)
    rng.shuffle(parts)
    assert_same(whole, sum(parts), 1e-10)


def test_one_site_is_one_group_and_one_arm():
    model = bh.Model(
        "y ~ arm + (1 | site)", priors={k: bh.Flat() for k in ("Intercept", "arm", "1|site_sigma", "sigma")}
    )
    rng = np.random.default_rng(3)
    sites = [pd.DataFrame({"y": rng.normal(k % 2, 1, 30), "arm": "ab"[k % 2], "site": f"s{k}"}) for k in range(8)]
    parts = [bh.compress(model, site) for site in sites]
    with pytest.raises(DataError, match=r"one category only.*one group only"):
        bh.fit(model, parts[0])
    merged = sum(parts[1:], start=parts[0])
    assert_same(bh.compress(model, pd.concat(sites)), merged, 1e-12)
    check_statistics(merged)


def test_merge_keeps_a_types_own_order():
    d = table()
    d["arm"] = pd.Categorical(d.arm, ["small", "plain", "never", "aide"])
    model = bh.Model("y ~ arm + (1 | school)")
    whole = bh.compress(model, d)
    assert whole.layout.common[1].labels == ("plain", "aide")
    parts = [bh.compress(model, d[d.arm == arm], site="here") for arm in ("aide", "plain", "small")]
    assert_same(whole, parts[0] + parts[1] + parts[2], 1e-12)


def test_merge_refuses_what_does_not_add_up():
    d = table()
    model = bh.Model("y ~ x + (1 | school)")
    a = bh.compress(model, d)
    with pytest.raises(DataError, match="same model"):
        a + bh.compress(bh.Model("y ~ x + (1 | teacher)"), d)
    with pytest.raises(TypeError):
        a + 1
    for text in ("I(center(x)**2)", "center(x):z", "log1p(scale(x) + 9)"):
        curved = bh.Model(f"y ~ {text} + (1 | teacher)")
        with pytest.raises(DataError, match=r"different constants of center\(\) or scale\(\)"):
            bh.compress(curved, d[:50]) + bh.compress(curved, d[50:])
    with pytest.raises(DataError, match="'x' holds numbers in one part"):
        a + bh.compress(model, d.assign(x=np.where(d.x > 1, "high", "low")))
    with pytest.raises(DataError, match="number in one part and text"):
        a + bh.compress(model, d.assign(school=d.school.astype(str)))
    b = bh.compress(model, d.assign(school="s" + d.school.astype(str)))
    assert [label for (label,) in (a + b).members[0]] == ["0", "1", "2", "3", "s0", "s1", "s2", "s3"]
    orders = [pd.Categorical(d.arm, order) for order in (["aide", "plain", "small"], ["plain", "aide", "small"])]
    armed = bh.Model("y ~ arm + (1 | school)")
    with pytest.raises(DataError, match="different orders"):
        bh.compress(armed, d.assign(arm=orders[0])) + bh.compress(armed, d.assign(arm=orders[1]))


@pytest.mark.parametrize("kind", ["pandas", "polars lazy", "duckdb"])
def test_offsets_and_small_scales_cost_no_digits(kind, tmp_path):
    d = table()
    # Multiples of 2^-10, so that adding the offsets is exact and only the sums' own rounding shows.
    d["y"], d["x"] = np.round(d.y * 1024) / 1024, np.round(d.x * 1024) / 1024
    model = bh.Model("y ~ x + (x | school/teacher)")
    plain = bh.compress(model, convert(kind, d, tmp_path))
    moved = bh.compress(model, convert(kind, d.assign(y=d.y + 1e12, x=d.x + 1e9), tmp_path))
    np.testing.assert_allclose(moved.scatter, plain.scatter, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moved.total().scatter, plain.total().scatter, rtol=1e-9)
    small = bh.compress(model, convert(kind, d.assign(y=d.y * 1e-12, x=d.x * 1e-12), tmp_path))
    np.testing.assert_allclose(small.scatter * 1e24, plain.scatter, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["pandas", "polars lazy", "duckdb"])
def test_groups_far_apart_for_their_width(kind, tmp_path):
    d = table()
    d["y"] = np.round(d.y * 1024) / 1024
    model = bh.Model("y ~ x + (1 | school)")
    near = bh.compress(model, d)
    far = bh.compress(model, convert(kind, d.assign(y=d.y + 1e8 * d.school), tmp_path))
    np.testing.assert_allclose(far.scatter, near.scatter, rtol=1e-7)


@pytest.mark.parametrize("kind", ["pandas", "polars", "duckdb", "pyarrow"])
def test_log1p_and_expm1_of_tiny_values(kind, tmp_path):
    d = table()
    for function in ("log1p", "expm1"):
        model = bh.Model(f"y ~ {function}(x) + (1 | school)")
        for scale in (1e-12, 1e-3, 1.0, 30.0):
            small = d.assign(x=d.x.abs() * scale)
            _, _, scatter = bh.compress(model, convert(kind, small, tmp_path)).total()
            exact = getattr(np, function)(small.x.to_numpy())
            assert scatter[0, 0] == pytest.approx(exact.var() * len(d), rel=1e-9)


def nist():
    folder = Path(__file__).parents[1] / "references" / "nist"
    spec = importlib.util.spec_from_file_location("smls", folder / "smls.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answers = json.loads((folder / "smls.json").read_text())["datasets"]
    return module.smls, {answer["name"]: answer for answer in answers}


@pytest.mark.parametrize("kind", KINDS)
def test_nist_sums_of_squares_of_all_sets_in_one_table(kind, tmp_path):
    assert_nist(bh.compress(NIST, convert(kind, nist_table(), tmp_path)))


@pytest.mark.parametrize("kind", ["pandas", "duckdb"])
@pytest.mark.parametrize("name", [f"SmLs0{k}" for k in range(1, 10)])
def test_nist_sums_of_squares(name, kind, tmp_path):
    smls, answers = nist()
    treatment, y = smls(name)
    frame = pd.DataFrame({"y": y, "t": treatment})
    statistics = bh.compress(bh.Model("y ~ 1 + (1 | t)"), convert(kind, frame, tmp_path))
    within = statistics.scatter[:, 0, 0].sum()
    between = statistics.total().scatter[0, 0] - within
    exact = answers[name]["of_doubles"]
    # y itself is spaced by eps * offset: sums of squares of deviations of 0.1 can be this exact and no more.
    tolerance = max(1e-13, 4 * np.finfo(float).eps * answers[name]["offset"])
    assert within == pytest.approx(exact["within_ss"], rel=tolerance)
    assert between == pytest.approx(exact["between_ss"], rel=tolerance)


def test_store_round_trip_with_nasty_names(tmp_path):
    import xarray as xr

    from bayeshlm.data.store import statistics_from_dataset, statistics_to_dataset

    d = table().rename(columns={"x": "km/h", "school": "a/b $<\u00e9>", "arm": "arm|1:2"})
    d["day"] = pd.to_datetime("2024-01-01") + pd.to_timedelta(d.grade, "D")
    d["flag"] = d.grade > 1
    d["g"] = d.grade
    text = (
        "y ~ `km/h` + I(z/10) + center(w) + `arm|1:2` + C(day) + C(grade) + grade + flag:z "
        "+ (`km/h` | `a/b $<\u00e9>`/teacher)"
    )
    statistics = bh.compress(bh.Model(text), d)
    dataset = statistics_to_dataset(statistics)
    xr.DataTree.from_dict({"statistics": dataset}).to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "s.nc", engine="h5netcdf") as tree:
        again = statistics_from_dataset(tree["statistics"].to_dataset().load())
    assert_same(statistics, again, 1e-15)
    assert again.model == statistics.model
    assert again.layout.constants == statistics.layout.constants
    here = dataclasses.replace(statistics, site="here")
    assert_same(here + here, dataclasses.replace(again, site="here") + here, 1e-15)
    assert not [name for name in again.model.parameters if "/" in name]
    empty = bh.compress(bh.Model("y ~ z"), d)
    statistics_to_dataset(empty).to_netcdf(tmp_path / "e.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "e.nc", engine="h5netcdf") as loaded:
        assert_same(empty, statistics_from_dataset(loaded.load()), 1e-15)
    with pytest.raises(DataError, match="not bayeshlm statistics"):
        statistics_from_dataset(xr.Dataset())


def test_fit_takes_statistics_for_the_rows_they_came_from():
    d = table()
    model = bh.Model("y ~ x + (1 | school)")
    with pytest.warns(BayeshlmWarning, match="Default priors"):
        complete = bh.fit(model, d, draws=200, chains=2, random_seed=1)
    with pytest.warns(BayeshlmWarning, match="Default priors"):
        again = bh.fit(model, bh.compress(model, d), draws=200, chains=2, random_seed=1)
    assert complete["posterior"].to_dataset().equals(again["posterior"].to_dataset())
