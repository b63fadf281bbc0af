"""Which group to choose, by how much, and how sure we are."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.data.checks.clusters import few_children, few_groups
from bayeshlm.errors import DataError
from bayeshlm.posterior.draws import (
    GroupValues,
    find_factor,
    find_level,
    group_values,
    mean_residual_variance,
    model_of,
    statistics_of,
)
from bayeshlm.spec.families import Family

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ALL_PAIRS = 60  # beyond so many groups only pairs with the best one are listed
ROPE_RATIO = 1.01  # ratios within 1 % count as practically equal
ROPE_SHARE = 0.1  # differences within 0.1 residual standard deviations, after Kruschke (2018), AMPPS 1(2)
ROPE_ODDS = math.exp(ROPE_SHARE * math.pi / math.sqrt(3))  # the same of log odds, whose latent residual is logistic


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of groups. Table, text and plots all show this one record.

    Attributes
    ----------
    by : str
        Level or categorical common effect.
    table : pandas.DataFrame
        Indexed by group: `multiplier` (where effects multiply; posterior median), `odds_multiplier` (log odds) or
        `difference`, `lower`, `upper`, `p_best`, `expected_loss`: mean of how far the group is from the best one, in
        units of the first column. With log odds the loss is one of probability, and a last column `probability`
        (median) says what the odds mean at the averages of all other columns.
    pairs : pandas.DataFrame
        `a`, `b`, `ratio`, `odds_ratio` or `difference` (a against b), `lower`, `upper`, `p_greater` (P(a > b)),
        `p_rope`. All pairs for up to 60 groups, else the best group against each other one.
    best : label
        The group with the smallest expected loss.
    rope : (float, float)
        Ratios or differences in it count as practically equal.
    prob : float
        Probability of the intervals.
    maximize : bool
        Whether larger responses are better.
    baseline : str
        What multipliers and differences are relative to.
    status : str
        Convergence of the posterior: PASS, REVIEW or FAIL.
    caution : str
        Said where the contrasts rest on five or fewer groups a side.
    """

    by: str
    table: pd.DataFrame
    pairs: pd.DataFrame
    best: Any
    rope: tuple[float, float]
    prob: float
    maximize: bool
    baseline: str
    status: str
    caution: str = ""

    @property
    def effect(self) -> str:
        """`multiplier`, `odds_multiplier` or `difference`."""
        return str(self.table.columns[0])

    @property
    def contrast(self) -> str:
        """`ratio`, `odds_ratio` or `difference`."""
        return str(self.pairs.columns[2])

    @property
    def multiplicative(self) -> bool:
        """Whether no difference is 1, and not 0."""
        return self.effect != "difference"

    def loss_text(self, loss: float) -> str:
        """An expected loss with its unit."""
        if self.effect == "odds_multiplier":
            return f"{_small(loss * 100)} percentage points of probability"
        return (
            f"{_small(loss * 100)} % of the outcome" if self.multiplicative else f"{_small(loss)} units of the outcome"
        )

    @property
    def runner_up(self) -> Any:
        """The group with the second smallest expected loss."""
        return self.table["expected_loss"].drop(self.best).idxmin()

    def pair(self, a: Any, b: Any) -> dict[str, float]:
        """The contrast of `a` against `b`, whichever way round `pairs` lists it."""
        contrast = self.contrast
        listed = self.pairs[
            ((self.pairs["a"] == a) & (self.pairs["b"] == b)) | ((self.pairs["a"] == b) & (self.pairs["b"] == a))
        ]
        if listed.empty:
            raise DataError(f"No pair of {a!r} and {b!r} in this comparison.")
        row = listed.iloc[0]
        if row["a"] == a:
            return {k: float(row[k]) for k in (contrast, "lower", "upper", "p_greater", "p_rope")}
        turned = {k: 1 / float(row[k]) if self.multiplicative else -float(row[k]) for k in (contrast, "lower", "upper")}
        return {
            contrast: turned[contrast], "lower": turned["upper"], "upper": turned["lower"],
            "p_greater": 1 - float(row["p_greater"]), "p_rope": float(row["p_rope"]),
        }  # fmt: skip

    def verdict(self) -> str:
        """The decision in one or two sentences."""
        row = self.table.loc[self.best]
        rival = self.pair(self.best, self.runner_up)
        shown = _percent if self.multiplicative else "{:+.3g}".format
        middle, lower, upper = (shown(rival[k]) for k in (self.contrast, "lower", "upper"))
        odds = "Odds " if self.effect == "odds_multiplier" else ""
        contrast = f"{odds}{middle} against {self.runner_up} ({self.prob * 100:g} % interval {lower} to {upper})"
        warning = "" if self.status != "FAIL" else "THE FIT DID NOT CONVERGE: do not use these numbers. "
        return (
            f"{warning}Choose {self.by} {self.best}: it is the best with probability {_probability(row['p_best'])}. "
            f"{contrast}. Expected loss if this choice is wrong: {self.loss_text(row['expected_loss'])}."
        )

    def to_text(self) -> str:
        """Verdict and tables as plain text."""
        low, high = self.rope
        note = "" if self.status == "PASS" else f"Convergence: {self.status}.\n"
        caution = f"\n{self.caution}" if self.caution else ""
        order = self.table.sort_values("expected_loss")
        pairs = (
            self.pairs
            if len(self.pairs) <= 15
            else self.pairs[(self.pairs["a"] == self.best) | (self.pairs["b"] == self.best)]
        )
        return (
            f"{note}{self.verdict()}{caution}\n\n{self.by}, {spelled(self.effect)} relative to {self.baseline}\n"
            f"{order.head(20).to_string(float_format=lambda v: f'{v:.4g}')}\n\n"
            f"Pairs (practically equal: {low:.4g} to {high:.4g})\n"
            f"{pairs.head(20).to_string(index=False, float_format=lambda v: f'{v:.4g}')}"
        )


def compare(
    posterior: xr.DataTree,
    by: str,
    *,
    rope: tuple[float, float] | None = None,
    prob: float = 0.95,
    maximize: bool = True,
) -> Comparison:
    """Compare the groups of a level, or the categories of a common effect.

    Parameters
    ----------
    posterior : xarray.DataTree
    by : str
        A level (`method`, `method:instructor`, or its last column `instructor`), whose values then include the levels
        it is nested in; or a categorical common effect (`cltype`). Slopes and interactions are taken at the means of
        their columns.
    rope : (float, float), optional
        Region of practical equivalence for ratios, odds ratios or differences. Default: ratios within 1 %, differences
        within 0.1 residual standard deviations (of log odds: of the standard logistic, odds ratios 0.83 to 1.20).
    prob : float
        Probability of the equal-tailed intervals.
    maximize : bool
        False where smaller responses are better.

    Returns
    -------
    Comparison

    Raises
    ------
    DataError
        If `by` cannot be compared, its draws are not finite, or rope or prob are impossible.
    """
    check_prob(prob)
    model = model_of(posterior)
    family = model.family_spec
    values = group_values(posterior, by)
    if not np.isfinite(values.draws).all():
        raise DataError(
            f"The draws of {values.name!r} hold values that are not finite: there is nothing to compare. See diagnose."
        )
    if rope is None:
        edge = ROPE_ODDS if family.link == "logit" else ROPE_RATIO
        rope = (1 / edge, edge) if family.multiplicative else _rope_difference(posterior)
    low, high = (float(edge) for edge in rope)
    neutral = 1.0 if family.multiplicative else 0.0
    if not (low <= neutral <= high) or (family.multiplicative and low <= 0):
        positive = " and be positive" if family.multiplicative else ""
        raise DataError(f"rope={rope!r} must contain {neutral:g} ({spelled(family.contrast)}s){positive}.")
    comparison = _compare(values, family, (low, high), prob, maximize, str(posterior.attrs.get("status", "")))
    return dataclasses.replace(comparison, caution=_caution(posterior, by))


def _compare(
    values: GroupValues, family: Family, rope: tuple[float, float], prob: float, maximize: bool, status: str
) -> Comparison:
    import pandas as pd
    from scipy.special import expit

    draws, labels, log = values.draws, values.labels, family.multiplicative
    tails = [0.5, (1 - prob) / 2, (1 + prob) / 2]
    shown = np.exp(draws) if log else draws
    # What is lost is what counts: successes, not odds.
    worth = expit(values.base[:, None] + draws) if family.link == "logit" else shown
    signed = worth if maximize else -worth
    top = signed.max(axis=1, keepdims=True)
    loss = (top - signed).mean(axis=0)
    ties = signed == top
    p_best = (ties / ties.sum(axis=1, keepdims=True)).mean(axis=0)
    middle, lower, upper = np.quantile(shown, tails, axis=0)
    table = pd.DataFrame(
        {
            family.effect: middle, "lower": lower, "upper": upper, "p_best": p_best,
            "expected_loss": loss,
        },
        index=pd.Index(labels, name=values.name),
    )  # fmt: skip
    if family.link == "logit":
        table["probability"] = np.median(worth, axis=0)
    best = int(np.argmin(loss))
    indices = range(len(labels))
    couples = (
        list(itertools.combinations(indices, 2))
        if len(labels) <= ALL_PAIRS
        else [(best, other) for other in indices if other != best]
    )
    rows = []
    for a, b in couples:
        contrast = np.exp(draws[:, a] - draws[:, b]) if log else draws[:, a] - draws[:, b]
        mid, low, high = np.quantile(contrast, tails)
        greater = (draws[:, a] > draws[:, b]).mean() + 0.5 * (draws[:, a] == draws[:, b]).mean()
        inside = ((contrast >= rope[0]) & (contrast <= rope[1])).mean()
        rows.append((labels[a], labels[b], mid, low, high, greater, inside))
    columns = ["a", "b", family.contrast, "lower", "upper", "p_greater", "p_rope"]
    pairs = pd.DataFrame(rows, columns=columns)
    return Comparison(values.name, table, pairs, labels[best], rope, prob, maximize, values.baseline, status)


def spelled(name: str) -> str:
    """A column's name in words: odds ratio, for `odds_ratio`."""
    return name.replace("_", " ")


def _caution(posterior: xr.DataTree, by: str) -> str:
    statistics = statistics_of(posterior)
    level = find_level(statistics, by)
    if level is not None:
        return few_children(statistics, level) or ""
    return " ".join(text for name, text in few_groups(statistics).items() if name == find_factor(statistics, by))


def check_prob(prob: float) -> None:
    """Raise DataError unless 0 < prob < 1."""
    if isinstance(prob, bool) or not isinstance(prob, int | float) or not 0 < prob < 1:
        raise DataError(f"prob={prob!r} must lie between 0 and 1.")


def _rope_difference(posterior: xr.DataTree) -> tuple[float, float]:
    """+-0.1 residual standard deviations (root mean square over rows; known standard errors likewise)."""
    variance = mean_residual_variance(posterior, statistics_of(posterior))
    edge = ROPE_SHARE * math.sqrt(float(np.median(variance)))
    return (-edge, edge)


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def _small(loss: float) -> str:
    """Two digits; an expected loss that no draw shows is small, not nothing."""
    return f"{loss:.2g}" if loss >= 0.001 else "less than 0.001"


def _probability(p: float) -> str:
    return "above 99.9 %" if p > 0.999 else f"{p:.1%}".replace("%", " %")
