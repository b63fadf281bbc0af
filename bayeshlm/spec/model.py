"""`Model`: formula, family and priors, frozen and free of data."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from bayeshlm.errors import FormulaError, PriorError, listed
from bayeshlm.spec.families import Family, get_family
from bayeshlm.spec.formula import Formula, parse_formula, variable_name
from bayeshlm.spec.priors import (
    LKJ,
    Flat,
    HalfNormal,
    Normal,
    Prior,
    Priors,
    from_dict,
)  # fmt: skip

DEFAULT_CORRELATION = LKJ(2.0)


@dataclass(frozen=True)
class Model:
    """A Bayesian hierarchical model, as a description only.

    Parameters
    ----------
    formula : str
        See `bayeshlm.spec.formula.parse_formula`.
    family : {"gaussian", "lognormal"}
        lognormal: the log of the response is Gaussian, effects multiply.
    priors : mapping of str to Prior, optional
        Keys as the parameters are named in the posterior: ``Intercept``, ``log1p(hs_gpa)``, ``1|method_sigma``,
        ``corr|subject``, ``sigma``. A prior belongs to the coefficient as the formula names it; ``Intercept`` is the
        value at x = 0. What is left out gets a default: for lognormal at once, in multiplicative terms and without
        data; for gaussian by `bayeshlm.scaled_priors`.
    se : str, optional
        Column of known standard errors, as in meta-analysis; there is then no `sigma`.
    weights : str, optional
        Column of precision weights: Var(e_i) = sigma^2 / w_i, as in lme4.
    censored : str or tuple, optional
        Column of none/left/right/interval, or bounds, as in Bambi. A description only: the exact engine refuses it.

    Raises
    ------
    FormulaError, PriorError
        Naming every offender.
    """

    formula: str
    _: dataclasses.KW_ONLY
    family: str = "gaussian"
    priors: Mapping[str, Prior] | None = None
    se: str | None = None
    weights: str | None = None
    censored: str | tuple[float | None, float | None] | None = None
    terms: Formula = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        get_family(self.family)
        for name in ("se", "weights"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise FormulaError(f"{name}= takes a column's name, not {value!r}.")
        if isinstance(self.censored, list):  # JSON has no tuples
            object.__setattr__(self, "censored", tuple(self.censored))
        object.__setattr__(self, "terms", parse_formula(self.formula))
        object.__setattr__(self, "formula", self.terms.text)
        if self.terms.sigma is not None and self.se is not None:
            raise FormulaError("With known standard errors (se=) there is no 'sigma' that could differ by a factor.")
        given = {} if self.priors is None else dict(self.priors)
        object.__setattr__(self, "priors", Priors(self._checked(given)))

    @property
    def family_spec(self) -> Family:
        return get_family(self.family)

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Name -> kind (`coefficient`, `scale` or `correlation`) of every parameter that takes a prior."""
        kinds = {term.name: "coefficient" for term in self.terms.common}
        for group in self.terms.groups:
            for effect in group.effects:
                kinds[f"{group.effect_name(effect)}_sigma"] = "scale"
            if group.correlated:
                kinds[group.correlation_name] = "correlation"
        if self.se is None:
            kinds["sigma"] = "scale"
        return kinds

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the data that the model uses."""
        extra = tuple(name for name in (self.se, self.weights, self.censored) if isinstance(name, str))
        return tuple(dict.fromkeys((*self.terms.columns(), *extra)))

    @property
    def missing_priors(self) -> tuple[str, ...]:
        """Parameters that still need a prior (empty for families whose defaults need no data)."""
        return tuple(name for name in self.parameters if name not in self.complete_priors)

    @cached_property
    def complete_priors(self) -> dict[str, Prior]:
        """The given priors and those defaults that need no data, in the order of `parameters`."""
        given = cast(Mapping[str, Prior], self.priors)
        complete = {}
        for name, kind in self.parameters.items():
            if name in given:
                complete[name] = given[name]
            elif kind == "correlation":
                complete[name] = DEFAULT_CORRELATION
            elif self.family_spec.log_response:
                complete[name] = _multiplicative_default(name, kind)
        return complete

    def parameter(self, name: object) -> str | None:
        """The parameter that a user's spelling means, whatever its spaces, backticks and slashes; None if none."""
        return matching(name, self.parameters)

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
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise FormulaError(f"Not the JSON of a bayeshlm model: {error!r}.") from error

    def _checked(self, given: dict[str, Any]) -> dict[str, Prior]:
        problems, checked = [], {}
        for name, prior in given.items():
            parameter = self.parameter(name)
            if parameter is None:
                problems.append(f"{name!r} is not a parameter of this model")
            elif not isinstance(prior, Prior):
                problems.append(f"{name!r} has {prior!r}, which is not a prior such as bayeshlm.Normal(0, 1)")
            elif problem := _unsuitable(parameter, self.parameters[parameter], prior):
                problems.append(problem)
            else:
                checked[parameter] = prior
                if list(map(self.parameter, given)).count(parameter) > 1:
                    problems.append(f"{parameter!r} has more than one prior, spelled differently")
        if problems:
            raise PriorError("; ".join(problems) + f". The parameters are {listed(self.parameters, 30)}.")
        return {name: checked[name] for name in self.parameters if name in checked}


def matching(name: object, names: Iterable[str]) -> str | None:
    """The one of `names` that is `name`, or that it alone resembles but for spaces, backticks and slashes."""
    text, known = str(name), list(names)
    if variable_name(text) in known:
        return variable_name(text)
    alike = [candidate for candidate in known if _key(candidate) == _key(text)]
    return alike[0] if len(alike) == 1 else None


def _key(name: str) -> str:
    return re.sub(r"[\s`]", "", variable_name(name))


def _unsuitable(name: str, kind: str, prior: Prior) -> str | None:
    if kind == "correlation":
        return None if isinstance(prior, LKJ) else f"{name!r} is a correlation matrix and takes LKJ(eta), not {prior}"
    if isinstance(prior, LKJ):
        return f"{name!r} is no correlation matrix: {prior} does not suit it"
    if kind == "scale" and not isinstance(prior, Flat) and prior.bounds[0] < 0:
        return f"{name!r} is a standard deviation: {prior} puts mass below 0; use e.g. HalfNormal(1)"
    return None


def _multiplicative_default(name: str, kind: str) -> Prior:
    """Weakly informative on the log scale: factors of exp(+-2.5), group effects of about 1.6 up or down."""
    if kind == "coefficient":
        return Normal(0.0, 10.0) if name == "Intercept" else Normal(0.0, 2.5)
    return HalfNormal(1.0) if name == "sigma" else HalfNormal(0.5)
