"""Did it converge? One named status, and what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.posterior.conflict import conflict_messages
from bayeshlm.posterior.convergence import convergence
from bayeshlm.posterior.draws import dataset, model_of, scalars, statistics_of

if TYPE_CHECKING:
    import xarray as xr

GOOD_RHAT, BAD_RHAT = 1.01, 1.05  # Vehtari et al. (2021), Bayesian Analysis 16(2), section 4
GOOD_ESS_PER_CHAIN, BAD_ESS_PER_CHAIN = 100, 25  # the same, 100 a chain for stable estimates
GOOD_EFFICIENCY = 0.25  # below it a long tail was once cut short (a sd of 3 groups) under Pareto k 0.52
MAX_PARETO_K = 0.7  # Vehtari et al. (2024), JMLR 25(72), section 3.2.4


@dataclass(frozen=True)
class Diagnosis:
    """Convergence of a posterior.

    Attributes
    ----------
    status : {"PASS", "REVIEW", "FAIL"}
    max_rhat : float
        Largest rank-normalised split R-hat.
    min_ess : float
        Smallest bulk or tail effective sample size.
    pareto_k : float
        Of the exact engine's importance weights; NaN where none were used.
    divergences : int
    messages : tuple of str
        What was found and what to do about it; last, without bearing on the status, contrasts that rest on few groups.
    """

    status: str
    max_rhat: float
    min_ess: float
    pareto_k: float
    divergences: int
    messages: tuple[str, ...]

    def to_text(self) -> str:
        """A line with the figures, then a line a message."""
        k = "" if math.isnan(self.pareto_k) else f", Pareto k {self.pareto_k:.2f}"
        head = f"{self.status}: max R-hat {self.max_rhat:.3f}, min ESS {self.min_ess:.0f}{k}"
        return "\n".join([f"{head}, {self.divergences} divergences", *self.messages])


def diagnose(posterior: xr.DataTree, *, hyperparameters_only: bool = False) -> Diagnosis:
    """Diagnose a posterior.

    Parameters
    ----------
    posterior : xarray.DataTree
    hyperparameters_only : bool
        Leave the group-specific effects out: enough for the exact engine, which draws them independently given the
        hyperparameters.

    Returns
    -------
    Diagnosis
        FAIL where R-hat exceeds 1.05, an effective sample size is below 25 a chain, Pareto k exceeds 0.7, more than
        1 % of transitions diverged, or any figure is not a number. REVIEW also where prior and data conflict.
    """
    parameters = model_of(posterior).parameters
    names = [str(name) for name in dataset(posterior).data_vars]
    if hyperparameters_only:
        names = [name for name in names if name in parameters]
    found = [(name, label, draws) for name in names for label, draws in scalars(posterior, name)]
    chains = dataset(posterior).sizes["chain"]
    checked = convergence(np.stack([draws for _, _, draws in found]))
    rhats, sizes = checked.rhat.tolist(), checked.ess.tolist()
    k, fallback = float(posterior.attrs.get("pareto_k", math.nan)), posterior.attrs.get("fallback", "")
    k = math.nan if fallback else k  # the weights were not used
    stats: Any = dataset(posterior, "sample_stats") if "sample_stats" in posterior.children else {}
    divergences = int(stats["diverging"].values.sum()) if "diverging" in stats else 0
    draws_in_all = chains * dataset(posterior).sizes["draw"]

    failures: list[str] = []
    reviews: list[str] = []
    unknown = [name for (name, _, _), r, n in zip(found, rhats, sizes, strict=True) if math.isnan(r) or math.isnan(n)]
    if unknown or not found:
        failures.append(
            f"R-hat or effective sample size cannot be computed for {', '.join(dict.fromkeys(unknown)) or 'anything'} "
            "(constant, not finite, or too few draws): ask for more draws."
        )
    max_rhat = max(rhats, default=math.nan) if not unknown else math.nan
    min_ess = min(sizes, default=math.nan) if not unknown else math.nan
    _judge(failures, reviews, max_rhat, GOOD_RHAT, BAD_RHAT, _worst(found, rhats, np.argmax, "R-hat {:.3f}"))
    _judge(
        failures, reviews, -min_ess, -GOOD_ESS_PER_CHAIN * chains, -BAD_ESS_PER_CHAIN * chains,
        _worst(found, sizes, np.argmin, "effective sample size {:.0f}"),
    )  # fmt: skip
    _judge(
        failures, reviews, k, MAX_PARETO_K, MAX_PARETO_K,
        f"Pareto k {k:.2f}: the importance weights have a heavy tail; simplify the model or tighten vague priors",
    )  # fmt: skip
    efficiency = math.nan if fallback else float(posterior.attrs.get("efficiency", math.nan))
    if efficiency < GOOD_EFFICIENCY:
        reviews.append(
            f"Only {efficiency:.0%} of the proposals are effective: tails of standard deviations may be too short. Fit "
            "again with another seed and more draws and compare, or tighten vague priors."
        )
    if divergences:
        target = failures if divergences > 0.01 * draws_in_all else reviews
        target.append(f"{divergences} divergent transitions: some corner of the posterior may be missing.")
    if fallback:
        reviews.append(str(fallback))
    if not failures and "statistics" in posterior.children:  # draws that did not converge tell nothing of the prior
        reviews += conflict_messages(posterior, statistics_of(posterior))
    status = "FAIL" if failures else "REVIEW" if reviews else "PASS"
    cautions = json.loads(posterior.attrs.get("cautions", "[]"))  # of the design: no sampler can mend it
    return Diagnosis(status, max_rhat, min_ess, k, divergences, (*failures, *reviews, *cautions))


def _judge(failures: list[str], reviews: list[str], value: float, good: float, bad: float, message: str) -> None:
    if value > bad:
        failures.append(message + ".")
    elif value > good:
        reviews.append(message + ".")


def _worst(found: Sequence[tuple[str, object, object]], values: list[float], pick: object, text: str) -> str:
    if not found:
        return ""
    k = int(pick(values))  # type: ignore[operator]  # np.argmax or np.argmin
    name, label, _ = found[k]
    where = name if label is None else f"{name}[{label}]"
    return f"{text.format(values[k])} for {where}: ask for more draws, or look for a parameter the data cannot tell"
