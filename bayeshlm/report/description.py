"""The model in words and maths, its priors, the data and where the posterior came from, as tables and lines."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.posterior.draws import statistics_of, told_by_prior
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import LKJ, At, Prior, base_prior

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ETA = Markup("<var>\N{GREEK SMALL LETTER ETA}</var><sub>i</sub>")
PRIOR_DRAWS = 2_000  # to find the scale of a prior, whose quantiles are then integrated on a grid


@dataclass(frozen=True)
class Table:
    """A table of texts; the first `text_columns` columns are words, the others numbers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    note: str = ""


def number(value: Any, digits: int = 4) -> str:
    """A number for a table; a dash for what is none."""
    value = float(value)
    if not math.isfinite(value):
        return "\N{EN DASH}" if math.isnan(value) else ("\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}")
    text = f"{value:,.0f}" if 10_000 <= abs(value) < 1e12 else f"{value:.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval(lower: Any, upper: Any, digits: int = 4) -> str:
    return f"{number(lower, digits)} to {number(upper, digits)}"


def count(value: Any) -> str:
    """Rows or groups; the median of two numbers may end in a half."""
    return f"{float(value):,.1f}".removesuffix(".0")


def parameter_name(row: dict[Any, Any]) -> str:
    """Of a row of `summarize`: the variable, and which of its values (scalars have no label)."""
    label = row["label"]
    return str(row["variable"]) if label is None or label != label else f"{row['variable']} [{label}]"


def maths(model: Model, statistics: Statistics) -> list[Markup]:
    """The model, a line a statement, as HTML (names are escaped)."""
    response = Markup("<var>{}</var><sub>i</sub>").format(model.terms.response.name)
    left = Markup("log {}").format(response) if model.family_spec.log_response else response
    terms = [
        Markup("<var>\N{GREEK SMALL LETTER BETA}</var><sub>{}</sub>").format(term.name)
        + ("" if term.is_intercept else Markup(" \N{DOT OPERATOR} {}<sub>i</sub>").format(term.name))
        for term in model.terms.common
    ]
    for level in statistics.layout.levels:
        for block in level.blocks:
            effect = block.name.rsplit("|", 1)[0]
            term = Markup("<var>u</var><sup>{}</sup><sub>{}[i]</sub>").format(block.name, level.name)
            terms.append(term if effect == "1" else term + Markup(" \N{DOT OPERATOR} {}<sub>i</sub>").format(effect))
    terms += [Markup("offset {}<sub>i</sub>").format(factor.name) for factor in model.terms.offsets]
    effects = [line for level in statistics.layout.levels for line in _level_lines(level, statistics)]
    if model.family_spec.moments_suffice:  # response = predictor + error
        error = Markup("<var>\N{GREEK SMALL LETTER EPSILON}</var><sub>i</sub>")
        first, last = [left + " = " + Markup(" + ").join([*terms, error])], [_error(model, statistics)]
    else:
        first = [ETA + " = " + (Markup(" + ").join(terms) or "0")]
        last = [response + Markup(" ~ ") + _law(model)]
    return [*first, *effects, *last, *_censoring(model, response)]


def _law(model: Model) -> Markup:
    """The distribution of a response given its linear predictor."""
    sigma = Markup("<var>\N{GREEK SMALL LETTER SIGMA}</var>")
    alpha, nu = (
        Markup("<var>{}</var>").format(c) for c in ("\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER NU}")
    )
    root = Markup("")
    weight = Markup("")
    if model.weights is not None:
        weight = Markup(" <var>{}</var><sub>i</sub>").format(model.weights)
        root = Markup(" / \N{SQUARE ROOT}<var>{}</var><sub>i</sub>").format(model.weights)
    mean, odds = Markup("exp({})").format(ETA), Markup("log odds {}").format(ETA)
    trials = "" if model.terms.trials is None else model.terms.trials.name
    return {
        "student_t": Markup("t with {} degrees of freedom, location {}, scale {}{}").format(nu, ETA, sigma, root),
        "cv_normal": Markup("Normal with mean {}, standard deviation {}{} times the mean").format(mean, sigma, root),
        "gamma": Markup("Gamma with mean {}, shape {}{}").format(mean, alpha, weight),
        "bernoulli": Markup("Bernoulli with {}").format(odds),
        "binomial": Markup("Binomial({}<sub>i</sub>) with {}").format(trials, odds),
        "poisson": Markup("Poisson with mean {}").format(mean),
        "negative_binomial": Markup("Negative binomial with mean {m}, variance mean + mean<sup>2</sup> / {a}").format(
            m=mean, a=alpha
        ),
    }[model.family]


def _censoring(model: Model, response: Markup) -> list[Markup]:
    """What is recorded of a censored response."""
    if model.status_columns:
        return [Markup("{} is a bound where {} says so").format(response, model.status_columns[0])]
    if model.bounds is None:
        return []
    low, high = model.bounds
    words = [f"at {high:g} where it is {high:g} or more"] if math.isfinite(high) else []
    words += [f"at {low:g} where it is {low:g} or less"] if math.isfinite(low) else []
    return [Markup("{} is recorded {}").format(response, ", and ".join(words))]


def _level_lines(level: Level, statistics: Statistics) -> list[Markup]:
    groups = len(statistics.members[statistics.layout.levels.index(level)])
    tail = Markup(" &emsp;for each of the {:,} groups of {}").format(groups, level.name)
    effect = Markup("<var>u</var><sup>{}</sup> ~ Normal(0, {})")
    variance = Markup("<var>\N{GREEK SMALL LETTER SIGMA}</var><sup>2</sup><sub>{}</sub>")
    covariance = Markup("<var>S</var>), <var>S</var> = correlations corr|{} times their standard deviations")
    joint = {position for positions in level.correlated for position in positions}
    lines, together, start = [], [], 0
    for block in level.blocks:
        inside = set(range(start, start + len(block.columns))) & joint
        start += len(block.columns)
        if inside:
            together.append(block.name)
        else:
            lines.append(effect.format(block.name, variance.format(block.name)) + tail)
    if together:
        names = ", ".join(together)
        law = Markup("(<var>u</var><sup>{}</sup>) ~ Normal(0, ").format(names) + covariance.format(level.name)
        lines.append(law + tail)
    return lines


def _error(model: Model, statistics: Statistics) -> Markup:
    error = Markup("<var>\N{GREEK SMALL LETTER EPSILON}</var><sub>i</sub> ~ Normal(0, {})")
    if model.se is not None:
        variance = Markup("<var>{}</var><sub>i</sub><sup>2</sup>").format(model.se)
    else:
        variance = Markup("<var>\N{GREEK SMALL LETTER SIGMA}</var><sup>2</sup>")
        if model.terms.sigma is not None:
            variance += Markup("<sub>{}[i]</sub>").format(model.terms.sigma.name)
    if model.weights is not None:
        variance += Markup(" / <var>{}</var><sub>i</sub>").format(model.weights)
    line = error.format(variance)
    spread = statistics.layout.residual
    return line if spread is None else line + Markup(" &emsp;{:,} standard deviations").format(len(spread.labels))


def priors_table(posterior: xr.DataTree, model: Model, summary: pd.DataFrame, prob: float) -> Table:
    """Every parameter: its prior, the prior's interval, the posterior's, of what the prior speaks of."""
    tails = [(1 - prob) / 2, (1 + prob) / 2]
    rows = []
    for row in summary[summary["kind"].isin(["common effect", "variance component", "shape"])].to_dict("records"):
        prior = model.complete_priors[row["variable"]]
        name = parameter_name(row)
        curve = prior_curve(base_prior(prior), dimension_of(summary, row["variable"]))
        before = "\N{EN DASH}" if curve is None else interval(*prior_quantiles(curve, tails))
        middle, after = row["median"], (row["lower"], row["upper"])
        if isinstance(prior, At):
            told = told_by_prior(posterior, row["variable"], prior, statistics_of(posterior).layout)
            name, middle, after = f"{name}, at that point", np.median(told), tuple(np.quantile(told, tails))
        rows.append((name, str(prior), before, number(middle), interval(*after)))
    headers = ("parameter", "prior", f"prior {prob:.0%} interval", "posterior median", f"posterior {prob:.0%} interval")
    return Table(headers, tuple(rows), 2)


def dimension_of(summary: pd.DataFrame, variable: str) -> int:
    """Rows of the correlation matrix that a variable's listed entries (its lower triangle) come from."""
    entries = int((summary["variable"] == variable).sum())
    return round((1 + math.sqrt(1 + 8 * entries)) / 2)


def prior_curve(prior: Prior, size: int) -> tuple[Array, Array] | None:
    """(x, density) wide enough to hold a proper prior, fine where it is dense; None for a flat one.

    One correlation of a matrix under LKJ(eta) is Beta(b, b) on (-1, 1), b = eta + size / 2 - 1 (Lewandowski,
    Kurowicka, Joe 2009).
    """
    if not prior.proper:
        return None
    if isinstance(prior, LKJ):
        x = np.linspace(-1, 1, 4001)[1:-1]
        return x, density_of(prior, x, size)
    draws = prior.sample(np.random.default_rng(0), PRIOR_DRAWS)
    low, centre, high = np.quantile(draws, [0.25, 0.5, 0.75])
    x = centre + (high - low) * np.sinh(np.linspace(-10, 10, 8001))
    edge_low, edge_high = prior.bounds
    x = np.clip(x, edge_low + 1e-12 * (high - low), edge_high)
    x = np.unique(x)
    return x, density_of(prior, x, size)


def density_of(prior: Prior, x: Array, size: int) -> Array:
    """Density of a parameter's prior; of one correlation, its marginal."""
    if isinstance(prior, LKJ):
        b = prior.eta + size / 2 - 1
        constant = 2 * math.lgamma(b) - math.lgamma(2 * b) + (2 * b - 1) * math.log(2)
        return np.exp((b - 1) * np.log1p(-np.minimum(x**2, 1 - 1e-15)) - constant)
    return np.exp(prior.logpdf(x))


def prior_quantiles(curve: tuple[Array, Array], probabilities: list[float]) -> Array:
    """Quantiles by the trapezoidal rule."""
    x, density = curve
    mass = np.concatenate([[0.0], np.cumsum(np.diff(x) * (density[1:] + density[:-1]) / 2)])
    return np.asarray(np.interp(np.array(probabilities) * mass[-1], mass, x))


def data_table(posterior: xr.DataTree, statistics: Statistics) -> tuple[Table, Table]:
    """Rows seen and used, drops by column; and groups of every level with their rows."""
    attrs = posterior.attrs
    rows = [("rows seen", count(statistics.total_rows)), ("rows used", count(statistics.rows))]
    rows += [(f"dropped: {name} missing", count(rows)) for name, rows in statistics.missing.items()]
    groups = []
    for k, level in enumerate(statistics.layout.levels):
        sizes = np.bincount(statistics.codes[:, k], statistics.count, len(statistics.members[k]))
        groups.append((level.name, *(count(v) for v in (len(sizes), sizes.min(), np.median(sizes), sizes.max()))))
    note = " ".join(json.loads(attrs.get("notes", "[]")))
    return Table(("", "rows"), tuple(rows), 1, note), Table(
        ("level", "groups", "fewest rows", "median rows", "most rows"), tuple(groups)
    )


def provenance(posterior: xr.DataTree) -> Table:
    """Who made this posterior, with what, and how."""
    attrs = posterior.attrs
    sizes = posterior["posterior"].sizes
    evidence = float(attrs.get("log_evidence", math.nan))
    rows = [
        ("fitted", str(attrs.get("created_at", ""))),
        ("engine", f"{attrs.get('engine', '')}: {attrs.get('engine_reason', '')}"),
        ("fallback", str(attrs.get("fallback", ""))),
        ("sampler", str(attrs.get("sampler", ""))),
        ("parameterization", _parameterization(attrs)),
        ("draws", f"{sizes['chain']} chains of {sizes['draw']:,}"),
        ("random seed", str(attrs.get("random_seed", ""))),
        ("seconds", _attribute(attrs, "seconds", 3)),
        ("efficiency of the proposals", _attribute(attrs, "efficiency", 3)),
        (
            "log evidence",
            f"{evidence:,.2f} (standard error {_attribute(attrs, 'log_evidence_se', 2)})"
            if math.isfinite(evidence)
            else "",
        ),
        (
            "versions",
            ", ".join(f"{name} {version}" for name, version in json.loads(attrs.get("versions", "{}")).items()),
        ),
    ]
    return Table(("", ""), tuple(row for row in rows if row[1]), 2)


def _parameterization(attrs: dict[Any, Any]) -> str:
    """Of each level, where the engine chose one."""
    levels = json.loads(attrs.get("parameterization", "{}"))
    return ", ".join(f"{level} {form}" for level, form in levels.items())


def _attribute(attrs: dict[Any, Any], name: str, digits: int) -> str:
    value = float(attrs.get(name, math.nan))
    return number(value, digits) if math.isfinite(value) else ""
