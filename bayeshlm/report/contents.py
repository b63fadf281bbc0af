"""Everything a report shows, worked out of the DataTree alone, before any HTML is written."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from markupsafe import Markup

from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.pymc.source.writer import pymc_source
from bayeshlm.engines.select import INDEPENDENT
from bayeshlm.errors import DataError
from bayeshlm.posterior.check import GroupMeanCheck, check_group_means
from bayeshlm.posterior.compare import compare
from bayeshlm.posterior.comparison import Comparison
from bayeshlm.posterior.diagnose import Diagnosis, diagnose
from bayeshlm.posterior.draws import flat, model_of, moments_of, statistics_of, told_by_prior
from bayeshlm.posterior.naive import NaiveComparison, beside, row_analysis
from bayeshlm.posterior.question import Question, assigned_level, resolve, treatment
from bayeshlm.posterior.shares import residual_note
from bayeshlm.posterior.summarize import derived, summarize
from bayeshlm.posterior.values import check_question
from bayeshlm.posterior.wording import percent, probability, said, spelled
from bayeshlm.report import comparing, description, plots
from bayeshlm.report.description import Table, interval, number, parameter_name
from bayeshlm.report.leaveout import LeftOut, left_out
from bayeshlm.report.svg import shown, style
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import At, base_prior

if TYPE_CHECKING:
    import pandas as pd

PROB = 0.95
MOST_PANELS = 24
SEVERITY = ("PASS", "REVIEW", "FAIL")
LOGS = "Effects add to the log of the response."
SCALES = {
    "identity": "", "log": "Effects add to the log of the mean.", "logit": "Effects add to the log odds of success.",
}  # fmt: skip
PROBABILITIES = {
    "p_best": "P(best)", "p_largest": "P(largest)", "p_smallest": "P(smallest)", "p_greater": "P(rise)",
    "p_rope": "P(practically equal)",
}  # fmt: skip
NOT_NUMBERS = "The posterior holds values that are not numbers: nothing can be compared. Fit the model again."


@dataclass(frozen=True)
class Plate:
    """A figure with its caption."""

    svg: Markup
    caption: str
    title: str = ""


@dataclass(frozen=True, eq=False)
class Contents:
    """What the template shows. `comparison` and `naive` are None where nothing is compared; `unanswered` says why."""

    title: str
    status: str
    messages: tuple[str, ...]
    diagnosis: Diagnosis
    rows: int
    response: str
    comparison: Comparison | None
    unanswered: str
    naive: NaiveComparison | None
    groups: Table | None
    pairs: Table | None
    against: Plate | None
    forests: tuple[Plate, ...]
    contrasts: Plate | None
    scale: str
    components: Table
    ratios: Table
    shares: tuple[tuple[str, float], ...]
    check: Plate | None
    check_verdict: str
    left_out: LeftOut | None
    panels: tuple[Plate, ...]
    panels_left_out: int
    formula: str
    family: str
    maths: tuple[Markup, ...]
    source: Markup
    priors: Table
    drops: Table
    levels: Table
    provenance: Table


def collect(
    posterior: xr.DataTree, by: str | None, *, maximize: bool | None = None, reference: Any = None,
    rope: tuple[float, float] | None = None,
) -> Contents:  # fmt: skip
    """Read the posterior once; all figures and tables come from the records made here."""
    model, statistics = model_of(posterior), statistics_of(posterior)
    diagnosis = diagnose(posterior, hyperparameters_only=posterior.attrs.get("engine") in INDEPENDENT)
    question, unanswered = _question(statistics, by, reference)
    numbers = all(np.isfinite(variable.to_numpy()).all() for variable in posterior["posterior"].data_vars.values())
    recorded = str(posterior.attrs.get("status", "PASS"))
    status = (
        "FAIL"
        if not numbers
        else max(diagnosis.status, recorded, key=lambda s: SEVERITY.index(s) if s in SEVERITY else 2)
    )
    messages = diagnosis.messages if numbers else (NOT_NUMBERS, *diagnosis.messages)
    comparison = None
    if question is not None and numbers:
        compared = compare(posterior, question, maximize=maximize, reference=reference, rope=rope, prob=PROB)
        comparison = dataclasses.replace(compared, status=status) if len(compared.table) > 1 else None
    naive = beside(posterior, comparison) if comparison is not None and row_analysis(model) else None
    summary = _summary(posterior)
    check = check_group_means(posterior, random_seed=0) if numbers else None
    components, ratios, shares = _variance(posterior, summary)
    panels, beyond = _panels(posterior, summary) if numbers else ((), 0)
    drops, levels = description.data_table(posterior, statistics)
    name = model.terms.response.name
    return Contents(
        title=_title(comparison, name),
        status=status, messages=messages, diagnosis=diagnosis, rows=statistics.rows, response=name,
        comparison=comparison, unanswered=unanswered, naive=naive,
        groups=None if comparison is None else _groups(comparison),
        pairs=None if comparison is None else _pairs(comparison, naive),
        against=None if comparison is None or naive is None else _against(comparison, naive),
        forests=_forests(posterior, statistics, comparison, naive) if numbers else (),
        contrasts=None if comparison is None else _contrasts(comparison),
        scale=_scale(model, bool(ratios.rows)),
        components=components, ratios=ratios, shares=shares,
        check=None if check is None else _check(check, name, model.family_spec.log_response and row_analysis(model)),
        check_verdict="" if check is None else _check_verdict(check),
        left_out=left_out(posterior, statistics) if numbers else None,
        panels=panels, panels_left_out=beyond,
        formula=model.formula, family=model.family, maths=tuple(description.maths(model, statistics)),
        source=Markup("\n").join(map(shown, pymc_source(statistics).splitlines())),
        priors=description.priors_table(posterior, model, summary, PROB), drops=drops, levels=levels,
        provenance=description.provenance(posterior),
    )  # fmt: skip


def _question(statistics: Statistics, by: str | None, reference: Any) -> tuple[Question | None, str]:
    """(what the page answers, why it does not where it does not): what was asked, else the treatment's question.

    Raises
    ------
    DataError
        For what was asked and cannot be answered, whatever the state of the posterior.
    """
    question = treatment(statistics) if by is None else resolve(statistics, by)
    if question is None:
        return None, ""
    try:
        check_question(statistics, question, reference)
    except DataError as error:
        if by is not None or reference is not None:
            raise
        return None, f"The effect of {question.name} cannot be shown at the means of the other columns: {error}"
    return question, ""


def _title(comparison: Comparison | None, response: str) -> str:
    """The question that the page answers."""
    if comparison is None:
        return f"What moves {response}?"
    question = comparison.values.question
    if question.subgroup is not None:
        return f"Does the effect of {question.column} differ by {question.subgroup}?"
    if question.kind == "number" or (comparison.maximize is None and question.level is None):
        return f"What does {comparison.by} do to {response}?"
    return f"Which {comparison.by}?" if comparison.maximize is not None else f"How do {comparison.by} groups differ?"


def _scale(model: Model, shares: bool) -> str:
    """On what scale effects add, and what shares of variance are shares of."""
    scale = LOGS if model.family_spec.log_response else SCALES[model.family_spec.link]
    return f"{scale} {residual_note(model) if shares else ''}".strip()


def _summary(posterior: xr.DataTree) -> pd.DataFrame:
    """`summarize` without the group-specific effects, of which there may be thousands."""
    parameters = model_of(posterior).parameters
    names = [name for name in posterior["posterior"].data_vars if name in parameters]
    lean = xr.DataTree.from_dict({
        "posterior": posterior["posterior"].to_dataset()[names], "statistics": posterior["statistics"].to_dataset(),
    })  # fmt: skip
    lean.attrs = dict(posterior.attrs)
    return summarize(lean, prob=PROB)


def _groups(comparison: Comparison) -> Table:
    table = comparison.told()
    shown = table.head(comparing.MOST_ROWS)
    names = [name for name in PROBABILITIES if name in shown]
    headers = [comparison.by, spelled(comparison.effect), f"{comparison.prob:.0%} interval"]
    headers += [PROBABILITIES[name] for name in names]
    last = [name for name in ("expected_loss", "probability") if name in shown]
    headers += [spelled(name) for name in last]
    rows = [
        (
            said(label), number(row[comparison.effect]), interval(row["lower"], row["upper"]),
            *(comparison.probability(row[name], short=True) for name in names),
            *(percent(row[name]) if name == "probability" else number(row[name], 3) for name in last),
        )
        for label, row in zip(shown.index, shown.to_dict("records"), strict=True)
    ]  # fmt: skip
    left_out = len(table) - len(shown)
    smaller = "with a larger expected loss" if "expected_loss" in shown else "smaller"
    note = f"{left_out:,} further groups, all {smaller}, are left out." if left_out else ""
    if {"expected_loss", "probability"} <= set(last):
        note = f"The loss is one of probability. {note}".strip()
    return Table(tuple(headers), tuple(rows), 1, note)


def _pairs(comparison: Comparison, naive: NaiveComparison | None) -> Table:
    shown = comparison.contrasts().head(comparing.MOST_ROWS)
    contrast = spelled(comparison.contrast)
    rows: list[tuple[str, ...]] = [
        (
            f"{said(row['a'])} against {said(row['b'])}", number(row[comparison.contrast]),
            interval(row["lower"], row["upper"]),
            *(comparison.probability(row[name], short=True) for name in ("p_greater", "p_rope")),
        )
        for row in shown.to_dict("records")
    ]  # fmt: skip
    if naive is not None:
        alone = [naive.pair(a, b) for a, b in zip(shown["a"], shown["b"], strict=True)]
        beside_rows = [
            (
                number(row["naive"]),
                interval(row["naive_lower"], row["naive_upper"]) if math.isfinite(row["naive"]) else number(math.nan),
            )
            for row in alone
        ]
        rows = [(*row, *others) for row, others in zip(rows, beside_rows, strict=True)]
    low, high = comparison.rope
    left_out = len(comparison.pairs) - len(rows)
    between = f"{contrast} between {number(low)} and {number(high)}"
    note = f"Practically equal means {'an' if contrast[0] == 'o' else 'a'} {between}."
    note += f" {left_out:,} further pairs are left out." if left_out else ""
    headers = (
        "pair",
        contrast,
        f"{comparison.prob:.0%} interval",
        "P(first is larger)",
        "P(practically equal)",
        *(() if naive is None else ("rows alone", f"rows alone, {comparison.prob:.0%} interval")),
    )
    return Table(headers, tuple(rows), 1, note)


def _against(comparison: Comparison, naive: NaiveComparison) -> Plate | None:
    a, b = naive.shown_pair
    pair = naive.pair(a, b)
    if not all(math.isfinite(value) for value in pair.values()):
        return None
    ratio = comparison.multiplicative
    axis = f"{naive.contrast}, {said(a)} against {said(b)}"
    labels, kinds = ("with the groups", "rows alone"), ("honest", "naive")
    middle, lower, upper = (np.array([pair[f"{kind}{end}"] for kind in kinds]) for end in ("", "_lower", "_upper"))
    frame = plots.Forest(
        list(labels), middle, lower, upper, np.full(2, np.nan), axis, "", float(ratio), ratio, None, comparison.rope
    )
    honest, rows = (f"{number(middle[k])} ({interval(lower[k], upper[k])})" for k in range(2))
    alt = f"Two {comparison.prob:.0%} intervals of the {axis}: {labels[0]} {honest}, {labels[1]} {rows}."
    svg = plots.honest_against_naive(frame, (honest, rows), alt=alt, key="against")
    return Plate(Markup(svg), f"{comparison.prob:.0%} intervals of the {axis}. Shaded: practically equal.")


def _forests(
    posterior: xr.DataTree, statistics: Statistics, comparison: Comparison | None, naive: NaiveComparison | None
) -> tuple[Plate, ...]:
    plates = []
    first, level = None, None
    if comparison is not None:
        first = comparing.compared_forest(posterior, statistics, comparison, naive)
        level = comparison.values.question.level
        alone = level is None or comparison.reference is not None
        mark = "what the rows alone say" if alone else "the group's own mean, not pooled"
        plates.append(_forest_plate(first, comparison.by, len(comparison.table), comparison.prob, mark, "compared"))
    levels = sorted(statistics.layout.levels, key=lambda other: len(other.keys))
    if level is not None:
        nested = [other for other in levels if set(other.keys) > set(level.keys)][:1]
    else:
        column = None if comparison is None else comparison.values.question.column
        given = None if column is None else assigned_level(statistics, column)
        nested = [given] if given is not None else levels[: 2 if comparison is None else 1]
    nested = [other for other in nested if not {block.name for block in other.blocks} & set(moments_of(posterior))]
    for k, other in enumerate(nested):
        rows = comparing.level_forest(posterior, statistics, other, PROB, first if level else None, level)
        count = comparing.group_count(statistics, other)
        plates.append(_forest_plate(rows, other.name, count, PROB, "the group's own mean, not pooled", f"level{k}"))
    return tuple(plates)


def _forest_plate(rows: plots.Forest, name: str, count: int, prob: float, mark: str, key: str) -> Plate:
    left_out = count - len(rows.labels)
    what = f"{rows.axis} relative to {rows.baseline}"
    caption = f"Dots and lines: posterior median and {prob:.0%} interval, {what}."
    caption += f" Diamonds: {mark}." if np.isfinite(rows.raw).any() else ""
    if left_out:
        caption += (
            f" The {len(rows.labels)} extremes of {count:,} groups: {left_out:,} are left out at the dotted line."
        )
    ends = (0, -1) if len(rows.labels) > 1 else (0,)
    words = "; ".join(
        f"{rows.labels[k]} {number(rows.middle[k])} ({interval(rows.lower[k], rows.upper[k])})" for k in ends
    )
    return Plate(
        Markup(
            plots.forest(
                rows, alt=f"Forest plot of {len(rows.labels)} groups of {name}. First and last: {words}.", key=key
            )
        ),
        caption,
        name,
    )


def _contrasts(comparison: Comparison) -> Plate:
    rows, left_out = comparing.contrast_forest(comparison)
    a, b = comparison.shown_pair
    sure = comparison.probability(comparison.pair(a, b)["p_greater"])
    caption = f"Pairs, the surest on top, {comparison.prob:.0%} intervals. Shaded: practically equal."
    caption += f" {left_out:,} further pairs are left out." if left_out else ""
    above = f"P({a} above {b}) {sure}"
    alt = f"{len(rows.labels)} pairs of {comparison.by}; {above}."
    return Plate(Markup(plots.forest(rows, alt=alt, key="contrasts")), caption, f"{comparison.by}, pair by pair")


def _variance(posterior: xr.DataTree, summary: pd.DataFrame) -> tuple[Table, Table, tuple[tuple[str, float], ...]]:
    rows, ratios, shares = [], [], []
    for row in summary[summary["kind"].isin(["variance component", "shape"])].to_dict("records"):
        name = parameter_name(row)
        figures = (
            number(row["median"]),
            interval(row["lower"], row["upper"]),
            f"{row['ess_bulk']:,.0f}",
            f"{row['rhat']:.3f}",
        )
        rows.append((name, *figures))
    for row in summary[summary["kind"] == "derived"].to_dict("records"):
        name = f"{row['label']} (ICC)" if row["variable"] == "ICC" else f"R\N{SUPERSCRIPT TWO}, {row['label']}"
        ratios.append((name, number(row["median"], 3), interval(row["lower"], row["upper"], 3)))
    # Medians, as in the table; what is left is a quantity of its own, whose median is not 1 less the others.
    levels = [(str(label), draws) for name, label, draws in derived(posterior) if name == "ICC"]
    if levels:
        shares = [(label, float(np.median(draws))) for label, draws in levels]
        shares.append(("within groups", float(np.median(1 - np.sum([draws for _, draws in levels], axis=0)))))
    headers = ("component", "posterior median", f"{PROB:.0%} interval", "effective draws", "R-hat")
    known = shares if len(shares) > 1 and all(math.isfinite(share) for _, share in shares) else []
    return Table(headers, tuple(rows)), Table(("", "median", f"{PROB:.0%} interval"), tuple(ratios)), tuple(known)


def _check(check: GroupMeanCheck, response: str, log: bool) -> Plate:
    axis = f"{'geometric ' if log else ''}mean {response} observed"
    alt = (
        f"Sorted observed means of {len(check.observed):,} groups of {check.level} against replicated ones; "
        f"{check.outside:,} outside the band."
    )
    caption = (
        f"Each dot is a group of {check.level}; line and band: median and 95 % interval of the same rank in "
        f"{check.replicates} studies replicated with new groups. {check.outside:,} of {len(check.observed):,} lie "
        "outside."
    )
    return Plate(Markup(plots.group_mean_check(check, log=log, axis=axis, alt=alt, key="check")), caption)


def _check_verdict(check: GroupMeanCheck) -> str:
    figures = ", ".join(f"{name} {probability(p, check.replicates)}" for name, p in check.p_values.items())
    shares = f"Share of replicated studies with a larger value than observed: {figures}."
    if not check.surprises:
        return f"The model makes groups like the observed ones. {shares}"
    return (
        f"The observed groups look unusual for this model in their {' and '.join(check.surprises)}. {shares} Look at "
        "the extreme groups, and ask whether a covariate or a level is missing."
    )


def _panels(posterior: xr.DataTree, summary: pd.DataFrame) -> tuple[tuple[Plate, ...], int]:
    model = model_of(posterior)
    plates = []
    wanted = summary[summary["kind"].isin(["common effect", "variance component", "shape"])].to_dict("records")
    seen: dict[str, int] = {}
    with style():
        for k, row in enumerate(wanted[:MOST_PANELS]):
            variable = row["variable"]
            index = seen.get(variable, 0)
            seen[variable] = index + 1
            prior, size = model.complete_priors[variable], description.dimension_of(summary, variable)
            if isinstance(prior, At):
                draws = told_by_prior(posterior, variable, prior, statistics_of(posterior).layout)
            else:
                draws = _scalar(posterior, variable, index)
            curve = description.prior_curve(base_prior(prior), size)
            grid = _window(draws, prior.bounds if not variable.startswith("corr|") else (-1.0, 1.0), curve)
            density = None if curve is None else description.density_of(base_prior(prior), grid, size)
            name = parameter_name(row)
            middle, lower, upper = np.quantile(draws, [0.5, (1 - PROB) / 2, (1 + PROB) / 2])
            alt = f"{name}: prior {prior}, posterior {number(middle)} ({interval(lower, upper)})."
            svg = plots.prior_to_posterior(draws, grid, density, alt=alt, key=f"prior{k}")
            plates.append(Plate(Markup(svg), f"prior {prior}" + ("" if curve is not None else ": no curve"), name))
    return tuple(plates), len(wanted) - len(plates)


def _scalar(posterior: xr.DataTree, variable: str, index: int) -> Any:
    values = flat(posterior, variable)
    if variable.startswith("corr|"):
        rows, columns = np.tril_indices(values.shape[-1], -1)
        return values[:, rows[index], columns[index]]
    return values.reshape(len(values), -1)[:, index]


def _window(draws: Any, bounds: tuple[float, float], curve: Any) -> Any:
    """Where prior and posterior are both drawn: as much of the prior as leaves the posterior visible."""
    low, high = np.quantile(draws, [0.001, 0.999])
    width = float(high - low) or max(abs(float(high)), 1.0) * 1e-3
    left, right = low - 0.6 * width, high + 0.6 * width
    if curve is not None:
        prior_low, prior_high = description.prior_quantiles(curve, [0.01, 0.99])
        left, right = min(left, max(prior_low, low - 4 * width)), max(right, min(prior_high, high + 4 * width))
    inset = 1e-9 * (right - left)
    return np.linspace(max(left, bounds[0] + inset), min(right, bounds[1] - inset), 200)
