"""Prior distributions as frozen descriptions: log density, draws, JSON. Names and argument order as in PyMC."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.errors import PriorError

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
MOST_NAMED = 4  # columns of a point that are written out


@dataclass(frozen=True)
class Prior:
    """Base of the prior classes: a frozen description with a log density and a way to draw.

    Notes
    -----
    `support` is the open interval on which the density is positive, `proper` tells whether it integrates to one.
    """

    support: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    proper: ClassVar[bool] = True
    positive_arguments: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        problems = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                problems.append(f"{field.name}={value!r} is not a number")
                continue
            object.__setattr__(self, field.name, float(value))
            if not math.isfinite(value):
                problems.append(f"{field.name}={value} is not finite")
            elif field.name in self.positive_arguments and value <= 0:
                problems.append(f"{field.name}={value} must be > 0")
        if problems:
            raise PriorError(f"{type(self).__name__}: " + "; ".join(problems) + ".")
        self._check()

    def _check(self) -> None:
        """Raise PriorError where arguments are impossible together."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Interval that carries the prior (the class's support, or the arguments' own)."""
        return self.support

    def logpdf(self, x: Array) -> Array:
        """Natural log of the density at `x` (any shape), -inf outside the support."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        """Draws of the given shape."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {"name": type(self).__name__, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        arguments = ", ".join(f"{getattr(self, f.name):g}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({arguments})"


@dataclass(frozen=True)
class Normal(Prior):
    """Normal with mean `mu` and standard deviation `sigma`."""

    mu: float = 0.0
    sigma: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("sigma",)

    def logpdf(self, x: Array) -> Array:
        return -0.5 * ((x - self.mu) / self.sigma) ** 2 - math.log(self.sigma) - HALF_LOG_2PI

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(rng.normal(self.mu, self.sigma, size))


@dataclass(frozen=True)
class StudentT(Prior):
    """Student t with `nu` degrees of freedom, location `mu` and scale `sigma`."""

    nu: float
    mu: float = 0.0
    sigma: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("nu", "sigma")

    def logpdf(self, x: Array) -> Array:
        return _log_t((x - self.mu) / self.sigma, self.nu) - math.log(self.sigma)

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(self.mu + self.sigma * rng.standard_t(self.nu, size))


@dataclass(frozen=True)
class Cauchy(Prior):
    """Cauchy with location `alpha` and scale `beta`."""

    alpha: float = 0.0
    beta: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("beta",)

    def logpdf(self, x: Array) -> Array:
        return -math.log(math.pi * self.beta) - np.log1p(((x - self.alpha) / self.beta) ** 2)

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(self.alpha + self.beta * rng.standard_cauchy(size))


@dataclass(frozen=True)
class Flat(Prior):
    """Constant (improper) density: on the line for a coefficient, on (0, inf) for a standard deviation."""

    proper: ClassVar[bool] = False

    def logpdf(self, x: Array) -> Array:
        return np.zeros_like(np.asarray(x, dtype=float))

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        raise PriorError("Flat() is improper: nothing can be drawn from it. Give a proper prior, or params.")


class _Positive(Prior):
    """A prior on (0, inf)."""

    support: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def _log_density(self, x: Array) -> Array:
        raise NotImplementedError

    def logpdf(self, x: Array) -> Array:
        x = np.asarray(x, dtype=float)
        inside = x > 0
        return np.where(inside, self._log_density(np.where(inside, x, 1.0)), -np.inf)


@dataclass(frozen=True)
class HalfNormal(_Positive):
    """|Normal(0, sigma)|."""

    sigma: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("sigma",)

    def _log_density(self, x: Array) -> Array:
        return math.log(2) - 0.5 * (x / self.sigma) ** 2 - math.log(self.sigma) - HALF_LOG_2PI

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(np.abs(rng.normal(0.0, self.sigma, size)))


@dataclass(frozen=True)
class HalfStudentT(_Positive):
    """|StudentT(nu, 0, sigma)|."""

    nu: float
    sigma: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("nu", "sigma")

    def _log_density(self, x: Array) -> Array:
        return math.log(2) + _log_t(x / self.sigma, self.nu) - math.log(self.sigma)

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(np.abs(self.sigma * rng.standard_t(self.nu, size)))


@dataclass(frozen=True)
class HalfCauchy(_Positive):
    """|Cauchy(0, beta)|."""

    beta: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("beta",)

    def _log_density(self, x: Array) -> Array:
        return math.log(2 / (math.pi * self.beta)) - np.log1p((x / self.beta) ** 2)

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(np.abs(self.beta * rng.standard_cauchy(size)))


@dataclass(frozen=True)
class Exponential(_Positive):
    """Exponential with rate `lam` (mean 1 / lam)."""

    lam: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("lam",)

    def _log_density(self, x: Array) -> Array:
        return math.log(self.lam) - self.lam * x

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(rng.exponential(1 / self.lam, size))


@dataclass(frozen=True)
class Gamma(_Positive):
    """Gamma with shape `alpha` and rate `beta`."""

    alpha: float
    beta: float
    positive_arguments: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    def _log_density(self, x: Array) -> Array:
        constant = self.alpha * math.log(self.beta) - math.lgamma(self.alpha)
        return constant + (self.alpha - 1) * np.log(x) - self.beta * x

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(rng.gamma(self.alpha, 1 / self.beta, size))


@dataclass(frozen=True)
class InverseGamma(_Positive):
    """Inverse gamma with shape `alpha` and scale `beta`."""

    alpha: float
    beta: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    def _log_density(self, x: Array) -> Array:
        constant = self.alpha * math.log(self.beta) - math.lgamma(self.alpha)
        with np.errstate(over="ignore"):  # beta / x beyond the floats means density 0, which -inf says
            return constant - (self.alpha + 1) * np.log(x) - self.beta / x

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(1 / rng.gamma(self.alpha, 1 / self.beta, size))


@dataclass(frozen=True)
class LogNormal(_Positive):
    """exp(Normal(mu, sigma))."""

    mu: float = 0.0
    sigma: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("sigma",)

    def _log_density(self, x: Array) -> Array:
        log_x = np.log(x)
        return -0.5 * ((log_x - self.mu) / self.sigma) ** 2 - log_x - math.log(self.sigma) - HALF_LOG_2PI

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(rng.lognormal(self.mu, self.sigma, size))


@dataclass(frozen=True)
class Uniform(Prior):
    """Uniform on (lower, upper)."""

    lower: float = 0.0
    upper: float = 1.0

    def _check(self) -> None:
        if self.lower >= self.upper:
            raise PriorError(f"Uniform: lower={self.lower} must be below upper={self.upper}.")

    @property
    def bounds(self) -> tuple[float, float]:
        return (self.lower, self.upper)

    def logpdf(self, x: Array) -> Array:
        x = np.asarray(x, dtype=float)
        inside = (x >= self.lower) & (x <= self.upper)
        return np.where(inside, -math.log(self.upper - self.lower), -np.inf)

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(rng.uniform(self.lower, self.upper, size))


@dataclass(frozen=True)
class PC(_Positive):
    """Penalised-complexity prior of a standard deviation: P(sigma > u) = p, an exponential with rate -log(p) / u.

    References
    ----------
    Simpson et al. (2017), Statistical Science 32(1), section 3.3, equation 3.3.
    """

    u: float
    p: float
    positive_arguments: ClassVar[tuple[str, ...]] = ("u", "p")

    def _check(self) -> None:
        if self.p >= 1:
            raise PriorError(f"PC: p={self.p} must be a probability below 1 (it is P(sigma > u)).")

    @property
    def rate(self) -> float:
        return -math.log(self.p) / self.u

    def _log_density(self, x: Array) -> Array:
        return math.log(self.rate) - self.rate * x

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        return np.asarray(rng.exponential(1 / self.rate, size))


@dataclass(frozen=True)
class At(Prior):
    """A prior of the linear predictor at given values of the columns, in place of one of `Intercept`, the value at 0.

    It speaks of Intercept + sum_j point_j b_j, b the common effects. Default intercept priors are of this kind, at the
    means of the columns: of a covariate far from 0, such as a year, the intercept at 0 is no more than extrapolated,
    and a prior there would decide the slope (brms, rstanarm and Bambi centre for this reason).

    Parameters
    ----------
    prior : Normal, StudentT or Cauchy
    point : mapping of str to float
        Column of the common effects (``year``, ``arm[new]``) -> its value; columns that are left out are 0.

    Examples
    --------
    >>> print(At(Normal(0, 5), {"year": 2019.5}))
    Normal(0, 5) at year = 2019.5
    """

    prior: Prior
    point: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Normal | StudentT | Cauchy):
            raise PriorError(f"At: prior={self.prior!r} must be a Normal, StudentT or Cauchy.")
        pairs = self.point.items() if isinstance(self.point, Mapping) else None
        if pairs is None or not all(isinstance(k, str) and _is_finite(v) for k, v in pairs):
            raise PriorError(f"At: point={self.point!r} must be finite numbers by column.")
        object.__setattr__(self, "point", Point({k: float(v) for k, v in pairs}))

    def logpdf(self, x: Array) -> Array:
        """Log density of the linear predictor at the point."""
        return self.prior.logpdf(x)

    def sample(self, rng: np.random.Generator, size: Any = None) -> Array:
        """Draws of the linear predictor at the point."""
        return self.prior.sample(rng, size)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "At", "prior": self.prior.to_dict(), "point": dict(self.point)}

    def __str__(self) -> str:
        if len(self.point) > MOST_NAMED:
            return f"{self.prior} at the means of {len(self.point)} columns"
        return f"{self.prior} at {', '.join(f'{name} = {value:g}' for name, value in self.point.items())}"


def base_prior(prior: Prior) -> Prior:
    """The distribution itself, wherever it holds."""
    return prior.prior if isinstance(prior, At) else prior


@dataclass(frozen=True)
class LKJ(Prior):
    """LKJ prior of a correlation matrix, density proportional to |R|^(eta - 1); eta = 1 is uniform.

    `logpdf` and `sample` speak of the canonical partial correlations (see `partial_beta`), from which the
    exact engine builds the Cholesky factor of R.

    References
    ----------
    Lewandowski, Kurowicka, Joe (2009), J. Multivariate Analysis 100, section 2.4 (C-vine, equation 7).
    """

    eta: float = 1.0
    positive_arguments: ClassVar[tuple[str, ...]] = ("eta",)

    def partial_beta(self, size: int) -> Array:
        """Beta(b, b) parameter of each partial correlation, row by row of the strict lower triangle, on (-1, 1)."""
        columns = np.concatenate([np.arange(row) for row in range(1, size)]) if size > 1 else np.zeros(0)
        return self.eta + (size - 2 - columns) / 2

    def logpdf_partial(self, z: Array, size: int) -> Array:
        """Log density of partial correlations `z`, shape (..., size (size - 1) / 2), summed over the last axis."""
        return self.logpdf_rest((1 - z) * (1 + z), size)

    def logpdf_rest(self, rest: Array, size: int) -> Array:
        """`logpdf_partial` from 1 - z^2, which near 0 has digits that z does not."""
        b = self.partial_beta(size)
        log_beta = np.array([2 * math.lgamma(v) - math.lgamma(2 * v) for v in b])
        with np.errstate(divide="ignore", invalid="ignore"):  # |z| = 1: infinite or NaN
            return np.sum((b - 1) * np.log(rest) - log_beta - (2 * b - 1) * math.log(2), axis=-1)

    def sample_partial(self, rng: np.random.Generator, size: int) -> Array:
        b = self.partial_beta(size)
        return np.asarray(2 * rng.beta(b, b) - 1)


PRIORS: dict[str, type[Prior]] = {
    cls.__name__: cls
    for cls in (
        Normal, StudentT, Cauchy, Flat, HalfNormal, HalfStudentT, HalfCauchy, Exponential,
        Gamma, InverseGamma, LogNormal, Uniform, LKJ, PC, At,
    )
}  # fmt: skip


def from_dict(record: dict[str, Any]) -> Prior:
    """Inverse of `Prior.to_dict`. Raises PriorError for an unknown class or arguments."""
    arguments = dict(record)
    cls = PRIORS.get(str(arguments.pop("name", "")))
    if cls is None:
        raise PriorError(f"Unknown prior {record.get('name')!r}; known are {', '.join(PRIORS)}.")
    if cls is At and isinstance(arguments.get("prior"), dict):
        inner = arguments["prior"]
        arguments["prior"] = None if inner.get("name") == "At" else from_dict(inner)  # none within another
    return _build(cls, **arguments)


def parse_prior(text: str) -> Prior:
    """Read a prior as written on the command line, e.g. ``HalfNormal(0.2)`` or ``Normal(mu=0, sigma=1)``.

    Only a call of a prior class with plain numbers is read; nothing is evaluated.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError
        positional = [ast.literal_eval(argument) for argument in node.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise PriorError(f"Cannot read the prior {text!r}: write e.g. HalfNormal(0.2).") from error
    cls = PRIORS.get(node.func.id)
    if cls is None:
        raise PriorError(f"Unknown prior {node.func.id!r}; known are {', '.join(PRIORS)}.")
    return _build(cls, *positional, **named)


def _build(make: Callable[..., Prior], *args: Any, **kwargs: Any) -> Prior:
    try:
        return make(*args, **kwargs)
    except TypeError as error:
        raise PriorError(str(error).replace(".__init__()", "")) from error


def _log_t(z: Array, nu: float) -> Array:
    constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
    return constant - (nu + 1) / 2 * np.log1p(z**2 / nu)


class _Frozen[Value](dict[str, Value]):
    """A read-only, hashable mapping."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict is unhashable; this one cannot change
        return hash(frozenset(self.items()))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("The priors of a Model are frozen; use model.with_priors({...}) for a changed copy.")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Value]]]:
        return (type(self), (dict(self),))


class Priors(_Frozen[Prior]):
    """Parameter name -> prior."""


class Point(_Frozen[float]):
    """Column -> value."""


def _is_finite(value: object) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]  # just checked
