"""What a plan is asked, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshlm.errors import DesignError, PriorError, did_you_mean, listed
from bayeshlm.posterior.compare import check_direction, check_prob
from bayeshlm.simulation.default_priors import with_design_priors
from bayeshlm.simulation.design import Design
from bayeshlm.spec.model import Model, matching
from bayeshlm.studies.plan.targets import check_target


@dataclass(frozen=True)
class Question:
    """What a plan was asked: everything that its answer depends on, checked.

    Attributes
    ----------
    labels : tuple of str
        Of the designs.
    levels : tuple of str
        Names of all levels of all designs, the units among them.
    The others as the arguments of `bayeshlm.plan`.
    """

    model: Model
    labels: tuple[str, ...]
    designs: tuple[Design, ...]
    decide: str
    params: Mapping[str, Any]
    fit_model: Model
    costs: Mapping[str, float] | None
    target: Mapping[str, float] | None
    maximize: bool | None
    prob: float
    levels: tuple[str, ...]


def ask(
    model: Model, designs: object, decide: object, params: Mapping[str, Any] | None, fit_model: Model | None,
    costs: Mapping[str, float] | None, target: Mapping[str, float] | None, maximize: object, prob: float,
) -> Question:  # fmt: skip
    """Check everything that needs no draw. Raises DesignError, DataError or PriorError naming every offender."""
    for name, value in (("model", model), ("fit_model", model if fit_model is None else fit_model)):
        if not isinstance(value, Model):
            raise DesignError(f"{name} is a {type(value).__name__}, not a bayeshlm.Model.")
    check_prob(prob)
    if maximize is not None and not isinstance(maximize, bool):
        raise DesignError(check_direction(maximize))
    if not isinstance(decide, str):
        raise DesignError(f"decide={decide!r} is the name of a level or of a categorical common effect.")
    labels, found = _labelled(designs)
    levels = tuple(dict.fromkeys(name for design in found for name, _ in design.levels))
    analysis = model if fit_model is None else fit_model
    _check_analysis(model, analysis)
    prices = None if costs is None else _prices(costs, levels)
    goal = None if target is None else check_target(target, multiplicative=model.family_spec.log_response)
    if goal is not None and prices is None:
        raise DesignError("target= needs costs=, to say which design that meets it is the cheapest.")
    effects = [group.effect_name(effect) for group in model.terms.groups for effect in group.effects]
    named = {
        str(matching(name, [*model.possible_parameters, *effects]) or name): value
        for name, value in (params or {}).items()
    }
    if "sigma" in named and np.ndim(named["sigma"]) == 0 and named["sigma"] == 0:
        raise DesignError(
            "params: sigma = 0 makes all units of a group equal, and no fit can tell a residual of 0 from rounding. "
            "Give a small sigma instead."
        )
    model, analysis = (with_design_priors(m, found[0]) for m in (model, analysis))  # the same for all designs
    return Question(
        model.with_priors(model.complete_priors), tuple(labels), tuple(found), decide, named,
        analysis.with_priors(analysis.complete_priors), prices, goal, maximize, float(prob), levels,
    )  # fmt: skip


def _labelled(designs: object) -> tuple[list[str], list[Design]]:
    if isinstance(designs, Mapping):
        labels, found = [str(label) for label in designs], list(designs.values())
        if len(set(labels)) < len(labels):
            raise DesignError(f"designs: two labels are the same as text: {listed(labels)}.")
    elif isinstance(designs, Iterable) and not isinstance(designs, str | Design):
        found = list(designs)
        labels = _names([design for design in found if isinstance(design, Design)])
    else:
        raise DesignError(
            f"designs is a {type(designs).__name__}; give a list of bayeshlm.Design (see Design.grid), or a mapping of "
            "labels to designs."
        )
    wrong = [k for k, design in enumerate(found) if not isinstance(design, Design)]
    if wrong or not found:
        raise DesignError(
            f"designs: {'no design is given' if not found else f'numbers {listed(wrong)} are not a bayeshlm.Design'}."
        )
    return labels, found


def _names(designs: list[Design]) -> list[str]:
    """What tells the designs apart: `instructor 10, student 20`. Those that sizes do not tell apart are numbered."""
    levels = dict.fromkeys(name for design in designs for name, _ in design.levels)
    sizes = [dict(design.levels) for design in designs]
    varying = [name for name in levels if len({size.get(name) for size in sizes}) > 1] or list(levels)
    labels, seen = [], dict[str, int]()
    for size in sizes:
        label = ", ".join(f"{name} {_size_text(size[name])}" for name in varying if name in size)
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return labels


def _size_text(size: Any) -> str:
    if isinstance(size, tuple):
        if len(set(size)) == 1:
            return str(size[0])
        return f"{min(size)}-{max(size)} ({'+'.join(map(str, size)) if len(size) <= 6 else f'{len(size)} sizes'})"
    return f"{size:,}" if isinstance(size, int) else str(size)


def _check_analysis(model: Model, analysis: Model) -> None:
    same = (model.formula, model.family, model.se, model.weights) == (
        analysis.formula, analysis.family, analysis.se, analysis.weights,
    )  # fmt: skip
    if not same:
        raise DesignError(
            f"fit_model ({analysis.formula!r}, {analysis.family}) must have the formula and family of model "
            f"({model.formula!r}, {model.family}): "
            "a plan varies priors. For misspecified analyses there are sbc and recover."
        )
    if analysis.missing_priors:
        raise PriorError(
            f"No prior for {listed(analysis.missing_priors)}: a plan analyses data that are not there yet, so that no "
            "default can be scaled by them. Give priors."
        )


def _prices(costs: Mapping[str, float], levels: tuple[str, ...]) -> dict[str, float]:
    problems = [
        f"{name!r} is no level of the designs. {did_you_mean(name, levels)}".rstrip(" .")
        for name in costs
        if name not in levels
    ]
    for name, price in costs.items():
        number = isinstance(price, int | float | np.integer | np.floating) and not isinstance(price, bool)
        if not number or not np.isfinite(price) or price < 0:
            problems.append(f"{name}={price!r} is no price")
    if problems or not costs:
        raise DesignError(f"costs: {'; '.join(problems) or 'no price is given'}. The levels are {listed(levels)}.")
    return {name: float(price) for name, price in costs.items()}
