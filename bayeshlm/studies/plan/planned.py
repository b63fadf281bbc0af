"""The result of a plan: scores of all replicates in, an xarray.Dataset and a recommendation out."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.errors import EngineError
from bayeshlm.posterior.wording import share
from bayeshlm.simulation.design import Design
from bayeshlm.studies.plan.question import Question
from bayeshlm.studies.plan.targets import (
    AT_LEAST,
    ERROR,
    Recommendation,
    mean_and_error,
    ratio_and_error,
    recommend,
    share_and_error,
)  # fmt: skip
from bayeshlm.studies.runner import Results, seed_of
from bayeshlm.studies.score import SCORES
from bayeshlm.version import __version__

if TYPE_CHECKING:
    import xarray as xr

MEANS = {
    "p_best": "correct", "assurance": "assured", "power": "excludes_zero", "expected_loss": "loss", "width": "width",
    "coverage": "covered",
}  # fmt: skip
SHARES = ("p_best", "assurance")
WORDS = {
    "p_best": "P(choose the best)", "assurance": "assurance", "power": "power", "expected_loss": "expected loss",
    "outcome_loss": "expected loss in units of the outcome", "width": "width of the contrasts' intervals",
}  # fmt: skip


def summarise(question: Question, results: Results, baseline: str) -> xr.Dataset:
    """Means over replicates, their Monte Carlo errors, costs and the recommendation.

    `baseline` is what multipliers are relative to, in words.

    Raises
    ------
    EngineError
        If no fit at all was finished.
    """
    import xarray as xr

    if not results.finished or not np.isfinite(results.values["scores"]).all(axis=2).any():
        raise EngineError(f"Not one fit of the plan was finished. The first error: {_first_error(results)}")
    scores = results.values["scores"]  # (replicates, designs, scores)
    log = question.model.family_spec.log_response
    typical = float(np.exp(np.nanmedian(results.values["typical"]))) if log else math.nan
    done = np.isfinite(scores).all(axis=2)
    columns = [_of_design({name: scores[done[:, k], k, j] for j, name in enumerate(SCORES)}, typical, log)
               for k in range(len(question.labels))]  # fmt: skip
    variables: dict[str, Any] = {}
    for name in columns[0]:
        variables[name] = ("design", np.array([column[name][0] for column in columns]))
        variables[f"{name}_se"] = ("design", np.array([column[name][1] for column in columns]))
    cost = _costs(question, results)
    variables["cost"] = ("design", np.array([mean for mean, _ in cost]))
    variables["cost_se"] = ("design", np.array([error for _, error in cost]))
    variables["groups"] = (("design", "level"), results.values["sizes"].mean(axis=0))
    for name, column in (("correct", "correct"), ("loss", "loss"), ("interval_width", "width")):
        variables[name] = (("replicate", "design"), scores[:, :, SCORES.index(column)])
    variables["finished"] = ("design", done.sum(axis=0))
    variables["failed"] = ("design", results.replicates - done.sum(axis=0))
    variables |= _failures(question, results)
    attrs = _attrs(question, results, typical, log, baseline)
    if question.target is not None:
        found = _recommend(question, scores, done, np.array([mean for mean, _ in cost]), typical)
        variables["meets"] = ("design", np.array(found.meets))
        attrs |= {
            "recommended": found.design, "cheaper": json.dumps(found.cheaper, ensure_ascii=False),
            "recommendation": sentence(question, found, variables, results),
        }  # fmt: skip
    coords = {"design": list(question.labels), "level": list(question.levels), "replicate": results.replicate}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _of_design(scores: Mapping[str, Array], typical: float, log: bool) -> dict[str, tuple[float, float]]:
    found = {
        name: (share_and_error if name in SHARES else mean_and_error)(scores[column]) for name, column in MEANS.items()
    }
    if log:
        found["outcome_loss"] = (found["expected_loss"][0] * typical, found["expected_loss"][1] * typical)
    sure, wrong = scores["excludes_zero"], scores["wrong_sign"]
    found["type_s"] = ratio_and_error(wrong, sure)
    if found["type_s"][0] == 0:  # none seen: the error is that of a share of which none was seen
        found["type_s"] = (0.0, share_and_error(np.zeros(int((sure > 0).sum())))[1])
    found["type_m"] = ratio_and_error(scores["estimate_if_sure"], scores["truth_if_sure"])
    return found


def _costs(question: Question, results: Results) -> list[tuple[float, float]]:
    """Mean cost and its error per design; the error is 0 where no size is random."""
    if question.costs is None:
        return [(math.nan, math.nan)] * len(question.labels)
    prices = np.array([question.costs.get(name, 0.0) for name in question.levels])
    each = results.values["sizes"] @ prices  # (replicates, designs)
    errors = each.std(axis=0, ddof=1) / math.sqrt(len(each)) if len(each) > 1 else np.full(each.shape[1], math.nan)
    errors = np.where(np.ptp(each, axis=0) == 0, 0.0, errors)
    return list(zip(each.mean(axis=0).tolist(), errors.tolist(), strict=True))


def _recommend(
    question: Question, scores: Array, done: NDArray[np.bool_], cost: Array, typical: float
) -> Recommendation:
    assert question.target is not None
    designs = range(len(question.labels))
    columns = {**MEANS, "outcome_loss": "loss"}
    unit = typical if "outcome_loss" in question.target else 1.0
    values = {
        name: [scores[done[:, k], k, SCORES.index(columns[name])] * (unit if name == "outcome_loss" else 1.0)
               for k in designs] for name in question.target
    }  # fmt: skip
    spread = SCORES.index("spread")
    spreads = [float(scores[done[:, k], k, spread].mean()) * unit if done[:, k].any() else math.nan for k in designs]
    return recommend(list(question.labels), cost, values, spreads, question.target)


def sentence(question: Question, found: Recommendation, variables: Mapping[str, Any], results: Results) -> str:
    """The recommendation in words."""
    assert question.target is not None
    wanted = " and ".join(
        f"{WORDS[name]} {'of at least' if name in AT_LEAST else 'of at most'} {value:g}"
        for name, value in question.target.items()
    )
    count = len(question.labels)
    if found.design:
        k = question.labels.index(found.design)
        n = int(variables["finished"][1][k])
        figures = ", ".join(
            f"{WORDS[name]} {_figure(name, variables[name][1][k], variables[f'{name}_se'][1][k], n)}"
            for name in question.target
        )
        text = (
            f"Cheapest of {count} designs that surely meets the target ({wanted}): {found.design}"
            f"{_sizes(question.designs[k])}, cost {amount(variables['cost'][1][k])} ({figures})."
        )
    elif "uncertain" in found.meets:
        text = f"No design is certain to meet the target ({wanted}) with {results.replicates} replicates."
    else:
        text = f"None of the {count} designs meets the target ({wanted})."
    if found.cheaper:
        more = f" and {len(found.cheaper) - 1} more" if len(found.cheaper) > 1 else ""
        text += (
            f" {'Cheaper ones' if found.design else 'Some'} may meet it too, which {results.replicates} replicates "
            f"cannot tell: {found.cheaper[0]}{more}. Plan these with more replicates."
        )
    return text


def _figure(name: str, value: float, error: float, n: int) -> str:
    """A mean over n studies with its Monte Carlo error; what all or none of them show is no certainty."""
    if name in AT_LEAST and value in (0.0, 1.0):
        return f"{share(round(value), n)}, {'all' if value > 0.5 else 'none'} of {n:,} studies"
    if value == 0:
        return f"0 in all of {n:,} studies"
    return f"{value:.3g} \N{PLUS-MINUS SIGN} {error:.1g}"


def _sizes(design: Design) -> str:
    """What its numbers count: ` (6 clinic, 40 patient in each)`; nothing where the sizes are not all numbers."""
    levels = list(design.levels)
    if not all(isinstance(size, int) for _, size in levels):
        return ""
    (first, count), rest = levels[0], levels[1:]
    return f" ({count:,} {first}{''.join(f', {size:,} {name} in each' for name, size in rest)})"


def amount(value: float) -> str:
    """A price: whole from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def _failures(question: Question, results: Results) -> dict[str, Any]:
    """Every fit that failed, and replicates that failed as a whole (design: all)."""
    rows = [(int(r), "all", int(s), str(e)) for r, s, e in results.failures.itertuples(index=False)]
    errors = results.values["errors"] if results.finished else np.empty((0, 0), dtype=str)
    for i, k in np.argwhere(errors != ""):
        index = int(results.replicate[i])
        rows.append((index, question.labels[k], seed_of(results.random_seed, index), str(errors[i, k])))
    rows.sort()
    return {
        "failure_replicate": ("failure", np.array([row[0] for row in rows], dtype=np.int64)),
        "failure_design": ("failure", np.array([row[1] for row in rows], dtype=str)),
        "failure_seed": ("failure", np.array([row[2] for row in rows], dtype=np.uint64)),
        "failure_error": ("failure", np.array([row[3] for row in rows], dtype=str)),
    }


def _first_error(results: Results) -> str:
    if len(results.failures):
        return str(results.failures["error"].iloc[0])
    return str(next(error for error in results.values["errors"].ravel() if error))


def _attrs(question: Question, results: Results, typical: float, log: bool, baseline: str) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "kind": "plan", "model": question.model.to_json(), "fit_model": question.fit_model.to_json(),
        "decide": question.decide, "maximize": "" if question.maximize is None else int(question.maximize),
        "prob": question.prob,
        "params": json.dumps({name: np.asarray(v).tolist() if not isinstance(v, Mapping) else dict(v)
                              for name, v in question.params.items()}, ensure_ascii=False, default=float),
        "costs": json.dumps(question.costs), "target": json.dumps(question.target),
        "replicates": results.replicates, "random_seed": results.random_seed,
        "loss_unit": f"share of the outcome of {baseline}" if log else f"units of {question.model.terms.response.name}",
        "width_unit": "log ratio" if log else f"units of {question.model.terms.response.name}",
        "simultaneous_error": ERROR, "engine_took_over": int((results.values["quick"] == 0).sum()),
        "seconds": float(results.seconds.sum()), "version": __version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recommended": "", "recommendation": "",
    }  # fmt: skip
    return attrs | ({"typical_outcome": typical} if log else {})
