"""What an analysis of rows that ignores the groups would claim, beside what the posterior says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError
from bayeshlm.posterior.columns import column_means
from bayeshlm.posterior.compare import Comparison, compare
from bayeshlm.posterior.draws import model_of, statistics_of
from bayeshlm.posterior.question import constant_within
from bayeshlm.posterior.values import of_groups
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ABSORBED = 1e-10  # share of a column's sum of squares that may be left, by rounding, once the groups explain it
ESTIMABLE = 1e-6  # relative part of a contrast that may lie outside what the rows can tell
MIRROR = {  # what a figure is called once the pair is turned round
    "naive": "naive", "naive_lower": "naive_upper", "naive_upper": "naive_lower",
    "honest": "honest", "honest_lower": "honest_upper", "honest_upper": "honest_lower",
}  # fmt: skip
SAME = 0.05  # design effects within 5 % of one make no difference worth a sentence


@dataclass(frozen=True, eq=False)
class NaiveComparison:
    """Contrasts by least squares on rows beside the posterior's.

    Attributes
    ----------
    by : str
        Level or categorical common effect.
    contrast : str
        `ratio` (lognormal) or `difference`.
    pairs : pandas.DataFrame
        The pairs of the Comparison: `a`, `b`, `naive`, `naive_lower`, `naive_upper`, `honest`, `honest_lower`,
        `honest_upper`, and the standard deviations `naive_sd`, `honest_sd` on the scale on which effects add. NaN
        where the rows alone cannot tell the two groups apart.
    shown_pair : (label, label)
        The contrast to show where there is room for one, as in the Comparison.
    rows : int
    design_effect : float
        Mean posterior variance of a contrast over its mean variance by least squares (Kish 1965, section 5.4). Never
        below 1: where the posterior varies less, that is shrinkage (`shrinks`), no effect of the design.
    effective_rows : float
        Rows over design effect.
    shrinks : bool
        Whether the posterior is surer than least squares on rows.
    prob : float
    """

    by: str
    contrast: str
    pairs: pd.DataFrame
    shown_pair: tuple[Any, Any]
    rows: int
    design_effect: float
    effective_rows: float
    prob: float
    shrinks: bool

    def pair(self, a: Any, b: Any) -> dict[str, float]:
        """The contrast of `a` against `b`, whichever way round `pairs` lists it. Raises KeyError for no such pair."""
        listed = {(row["a"], row["b"]): row for row in self.pairs.to_dict("records")}
        if (a, b) in listed:
            return {name: float(listed[a, b][name]) for name in MIRROR}
        row = listed[b, a]
        turned = {name: float(row[other]) for name, other in MIRROR.items()}
        return {name: 1 / value if self.contrast == "ratio" else -value for name, value in turned.items()}

    def sentence(self) -> str:
        """What ignoring the groups does to this comparison, in words."""
        effect = self.design_effect
        if self.shrinks:
            return (
                "The model takes the groups' differences out of the error and lets groups inform one another "
                "(shrinkage), so that the posterior is surer of this comparison than a row-level analysis."
            )
        if not math.isfinite(effect):
            return "Rows alone cannot tell these groups apart: there is no row-level analysis to set beside this one."
        if effect <= 1 + SAME:
            return "For this comparison it makes no difference whether the groups are taken into account."
        times = _count(math.sqrt(effect))
        return (
            f"For this comparison {self.rows:,} rows carry the information of {_count(self.effective_rows)} "
            f"(design effect {_count(effect)}): a row-level analysis that ignores the groups gives intervals about "
            f"{times} times too narrow."
        )


def naive_comparison(posterior: xr.DataTree, by: str, *, prob: float = 0.95) -> NaiveComparison:
    """Compare groups as an analysis of rows would that ignores their levels, beside the posterior.

    The naive analysis is least squares on rows (weighted where the model has weights) with the model's common effects
    and, where `by` is a level, a dummy for each of its groups (times the columns of its slopes). It is computed from
    the sufficient statistics in the posterior. With known standard errors its error variances are those.

    Parameters
    ----------
    posterior : xarray.DataTree
    by : str
        As in `compare`.
    prob : float
        Probability of the intervals: t intervals of least squares, equal-tailed ones of the posterior.

    Returns
    -------
    NaiveComparison

    Raises
    ------
    DataError
        As `compare`; and for responses of which least squares is no analysis (see `row_analysis`).
    """
    model = model_of(posterior)
    if not row_analysis(model):
        what = "a censored response" if model.censored is not None else f"a {model.family} response"
        raise DataError(f"Least squares on rows is no analysis of {what}: there is nothing to set beside this one.")
    return beside(posterior, compare(posterior, by, prob=prob))


def row_analysis(model: Model) -> bool:
    """Whether least squares on rows would be somebody's analysis: of an uncensored gaussian or lognormal response."""
    return model.moments_suffice


def beside(posterior: xr.DataTree, comparison: Comparison) -> NaiveComparison:
    """The naive contrasts of the very pairs of a Comparison."""
    import pandas as pd
    from scipy.special import ndtri, stdtrit

    statistics, model = statistics_of(posterior), model_of(posterior)
    values = comparison.values
    position = {label: k for k, label in enumerate(values.labels)}
    a = np.array([position[label] for label in comparison.pairs["a"]], dtype=np.int64)
    b = np.array([position[label] for label in comparison.pairs["b"]], dtype=np.int64)
    ols = least_squares(statistics, values.question.level, values.weights)
    naive, naive_sd = ols.contrasts(a, b)
    tail = (1 + comparison.prob) / 2
    quantile = float(ndtri(tail) if model.se is not None else stdtrit(ols.df, tail) if ols.df > 0 else np.nan)
    honest_sd = np.array([np.std(values.draws[:, i] - values.draws[:, j], ddof=1) for i, j in zip(a, b, strict=True)])
    log = model.family_spec.log_response
    shown = np.exp if log else np.asarray
    pairs = pd.DataFrame({
        "a": comparison.pairs["a"], "b": comparison.pairs["b"],
        "naive": shown(naive), "naive_lower": shown(naive - quantile * naive_sd),
        "naive_upper": shown(naive + quantile * naive_sd),
        "honest": comparison.pairs[model.family_spec.contrast], "honest_lower": comparison.pairs["lower"],
        "honest_upper": comparison.pairs["upper"], "naive_sd": naive_sd, "honest_sd": honest_sd,
    })  # fmt: skip
    known = np.isfinite(naive_sd) & (naive_sd > 0)
    effect = float((honest_sd[known] ** 2).mean() / (naive_sd[known] ** 2).mean()) if known.any() else math.nan
    shrinks, effect = effect < 1 - SAME, max(effect, 1.0) if math.isfinite(effect) else effect
    return NaiveComparison(
        comparison.by, model.family_spec.contrast, pairs, comparison.shown_pair, statistics.rows,
        effect, statistics.rows / effect, comparison.prob, shrinks,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A least squares fit, reduced to the values of groups: v_g = own_g - through_g' beta.

    Attributes
    ----------
    own, own_variance : (groups,)
        From the group's own dummies (zero for a common effect), the variance in units of sigma^2.
    through : (groups, p)
        What the common effects beta take from (level), or add to with the sign turned (common effect), a group's value.
    size : (groups,)
        Length of what `through` was made of, in `scale`: what is small beside it is rounding.
    beta : (p,)
    covariance : (p, p)
        A generalized inverse of the normal equations, in units of sigma^2.
    told, scale : (p, p), (p,)
        Projector onto what the rows can tell about beta, and the columns' scales it is expressed in.
    sigma : float
        Residual standard deviation of a row of weight 1; 1 with known standard errors.
    df : float
    """

    own: Array
    own_variance: Array
    through: Array
    size: Array
    beta: Array
    covariance: Array
    told: Array
    scale: Array
    sigma: float
    df: float

    def contrasts(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[Array, Array]:
        """(estimate, standard error) of v_a - v_b; NaN where the rows cannot tell."""
        direction = self.through[a] - self.through[b]  # (pairs, p)
        estimate = self.own[a] - self.own[b] - direction @ self.beta
        variance = self.own_variance[a] + self.own_variance[b]
        variance = variance + np.einsum("ni,ij,nj->n", direction, self.covariance, direction)
        scaled = direction / self.scale
        size = self.size
        told = np.isfinite(variance) & (
            np.linalg.norm(scaled - scaled @ self.told, axis=1) <= ESTIMABLE * (size[a] + size[b])
        )
        spread = self.sigma * np.sqrt(np.maximum(variance, 0.0))
        return np.where(told, estimate, np.nan), np.where(told, spread, np.nan)


def least_squares(statistics: Statistics, level: Level | None, weights: Array | None = None) -> LeastSquares:
    """Ordinary (or weighted) least squares from sufficient statistics.

    Parameters
    ----------
    statistics : Statistics
    level : Level or None
        Whose groups are compared.
    weights : (common effects, values), optional
        Without a level: what each coefficient adds to a value.

    Notes
    -----
    With Z the group columns (dummies) and X the common ones, the groups' blocks D_g = Z_g'WZ_g are eliminated first
    (Frisch-Waugh-Lovell): A = X'WX - sum_g C_g'D_g^-1 C_g with C_g = Z_g'WX, and
    beta = A^-1 (X'Wy - sum_g C_g'D_g^-1 Z_g'Wy).
    A group's value at column means m is v_g = m'D_g^-1 (Z_g'Wy - C_g beta), and
    Var(v_a - v_b) / sigma^2 = m'D_a^-1 m + m'D_b^-1 m + (h_a - h_b)' A^-1 (h_a - h_b), h_g = C_g'D_g^-1 m.
    """
    z_columns = () if level is None else level.columns
    x_columns = statistics.layout.common_columns
    moments, means = _moments(statistics, level, z_columns, x_columns)  # (groups, q, q), q = k + p + 1
    k, p = len(z_columns), len(x_columns)
    total = moments.sum(axis=0)
    if level is None:
        assert weights is not None
        swept, rank = total, 0
        through, groups = -weights.T, weights.shape[1]
        own, own_variance, parts = np.zeros(groups), np.zeros(groups), through
    else:
        inverse, told, scale = _inverse(moments[:, :k, :k])  # (groups, k, k)
        rank = int(np.rint(np.trace(told, axis1=1, axis2=2)).sum())
        lost = means / scale - np.einsum("gij,gj->gi", told, means / scale)
        known = np.linalg.norm(lost, axis=1) <= ESTIMABLE * np.linalg.norm(means / scale, axis=1)
        solved = inverse @ moments[:, :k, k:]  # (groups, k, p + 1)
        at_means = np.einsum("k,gkj->gj", means, solved)
        # A value includes what common effects add that are constant in groups; dummies have it in the group's mean.
        given = of_groups(statistics, level)[0] - column_means(statistics)[list(x_columns)]
        parts = np.abs(at_means[:, :p]) + np.abs(given)
        inside = constant_within(statistics, level)[list(x_columns)] & (0 in z_columns)
        through, own = np.where(inside, 0.0, at_means[:, :p] - given), at_means[:, p]
        own_variance = np.where(known, np.einsum("i,gij,j->g", means, inverse, means), np.nan)
        swept = total.copy()
        swept[k:, k:] -= np.einsum("gki,gkj->ij", moments[:, :k, k:], solved)
    a, c = swept[k : k + p, k : k + p], swept[k : k + p, -1]
    absorbed = np.diag(a) <= ABSORBED * np.diag(total)[k : k + p]
    a = np.where(absorbed[:, None] | absorbed[None, :], 0.0, a)
    covariance, told, _ = (part[0] for part in _inverse(a[None]))
    beta = covariance @ c
    # `told` speaks of columns in units of their spread within groups; absorbed ones, which it leaves out, have none.
    spread = np.sqrt(np.where(absorbed, np.diag(total)[k : k + p], np.diag(a)))
    scale = np.where(spread > 0, spread, 1.0)
    df = float(statistics.rows - rank - round(float(np.trace(told))))
    if statistics.model.se is not None:
        sigma = 1.0
    else:
        residual = max(float(swept[-1, -1] - beta @ c), 0.0)
        sigma = math.sqrt(residual / df) if df > 0 else math.nan
    size = np.linalg.norm(parts / scale, axis=1)
    return LeastSquares(own, own_variance, through, size, beta, covariance, told, scale, sigma, df)


def _moments(
    statistics: Statistics, level: Level | None, z_columns: tuple[int, ...], x_columns: tuple[int, ...]
) -> tuple[Array, Array]:
    """Cross products of (z, x, y) per group, (groups, q, q), and the columns' means that belong to z.

    Columns are centred on their overall means wherever a constant among the columns absorbs that, so that large
    offsets cost no digits; elsewhere they are taken as they are.
    """
    constant_in_z, constant = 0 in z_columns, 0 in z_columns or 0 in x_columns
    _, mean, _ = statistics.total()
    centre = np.concatenate([[0.0], mean])  # of column k, in units where `shift` is already taken off
    raw = -np.concatenate([[0.0], statistics.shift])
    last = len(centre) - 1
    wanted = (*z_columns, *x_columns, last)
    of_z, of_x = centre if constant_in_z else raw, centre if constant else raw
    offsets = np.array([*(of_z[j] for j in z_columns), *(of_x[j] for j in (*x_columns, last))])
    products = statistics.moments.with_constant().chosen(wanted).about(offsets)  # (cells, q, q)
    if level is None:
        return products.sum(axis=0, keepdims=True), np.zeros(0)
    index = statistics.layout.levels.index(level)
    groups = len(statistics.members[index])
    per_group = np.zeros((groups, *products.shape[1:]))
    np.add.at(per_group, statistics.codes[:, index], products)
    overall = np.concatenate([[1.0], mean + statistics.shift])[list(z_columns)]
    at = np.array([1.0 if j == 0 else 0.0 for j in z_columns]) if constant_in_z else overall
    return per_group, at


def _inverse(matrices: Array) -> tuple[Array, Array, Array]:
    """Generalized inverses of (n, m, m) semidefinite matrices, projectors onto their ranges, and scales.

    Works on the matrices scaled to unit diagonal; the projectors speak of these scaled columns.
    """
    diagonal = np.sqrt(np.maximum(np.diagonal(matrices, axis1=1, axis2=2), 0.0))
    scale = np.where(diagonal > 0, diagonal, 1.0)
    values, vectors = np.linalg.eigh(matrices / (scale[:, :, None] * scale[:, None, :]))
    kept = values > ABSORBED
    inverse = (vectors * np.where(kept, 1 / np.where(kept, values, 1.0), 0.0)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    told = (vectors * kept[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return inverse / (scale[:, :, None] * scale[:, None, :]), told, scale


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
