"""The report's figures: frozen numbers in, SVG text out. Nothing is computed here that a table would also show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.posterior.check import GroupMeanCheck
from bayeshlm.report.svg import ACCENT, CONTRAST, FAINT, INK, MUTED, Canvas, label_width, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
ROW = 0.235  # inches of a row of a forest
MOST_POINTS = 200  # of the check; more would lie on top of one another


@dataclass(frozen=True, eq=False)
class Forest:
    """Rows of a forest plot.

    Attributes
    ----------
    labels : list
    middle, lower, upper : (rows,)
        Posterior median and interval.
    raw : (rows,)
        The hollow marker: what the row says without pooling; NaN for none.
    axis : str
        Label of the axis.
    neutral : float
        Where the line is drawn: 1 for ratios, 0 for differences.
    log : bool
        Ratios: a logarithmic axis, on which half and double are equally far.
    highlight : label or None
    band : (float, float) or None
        Region of practical equivalence.
    gap_after : int or None
        Row after which rows were left out.
    """

    labels: list[Any]
    middle: Array
    lower: Array
    upper: Array
    raw: Array
    axis: str
    neutral: float
    log: bool
    highlight: Any = None
    band: tuple[float, float] | None = None
    gap_after: int | None = None


def forest(rows: Forest, *, alt: str, key: str) -> str:
    """Posterior medians and intervals, one row each, the first on top."""
    count = len(rows.labels)
    with style():
        canvas = Canvas(0.62 + ROW * count)
        axes = canvas.axes(label_width(rows.labels), 0.12, 0.06, 0.46)
        heights = np.arange(count, dtype=float)
        if rows.gap_after is not None:
            heights[rows.gap_after :] += 1
            axes.axhline(rows.gap_after, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
        if rows.band is not None:
            axes.axvspan(*rows.band, color=FAINT, alpha=0.55, linewidth=0)
        axes.axvline(rows.neutral, color=MUTED, linewidth=0.8)
        strong = np.array([label == rows.highlight and rows.highlight is not None for label in rows.labels])
        for chosen, color in ((~strong, ACCENT), (strong, CONTRAST)):
            axes.hlines(heights[chosen], rows.lower[chosen], rows.upper[chosen], color=color, linewidth=1.7)
            axes.plot(rows.middle[chosen], heights[chosen], "o", color=color, markersize=4.6)
        known = np.isfinite(rows.raw)
        axes.plot(rows.raw[known], heights[known], "D", markerfacecolor="none", markeredgecolor=INK, markersize=3.6, alpha=0.8)
        axes.set_yticks(heights, labels=[canvas.text(label) for label in rows.labels])
        axes.set_ylim(heights[-1] + 0.7, -0.7)
        axes.spines["left"].set_visible(False)
        raw = rows.raw[known]
        _limits(axes, np.concatenate([rows.lower, rows.upper, raw, [rows.neutral]]), rows.log)
        axes.set_xlabel(canvas.text(rows.axis, 70))
        return canvas.svg(alt, key)


def honest_against_naive(honest: tuple[float, float, float], naive: tuple[float, float, float], rows: Forest, *, alt: str, key: str) -> str:
    """Two intervals of one contrast. Each is (middle, lower, upper); axis, neutral, log and band come from `rows`."""
    with style():
        canvas = Canvas(1.18)
        axes = canvas.axes(1.52, 0.12, 0.06, 0.46)
        if rows.band is not None:
            axes.axvspan(*rows.band, color=FAINT, alpha=0.55, linewidth=0)
        axes.axvline(rows.neutral, color=MUTED, linewidth=0.8)
        for height, (middle, lower, upper), color in ((0, honest, ACCENT), (1, naive, CONTRAST)):
            axes.hlines([height], [lower], [upper], color=color, linewidth=2.6)
            axes.plot([middle], [height], "o", color=color, markersize=5.5)
        axes.set_yticks([0, 1], labels=["with the groups", "rows alone"])
        axes.set_ylim(1.6, -0.6)
        axes.spines["left"].set_visible(False)
        _limits(axes, np.array([*honest, *naive, rows.neutral]), rows.log)
        axes.set_xlabel(canvas.text(rows.axis, 60))
        return canvas.svg(alt, key)


def group_mean_check(check: GroupMeanCheck, *, log: bool, axis: str, alt: str, key: str) -> str:
    """Sorted observed group means against the replicated ones of the same rank, with their band."""
    with style():
        canvas = Canvas(3.1)
        axes = canvas.axes(0.72, 0.12, 0.06, 0.5)
        axes.fill_between(check.expected, check.lower, check.upper, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(check.expected, check.expected, color=ACCENT, linewidth=1.0)
        chosen = np.unique(np.linspace(0, len(check.observed) - 1, MOST_POINTS).astype(int))
        axes.plot(check.expected[chosen], check.observed[chosen], "o", color=INK, markersize=2.8, alpha=0.75, markeredgewidth=0)
        everything = np.concatenate([check.expected, check.lower, check.upper, check.observed])
        _limits(axes, check.expected, log)
        low, high = (float(v) for v in (everything.min(), everything.max()))
        if log:
            axes.set_yscale("log")
        _ticks(axes.yaxis, low, high, log, 5)
        axes.set_ylim(low, high if high > low else low + 1)
        axes.set_xlabel("replicated mean of the same rank")
        axes.set_ylabel(canvas.text(axis, 34))
        axes.yaxis.set_label_coords(-0.17, 0.5)
        return canvas.svg(alt, key)


def prior_to_posterior(draws: Array, grid: Array, density: Array | None, *, alt: str, key: str) -> str:
    """Histogram of the posterior over the prior's density on the same scale; None for a flat prior."""
    with style():
        canvas = Canvas(1.15, width=2.2)
        axes = canvas.axes(0.1, 0.1, 0.05, 0.26)
        inside = draws[(draws >= grid[0]) & (draws <= grid[-1])]
        heights, edges = np.histogram(inside, bins=np.linspace(*np.quantile(draws, [0.001, 0.999]), 31), density=True)
        axes.stairs(heights, edges, fill=True, color=ACCENT, alpha=0.55, linewidth=0)
        if density is not None:
            axes.plot(grid, np.minimum(density, 3 * heights.max()), color=CONTRAST, linewidth=1.3)
        axes.set_xlim(grid[0], grid[-1])
        axes.set_ylim(0, heights.max() * 1.15)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        _ticks(axes.xaxis, float(grid[0]), float(grid[-1]), False, 3)
        axes.tick_params(labelsize=8)
        return canvas.svg(alt, key)


def _limits(axes: Axes, values: Array, log: bool) -> None:
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = float(values.min()), float(values.max())
    if log:
        axes.set_xscale("log")
        low, high = np.log(low), np.log(high)
    room = 0.05 * (high - low) or max(abs(high) * 0.05, 1e-6)
    low, high = low - room, high + room
    if log:
        low, high = float(np.exp(low)), float(np.exp(high))
    axes.set_xlim(low, high)
    _ticks(axes.xaxis, low, high, log, 5)


def _ticks(axis: Any, low: float, high: float, log: bool, count: int) -> None:
    """Plain numbers at round places, on a logarithmic axis too (its own ticks are powers of ten, too far apart here)."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

    wide = log and low > 0 and high / low > 20
    ticks = np.asarray(LogLocator(subs=(1.0, 3.0)).tick_values(low, high) if wide else MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high))
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    ticks = ticks if ticks.size else np.array([low, high])
    step = float(np.diff(ticks).min()) if len(ticks) > 1 else abs(float(ticks[0]))
    axis.set_major_locator(FixedLocator(ticks.tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_ticklabels([_number(float(tick), step) for tick in ticks])


def _number(value: float, step: float) -> str:
    """A tick with as many decimals as its neighbours need."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    decimals = max(0, int(np.ceil(-np.log10(step) - 1e-9))) if step > 0 else 0
    return f"{value:,.{min(decimals, 8)}f}".replace("-", "\N{MINUS SIGN}")
