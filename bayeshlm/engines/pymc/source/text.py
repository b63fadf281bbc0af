"""Pieces of PyMC source text: expressions of columns, priors, likelihoods."""

from __future__ import annotations

import math

from bayeshlm.data.layout import Column, Layout
from bayeshlm.errors import PriorError
from bayeshlm.spec.expressions import Node
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import (
    PC,
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogNormal,
    Normal,
    Prior,
    StudentT,
    Uniform,
)  # fmt: skip

LOCATED = (Normal, StudentT, Cauchy, Flat)  # densities that may be shifted along the line


def column_text(column: Column, layout: Layout) -> str:
    """Values of a design column, as an array of floats."""
    parts = [expression(node, layout) for node in column.numeric]
    parts += [_category(name, label) for name, label in column.indicators]
    product = parts[0] if len(parts) == 1 else " * ".join(f"({part})" for part in parts)
    return f"np.asarray({product}, dtype=float)"


def _category(name: str, label: object) -> str:
    # Labels are whole numbers or text; what is a truth value or a date in the data is its text here.
    if isinstance(label, int):
        return f"data[{quoted(name)}] == {label!r}"
    return f"data[{quoted(name)}].astype(str) == {quoted(str(label))}"


def quoted(text: str) -> str:
    """The text as a Python literal."""
    return f'"{text}"' if text.isprintable() and not set(text) & {'"', "\\"} else repr(text)


def expression(node: Node, layout: Layout) -> str:
    """An arithmetic expression of columns."""
    if node.kind == "column":
        return f"data[{quoted(str(node.value))}]"
    if node.kind == "number":
        return repr(float(node.value))
    inner = [expression(child, layout) for child in node.children]
    if node.kind == "operator":
        return f"(-{inner[0]})" if len(inner) == 1 else f"({inner[0]} {node.value} {inner[1]})"
    if node.value == "center":
        return f"({inner[0]} - {layout.constants[node][0]!r})"
    if node.value == "scale":
        mean, sd = layout.constants[node]
        return f"(({inner[0]} - {mean!r}) / {sd!r})"
    return f"np.{node.value}({inner[0]})"


def prior_text(name: str, prior: Prior, *, dims: str = "", shift: str = "") -> str:
    """The call that makes a random variable; `shift` is added to the location of a prior of `LOCATED`."""
    more = f" + {shift}" if shift else ""
    match prior:
        case Normal(mu=mu, sigma=sigma):
            call = f"Normal({quoted(name)}, {mu!r}{more}, {sigma!r}"
        case StudentT(nu=nu, mu=mu, sigma=sigma):
            call = f"StudentT({quoted(name)}, nu={nu!r}, mu={mu!r}{more}, sigma={sigma!r}"
        case Cauchy(alpha=alpha, beta=beta):
            call = f"Cauchy({quoted(name)}, {alpha!r}{more}, {beta!r}"
        case HalfNormal(sigma=sigma):
            call = f"HalfNormal({quoted(name)}, {sigma!r}"
        case HalfStudentT(nu=nu, sigma=sigma):
            call = f"HalfStudentT({quoted(name)}, nu={nu!r}, sigma={sigma!r}"
        case HalfCauchy(beta=beta):
            call = f"HalfCauchy({quoted(name)}, {beta!r}"
        case Exponential(lam=lam):
            call = f"Exponential({quoted(name)}, {lam!r}"
        case PC():
            call = f"Exponential({quoted(name)}, {prior.rate!r}"
        case Gamma(alpha=alpha, beta=beta):
            call = f"Gamma({quoted(name)}, alpha={alpha!r}, beta={beta!r}"
        case InverseGamma(alpha=alpha, beta=beta):
            call = f"InverseGamma({quoted(name)}, alpha={alpha!r}, beta={beta!r}"
        case LogNormal(mu=mu, sigma=sigma):
            call = f"LogNormal({quoted(name)}, {mu!r}, {sigma!r}"
        case Uniform(lower=lower, upper=upper):
            call = f"Uniform({quoted(name)}, {lower!r}, {upper!r}"
        case Flat():
            call = f"Flat({quoted(name)}"
        case _:
            raise PriorError(f"{name!r}: there is no PyMC form of {prior}.")
    return f"pm.{call}{f', dims={quoted(dims)}' if dims else ''})"


def positive_text(name: str, prior: Prior, *, dims: str = "") -> str:
    """The same for a standard deviation or a shape."""
    if isinstance(prior, Flat):
        return f"pm.HalfFlat({quoted(name)}{f', dims={quoted(dims)}' if dims else ''})"
    return prior_text(name, prior, dims=dims)


def row_numbers(model: Model, layout: Layout) -> list[str]:
    """Assignments of what each row brings besides its terms: offset, trials, se, weight."""
    lines = []
    if model.terms.offsets:
        total = " + ".join(expression(factor.node, layout) for factor in model.terms.offsets)
        lines.append(f"offset = np.asarray({total}, dtype=float)")
    if model.terms.trials is not None:
        lines.append(f"trials = np.asarray({expression(model.terms.trials.node, layout)})")
    if model.se is not None:
        lines.append(f"se = np.asarray(data[{quoted(model.se)}], dtype=float)")
    if model.weights is not None:
        lines.append(f"weight = np.asarray(data[{quoted(model.weights)}], dtype=float)")
    kind = "int" if model.family_spec.discrete else "float"
    lines.append(f"response = np.asarray({expression(model.terms.response.node, layout)}, dtype={kind})")
    return lines


def likelihood_text(model: Model, name: str) -> list[str]:
    """Lines that observe the response, given `eta` and what `row_numbers` made."""
    if model.status_columns:
        return _by_status(model, name)
    family, arguments = _distribution(model, "")
    if model.bounds is None:
        return [f'pm.{family}({quoted(name)}, {arguments}, observed=response, dims="row")']
    low, high = (bound if math.isfinite(bound) else None for bound in model.bounds)
    limits = f"lower={low!r}, upper={high!r}"
    return [f'pm.Censored({quoted(name)}, pm.{family}.dist({arguments}), {limits}, observed=response, dims="row")']


def _distribution(model: Model, at: str) -> tuple[str, str]:
    """(name of the distribution, its arguments), of the rows `at` (an index in brackets, or nothing for all)."""
    eta = f"eta{at}"
    sd = f"se{at}" if model.se is not None else f"sigma{at if model.terms.sigma else ''}"
    sd = f"{sd} / np.sqrt(weight{at})" if model.weights is not None else sd
    shape = "alpha" if model.weights is None else f"alpha * weight{at}"
    match model.family:
        case "gaussian":
            return "Normal", f"{eta}, {sd}"
        case "lognormal":
            return "LogNormal", f"{eta}, {sd}"
        case "student_t":
            return "StudentT", f"nu=nu, mu={eta}, sigma={sd}"
        case "cv_normal":
            return "Normal", f"pm.math.exp({eta}), {sd} * pm.math.exp({eta})"
        case "gamma":
            return "Gamma", f"alpha={shape}, beta={shape} / pm.math.exp({eta})"
        case "bernoulli":
            return "Bernoulli", f"logit_p={eta}"
        case "binomial":
            return "Binomial", f"n=trials, logit_p={eta}"
        case "poisson":
            return "Poisson", f"pm.math.exp({eta})"
    return "NegativeBinomial", f"mu=pm.math.exp({eta}), alpha=alpha"


def _by_status(model: Model, name: str) -> list[str]:
    """Rows that are bounds, where a column says so: their probabilities, one term a kind of row."""
    family, arguments = _distribution(model, "[at]")
    step = " - 1" if model.family_spec.discrete else ""  # a count of at least y is not one of at most y - 1
    status, *upper = model.status_columns
    lines = [
        "# What is known of a row is a value, or that the response lies at most there, at least there, or between.",
        f"status = data[{quoted(status)}].astype(str).to_numpy()",
        "",
        "def law(at):",
        f"    return pm.{family}.dist({arguments})",
        "",
    ]
    terms = {
        "none": "pm.logp(law(at), response[at])",
        "left": "pm.logcdf(law(at), response[at])",
        "right": f"pm.math.log1mexp(pm.logcdf(law(at), response[at]{step}))",
    }
    if upper:
        lines.append(f"upper = np.asarray(data[{quoted(upper[0])}], dtype=float)")
        below = f"pm.logcdf(law(at), response[at]{step})"
        terms["interval"] = f"pm.math.logdiffexp(pm.logcdf(law(at), upper[at]), {below})"
    for word, term in terms.items():
        lines += [
            f"at = np.flatnonzero(status == {quoted(word)})",
            f"pm.Potential({quoted(f'{name} {word}')}, pt.sum({term}))",
        ]
    return lines
