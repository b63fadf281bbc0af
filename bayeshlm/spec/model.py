"""`Model`: formula, family and priors, frozen and free of data."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from bayeshlm.errors import FormulaError, PriorError, did_you_mean, listed
from bayeshlm.spec.families import Family, get_family
from bayeshlm.spec.formula import parse_formula
from bayeshlm.spec.priors import (
    LKJ,
    At,
    Flat,
    HalfNormal,
    Normal,
    Prior,
    Priors,
    from_dict,
)  # fmt: skip
from bayeshlm.spec.terms import Formula, variable_name

DEFAULT_CORRELATION = LKJ(2.0)
Censoring = str | tuple[float | None, float | None] | tuple[str, str]


@dataclass(frozen=True)
class Model:
    """A Bayesian hierarchical model, as a description only.

    Parameters
    ----------
    formula : str
        See `bayeshlm.spec.formula.parse_formula`.
    family : str
        gaussian, lognormal (the log of the response is Gaussian), student_t, cv_normal (Normal whose standard deviation
        is proportional to its mean), gamma, bernoulli, binomial (response ``p(successes, trials)``), poisson,
        negative_binomial. Effects add to the mean (gaussian, student_t), to its log odds (bernoulli, binomial), or to
        its log and so multiply (all others).
    priors : mapping of str to Prior, or Model, optional
        Keys as the parameters are named in the posterior: ``Intercept``, ``log1p(hs_gpa)``, ``1|method_sigma``,
        ``corr|subject``, ``sigma``; a Model stands for its priors, as `bayeshlm.scaled_priors` returns them. A prior
        belongs to the coefficient as the formula names it; ``Intercept`` is the value at x = 0. What is left out gets a
        default on the scale of the columns, the intercept one at their means (see `bayeshlm.scaled_priors`): where
        effects multiply, in multiplicative terms; for gaussian and student_t on the scale of the response.
    se : str, optional
        Column of known standard errors, as in meta-analysis; there is then no `sigma`. For gaussian and lognormal (then
        of the log).
    weights : str, optional
        Column of precision weights: Var(e_i) = sigma^2 / w_i, as in lme4; a row of weight w is worth w rows. For
        continuous responses; counts have p(successes, trials) and offset(log(exposure)) instead.
    censored : str or tuple, optional
        What of the response is known as a bound only. Bounds ``(low, high)``, either None: values at `high` stand for
        "at least high" (a score capped at 100), values at `low` for "at most low". Or a column of the words none,
        left, right and, with ``(status column, column of upper ends)``, interval, as in Bambi; the response is then
        the bound, or the lower end of the interval.

    Raises
    ------
    FormulaError, PriorError
        Naming every offender.
    """

    formula: str
    _: dataclasses.KW_ONLY
    family: str = "gaussian"
    priors: Mapping[str, Prior] | Model | None = None
    se: str | None = None
    weights: str | None = None
    censored: Censoring | None = None
    terms: Formula = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        get_family(self.family)
        for name in ("se", "weights"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise FormulaError(f"{name}= takes a column's name, not {value!r}.")
        if isinstance(self.censored, list):  # JSON has no tuples
            object.__setattr__(self, "censored", tuple(self.censored))
        object.__setattr__(self, "censored", _checked_censoring(self.censored))
        object.__setattr__(self, "terms", parse_formula(self.formula))
        object.__setattr__(self, "formula", self.terms.text)
        _check_family(self)
        priors = self.priors.priors if isinstance(self.priors, Model) else self.priors
        given = dict(cast(Mapping[str, Prior] | None, priors) or {})
        object.__setattr__(self, "priors", Priors(self._checked(given)))

    @property
    def family_spec(self) -> Family:
        return get_family(self.family)

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Name -> kind of every parameter that takes a prior: coefficient, scale, correlation or shape (nu, alpha).

        The correlations of a bar with one term, ``(0 + x | g)``, exist only where the data make x a factor. They are
        among the parameters once they have a prior; a model bound to data (`Statistics.model`) has one for them.
        """
        priors = cast(Mapping[str, Prior], self.priors)
        unsure = {group.correlation_name for group in self.terms.groups if group.has_matrix is None}
        return {n: kind for n, kind in self.possible_parameters.items() if n not in unsure or n in priors}

    @cached_property
    def possible_parameters(self) -> dict[str, str]:
        """As `parameters`, with the correlations that only the data decide on."""
        kinds = {term.name: "coefficient" for term in self.terms.common}
        for group in self.terms.groups:
            for effect in group.effects:
                kinds[f"{group.effect_name(effect)}_sigma"] = "scale"
            if group.has_matrix is not False:
                kinds[group.correlation_name] = "correlation"
        kinds |= {name: "scale" if name == "sigma" else "shape" for name, _ in self.extra}
        return kinds

    @property
    def extra(self) -> tuple[tuple[str, Prior | None], ...]:
        """The family's parameters besides the effects, with their defaults; no `sigma` where errors are known."""
        return tuple(pair for pair in self.family_spec.extra if pair[0] != "sigma" or self.se is None)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The bounds at which the response is censored, infinite where there is none; None where a column tells."""
        if self.censored is None or isinstance(self.censored, str) or isinstance(self.censored[0], str):
            return None
        low, high = self.censored
        return (-math.inf if low is None else low, math.inf if high is None else high)

    @property
    def status_columns(self) -> tuple[str, ...]:
        """Columns that tell what is censored: none, (status) or (status, upper ends)."""
        if isinstance(self.censored, str):
            return (self.censored,)
        return tuple(name for name in self.censored or () if isinstance(name, str))

    @property
    def moments_suffice(self) -> bool:
        """Whether sums, squares and products per group are all that the likelihood needs of the rows."""
        return self.family_spec.moments_suffice and self.censored is None

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the data that the model uses."""
        extra = (name for name in (self.se, self.weights, *self.status_columns) if name is not None)
        return tuple(dict.fromkeys((*self.terms.columns(), *extra)))

    @property
    def missing_priors(self) -> tuple[str, ...]:
        """Parameters that still need a prior (empty for families whose defaults need no data)."""
        return tuple(name for name in self.parameters if name not in self.complete_priors)

    @property
    def pending_priors(self) -> tuple[str, ...]:
        """Parameters whose default prior is one of the columns it multiplies, so that it waits for data or a design."""
        own = dict(self.extra)
        waits = {name for name, kind in self.parameters.items() if kind in ("coefficient", "scale") and name not in own}
        return tuple(name for name in self.parameters if name in waits and name not in cast(Priors, self.priors))

    @cached_property
    def complete_priors(self) -> dict[str, Prior]:
        """The given priors and those defaults that need no response, in the order of `parameters`.

        Those of `pending_priors` are for columns of unit spread about 0, until `bayeshlm.data.default_priors` knows the
        columns.
        """
        given = cast(Mapping[str, Prior], self.priors)
        defaults = {name: prior for name, prior in self.extra if prior is not None}
        complete = {}
        for name, kind in self.parameters.items():
            if name in given:
                complete[name] = given[name]
            elif kind == "correlation":
                complete[name] = DEFAULT_CORRELATION
            elif name in defaults:
                complete[name] = defaults[name]
            elif self.family_spec.multiplicative and name not in dict(self.extra):
                complete[name] = _multiplicative_default(self.family_spec, name, kind)
        return complete

    def parameter(self, name: object) -> str | None:
        """The parameter that a user's spelling means, whatever its spaces, backticks and slashes; None if none."""
        if isinstance(name, str) and name in self.possible_parameters:  # of hundreds, each looked at for each is slow
            return name
        return matching(name, self.possible_parameters)

    def with_priors(self, priors: Mapping[str, Prior]) -> Model:
        """A copy in which these priors replace or join the given ones."""
        given = {self.parameter(name) or name: prior for name, prior in priors.items()}
        return dataclasses.replace(self, priors={**cast(Mapping[str, Prior], self.priors), **given})

    def to_json(self) -> str:
        """The model as JSON text; `Model.from_json` is the inverse."""
        priors = {name: prior.to_dict() for name, prior in cast(Mapping[str, Prior], self.priors).items()}
        record = {
            "formula": self.formula, "family": self.family, "priors": priors, "se": self.se, "weights": self.weights,
            "censored": self.censored,
        }  # fmt: skip
        return json.dumps(record, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Model:
        """Read `to_json`'s text. Raises FormulaError or PriorError where it is damaged."""
        try:
            record: dict[str, Any] = json.loads(text)
            priors = {name: from_dict(prior) for name, prior in record.pop("priors").items()}
            return cls(record.pop("formula"), priors=priors, **record)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormulaError(f"Not the JSON of a bayeshlm model: {error!r}.") from error

    def _checked(self, given: dict[str, Any]) -> dict[str, Prior]:
        problems, checked = [], {}
        meant = [self.parameter(name) for name in given]
        times = Counter(meant)
        for parameter, (name, prior) in zip(meant, given.items(), strict=True):
            if parameter is None:
                near = did_you_mean(name, self.possible_parameters).strip()
                problems.append(f"{name!r} is not a parameter of this model{f' ({near})' if near else ''}")
            elif not isinstance(prior, Prior):
                problems.append(f"{name!r} has {prior!r}, which is not a prior such as bayeshlm.Normal(0, 1)")
            elif problem := _unsuitable(parameter, self.possible_parameters[parameter], prior):
                problems.append(problem)
            else:
                checked[parameter] = prior
                if times[parameter] > 1:
                    problems.append(f"{parameter!r} has more than one prior, spelled differently")
        if problems:
            raise PriorError("; ".join(problems) + f". The parameters are {listed(self.possible_parameters, 30)}.")
        return {name: checked[name] for name in self.possible_parameters if name in checked}


def matching(name: object, names: Iterable[str]) -> str | None:
    """The one of `names` that is `name`, or that it alone resembles but for spaces, backticks and slashes."""
    text, known = str(name), list(names)
    if variable_name(text) in known:
        return variable_name(text)
    alike = [candidate for candidate in known if _key(candidate) == _key(text)]
    return alike[0] if len(alike) == 1 else None


def _key(name: str) -> str:
    return re.sub(r"[\s`]", "", variable_name(name)).replace("'", '"')


def _unsuitable(name: str, kind: str, prior: Prior) -> str | None:
    if kind == "correlation":
        return None if isinstance(prior, LKJ) else f"{name!r} is a correlation matrix and takes LKJ(eta), not {prior}"
    if isinstance(prior, At) and name != "Intercept":
        return f"{name!r}: At is a prior of the linear predictor and stands in place of the one of 'Intercept'"
    if isinstance(prior, LKJ):
        return f"{name!r} is no correlation matrix: {prior} does not suit it"
    if kind in ("scale", "shape") and not isinstance(prior, Flat) and prior.bounds[0] < 0:
        what = "a standard deviation" if kind == "scale" else "positive"
        return f"{name!r} is {what}: {prior} puts mass below 0; use e.g. HalfNormal(1)"
    return None


def default_widths(family: Family) -> tuple[float, float, float]:
    """Widths of default priors where effects multiply: the intercept, a slope a standard deviation of x, group effects.

    Weakly informative on the scale of logs or log odds: slopes are factors of exp(+-2.5), group effects factors of
    about 1.6 up or down, of odds about 2.7. Counts and odds have no unit of measurement that the intercept must cover.
    """
    return 5.0 if family.discrete else 10.0, 2.5, 1.0 if family.link == "logit" else 0.5


def _multiplicative_default(family: Family, name: str, kind: str) -> Prior:
    """As `default_widths`, of columns of unit spread about 0."""
    intercept, slope, group = default_widths(family)
    if kind == "coefficient":
        return Normal(0.0, intercept if name == "Intercept" else slope)
    return HalfNormal(group)


def _checked_censoring(censored: Any) -> Censoring | None:
    """Bounds as floats, or column names. Raises FormulaError for anything else."""
    wanted = (
        "censored= takes bounds (low, high), either of them None, a column of none/left/right, or (that column, the "
        f"column of upper ends of intervals), not {censored!r}."
    )
    if censored is None or (isinstance(censored, str) and censored):
        return cast(Censoring | None, censored)
    if not isinstance(censored, tuple) or len(censored) != 2:
        raise FormulaError(wanted)
    if all(isinstance(name, str) and name for name in censored):
        return cast(Censoring, censored)
    if any(isinstance(b, bool) or not (b is None or hasattr(b, "__float__")) for b in censored):
        raise FormulaError(wanted)
    bounds = tuple(None if b is None or math.isinf(b) else float(b) for b in censored)
    given = [b for b in bounds if b is not None]
    if not given or any(math.isnan(b) for b in given) or given != sorted(set(given)):
        raise FormulaError(f"censored={censored!r}: the bounds must be numbers, the lower below the upper.")
    return cast(Censoring, bounds)


def _check_family(model: Model) -> None:
    """What is given must have a meaning for the family. Raises FormulaError naming all that has not."""
    family, terms = model.family_spec, model.terms
    problems = []
    if terms.trials is not None and family.support != "successes":
        problems.append(f"p(successes, trials) needs family='binomial', not {family.name!r}")
    if terms.trials is None and family.support == "successes":
        problems.append("a binomial response is written p(successes, trials) ~ ...; for 0/1 use family='bernoulli'")
    if model.weights is not None and not family.weights:
        instead = "p(successes, trials)" if family.link == "logit" else "offset(log(exposure))"
        problems.append(f"precision weights= have no meaning for {family.name!r}; use {instead}")
    if model.se is not None and not family.se:
        problems.append(f"known standard errors se= have a meaning for gaussian and lognormal, not for {family.name!r}")
    if terms.sigma is not None and model.se is not None:
        problems.append("with known standard errors (se=) there is no 'sigma' that could differ by a factor")
    elif terms.sigma is not None and "sigma" not in dict(family.extra):
        problems.append(f"a {family.name!r} response has no 'sigma' that could differ by a factor")
    if model.censored is not None and not family.censored:
        problems.append(f"a {family.name!r} response cannot be censored")
    bounds = model.bounds
    if bounds is not None and family.support in ("positive", "count"):
        lowest = 0.0 if family.support == "positive" else -0.5
        problems += [f"the bound {b:g} of censored= is outside the support of {family.name!r}" for b in bounds
                     if math.isfinite(b) and b <= lowest]  # fmt: skip
    if bounds is not None and family.support == "count":
        problems += [f"the bound {b:g} of censored= is no whole number" for b in bounds if math.isfinite(b) and b % 1]
    if problems:
        raise FormulaError("; ".join(problems) + ".")
    names = {term.name for term in terms.common} | {group.level_name for group in terms.groups}
    clashes = sorted(names & {name for name, _ in model.extra})
    if clashes:
        raise FormulaError(
            f"{listed(clashes)} is also a parameter of the family {family.name!r}. Rename the column in the data."
        )
