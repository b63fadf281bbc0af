"""The page of a calibration: the verdict, the quantities' ranks against their bands (the worst first), coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.errors import listed
from bayeshlm.report import study, study_plots
from bayeshlm.report.contents import Plate
from bayeshlm.report.description import Table, number
from bayeshlm.report.study import Section, StudyPage
from bayeshlm.studies.uniformity import MOST_POINTS, band

if TYPE_CHECKING:
    import xarray as xr

Order = NDArray[np.intp]
MOST_PANELS = 24
MOST_ROWS = 60
CAPTION = "p {p}, corrected {adjusted}"


def collect(result: xr.DataTree, *, figures: bool = True) -> StudyPage:
    """All that the page shows; without `figures` what a terminal can."""
    attrs, verdict = result.attrs, result["verdict"].to_dataset()
    passed, failed = bool(attrs["passed"]), int(attrs["failed"])
    model, analysis = study.model_of_study(result), study.model_of_study(result, "fit_model")
    order = np.lexsort((verdict["p_value"].values, verdict["p_adjusted"].values))
    lead, second = _verdict(result, verdict, order)
    notes = study.engine_notes(result["replicates"].to_dataset())
    second = (*second, *study.analysis_note(model, analysis), *notes)
    failures = result["failures"].to_dataset()
    rows = list(
        zip(*(failures[name].values.astype(str).tolist() for name in ("replicate", "seed", "error")), strict=True)
    )
    messages = [f"{failed:,} of {int(attrs['replicates']):,} replicates failed: see below."] if failed else []
    parts = (
        Section(
            "ranks", "Are the ranks uniform?",
            ("If the posterior is right, each truth's rank among the posterior's draws is equally likely to be any. "
             "Each line is the share of ranks below a point less that point; the band is kept by all points of a line "
             "at once.",),
            _panels(result, verdict, order) if figures else (), note=_panel_note(len(order)), small=True,
        ),
        Section("coverage", "Coverage of central intervals", tables=(_coverage(verdict, order),), note=(
            "The worst first; share of studies whose interval of so much probability holds the truth. Monte Carlo "
            f"standard errors of a right posterior: {_errors(verdict)}."
        )),
        study.failures(rows, ("replicate", "seed", "error")),
    )  # fmt: skip
    return StudyPage(
        title=f"Is it calibrated? {model.terms.response.name}",
        status="FAIL" if not passed else "REVIEW" if failed else "PASS", messages=tuple(messages),
        meta=(f"{int(attrs['finished']):,} simulated studies", f"{len(order):,} quantities",
              f"{int(attrs['draws']):,} draws each"),
        lead=lead, second=second, sections=tuple(part for part in parts if part is not None), formula=model.formula,
        family=model.family, priors=study.priors(model, analysis, {}), provenance=study.provenance(attrs),
    )  # fmt: skip


def _verdict(result: xr.DataTree, verdict: xr.Dataset, order: Order) -> tuple[str, tuple[str, ...]]:
    attrs = result.attrs
    names, adjusted = verdict["quantity"].values[order], verdict["p_adjusted"].values[order]
    limit, finished = float(attrs["false_alarms"]), int(attrs["finished"])
    bad = names[adjusted < limit]
    smallest = f"The smallest p-value, corrected for their number, is {number(adjusted[0], 2)} ({names[0]})."
    if len(bad):
        lead = (
            f"Not calibrated: {len(bad):,} of {len(names):,} quantities have ranks that a right posterior would not "
            f"give: {listed(bad, 6)}. Do not trust this fit's intervals for this model and design."
        )
    elif not attrs["passed"]:
        lead = (
            f"Not passed: the ranks are uniform, but {int(attrs['failed']):,} of {int(attrs['replicates']):,} "
            "replicates failed, and those that did are not a random choice."
        )
    else:
        lead = (
            f"Calibrated, as far as {finished:,} simulated studies can tell: the ranks of all {len(names):,} "
            "quantities are compatible with a right posterior."
        )
    return lead, (smallest, f"A right posterior fails this verdict with probability of at most {limit:g}.")


def uniform_numbers(result: xr.DataTree) -> dict[str, Array]:
    """Quantity -> (replicates,) randomised ranks in (0, 1)."""
    found: dict[str, Array] = {}
    for name, variable in result["prior_sbc"].to_dataset().data_vars.items():
        values = variable.values[0]
        if values.ndim == 1:
            found[str(name)] = values
            continue
        labels = variable[variable.dims[2]].values.tolist()
        found |= {f"{name}[{label}]": values[:, k] for k, label in enumerate(labels)}
    return found


def _panels(result: xr.DataTree, verdict: xr.Dataset, order: Order) -> tuple[Plate, ...]:
    values = uniform_numbers(result)
    count = int(result.attrs["finished"])
    error = float(result.attrs["false_alarms"]) / len(order)
    points = min(int(result.attrs["draws"]) + 1, MOST_POINTS)
    grid, low, high = band(count, points, error)
    plates = []
    for place, k in enumerate(order[:MOST_PANELS]):
        name = str(verdict["quantity"].values[k])
        share = np.searchsorted(np.sort(values[name]), grid, side="right") / count
        p, adjusted = number(float(verdict["p_value"][k]), 2), number(float(verdict["p_adjusted"][k]), 2)
        caption = CAPTION.format(p=p, adjusted=adjusted)
        worst = int(np.argmax(np.abs(share - grid)))
        alt = (
            f"{name}: largest difference of the ranks' distribution from uniform "
            f"{number(share[worst] - grid[worst], 2)} at {number(grid[worst], 2)}; {caption}."
        )
        svg = study_plots.ecdf_difference(
            grid, share - grid, low - grid, high - grid, outside=bool(((share < low) | (share > high)).any()), alt=alt,
            key=f"ecdf{place}",
        )  # fmt: skip
        plates.append(Plate(Markup(svg), caption, name))
    return tuple(plates)


def _panel_note(count: int) -> str:
    left = count - MOST_PANELS
    text = (
        "The worst first. A line below the band on the left and above it on the right: intervals are too wide; the "
        "reverse: too narrow; on one side of zero throughout: biased."
    )
    return text + (
        f" {left:,} further quantities, all less conspicuous, are in the table and the stored result." * (left > 0)
    )


def _errors(verdict: xr.Dataset) -> str:
    levels, errors = verdict["level"].values, verdict["coverage_se"].values
    return ", ".join(f"{number(error, 2)} at {level:.0%}" for level, error in zip(levels, errors, strict=True))


def _coverage(verdict: xr.Dataset, order: Order) -> Table:
    levels = verdict["level"].values
    rows = [
        (
            str(verdict["quantity"].values[k]), number(float(verdict["p_value"][k]), 2),
            number(float(verdict["p_adjusted"][k]), 2),
            *(number(float(verdict["coverage"][k, j]), 3) for j in range(len(levels))),
        )
        for k in order[:MOST_ROWS]
    ]  # fmt: skip
    left = len(order) - len(rows)
    headers = ("quantity", "p-value", "corrected", *(f"in {level:.0%}" for level in levels))
    return Table(headers, tuple(rows), 1, f"{left:,} further quantities are in the stored result." if left > 0 else "")
