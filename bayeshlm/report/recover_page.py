"""The page of a recovery: what was not recovered, estimates against truths, bias, error and coverage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeshlm.errors import listed
from bayeshlm.report import study, study_plots
from bayeshlm.report.contents import Plate
from bayeshlm.report.description import Table, number
from bayeshlm.report.study import Section, StudyPage, share_with_error, with_error

if TYPE_CHECKING:
    import xarray as xr

MOST_PANELS = 24
MOST_ROWS = 60
WIDEST = 0.95  # the level of the verdict
# With a fixed truth right intervals need not cover as often as they say: a prior pulls. So much less is no pull.
TOO_LOW, ERRORS = 0.8, 3.0
FALSE_ALARM = 0.05  # of all quantities together, that a bias is called more than chance


def collect(result: xr.Dataset, *, figures: bool = True) -> StudyPage:
    """All that the page shows; without `figures` what a terminal can."""
    attrs = result.attrs
    failed, finished = int(attrs["failed"]), int(attrs["finished"])
    model, analysis = study.model_of_study(result), study.model_of_study(result, "fit_model")
    coverage = result["coverage"].sel(level=WIDEST).values
    error = result["coverage_se"].sel(level=WIDEST).values
    order = np.argsort(coverage, kind="stable")
    bad = coverage + ERRORS * error < TOO_LOW
    lead, second = _verdict(result, coverage, error, bad)
    second = (*second, *study.analysis_note(model, analysis), *study.engine_notes(result))
    columns = (result[f"failure_{name}"].values.astype(str).tolist() for name in ("replicate", "seed", "error"))
    rows = list(zip(*columns, strict=True))
    messages = [f"{failed:,} of {int(attrs['replicates']):,} replicates failed: see below."] if failed else []
    parts = (
        Section(
            "estimates", "Estimates against the truth",
            ("A dot a simulated study: posterior mean against truth, on the diagonal if it is found exactly. Where the "
             "truth is the same in all studies: the estimates' histogram, and the truth as a line.",),
            _panels(result, order) if figures else (), note=_panel_note(len(order)), small=True,
        ),
        Section("errors", "Bias and error", tables=(_errors(result, order),), note=(
            "\N{PLUS-MINUS SIGN}: Monte Carlo standard error. Bias: posterior mean less truth, on average; RMSE: root "
            "of its mean square. z: bias in posterior standard deviations, and its standard deviation, near 1 where "
            "the posterior's width is right. Contraction: 1 - posterior variance / prior variance."
        )),
        Section("coverage", "Coverage", tables=(_coverage(result, order),), note=(
            "Share of studies whose equal-tailed interval holds the truth, the lowest first. With a fixed truth it may "
            "differ from the interval's probability even if all is right, since a prior pulls; sbc tests the average."
        )),
        study.failures(rows, ("replicate", "seed", "error")),
    )  # fmt: skip
    return StudyPage(
        title=f"Are the parameters of {model.terms.response.name} recovered?",
        status="FAIL" if bad.any() else "REVIEW" if failed else "PASS", messages=tuple(messages),
        meta=(f"{finished:,} simulated studies", f"{len(order):,} quantities"), lead=lead, second=second,
        sections=tuple(part for part in parts if part is not None), formula=model.formula, family=model.family,
        priors=study.priors(model, analysis, _params(attrs)), provenance=study.provenance(attrs),
    )  # fmt: skip


def _params(attrs: Any) -> dict[str, Any]:
    """The truths as numbers: arrays were stored with their type."""
    params = json.loads(attrs["params"])
    return {name: v["values"] if isinstance(v, dict) and "array" in v else v for name, v in params.items()}


def _verdict(result: xr.Dataset, coverage: Any, error: Any, bad: NDArray[np.bool_]) -> tuple[str, tuple[str, ...]]:
    names, finished = result["quantity"].values, int(result.attrs["finished"])
    low, high = int(np.argmin(coverage)), int(np.argmax(coverage))
    if bad.any():
        lead = (
            f"Not recovered: the {WIDEST:.0%} intervals of {int(bad.sum()):,} of {len(names):,} quantities hold the "
            f"truth in surely less than {TOO_LOW:.0%} of the studies: {listed(names[bad], 6)}."
        )
    else:
        sure = (coverage - ERRORS * error)[low] >= TOO_LOW
        lead = (
            f"{'Recovered' if sure else 'Nothing speaks against recovery'}: the {WIDEST:.0%} intervals of all "
            f"{len(names):,} quantities hold the truth in {100 * coverage[low]:.0f} to {100 * coverage[high]:.0f} % of "
            f"{finished:,} simulated studies."
        )
        if not sure:
            lead += f" So few studies cannot tell all coverages from {TOO_LOW:.0%}: run more replicates."
    second = [
        f"Lowest: {names[low]}, {share_with_error(float(coverage[low]), float(error[low]), finished)}. {_bias(result)}"
    ]
    if result.attrs.get("world"):
        second.append(f"The data were not made by the model, but by {result.attrs['world']}.")
    return lead, tuple(second)


def _bias(result: xr.Dataset) -> str:
    """The largest bias in posterior standard deviations of its own quantity, and whether chance alone can make it."""
    bias, error, sd = result["bias"].values, result["bias_se"].values, result["sd"].values.mean(axis=0)
    relative = np.abs(bias) / np.where(sd > 0, sd, np.nan)
    if not np.isfinite(relative).any():
        return ""
    worst = int(np.nanargmax(relative))
    text = (
        f"Largest bias: {result['quantity'].values[worst]}, {with_error(float(bias[worst]), float(error[worst]))}, "
        f"which is {number(relative[worst], 2)} of its posterior standard deviations"
    )
    limit = float(ndtri(1 - FALSE_ALARM / 2 / len(bias)))
    if not abs(bias[worst]) > limit * error[worst]:
        return f"{text}; of {len(bias):,} quantities chance alone makes one so large."
    return f"{text}."


def _panels(result: xr.Dataset, order: Any) -> tuple[Plate, ...]:
    plates = []
    for place, k in enumerate(order[:MOST_PANELS]):
        name = str(result["quantity"].values[k])
        truth, estimate = result["truth"].values[:, k], result["estimate"].values[:, k]
        bias = with_error(float(result["bias"][k]), float(result["bias_se"][k]))
        widest = result.sel(level=WIDEST)
        covered = share_with_error(float(widest["coverage"][k]), float(widest["coverage_se"][k]), len(truth))
        caption = f"bias {bias}; coverage {covered}"
        alt = f"{name}: {len(truth)} estimates against the truth; {caption}."
        svg = study_plots.estimates(truth, estimate, alt=alt, key=f"estimate{place}")
        plates.append(Plate(Markup(svg), caption, name))
    return tuple(plates)


def _panel_note(count: int) -> str:
    left = count - MOST_PANELS
    more = f" {left:,} further quantities are in the tables and the stored result."
    return f"The lowest coverage first.{more * (left > 0)}"


def _errors(result: xr.Dataset, order: Any) -> Table:
    def cells(k: int) -> tuple[str, ...]:
        pairs = ((name, f"{name}_se") for name in ("bias", "rmse", "z", "z_sd", "contraction"))
        return tuple(with_error(float(result[value][k]), float(result[error][k])) for value, error in pairs)

    rows = tuple((str(result["quantity"].values[k]), *cells(k)) for k in order[:MOST_ROWS])
    return Table(("quantity", "bias", "RMSE", "z", "sd of z", "contraction"), rows, 1, _left(len(order)))


def _coverage(result: xr.Dataset, order: Any) -> Table:
    levels = result["level"].values
    rows = tuple(
        (
            str(result["quantity"].values[k]),
            *(
                share_with_error(
                    float(result["coverage"][k, j]), float(result["coverage_se"][k, j]), int(result.attrs["finished"])
                )
                for j in range(len(levels))
            ),
        )
        for k in order[:MOST_ROWS]
    )
    return Table(("quantity", *(f"{level:.0%} interval" for level in levels)), rows, 1, _left(len(order)))


def _left(count: int) -> str:
    return f"{count - MOST_ROWS:,} further quantities are in the stored result." if count > MOST_ROWS else ""
