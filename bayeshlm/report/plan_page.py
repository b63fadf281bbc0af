"""The page of a plan: the recommendation, the frontier, every design with its figures and their errors."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from bayeshlm.report import study, study_plots
from bayeshlm.report.contents import Plate
from bayeshlm.report.description import Table, number
from bayeshlm.report.study import Section, StudyPage, loss_with_error, share_with_error, with_error

if TYPE_CHECKING:
    import xarray as xr

MOST_DESIGNS = 200
DECISIONS = (("p_best", "P(choose the best)"), ("expected_loss", "expected loss"), ("assurance", "assurance"))
SHARES, LOSSES = ("p_best", "assurance", "power", "coverage"), ("expected_loss", "outcome_loss")
CONTRASTS = (("width", "interval width"), ("power", "power"), ("type_s", "type S"), ("type_m", "type M"),
             ("coverage", "coverage"))  # fmt: skip


def collect(result: xr.Dataset, *, figures: bool = True) -> StudyPage:
    """All that the page shows; without `figures` what a terminal can."""
    attrs = result.attrs
    recommended, target = str(attrs["recommended"]), json.loads(attrs["target"])
    failed = int(result["failed"].sum())
    meets = result["meets"].values.tolist() if "meets" in result else []
    status = "PASS" if recommended or target is None else "REVIEW" if "uncertain" in meets else "FAIL"
    messages = [f"{failed:,} fits failed: see below, before you use the figures."] if failed else []
    decide, replicates = str(attrs["decide"]), int(attrs["replicates"])
    model, analysis = study.model_of_study(result), study.model_of_study(result, "fit_model")
    lead, second = _verdict(result)
    order = _order(result)
    rows = list(zip(*(result[f"failure_{name}"].values.astype(str).tolist()
                      for name in ("replicate", "design", "seed", "error")), strict=True))  # fmt: skip
    sections = (
        Section("frontier", "Cost against what it buys", plates=_frontiers(result, order) if figures else (), note=(
            "Numbers are the designs' in the table below. Bars: 95 % Monte Carlo intervals. The line joins the designs "
            "that no cheaper one beats. All designs met the same simulated worlds, so that differences between them "
            "are known better than the bars tell."
        )),
        Section("designs", "Designs: the decision", tables=(_decisions(result, order),), note=_glossary(result)),
        Section(
            "contrasts", "Designs: the contrasts", tables=(_contrasts(result, order),), note=_contrast_words(result)
        ),
        study.failures(rows, ("replicate", "design", "seed", "error")),
    )  # fmt: skip
    what = "largest" if attrs["maximize"] == "" else "best"
    return StudyPage(
        title=f"Which design finds the {what} {decide}?", status="REVIEW" if failed and status == "PASS" else status,
        messages=tuple(messages),
        meta=(f"{result.sizes['design']:,} designs", f"{replicates:,} simulated studies each"),
        lead=lead, second=(*second, *_direction(attrs["maximize"])),
        sections=tuple(section for section in sections if section is not None),
        formula=model.formula, family=model.family, priors=study.priors(model, analysis, json.loads(attrs["params"])),
        provenance=study.provenance(attrs),
    )  # fmt: skip


def _verdict(result: xr.Dataset) -> tuple[str, tuple[str, ...]]:
    """(the recommendation, what else one should know); without a target the design that decides best."""
    attrs = result.attrs
    if attrs["recommendation"]:
        k = result["design"].values.tolist().index(attrs["recommended"]) if attrs["recommended"] else None
        return str(attrs["recommendation"]), () if k is None else (_in_words(result, k),)
    losses = result["expected_loss"].values
    k = int(np.nanargmin(losses))
    lead = (
        f"{result['design'].values[k]} decides best of {result.sizes['design']} designs: expected loss "
        f"{figure(result, k, 'expected_loss')}, in {attrs['loss_unit']}."
    )
    return lead, (_in_words(result, k), "No target was set, so that none is recommended.")


def _direction(maximize: object) -> tuple[str, ...]:
    """What `best` means where it must be said."""
    if maximize == "":
        return ("Nobody said which way is better, so the best is the largest here; see maximize=.",)
    return () if int(str(maximize)) else ("Smaller is better: the best is the smallest.",)


def _in_words(result: xr.Dataset, k: int) -> str:
    """One design's figures in a sentence."""
    decide, prob = result.attrs["decide"], float(result.attrs["prob"])
    text = (
        f"It chooses the truly best {decide} with probability {figure(result, k, 'p_best')}, and is rightly sure of it "
        f"(posterior probability of at least {prob:g}) with probability {figure(result, k, 'assurance')}. "
    )
    if "outcome_loss" in result:
        lost = float(result["expected_loss"][k])
        if lost == 0:
            return f"{text}In none of the studies anything was lost by the choice."
        text += (
            f"The expected loss of its choice is {number(100 * lost, 2)} % of the outcome of "
            f"{str(result.attrs['loss_unit']).removeprefix('share of the outcome of ')}, which at a typical outcome of "
            f"{number(result.attrs['typical_outcome'])} is {figure(result, k, 'outcome_loss')}."
        )
    else:
        text += (
            f"The expected loss of its choice is {figure(result, k, 'expected_loss')}, in {result.attrs['loss_unit']}."
        )
    return text


def _order(result: xr.Dataset) -> list[int]:
    """Designs, the cheapest first; without prices the smallest first."""
    return [int(k) for k in np.lexsort((np.arange(result.sizes["design"]), expense(result)))]


def expense(result: xr.Dataset) -> np.ndarray:
    """Cost, or units where there are no prices."""
    cost = result["cost"].values
    return cost if np.isfinite(cost).any() else result["groups"].values.max(axis=1)


def frontier_of(result: xr.Dataset, most: int) -> tuple[list[int], int]:
    """(designs to list, the cheapest first, how many are left out): all, or those that no cheaper one beats."""
    order = _order(result)
    if len(order) <= most:
        return order, 0
    edge = np.zeros(len(order), dtype=bool)
    for name, sign in (("p_best", 1.0), ("expected_loss", -1.0)):
        values = sign * result[name].values[order]
        edge |= study_plots.undominated(np.where(np.isfinite(values), values, -np.inf))
    labels = result["design"].values
    shown = [k for k, on_edge in zip(order, edge, strict=True) if on_edge or labels[k] == result.attrs["recommended"]]
    return shown, len(order) - len(shown)


def _frontiers(result: xr.Dataset, order: list[int]) -> tuple[Plate, ...]:
    priced = bool(np.isfinite(result["cost"].values).any())
    axis = "cost" if priced else "units"
    target = json.loads(result.attrs["target"]) or {}
    chosen = (
        result["design"].values.tolist().index(result.attrs["recommended"]) if result.attrs["recommended"] else None
    )
    plates = []
    unit = "" if "outcome_loss" in result else f", {result.attrs['loss_unit']}"
    for name, title in (("p_best", "P(choose the best)"), ("expected_loss", f"expected loss{unit}")):
        x, value = expense(result)[order], result[name].values[order]
        error = np.nan_to_num(1.96 * result[f"{name}_se"].values[order])  # a single replicate has no error to show
        mark = None if chosen is None else order.index(chosen)
        lower, upper = np.maximum(value - error, 0.0), value + error
        front = study_plots.Frontier(
            x, value, lower, np.minimum(upper, 1.0) if name == "p_best" else upper, axis, title,
            better_up=name == "p_best", chosen=mark, target=target.get(name),
        )  # fmt: skip
        words = ""
        if mark is not None:
            words = f" The recommended design, number {mark + 1}: {axis} {number(x[mark])}, {number(value[mark], 3)}."
        alt = (
            f"{title} of {len(x)} designs against {axis}: from {number(np.nanmin(value), 3)} to "
            f"{number(np.nanmax(value), 3)}.{words}"
        )
        plates.append(Plate(Markup(study_plots.frontier(front, alt=alt, key=f"frontier-{name}")), "", title))
    return tuple(plates)


def _decisions(result: xr.Dataset, order: list[int]) -> Table:
    priced = bool(np.isfinite(result["cost"].values).any())
    meets = "meets" in result
    rows = []
    for place, k in enumerate(order[:MOST_DESIGNS], start=1):
        cells = [f"{place}. {result['design'].values[k]}", *([str(result["meets"].values[k])] if meets else [])]
        cells += [_cost(result, k) if priced else number(expense(result)[k])]
        rows.append((*cells, *_figures(result, k, DECISIONS)))
    left = len(order) - len(rows)
    headers = ("design", *(("meets the target",) if meets else ()), "cost" if priced else "units",
               *(title for _, title in DECISIONS))  # fmt: skip
    return Table(headers, tuple(rows), 1, f"{left:,} more expensive designs are left out." if left > 0 else "")


def _contrasts(result: xr.Dataset, order: list[int]) -> Table:
    rows = [
        (f"{place}. {result['design'].values[k]}", *_figures(result, k, CONTRASTS))
        for place, k in enumerate(order[:MOST_DESIGNS], start=1)
    ]
    return Table(("design", *(title for _, title in CONTRASTS)), tuple(rows))


def _figures(result: xr.Dataset, k: int, columns: tuple[tuple[str, str], ...]) -> list[str]:
    return [figure(result, k, name) for name, _ in columns]


def figure(result: xr.Dataset, k: int, name: str) -> str:
    """One design's figure with its error; shares and losses as so many studies can tell them."""
    value, error, n = float(result[name][k]), float(result[f"{name}_se"][k]), int(result["finished"][k])
    if name in SHARES:
        return share_with_error(value, error, n)
    return loss_with_error(value, error, n) if name in LOSSES else with_error(value, error)


def _cost(result: xr.Dataset, k: int) -> str:
    error = float(result["cost_se"][k])
    return with_error(float(result["cost"][k]), error if error > 0 else math.nan, 6)


def _glossary(result: xr.Dataset) -> str:
    return (
        f"{study.PLUS_MINUS}: Monte Carlo standard error. Expected loss: how far the chosen group is truly below the "
        f"best, in {result.attrs['loss_unit']}. Assurance: right, and sure of it (P(best) of at least "
        f"{float(result.attrs['prob']):g})."
    )


def _contrast_words(result: xr.Dataset) -> str:
    attrs = result.attrs
    unit = "of log ratios" if attrs["width_unit"] == "log ratio" else f"in {attrs['width_unit']}"
    return (
        f"Width of the {100 * float(attrs['prob']):g} % intervals of the contrasts, {unit}; all are means over pairs. "
        "Power: share of intervals that exclude zero. Type S: of these, the share with the wrong sign; type M: how "
        "much they exaggerate, mean estimate over mean truth. Coverage: share of intervals that hold the truth."
    )
