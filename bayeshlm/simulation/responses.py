"""Response distributions in NumPy: draws, means and medians given the linear predictor. Knows nothing of PyMC."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
from scipy.special import expit

from bayeshlm.arrays import Array
from bayeshlm.errors import DataError
from bayeshlm.spec.expressions import Node
from bayeshlm.spec.model import Model

KINDS = ("mean", "median", "response")
MEDIANS = ("gaussian", "lognormal", "student_t", "cv_normal")


def needed(model: Model, kind: str = "response") -> dict[str, Node]:
    """What a row's mean, median or response depends on beside its terms: `offset`, `trials`, `se`, `weights`."""
    nodes = {}
    if model.terms.offsets:
        nodes["offset"] = reduce(lambda a, b: Node("operator", "+", (a, b)), [o.node for o in model.terms.offsets])
    if model.terms.trials is not None:
        nodes["trials"] = model.terms.trials.node
    if kind == "response" or (kind == "mean" and model.family == "lognormal"):
        nodes |= {role: Node("column", name) for role in ("se", "weights") if (name := getattr(model, role))}
    return nodes


def check_kind(model: Model, kind: str) -> None:
    """Raise DataError for an unknown kind, or a median that the family has no plain formula for."""
    if kind not in KINDS:
        raise DataError(f"kind={kind!r}: it is one of {', '.join(map(repr, KINDS))}.")
    if kind == "median" and model.family not in MEDIANS:
        raise DataError(
            f"kind='median' is for {', '.join(MEDIANS)} responses; for {model.family} ask for 'mean', or take medians "
            "of 'response' draws."
        )


def compute(
    kind: str,
    model: Model,
    predictor: Array,
    parameters: Mapping[str, Array],
    numbers: Mapping[str, Array],
    rng: np.random.Generator,
) -> Array:
    """Mean, median or drawn response, of the shape of the predictor.

    Parameters
    ----------
    kind : {"mean", "median", "response"}
    model : Model
    predictor : array of any shape
        Offset included.
    parameters : mapping
        The family's own parameters (`sigma`, `nu`, `alpha`), to be broadcast against the predictor.
    numbers : mapping
        What `needed` names, evaluated, to be broadcast likewise.
    rng : numpy.random.Generator
    """
    if kind == "response":
        return observed(model, draw(model, predictor, parameters, numbers, rng))
    return mean(model, predictor, parameters, numbers) if kind == "mean" else median(model, predictor)


def mean(model: Model, predictor: Array, parameters: Mapping[str, Array], numbers: Mapping[str, Array]) -> Array:
    """Expected response, before censoring."""
    if model.family == "lognormal":
        return np.exp(predictor + 0.5 * error_sd(parameters, numbers) ** 2)
    if model.family_spec.link == "logit":
        return np.asarray(numbers.get("trials", 1.0) * expit(predictor))
    return np.exp(predictor) if model.family_spec.link == "log" else predictor


def median(model: Model, predictor: Array) -> Array:
    """Median response, before censoring, where it is a plain function of the predictor."""
    return np.exp(predictor) if model.family_spec.link == "log" else predictor


def draw(
    model: Model,
    predictor: Array,
    parameters: Mapping[str, Array],
    numbers: Mapping[str, Array],
    rng: np.random.Generator,
) -> Array:
    """One response for each element of the predictor, before censoring.

    Notes
    -----
    With weights w the error's standard deviation (of cv_normal and gamma the relative one, of student_t the scale) is
    that of w = 1 over sqrt(w); the gamma's shape is then alpha w.
    """
    shape = np.shape(predictor)
    match model.family:
        case "gaussian":
            return predictor + error_sd(parameters, numbers) * rng.standard_normal(shape)
        case "lognormal":
            return np.exp(predictor + error_sd(parameters, numbers) * rng.standard_normal(shape))
        case "student_t":
            noise = rng.standard_t(np.broadcast_to(parameters["nu"], shape))
            return predictor + error_sd(parameters, numbers) * noise
        case "cv_normal":
            return np.exp(predictor) * (1 + error_sd(parameters, numbers) * rng.standard_normal(shape))
        case "gamma":
            return np.exp(predictor) * _mixing(parameters["alpha"] * numbers.get("weights", 1.0), shape, rng)
        case "bernoulli":
            return (rng.random(shape) < expit(predictor)).astype(float)
        case "binomial":
            trials = np.broadcast_to(numbers["trials"], shape).astype(np.int64)
            return rng.binomial(trials, expit(predictor)).astype(float)
        case "poisson":
            return _poisson(np.exp(predictor), rng)
        case "negative_binomial":
            return _poisson(np.exp(predictor) * _mixing(parameters["alpha"], shape, rng), rng)
    raise DataError(f"The family {model.family!r} has no response distribution here.")


def observed(model: Model, response: Array) -> Array:
    """The response as it is recorded: inside the bounds of a censored model."""
    return response if model.bounds is None else np.clip(response, *model.bounds)


def error_sd(parameters: Mapping[str, Array], numbers: Mapping[str, Array]) -> Array:
    """Standard deviation of a row's error: sigma, or the known standard error, over the root of the weight."""
    sd = numbers["se"] if "se" in numbers else parameters["sigma"]
    return np.asarray(sd / np.sqrt(numbers["weights"]) if "weights" in numbers else sd)


def _mixing(alpha: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Gamma draws with mean 1 and shape alpha."""
    return np.asarray(rng.gamma(np.broadcast_to(alpha, shape)) / alpha)


def _poisson(mean: Array, rng: np.random.Generator) -> Array:
    """Poisson draws; NaN where the mean is beyond what can be counted, for the caller to refuse."""
    countable = mean < 1e15  # numpy's generator stops at 9.2e18, floats cease to count at 9e15
    return np.where(countable, rng.poisson(np.where(countable, mean, 0.0)), np.nan)
