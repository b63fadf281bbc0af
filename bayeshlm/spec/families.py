"""Response families: the scale on which effects add, what the response may be, which parameters come on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bayeshlm.errors import FormulaError
from bayeshlm.spec.priors import Gamma, HalfNormal, InverseGamma, Prior

Link = Literal["identity", "log", "logit"]
Support = Literal["real", "positive", "binary", "count", "successes"]


@dataclass(frozen=True)
class Family:
    """A response family.

    Attributes
    ----------
    name : str
    link : {"identity", "log", "logit"}
        What is linear in the effects: the mean, its log or its log odds (of lognormal the median's log).
    support : {"real", "positive", "binary", "count", "successes"}
        What the response may be: any number; > 0; 0/1 or a boolean; a whole number >= 0; one of at most the trials.
    extra : tuple of (str, Prior or None)
        Parameters besides the effects, named as in Bambi, with the default prior, or None where it needs the scale of
        the data. All are positive. `sigma` is the residual standard deviation (of cv_normal relative to the mean, of
        student_t the scale), `nu` the degrees of freedom, `alpha` the shape.
    engines : tuple of str
        Engines that can fit it.
    log_response : bool
        True where the log of the response is Gaussian.
    weights, se, censored : bool
        Whether precision weights, known standard errors and censoring have a meaning.
    """

    name: str
    link: Link
    support: Support
    extra: tuple[tuple[str, Prior | None], ...] = ()
    engines: tuple[str, ...] = ("nuts",)
    log_response: bool = False
    weights: bool = False
    se: bool = False
    censored: bool = True

    @property
    def effect(self) -> str:
        """What a group effect is called once brought to the user's scale: `multiplier`, ..."""
        return {"identity": "difference", "log": "multiplier", "logit": "odds_multiplier"}[self.link]

    @property
    def contrast(self) -> str:
        """What two groups are compared by."""
        return {"identity": "difference", "log": "ratio", "logit": "odds_ratio"}[self.link]

    @property
    def multiplicative(self) -> bool:
        """Whether effects multiply (means, medians or odds), so that exp() brings them to the user's scale."""
        return self.link != "identity"

    @property
    def discrete(self) -> bool:
        """Whether the response is counted."""
        return self.support in ("binary", "count", "successes")

    @property
    def moments_suffice(self) -> bool:
        """Whether sums, squares and products per group are all that the (uncensored) likelihood needs."""
        return "exact" in self.engines


# InverseGamma(0.4, 0.3) keeps shapes from 0.2 to 600, neither end pressed against a limit (the default of brms too).
SHAPE = InverseGamma(0.4, 0.3)
BOTH = ("exact", "nuts")
FAMILIES = {
    family.name: family
    for family in (
        Family("gaussian", "identity", "real", (("sigma", None),), BOTH, weights=True, se=True),
        Family("lognormal", "log", "positive", (("sigma", HalfNormal(1.0)),), BOTH, True, weights=True, se=True),
        Family("student_t", "identity", "real", (("sigma", None), ("nu", Gamma(2.0, 0.1))), weights=True),
        Family("cv_normal", "log", "real", (("sigma", HalfNormal(1.0)),), weights=True),
        Family("gamma", "log", "positive", (("alpha", SHAPE),), weights=True),
        Family("bernoulli", "logit", "binary", censored=False),
        Family("binomial", "logit", "successes", censored=False),
        Family("poisson", "log", "count"),
        Family("negative_binomial", "log", "count", (("alpha", SHAPE),)),
    )
}


def get_family(name: str) -> Family:
    """The family of that name; FormulaError names the known ones."""
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise FormulaError(f"Unknown family {name!r}; known are {', '.join(FAMILIES)}.")
    return family
