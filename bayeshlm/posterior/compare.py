"""By how much groups, arms or values differ, how sure we are, and which to choose where a direction is given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.checks.clusters import few_children, few_groups
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError, listed
from bayeshlm.posterior.comparison import Comparison, Slope
from bayeshlm.posterior.conflict import conflict_messages
from bayeshlm.posterior.convergence import convergence
from bayeshlm.posterior.draws import dataset, flat, mean_residual_variance, model_of, statistics_of
from bayeshlm.posterior.question import Question, assigned_level, resolve, with_subgroup
from bayeshlm.posterior.response import SCALES, response_values
from bayeshlm.posterior.values import GroupValues, values_of
from bayeshlm.posterior.wording import spelled
from bayeshlm.spec.families import Family

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ALL_PAIRS = 60  # beyond so many groups only pairs with the leading one, or with the reference, are listed
ROPE_RATIO = 1.01  # ratios within 1 % count as practically equal
ROPE_SHARE = 0.1  # differences within 0.1 residual standard deviations, after Kruschke (2018), AMPPS 1(2)
ROPE_ODDS = math.exp(ROPE_SHARE * math.pi / math.sqrt(3))  # the same of log odds, whose latent residual is logistic

__all__ = ["ALL_PAIRS", "Comparison", "check_direction", "check_prob", "compare", "spelled"]


def compare(
    posterior: xr.DataTree,
    by: str | Question,
    *,
    maximize: bool | None = None,
    reference: Any = None,
    subgroup: str | None = None,
    at: Mapping[str, Any] | None = None,
    scale: str = "link",
    population: Any = None,
    rope: tuple[float, float] | None = None,
    prob: float = 0.95,
) -> Comparison:
    """Compare the groups of a level, the arms of a treatment, or the values of a number.

    Parameters
    ----------
    posterior : xarray.DataTree
    by : str
        A common effect: one with categories (`cltype`), a 0/1 column (two arms), or a number (its slope, and its curve
        at the values given to groups, or a standard deviation around the mean). An interaction `arm:sex`: the effect of
        the first in the subgroups of the second. Else a level (`method`, `method:instructor`, or its last column
        `instructor`), whose values include the levels it is nested in and the common effects that are constant within
        its groups. All other columns are at their means. What could be two things is refused; `1|arm` is always a
        level.
    maximize : bool, optional
        Whether larger responses are better (True) or smaller ones (False). Without it nothing is chosen: the text names
        the largest and the smallest.
    reference : label, optional
        What the others are compared with. Default: the first category (see ``C(arm, Treatment("usual care"))``), 0, or
        the smallest value; a level has none.
    subgroup : str, optional
        A further column of the common effects: the effect of `by` in each of its categories (at its values, for a
        number), and the differences between them. The formula must have the interaction.
    at : mapping, optional
        Column -> value at which it is held instead of at its mean; of a number that is asked about, several values.
    scale : {"link", "response"}
        link: differences, ratios or odds ratios, as effects add in the model. response: of a common effect, mean
        responses of a population (of binomial responses risks), were all of it in one arm; `pairs` then hold the
        difference, the ratio with its interval, and of risks the number needed to treat.
    population : frame or path, optional
        With ``scale="response"``: whom the mean is over, rows with the columns of the formula's right side. Default:
        the study's rows; gaussian and lognormal models keep statistics, no rows, and of the latter it must be given.
    rope : (float, float), optional
        Region of practical equivalence for ratios, odds ratios or differences. Default: ratios within 1 %, differences
        within 0.1 residual standard deviations (of log odds: of the standard logistic, odds ratios 0.83 to 1.20); on
        the scale of the response the same, carried over to a difference from the reference's mean.
    prob : float
        Probability of the equal-tailed intervals; a group is chosen where its P(best) is at least that.

    Returns
    -------
    Comparison

    Raises
    ------
    DataError
        If `by` cannot be compared, its draws are not finite, or an argument is impossible.
    """
    check_prob(prob)
    if (problem := check_direction(maximize)) is not None:
        raise DataError(problem)
    model, statistics = model_of(posterior), statistics_of(posterior)
    family = model.family_spec
    if scale not in SCALES:
        raise DataError(f"scale={scale!r}: it is one of {listed(SCALES)}.")
    question = resolve(statistics, by)
    question = question if subgroup is None else with_subgroup(statistics, question, subgroup)
    if scale == "response":
        values = response_values(posterior, statistics, question, reference=reference, at=at, population=population)
    elif population is not None:
        raise DataError("population= is whom responses are averaged over: it needs scale='response'.")
    else:
        values = values_of(statistics, question, lambda name: flat(posterior, name), reference=reference, at=at)
    units = Scale(family.effect, family.contrast, family.link == "logit")
    if scale == "response":
        units = Scale("difference", "difference", False, risks=family.link == "logit")
    if not np.isfinite(values.draws).all():
        raise DataError(
            f"The draws of {values.name!r} hold values that are not finite: there is nothing to compare. See diagnose."
        )
    limits = _limits(posterior, family, values, rope)
    tails = [0.5, (1 - prob) / 2, (1 + prob) / 2]
    effects = question.subgroup is not None
    table = _effects(values, units, limits, tails) if effects else _table(values, units, tails, maximize)
    failed = posterior.attrs.get("status") == "FAIL"  # draws that did not converge tell nothing of the prior
    return Comparison(
        values.name, table, _pairs(values, units, limits, tails, table), limits, prob, maximize, values.baseline,
        str(posterior.attrs.get("status", "")),
        None if values.reference is None else values.labels[values.reference], _slope(values, units, limits, tails),
        _caution(statistics, question), _tells(statistics, question), _effective(posterior, values),
        family.link == "logit", values, () if failed else tuple(conflict_messages(posterior, statistics)),
    )  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """What effects and contrasts are called, whether the effects are of log odds, or differences of risks."""

    effect: str
    contrast: str
    odds: bool
    risks: bool = False

    @property
    def multiplicative(self) -> bool:
        return self.effect != "difference"


def _table(values: GroupValues, units: Scale, tails: list[float], maximize: bool | None) -> pd.DataFrame:
    import pandas as pd
    from scipy.special import expit

    shown = np.exp(values.draws) if units.multiplicative else values.draws
    # What is lost is what counts: successes, not odds.
    worth = expit(values.base[:, None] + values.draws) if units.odds else shown
    middle, lower, upper = np.quantile(shown, tails, axis=0)
    p_largest, p_smallest = _first(worth), _first(-worth)
    nothing = np.full(len(values.labels), np.nan)
    signed = worth if maximize else -worth
    known = maximize is not None and values.question.kind != "number"
    table = pd.DataFrame(
        {
            units.effect: middle, "lower": lower, "upper": upper,
            "p_best": nothing if not known else p_largest if maximize else p_smallest,
            "expected_loss": (signed.max(axis=1, keepdims=True) - signed).mean(axis=0) if known else nothing,
            "p_largest": p_largest, "p_smallest": p_smallest,
        },
        index=pd.Index(values.labels, name=values.name),
    )  # fmt: skip
    if units.odds:
        table["probability"] = np.median(worth, axis=0)
    if values.means is not None:
        table["mean"] = np.median(values.means, axis=0)
    return table


def _first(worth: Array) -> Array:
    """(groups,): P(largest); of equal largest ones each has its share."""
    top = worth == worth.max(axis=1, keepdims=True)
    return np.asarray((top / top.sum(axis=1, keepdims=True)).mean(axis=0))


def _effects(values: GroupValues, units: Scale, rope: tuple[float, float], tails: list[float]) -> pd.DataFrame:
    """Effects in subgroups: each is a contrast itself."""
    import pandas as pd

    rows = [_contrast(draws, units.multiplicative, rope, tails) for draws in values.draws.T]
    columns = [units.contrast, "lower", "upper", "p_greater", "p_rope"]
    return pd.DataFrame(rows, columns=columns, index=pd.Index(values.labels, name=values.name))


def _pairs(
    values: GroupValues, units: Scale, rope: tuple[float, float], tails: list[float], table: pd.DataFrame
) -> pd.DataFrame:
    """All pairs in the order of the labels, those with the reference turned so that they are against it."""
    import pandas as pd

    labels, first = values.labels, values.reference
    indices = range(len(labels))
    if values.question.kind == "number" and not values.same:
        couples = [(other, first or 0) for other in indices if other != (first or 0)]
    elif values.same:
        couples = [(b, a) for a, b in itertools.combinations(indices, 2) if values.same[a] == values.same[b]]
    elif len(labels) <= ALL_PAIRS:
        couples = list(itertools.combinations(indices, 2))
    else:
        loss = table["expected_loss"].to_numpy()
        leading = int(np.argmin(loss)) if np.isfinite(loss).all() else int(np.argmax(table.iloc[:, 0].to_numpy()))
        anchors = {leading, leading if first is None else first}
        couples = [(a, b) for a, b in itertools.product(anchors, indices) if a != b and (b not in anchors or a < b)]
    rows = []
    for a, b in couples:
        left, right = (b, a) if first is not None and a == first else (a, b)
        figures = _contrast(values.draws[:, left] - values.draws[:, right], units.multiplicative, rope, tails)
        more = () if values.means is None else _of_means(values.means[:, left], values.means[:, right], figures, tails)
        rows.append((labels[left], labels[right], *figures, *more))
    columns = ["a", "b", units.contrast, "lower", "upper", "p_greater", "p_rope"]
    columns += [] if values.means is None else ["ratio", "ratio_lower", "ratio_upper", "nnt"]
    pairs = pd.DataFrame(rows, columns=columns)
    return pairs if units.risks or values.means is None else pairs.drop(columns="nnt")  # nobody is treated for a mean


def _of_means(
    a: Array, b: Array, figures: tuple[float, ...], tails: list[float]
) -> tuple[float, float, float, float]:  # fmt: skip
    """(ratio of means, lower, upper, number needed to treat): NaN where means are not positive, or a sign is open.

    The number needed is 1 / difference, and has no meaning while the difference may be 0 (Altman 1998, BMJ 317:1309).
    """
    nothing = (math.nan, math.nan, math.nan)
    positive = bool((a > 0).all() and (b > 0).all())
    ratio = tuple(float(value) for value in np.quantile(a / b, tails)) if positive else nothing
    middle, lower, upper = figures[:3]
    return (*ratio, 1 / abs(middle) if lower > 0 or upper < 0 else math.nan)  # type: ignore[return-value]  # three


def _contrast(
    difference: Array, log: bool, rope: tuple[float, float], tails: list[float]
) -> tuple[float, float, float, float, float]:
    """(median, lower, upper, P(> 0), P(in the rope)) of a difference on the scale on which effects add."""
    shown = np.exp(difference) if log else difference
    middle, lower, upper = (float(value) for value in np.quantile(shown, tails))
    greater = float((difference > 0).mean() + 0.5 * (difference == 0).mean())
    return middle, lower, upper, greater, float(((shown >= rope[0]) & (shown <= rope[1])).mean())


def _slope(values: GroupValues, units: Scale, rope: tuple[float, float], tails: list[float]) -> Slope | None:
    if values.slope is None:
        return None
    figures = _contrast(values.slope.draws, units.multiplicative, rope, tails)
    return Slope(values.slope.unit, *figures, values.slope.straight)


def _limits(
    posterior: xr.DataTree, family: Family, values: GroupValues, rope: tuple[float, float] | None
) -> tuple[float, float]:
    if values.means is not None and family.multiplicative:
        return _limits_of_means(family, float(np.median(values.base)), rope)
    if rope is None:
        edge = ROPE_ODDS if family.link == "logit" else ROPE_RATIO
        rope = (1 / edge, edge) if family.multiplicative else _rope_difference(posterior)
    low, high = (float(edge) for edge in rope)
    neutral = 1.0 if family.multiplicative else 0.0
    if not (low <= neutral <= high) or (family.multiplicative and low <= 0):
        positive = " and be positive" if family.multiplicative else ""
        raise DataError(f"rope={rope!r} must contain {neutral:g} ({spelled(family.contrast)}s){positive}.")
    return low, high


def _limits_of_means(family: Family, mean: float, rope: tuple[float, float] | None) -> tuple[float, float]:
    """Differences that are as small as the ratios or odds ratios that count as equal, from the reference's mean."""
    from scipy.special import expit, logit

    if rope is None:
        if family.link == "logit":
            edge = float(expit(logit(mean) + math.log(ROPE_ODDS))) - mean
        else:
            edge = (ROPE_RATIO - 1) * mean
        return -edge, edge
    low, high = (float(limit) for limit in rope)
    if not low <= 0 <= high:
        raise DataError(f"rope={rope!r} must contain 0 (differences of mean responses).")
    return low, high


def _rope_difference(posterior: xr.DataTree) -> tuple[float, float]:
    """+-0.1 residual standard deviations (root mean square over rows; known standard errors likewise)."""
    variance = mean_residual_variance(posterior, statistics_of(posterior))
    edge = ROPE_SHARE * math.sqrt(float(np.median(variance)))
    return (-edge, edge)


def _caution(statistics: Statistics, question: Question) -> str:
    if question.level is not None:
        return few_children(statistics, question.level) or ""
    terms = statistics.model.terms.common
    mine = {term.name for term in terms if {c for f in term.factors for c in f.node.columns()} == {question.column}}
    return " ".join(text for name, text in few_groups(statistics).items() if name in mine)


def _tells(statistics: Statistics, question: Question) -> str:
    """More of what would tell more: groups that the treatment was given to, or that are inside the level compared."""
    levels = statistics.layout.levels
    if question.level is None:
        given = assigned_level(statistics, str(question.column))
        return "rows" if not levels else f"groups of {given.name!r}" if given is not None else "rows and groups"
    inside = [level for level in levels if set(level.keys) > set(question.level.keys)]
    inner = min(inside, key=lambda level: len(statistics.members[levels.index(level)]), default=None)
    return "rows" if inner is None else f"groups of {inner.name!r} in each {question.level.name!r}"


def _effective(posterior: xr.DataTree, values: GroupValues) -> float:
    """Effective draws of the values compared: the fewest."""
    sizes = dataset(posterior).sizes
    draws = values.draws[:, :ALL_PAIRS].T.reshape(-1, sizes["chain"], sizes["draw"])
    found = convergence(draws).ess_bulk
    found = found[np.isfinite(found)]
    total = float(sizes["chain"] * sizes["draw"])
    return min(float(found.min()), total) if len(found) else total


def check_prob(prob: float) -> None:
    """Raise DataError unless 0 < prob < 1."""
    if isinstance(prob, bool) or not isinstance(prob, int | float) or not 0 < prob < 1:
        raise DataError(f"prob={prob!r} must lie between 0 and 1.")


def check_direction(maximize: object) -> str | None:
    """What is wrong with `maximize`, or None."""
    if maximize is None or isinstance(maximize, bool):
        return None
    return f"maximize={maximize!r} is True (larger is better), False (smaller is better) or None (not said)."
