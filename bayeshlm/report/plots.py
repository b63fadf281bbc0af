"""The report's figures: frozen numbers in, SVG text out. Nothing is computed here that a table would also show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.posterior.check import GroupMeanCheck
from bayeshlm.report.svg import ACCENT, CONTRAST, FAINT, INK, MUTED, Canvas, label_width, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    baseline : str
        What the values are relative to, in words.
    neutral : float
        Where the line is drawn: 1 for ratios, 0 for differences.
    log : bool
        Ratios: a logarithmic axis, on which half and double are equally far.
    highlight : label or None
    band : (float, float) or None
        Region of practical equivalence.
    gap_after : int or None
        Row after which rows were left out.
    breaks : tuple of int
        Rows before which another parent's groups begin.
    """

    labels: list[Any]
    middle: Array
    lower: Array
    upper: Array
    raw: Array
    axis: str
    baseline: str
    neutral: float
    log: bool
    highlight: Any = None
    band: tuple[float, float] | None = None
    gap_after: int | None = None
    breaks: tuple[int, ...] = ()


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
        for chosen, width, size in ((~strong, 1.6, 4.4), (strong, 3.0, 6.4)):
            axes.hlines(heights[chosen], rows.lower[chosen], rows.upper[chosen], color=ACCENT, linewidth=width)
            axes.plot(rows.middle[chosen], heights[chosen], "o", color=ACCENT, markersize=size)
        for row in rows.breaks:
            axes.axhline(row - 0.5, color=FAINT, linewidth=0.8)
        known = np.isfinite(rows.raw)
        axes.plot(
            rows.raw[known], heights[known], "D", markerfacecolor="none", markeredgecolor=INK, markersize=3.4, alpha=0.8
        )
        axes.set_yticks(heights, labels=[canvas.text(label) for label in rows.labels])
        axes.set_ylim(heights[-1] + 0.7, -0.7)
        axes.spines["left"].set_visible(False)
        raw = rows.raw[known]
        set_limits(axes, np.concatenate([rows.lower, rows.upper, raw, [rows.neutral]]), rows.log)
        axes.set_xlabel(canvas.text(rows.axis, 70))
        return canvas.svg(alt, key)


def honest_against_naive(frame: Forest, words: tuple[str, str], *, alt: str, key: str) -> str:
    """Two rows, with and without the groups, each with its numbers in words above it."""
    with style():
        canvas = Canvas(1.72)
        axes = canvas.axes(0.12, 0.12, 0.04, 0.46)
        if frame.band is not None:
            axes.axvspan(*frame.band, color=FAINT, alpha=0.55, linewidth=0)
        axes.axvline(frame.neutral, color=MUTED, linewidth=0.8)
        for height, color in ((0, ACCENT), (1, CONTRAST)):
            axes.hlines([height], frame.lower[height], frame.upper[height], color=color, linewidth=3.0)
            axes.plot(frame.middle[height], height, "|", color=color, markersize=11, markeredgewidth=1.6)
            text = f"{frame.labels[height]}: {words[height]}"
            axes.text(0.0, height - 0.42, text, transform=axes.get_yaxis_transform(), color=color, fontsize=9.5)
        axes.set_yticks([])
        axes.set_ylim(1.45, -0.85)
        axes.spines["left"].set_visible(False)
        set_limits(axes, np.concatenate([frame.lower, frame.upper, [frame.neutral]]), frame.log)
        axes.set_xlabel(canvas.text(frame.axis, 60))
        return canvas.svg(alt, key)


def group_mean_check(check: GroupMeanCheck, *, log: bool, axis: str, alt: str, key: str) -> str:
    """Sorted observed group means against the replicated ones of the same rank, with their band."""
    with style():
        canvas = Canvas(3.1)
        axes = canvas.axes(0.66, 0.14, 0.3, 0.48)
        axes.fill_between(check.expected, check.lower, check.upper, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(check.expected, check.expected, color=ACCENT, linewidth=1.0)
        chosen = np.unique(np.linspace(0, len(check.observed) - 1, MOST_POINTS).astype(int))
        axes.plot(
            check.expected[chosen],
            check.observed[chosen],
            "o",
            color=INK,
            markersize=2.8,
            alpha=0.75,
            markeredgewidth=0,
        )
        everything = np.concatenate([check.expected, check.lower, check.upper, check.observed])
        set_limits(axes, check.expected, log)
        low, high = (float(v) for v in (everything.min(), everything.max()))
        if log:
            axes.set_yscale("log")
        set_ticks(axes.yaxis, low, high, log, 5)
        axes.set_ylim(low, high if high > low else low + 1)
        axes.set_xlabel("replicated mean of the same rank")
        axes.text(0.0, 1.04, canvas.text(axis, 50), transform=axes.transAxes)
        return canvas.svg(alt, key)


def prior_to_posterior(draws: Array, grid: Array, density: Array | None, *, alt: str, key: str) -> str:
    """Histogram of the posterior over the prior's density on the same scale; None for a flat prior."""
    with style():
        canvas = Canvas(1.15, width=2.2)
        axes = canvas.axes(0.1, 0.1, 0.05, 0.26)
        low, high = (float(value) for value in np.quantile(draws, [0.001, 0.999]))
        edges = np.linspace(low, high if high > low else low + 1e-9, 31)
        inside = draws[(draws >= grid[0]) & (draws <= grid[-1])]
        heights = np.histogram(inside, bins=edges, density=True)[0]
        axes.stairs(heights, edges, fill=True, color=ACCENT, alpha=0.55, linewidth=0)
        if density is not None:
            axes.plot(grid, np.minimum(density, 3 * heights.max()), color=CONTRAST, linewidth=1.3)
        axes.set_xlim(grid[0], grid[-1])
        axes.set_ylim(0, heights.max() * 1.15)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        set_ticks(axes.xaxis, float(grid[0]), float(grid[-1]), False, 3)
        axes.tick_params(labelsize=8)
        return canvas.svg(alt, key)


def set_limits(axes: Axes, values: Array, log: bool) -> None:
    """Limits of the horizontal axis that hold these values, and its ticks."""
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
    set_ticks(axes.xaxis, low, high, log, 5)


def set_ticks(axis: Any, low: float, high: float, log: bool, count: int) -> None:
    """Plain numbers at round places, on a logarithmic axis too (whose own ticks, powers of ten, are too far apart)."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

    wide = log and low > 0 and high / low > 20
    ticks = np.asarray(
        LogLocator(subs=(1.0, 3.0)).tick_values(low, high)
        if wide
        else MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)
    )
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
