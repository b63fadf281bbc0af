"""Statistics handed on instead of rows: saved, loaded, added, and refused where they would give rows away."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning, DataError
from tests.data.tables import assert_same, table

NESTED = bh.Model("y ~ x + (1 | school/teacher)")


def numbered(seed):
    """A site that numbers its teachers from 1 and shares its methods with the others."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "y": rng.normal(seed, 1, 60), "method": rng.choice(["A", "B"], 60), "teacher": rng.integers(1, 5, 60)
    })  # fmt: skip


METHODS = bh.Model("y ~ 1 + (1 | method/teacher)")


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_statistics_survive_a_file(suffix, tmp_path):
    path = tmp_path / f"site{suffix}"
    for statistics in (
        bh.compress(NESTED, table(), site="north <'\u00e9'>"),
        bh.compress(bh.Model("y ~ arm*center(x) + (1 | school); sigma ~ arm"), table()),
        bh.compress(bh.Model("y ~ x", weights="w", se="se"), table()),
    ):
        assert bh.save(statistics, path) == path
        loaded = bh.load(path)
        assert isinstance(loaded, bh.Statistics)
        assert_same(statistics, loaded, 1e-15)
        assert (loaded.site, loaded.model, loaded.model_hash) == (
            statistics.site, statistics.model, statistics.model_hash)  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_loaded_part_fits_as_the_rows_do(tmp_path):
    d = table()
    priors = {"Intercept": bh.Normal(0, 10), "x": bh.Normal(0, 5), "1|school_sigma": bh.HalfNormal(1),
              "sigma": bh.HalfNormal(3)}  # fmt: skip
    model = bh.Model("y ~ x + (1 | school)", priors=priors)
    for k, part in enumerate((d[:40], d[40:])):
        bh.save(bh.compress(model, part, site="here"), tmp_path / f"week{k}.nc")
    weeks = sum(bh.load(tmp_path / f"week{k}.nc") for k in range(2))
    options = {"draws": 200, "chains": 2, "random_seed": 1}
    whole, merged = bh.fit(model, d, **options), bh.fit(model, weeks, **options)
    for name, values in whole["posterior"].data_vars.items():
        np.testing.assert_allclose(values, merged["posterior"][name], rtol=1e-7, atol=1e-7)


DAMAGE = {
    "another model": (lambda s: s.attrs.update(model_hash="0" * 64), "its hash is not that of its model"),
    "group out of range": (lambda s: s["codes"].__setitem__((0, 0), 99), "a group is out of range"),
    "negative group": (lambda s: s["codes"].__setitem__((0, 0), -1), "a group is out of range"),
    "nan": (lambda s: s["mean"].__setitem__((0, 0), np.nan), "a number is not finite"),
    "no rows": (lambda s: s["count"].__setitem__(0, 0.0), "a count or weight is not positive"),
    "more rows": (lambda s: s["count"].__setitem__(0, 1000.0), "do not add up"),
    "negative square": (lambda s: s["scatter"].__setitem__((0, 0, 0), -1.0), "a sum of squares is negative"),
    "the same group twice": (lambda s: s["level_0_key_0"].__setitem__(0, 1), "a group is there twice"),
    "no json": (lambda s: s.attrs.update(record="{"), "not bayeshlm statistics"),
    "json of something else": (lambda s: s.attrs.update(record="[]"), "damaged"),
    "model of something else": (lambda s: s.attrs.update(model='{"formula": "y ~ x + (1 | g)", "priors": {}}'),
                                "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_statistics_are_refused(case, tmp_path):
    change, message = DAMAGE[case]
    bh.save(bh.compress(bh.Model("y ~ x + (1 | school)"), table()), tmp_path / "s.nc")
    with xr.open_datatree(tmp_path / "s.nc", engine="h5netcdf") as opened:
        tree = opened.load()
    change(tree["statistics"])
    bh.save(tree, tmp_path / "damaged.nc")  # crafted: its checksum is right
    with pytest.raises(DataError, match=message):
        bh.load(tmp_path / "damaged.nc")


def test_numbered_groups_are_not_pooled_unsaid():
    north, south = numbered(1), numbered(2)
    with pytest.warns(BayeshlmWarning, match=r"'1', '2', '3', '4' of 'teacher' are numbers.*own=\['teacher'\]"):
        bh.compress(METHODS, north) + bh.compress(METHODS, south)
    with pytest.warns(BayeshlmWarning, match="'teacher'"):
        bh.compress(METHODS, north, site="north") + bh.compress(METHODS, south)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weeks = bh.compress(METHODS, north, site="here") + bh.compress(METHODS, south, site="here")
        sites = sum(bh.compress(METHODS, d, site=s, own=["teacher"]) for d, s in ((north, "north"), (south, "south")))
    assert (len(weeks.members[0]), len(weeks.members[1]), weeks.site) == (2, 8, "here")
    assert (len(sites.members[0]), len(sites.members[1]), sites.site) == (2, 16, "north and south")
    assert sites.members[1][0] == ("A", "north: 1")
    both = pd.concat([north.assign(teacher="north: " + north.teacher.astype(str)),
                      south.assign(teacher="south: " + south.teacher.astype(str))])  # fmt: skip
    assert_same(bh.compress(METHODS, both), sites, 1e-12)


def test_own_labels_are_in_the_order_of_text():
    d = numbered(1).assign(teacher=lambda d: d.teacher * 3)
    found = bh.compress(METHODS, d, site="n", own=["teacher"])
    assert_same(bh.compress(METHODS, d.assign(teacher="n: " + d.teacher.astype(str))), found, 1e-15)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"own": ["teacher"]}, "own= needs site="),
    ({"own": ["pupil"], "site": "n"}, "own= names 'pupil'; the grouping columns of this model are 'method', 'teacher'"),
    ({"own": "teacher", "site": "n"}, r"must be a list of columns, as in own=\['teacher'\]"),
    ({"site": " "}, "must be the name of a place"),
    ({"min_cell": 0}, "min_cell=0 must be a whole number"),
    ({"min_cell": True}, "min_cell=True"),
    ({"min_cell": 2.5}, "min_cell=2.5"),
])  # fmt: skip
def test_arguments_of_sharing_are_checked(arguments, message):
    with pytest.raises(DataError, match=message):
        bh.compress(METHODS, numbered(1), **arguments)


def test_small_cells_are_refused_by_name():
    d = pd.DataFrame({"y": np.arange(12.0), "arm": ["a"] * 9 + ["b"] * 3, "g": [1] * 6 + [2] * 5 + [3]})
    model = bh.Model("y ~ (1 | g)")
    assert bh.compress(model, d, min_cell=1).rows == 12
    with pytest.raises(DataError, match=r"min_cell=5: 1 cells have fewer rows.*g=3 \(1 rows\)"):
        bh.compress(model, d, min_cell=5)
    assert bh.compress(model, d[d.g < 3], min_cell=5).rows == 11
    with pytest.raises(DataError, match=r"2 cells .*g=2, arm='b' \(2 rows\); g=2, arm='a' \(3 rows\)"):
        bh.compress(bh.Model("y ~ arm + (1 | g)"), d[d.g < 3], min_cell=5)
    with pytest.raises(DataError, match=r"g=2, arm='b' \(2 rows\)"):
        bh.compress(bh.Model("y ~ (1 | g); sigma ~ arm"), d[d.g < 3], min_cell=5)
    with pytest.raises(DataError, match=r"arm='b' \(3 rows\)"):
        bh.compress(bh.Model("y ~ arm"), d, min_cell=5)
    with pytest.raises(DataError, match=r"all rows \(12 rows\)"):
        bh.compress(bh.Model("y ~ 1"), d, min_cell=13)


def test_what_a_cell_of_one_and_of_two_rows_reveals():
    """The statement in the docstring of Statistics, by an attacker who has the statistics alone."""
    d = pd.DataFrame({"y": [3.25, 7.0, 1.5], "x": [0.1, 0.7, 0.2], "g": [1, 2, 2]})
    s = bh.compress(bh.Model("y ~ x + (1 | g)"), d)
    np.testing.assert_allclose(s.mean[0] + s.shift, [0.1, 3.25])
    spread = np.sqrt(s.scatter[1, 1, 1] / 2)
    np.testing.assert_allclose(s.mean[1, 1] + s.shift[1] + np.array([spread, -spread]), [7.0, 1.5])


@given(st.integers(0, 10_000), st.floats(-1e12, 1e12), st.floats(1e-6, 1e6), st.sampled_from(["pandas", "polars lazy"]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_moving_and_scaling_the_data_moves_and_scales_the_statistics(seed, offset, scale, kind):
    """y -> scale * y + offset: scatters scale by scale squared; nothing else changes but the means."""
    from tests.data.tables import IN_MEMORY

    d = table(60, seed)
    d["y"] = np.round(d.y * 1024) / 1024
    scale, offset = 2.0 ** round(np.log2(scale)), float(round(offset))
    moved = d.assign(y=d.y * scale + offset)
    stored = (moved.y - offset) / scale  # what the floats kept of y beside the offset
    model = bh.Model("y ~ x + (x | school/teacher)")
    a = bh.compress(model, d.assign(y=stored))
    b = bh.compress(model, IN_MEMORY[kind](moved))
    np.testing.assert_array_equal(a.count, b.count)
    unit = np.array([1.0, scale])
    spread = np.sqrt(np.diag(a.total().scatter))
    size = np.outer(spread * unit, spread * unit) + 1e-300
    # What is lost is lost in y itself, not in summing: eps * offset beside the spread of y.
    lost = 1e-11 + 8 * np.finfo(float).eps * abs(offset) / scale
    np.testing.assert_allclose(b.scatter / size, a.scatter * np.outer(unit, unit) / size, rtol=0, atol=lost)


def test_statistics_are_no_posterior(tmp_path):
    from bayeshlm.posterior.store import load_posterior

    bh.save(bh.compress(METHODS, numbered(1)), tmp_path / "s.nc")
    with pytest.raises(DataError, match="holds statistics, not a posterior"):
        load_posterior(tmp_path / "s.nc")


def test_priors_do_not_hinder_adding():
    d = table()
    narrow = NESTED.with_priors({"x": bh.Normal(0, 0.1)})
    merged = bh.compress(NESTED, d[:60], site="s") + bh.compress(narrow, d[60:], site="s")
    assert merged.model == NESTED
