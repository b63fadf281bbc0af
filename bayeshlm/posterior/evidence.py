"""Log marginal likelihood: what the model as a whole, priors included, made of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayeshlm.engines.sampling.importance import MAX_PARETO_K
from bayeshlm.engines.select import INDEPENDENT
from bayeshlm.errors import DataError, EngineError, PriorError, listed
from bayeshlm.posterior.draws import model_of, statistics_of

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Evidence:
    """log p(y | model), everything integrated out.

    Attributes
    ----------
    log_evidence : float
        On the scale of the response.
    se : float
        Monte Carlo standard error of `log_evidence`.
    formula, family, response : str
    rows : int
    total : float
        Sum of the response (of its log for lognormal) over rows, which tells different data; NaN under weights.
    """

    log_evidence: float
    se: float
    formula: str
    family: str
    response: str
    rows: int
    total: float

    def log_bayes_factor(self, other: Evidence) -> tuple[float, float]:
        """(log Bayes factor of this model against the other, its Monte Carlo error). DataError for different data."""
        same = (self.response, self.rows) == (other.response, other.rows)
        known = self.family == other.family and math.isfinite(self.total) and math.isfinite(other.total)
        if not same or (known and not math.isclose(self.total, other.total, rel_tol=1e-9, abs_tol=1e-9)):
            raise DataError(
                f"A Bayes factor compares models of the same rows: {self.response!r} with {self.rows} rows here, "
                f"{other.response!r} with {other.rows} there"
                + (", of other values." if same else ". Were rows dropped for missing values in one of them?")
            )
        return self.log_evidence - other.log_evidence, math.hypot(self.se, other.se)

    def to_text(self) -> str:
        """One line."""
        return (
            f"log evidence {self.log_evidence:.3f} (Monte Carlo standard error {self.se:.1g}) of {self.rows:,} rows, "
            f"{self.formula} ({self.family})"
        )


def evidence(posterior: xr.DataTree) -> Evidence:
    """Log marginal likelihood of a fit of the exact or the quadrature engine.

    For comparing models of the same rows: the difference of two log evidences is the log Bayes factor
    (`Evidence.log_bayes_factor`). It weighs the priors as much as the likelihood: a prior ten times as vague costs up
    to log 10 for each parameter, without any prediction getting worse. Choose priors that mean something before you use
    it, and prefer `loo` where you care for prediction.

    Parameters
    ----------
    posterior : xarray.DataTree

    Returns
    -------
    Evidence

    Raises
    ------
    PriorError
        Naming improper priors: up to a constant nobody chose, they have no evidence.
    EngineError
        Where another engine drew the posterior, or the importance weights could not be trusted.

    References
    ----------
    Kass and Raftery (1995), JASA 90(430); importance sampling estimate with its error by the weights' variance.
    """
    model = model_of(posterior)
    improper = [f"{name} ~ {prior}" for name, prior in model.complete_priors.items() if not prior.proper]
    if improper:
        raise PriorError(
            f"No evidence under improper priors: {listed(improper)}. Their density has no scale, and the evidence "
            "would inherit it. Give proper priors."
        )
    attrs: dict[Any, Any] = posterior.attrs
    if attrs.get("engine") not in INDEPENDENT or "log_evidence" not in attrs:
        raise EngineError(
            f"The evidence comes from the importance weights of the engines {listed(INDEPENDENT)}; this posterior was "
            f"made by {attrs.get('engine', 'another engine')!r}."
        )
    k = float(attrs.get("pareto_k", math.nan))
    if attrs.get("fallback") or not k <= MAX_PARETO_K:
        raise EngineError(
            f"The importance weights could not be trusted (Pareto k {k:.2f}), so neither can an evidence made of them. "
            f"{attrs.get('fallback', '')}".strip()
        )
    statistics = statistics_of(posterior)
    plain = model.weights is None and model.se is None  # else the cells' means are weighted
    total = float(statistics.count @ (statistics.mean[:, -1] + statistics.shift[-1])) if plain else math.nan
    return Evidence(
        float(attrs["log_evidence"]), float(attrs["log_evidence_se"]), model.formula, model.family,
        model.terms.response.name, statistics.rows, total,
    )  # fmt: skip
