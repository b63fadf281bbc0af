"""Pages of studies: what they say follows from the result, in every state a result can be in."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.errors import DataError
from bayeshlm.report import plan_page, recover_page, sbc_page, study, study_plots
from bayeshlm.report.html import render
from bayeshlm.studies.uniformity import band, simultaneous_p_value

MODEL = bh.Model(
    "y ~ (1 | m/g)",
    priors={"Intercept": bh.Normal(1, 0.5), "1|m_sigma": bh.HalfNormal(0.2), "1|m:g_sigma": bh.HalfNormal(0.2),
            "sigma": bh.HalfNormal(0.3)},
)  # fmt: skip
OPTIONS = {"n_jobs": 1, "random_seed": 1, "progress": False}


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<(?:style|svg).*?</(?:style|svg)>|<[^>]+>", " ", page, flags=re.S)).split())


@pytest.fixture(scope="module")
def planned() -> xr.Dataset:
    designs = bh.Design.grid(m=3, g=[3, 6], u=4)
    return bh.plan(MODEL, designs, decide="m", replicates=6, costs={"g": 10}, target={"width": 9.0}, **OPTIONS)


@pytest.fixture(scope="module")
def calibrated() -> xr.DataTree:
    return bh.sbc(MODEL, bh.Design.nested(m=3, g=4, u=4), replicates=20, **OPTIONS)


@pytest.fixture(scope="module")
def recovered() -> xr.Dataset:
    truth = {"1|m_sigma": 0.1, "sigma": 0.2}
    return bh.recover(MODEL, bh.Design.nested(m=3, g=4, u=4), params=truth, replicates=20, **OPTIONS)


def test_the_report_of_a_stored_plan_is_that_of_the_plan(planned, tmp_path) -> None:
    planned.to_netcdf(tmp_path / "p.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "p.nc", engine="h5netcdf") as stored:
        bh.report(stored.load(), tmp_path / "stored.html")
    bh.report(planned, tmp_path / "direct.html")
    assert (tmp_path / "stored.html").read_bytes() == (tmp_path / "direct.html").read_bytes()
    shown = text_of((tmp_path / "direct.html").read_text(encoding="utf-8"))
    assert planned.attrs["recommendation"] in shown
    for design in planned["design"].values:
        assert design in shown
    assert "units of y" in shown
    with pytest.raises(DataError, match="by= belongs"):
        bh.report(planned, tmp_path / "direct.html", by="m")


def test_without_target_or_prices_nothing_is_recommended() -> None:
    bare = bh.plan(MODEL, bh.Design.grid(m=3, g=[3, 6], u=4), decide="m", replicates=4, **OPTIONS)
    page = plan_page.collect(bare)
    assert page.status == "PASS"
    assert "decides best of 2 designs" in page.lead
    assert "none is recommended" in " ".join(page.second)
    assert "units" in page.sections[1].tables[0].headers
    assert render(page, "study.html").count("<svg") == 2


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [({"width": 1e-9}, "FAIL", "None of the 2 designs"), ({"p_best": 0.5}, "REVIEW", "No design is certain")],
)
def test_a_target_that_is_missed_or_uncertain_is_said_so(target, status, words) -> None:
    designs = bh.Design.grid(m=3, g=[3, 6], u=4)
    found = bh.plan(MODEL, designs, decide="m", replicates=4, costs={"g": 10}, target=target, **OPTIONS)
    page = plan_page.collect(found, figures=False)
    assert (page.status, found.attrs["recommended"]) == (status, "")
    assert page.lead.startswith(words)


def test_failures_are_on_the_page_first_and_in_full(planned) -> None:
    rows = {
        "failure_replicate": ("failure", np.arange(30)), "failure_design": ("failure", np.repeat("<b>", 30)),
        "failure_seed": ("failure", np.arange(30, dtype=np.uint64)),
        "failure_error": ("failure", np.repeat("EngineError: it broke <here>", 30)),
    }  # fmt: skip
    broken = planned.drop_dims("failure").assign(rows)
    broken["failed"] = broken["failed"] + 15
    page = plan_page.collect(broken)
    assert page.status == "REVIEW"
    assert "30 fits failed" in page.messages[0]
    shown = render(page, "study.html")
    assert "EngineError: it broke &lt;here&gt;" in shown
    assert "10 further failures" in shown
    assert shown.index("30 fits failed") < shown.index("Verdict")


def test_a_design_of_which_nothing_is_known_does_not_stop_the_page(planned) -> None:
    holes = planned.copy(deep=True)
    for name in holes.data_vars:
        if holes[name].dims == ("design",) and holes[name].dtype.kind == "f" and name not in ("cost", "cost_se"):
            holes[name][0] = np.nan
    assert "\N{EN DASH}" in render(plan_page.collect(holes), "study.html")


def test_the_page_of_a_calibration(calibrated, tmp_path) -> None:
    page = sbc_page.collect(calibrated)
    verdict = calibrated["verdict"].to_dataset()
    assert page.status == "PASS"
    assert f"all {verdict.sizes['quantity']} quantities" in page.lead
    listed = [row[0] for row in next(s for s in page.sections if s.key == "coverage").tables[0].rows]
    expected = verdict["p_value"].to_series().sort_values().index
    assert listed[0] == expected[0]
    values = sbc_page.uniform_numbers(calibrated)
    assert set(values) == set(verdict["quantity"].values)
    points = min(int(calibrated.attrs["draws"]) + 1, 100)
    for k, name in enumerate(verdict["quantity"].values):  # each quantity's numbers are its own
        assert simultaneous_p_value(values[name], points) == pytest.approx(float(verdict["p_value"][k]))
    bh.report(calibrated, tmp_path / "sbc.html")
    assert page.lead in text_of((tmp_path / "sbc.html").read_text(encoding="utf-8"))


def test_a_calibration_that_failed_names_what_failed_and_draws_it_outside(calibrated) -> None:
    broken = calibrated.copy(deep=True)
    broken["verdict"]["p_adjusted"][3] = 1e-5
    broken["verdict"]["p_value"][3] = 1e-6
    broken.attrs["passed"] = 0
    page = sbc_page.collect(broken)
    name = str(broken["verdict"]["quantity"].values[3])
    assert page.status == "FAIL"
    assert page.lead.startswith(f"Not calibrated: 1 of {broken['verdict'].sizes['quantity']}")
    assert name in page.lead
    assert page.sections[0].plates[0].title == name


@pytest.mark.parametrize("count", [30, 400])
def test_numbers_leave_the_band_where_their_p_value_is_below_its_error(count) -> None:
    rng = np.random.default_rng(count)
    grid, low, high = band(count, 50, 0.2)
    outside = []
    for _ in range(300):
        values = rng.uniform(size=count)
        share = np.searchsorted(np.sort(values), grid, side="right") / count
        left = bool(((share < low) | (share > high)).any())
        assert left == (simultaneous_p_value(values, 50) < 0.2)
        outside.append(left)
    assert 0.05 < np.mean(outside) < 0.2 + 4 * np.sqrt(0.2 * 0.8 / 300)


def test_the_page_of_a_recovery(recovered, tmp_path) -> None:
    page = recover_page.collect(recovered)
    assert page.status == "PASS"
    bh.report(recovered, tmp_path / "r.html")
    shown = text_of((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.lead in shown
    assert "= 0.1" in shown
    lost = recovered.copy(deep=True)
    lost["coverage"][2] = 0.1
    failed = recover_page.collect(lost, figures=False)
    assert failed.status == "FAIL"
    assert str(lost["quantity"].values[2]) in failed.lead


def test_undominated_designs_are_better_than_all_that_cost_less() -> None:
    assert study_plots.undominated(np.array([1.0, 0.5, 2.0, 2.0, -np.inf, 3.0])).tolist() == [
        True, False, True, False, False, True,
    ]  # fmt: skip


def test_params_with_labels_and_arrays_are_shown() -> None:
    treatments = {"arm": bh.Treatment(["a", "b", "c"], level="g")}
    model = bh.Model(
        "y ~ arm + (1 | g)",
        priors={"Intercept": bh.Normal(0, 1), "arm": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(1),
                "sigma": bh.HalfNormal(1)},
    )  # fmt: skip
    found = bh.plan(
        model, [bh.Design.nested(g=9, u=4, treatments=treatments)], decide="arm", replicates=2,
        params={"arm": {"b": 0.5, "c": 1.0}}, **OPTIONS,
    )  # fmt: skip
    assert json.loads(found.attrs["params"]) == {"arm": {"b": 0.5, "c": 1.0}}
    assert "b: 0.5, c: 1" in text_of(render(plan_page.collect(found, figures=False), "study.html"))


@pytest.mark.parametrize(("value", "error", "n", "text"), [
    (1.0, 0.0035, 200, "above 0.99 (all of 200)"),
    (0.0, 0.0, 40, "below 0.03 (none of 40)"),
    (0.98765, 0.0035, 200, "0.9877 \N{PLUS-MINUS SIGN} 0.0035"),
    (0.999, 0.0005, 200, "0.99900 \N{PLUS-MINUS SIGN} 0.00050"),
])  # fmt: skip
def test_all_of_the_studies_are_no_certainty(value: float, error: float, n: int, text: str) -> None:
    assert study.share_with_error(value, error, n) == text


def test_a_figure_has_the_digits_of_its_error() -> None:
    assert study.with_error(0.99996, 0.0035) == "1.0000 \N{PLUS-MINUS SIGN} 0.0035"
    assert study.with_error(12.3456, 0.5) == "12.35 \N{PLUS-MINUS SIGN} 0.50"
    assert study.with_error(-0.5, 0.1) == "\N{MINUS SIGN}0.50 \N{PLUS-MINUS SIGN} 0.10"
    assert study.loss_with_error(0.0, 0.0, 40) == "none seen in 40 studies"


def test_the_largest_bias_is_told_in_its_own_standard_deviations() -> None:
    result = xr.Dataset(
        {
            "bias": ("quantity", [0.3, -2.0]), "bias_se": ("quantity", [0.01, 2.0]),
            "sd": (("replicate", "quantity"), [[0.4, 20.0], [0.6, 60.0]]), "z": ("quantity", [0.1, -0.66]),
        },
        coords={"quantity": ["a", "b"]},
    )  # fmt: skip
    text = recover_page._bias(result)
    assert "Largest bias: a, 0.300" in text
    assert "which is 0.6 of its posterior" in text
    result["bias_se"] = ("quantity", [0.2, 2.0])
    assert "chance alone" in recover_page._bias(result)
