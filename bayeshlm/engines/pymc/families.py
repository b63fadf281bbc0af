"""The observed part of a generative model: one likelihood a family, and censoring for those that can be censored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bayeshlm.data.checks.support import STATUSES
from bayeshlm.spec.model import Model

# What a likelihood is made of: the linear predictor, the extra parameters, weights and trials (tensors of one a row).
Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Likelihood:
    """One family: its PyMC distribution, and the log of P(Y >= y) where PyMC has none that keeps its digits.

    Attributes
    ----------
    of : str
        Name of the PyMC distribution.
    arguments : callable
        From parts to its keyword arguments.
    log_above : callable
        (y, arguments) -> log P(Y >= y).
    """

    of: str
    arguments: Callable[[Parts], dict[str, Any]]
    log_above: Callable[[Any, dict[str, Any]], Any] | None = None


def observe(model: Model, name: str, parts: Parts, data: Parts, dims: str) -> None:
    """Add the observed response to the model being built.

    Parameters
    ----------
    model : Model
    name : str
    parts : mapping
        ``eta`` (rows,), ``weight`` (rows,), ``trials`` (rows,), and the extra parameters by name.
    data : mapping
        ``observed`` and, where the response is censored, ``status none``, ``status left``, ... (indices of such rows)
        and ``upper``.
    dims : str
    """
    import pymc as pm

    likelihood = _likelihood(model)
    arguments = likelihood.arguments(parts)
    distribution = getattr(pm, likelihood.of)
    if model.censored is None:
        distribution(name, **arguments, observed=data["observed"], dims=dims)
        return
    _censored(model, name, likelihood, arguments, data, dims)


def _likelihood(model: Model) -> Likelihood:
    import pytensor.tensor as pt

    def spread(parts: Parts) -> Any:
        """Standard deviation of a row: sigma / sqrt(w), or 1 / sqrt(w) where errors are known."""
        return parts.get("sigma", 1.0) / pt.sqrt(parts["weight"])

    def gamma(parts: Parts) -> dict[str, Any]:
        shape = parts["alpha"] * parts["weight"]
        return {"alpha": shape, "beta": shape * pt.exp(-parts["eta"])}

    def cv_normal(parts: Parts) -> dict[str, Any]:
        mean = pt.exp(parts["eta"])
        return {"mu": mean, "sigma": spread(parts) * mean}

    def normal_above(y: Any, a: dict[str, Any]) -> Any:
        return _log_below("Normal", -y, {"mu": -a["mu"], "sigma": a["sigma"]})

    match model.family:
        case "gaussian" | "lognormal":
            of = "Normal" if model.family == "gaussian" else "LogNormal"
            above = normal_above if of == "Normal" else lambda y, a: normal_above(pt.log(y), a)
            return Likelihood(of, lambda p: {"mu": p["eta"], "sigma": spread(p)}, above)
        case "student_t":
            return Likelihood(
                "StudentT", lambda p: {"nu": p["nu"], "mu": p["eta"], "sigma": spread(p)},
                lambda y, a: _log_below("StudentT", -y, {**a, "mu": -a["mu"]}),
            )  # fmt: skip
        case "cv_normal":
            return Likelihood("Normal", cv_normal, normal_above)
        case "gamma":
            return Likelihood("Gamma", gamma, lambda y, a: pt.log(pt.gammaincc(a["alpha"], a["beta"] * y)))
        case "bernoulli" | "binomial":
            return Likelihood("Binomial", lambda p: {"n": p["trials"], "logit_p": p["eta"]})
        case "poisson":
            # P(Y >= y) of a count is the chance that the y-th event comes in time: a gamma variable's.
            return Likelihood(
                "Poisson", lambda p: {"mu": pt.exp(p["eta"])},
                lambda y, a: pt.switch(y > 0, pt.log(pt.gammainc(pt.maximum(y, 1), a["mu"])), 0.0),
            )  # fmt: skip
        case _:
            return Likelihood(
                "NegativeBinomial", lambda p: {"mu": pt.exp(p["eta"]), "alpha": p["alpha"]},
                lambda y, a: pt.switch(
                    y > 0, pt.log(pt.betainc(pt.maximum(y, 1), a["alpha"], a["mu"] / (a["mu"] + a["alpha"]))), 0.0
                ),
            )  # fmt: skip


def _log_below(of: str, y: Any, arguments: dict[str, Any]) -> Any:
    """Log of P(Y <= y)."""
    import pymc as pm

    return pm.logcdf(getattr(pm, of).dist(**arguments), y)


def _censored(
    model: Model, name: str, likelihood: Likelihood, arguments: dict[str, Any], data: Parts, dims: str
) -> None:
    """A response of which some rows are known as bounds only; each row's density is evaluated in its own branch.

    Drawn responses are censored at the model's bounds; where a column tells what is censored, the points at which the
    other rows would have been are not known, and they are drawn in full.
    """
    import pymc as pm
    import pytensor.tensor as pt

    labels = list(arguments)
    distribution = getattr(pm, likelihood.of)
    whole = 1 if model.family_spec.support == "count" else 0  # intervals of counts hold both their ends

    def above(y: Any, at: dict[str, Any]) -> Any:
        assert likelihood.log_above is not None  # every family that can be censored has it
        return likelihood.log_above(y, at)

    def branch(status: str, y: Any, at: dict[str, Any], upper: Any) -> Any:
        if status == "none":
            return pm.logp(distribution.dist(**at), y)
        if status == "left":
            return _log_below(likelihood.of, y, at)
        if status == "right":
            return above(y, at)
        # The smaller tail keeps its digits: P(Y <= upper) - P(Y < y), or the same from above.
        below_lower = _log_below(likelihood.of, y - whole, at)
        high = below_lower > math.log(0.5)
        larger = pt.switch(high, above(y, at), _log_below(likelihood.of, upper, at))
        smaller = pt.switch(high, above(upper + whole, at), below_lower)
        return larger + pt.log1mexp(smaller - larger)

    def logp(value: Any, *given: Any) -> Any:
        rows = [pt.broadcast_to(part, value.shape) for part in given]
        total = pt.zeros(value.shape)
        for status in STATUSES:
            where = data.get(f"status {status}")
            if where is not None:
                at = {label: row[where] for label, row in zip(labels, rows, strict=True)}
                upper = data["upper"][where] if status == "interval" else None
                total = pt.set_subtensor(total[where], branch(status, value[where], at, upper))
        return total

    def drawn(*given: Any) -> Any:
        *parameters, size = given
        full = distribution.dist(**dict(zip(labels, parameters, strict=True)), size=size)
        return full if model.bounds is None else pt.clip(full, *model.bounds)

    pm.CustomDist(name, *arguments.values(), dist=drawn, logp=logp, observed=data["observed"], dims=dims)
