"""Figures of studies: frozen numbers in, SVG text out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.report.plots import set_limits, set_ticks
from bayeshlm.report.svg import ACCENT, CONTRAST, INK, MUTED, Canvas, style

FEW_LABELS = 24  # points with a number beside them; of more only those on the frontier and the chosen one
MOST_DOTS = 300  # of a panel; more would lie on top of one another


@dataclass(frozen=True, eq=False)
class Frontier:
    """Designs in the order of their cost.

    Attributes
    ----------
    x, value, lower, upper : (designs,)
    axis, title : str
    better_up : bool
        Whether large values are good.
    chosen : int or None
        The recommended design.
    target : float or None
    """

    x: Array
    value: Array
    lower: Array
    upper: Array
    axis: str
    title: str
    better_up: bool
    chosen: int | None = None
    target: float | None = None


def frontier(front: Frontier, *, alt: str, key: str) -> str:
    """Cost against a figure of merit, with the line that no cheaper design beats."""
    known = np.isfinite(front.x) & np.isfinite(front.value)
    signed = np.where(front.better_up, front.value, -front.value)
    edge = undominated(np.where(known, signed, -np.inf))
    with style():
        canvas = Canvas(3.1)
        axes = canvas.axes(0.62, 0.2, 0.12, 0.48)
        axes.vlines(front.x[known], front.lower[known], front.upper[known], color=MUTED, linewidth=0.9, alpha=0.7)
        axes.step(front.x[edge], front.value[edge], where="post", color=ACCENT, linewidth=1.2, alpha=0.8)
        axes.plot(front.x[known], front.value[known], "o", color=MUTED, markersize=3.4)
        axes.plot(front.x[edge], front.value[edge], "o", color=ACCENT, markersize=4.6)
        if front.chosen is not None:
            axes.plot(front.x[front.chosen], front.value[front.chosen], "o", markerfacecolor="none",
                      markeredgecolor=CONTRAST, markersize=12, markeredgewidth=2.0)  # fmt: skip
        if front.target is not None:
            axes.axhline(front.target, color=CONTRAST, linewidth=0.9, linestyle=(0, (4, 3)))
        shown = np.flatnonzero(known) if known.sum() <= FEW_LABELS else np.flatnonzero(edge)
        for k in {*shown.tolist(), *([] if front.chosen is None else [front.chosen])}:
            axes.annotate(str(k + 1), (front.x[k], front.value[k]), (4, 4), textcoords="offset points", fontsize=8,
                          color=CONTRAST if k == front.chosen else INK)  # fmt: skip
        low, high = float(np.nanmin(front.lower)), float(np.nanmax(front.upper))
        if front.target is not None:
            low, high = min(low, front.target), max(high, front.target)
        room = 0.06 * (high - low) or 0.05
        axes.set_ylim(low - room, high + room)
        set_ticks(axes.yaxis, low - room, high + room, False, 5)
        positive = front.x[known]
        set_limits(axes, positive, bool((positive > 0).all() and positive.max() > 3 * positive.min()))
        axes.set_xlabel(canvas.text(front.axis, 40))
        return canvas.svg(alt, key)


def undominated(merit: Array) -> NDArray[np.bool_]:
    """Which of the designs, in the order of their cost, are better than all that cost less."""
    best = np.maximum.accumulate(np.concatenate([[-np.inf], merit[:-1]]))
    return np.asarray(merit > best)


def ecdf_difference(
    grid: Array, difference: Array, low: Array, high: Array, *, outside: bool, alt: str, key: str
) -> str:
    """Empirical distribution of ranks less the uniform one, over its simultaneous band."""
    edge = np.concatenate([[0.0], grid, [1.0]])

    def closed(values: Array) -> Array:
        return np.concatenate([[0.0], values, [0.0]])

    with style():
        canvas = Canvas(1.35, width=2.2)
        axes = canvas.axes(0.36, 0.13, 0.05, 0.26)
        axes.fill_between(edge, closed(low), closed(high), color=MUTED, alpha=0.22, linewidth=0)
        axes.axhline(0.0, color=MUTED, linewidth=0.6)
        axes.plot(edge, closed(difference), color=CONTRAST if outside else ACCENT, linewidth=1.5)
        axes.set_xlim(0, 1)
        largest = 1.1 * float(np.max(np.abs(np.concatenate([low, high, difference]))))
        axes.set_ylim(-largest, largest)
        set_ticks(axes.yaxis, -largest, largest, False, 3)
        set_ticks(axes.xaxis, 0.0, 1.0, False, 2)
        axes.tick_params(labelsize=8)
        return canvas.svg(alt, key)


def estimates(truth: Array, estimate: Array, *, alt: str, key: str) -> str:
    """Estimates against truths with the diagonal; a histogram with the truth as a line where it is always the same."""
    with style():
        canvas = Canvas(1.6, width=2.2)
        axes = canvas.axes(0.42, 0.13, 0.06, 0.26)
        if np.ptp(truth) == 0:
            axes.hist(estimate, bins=20, color=ACCENT, alpha=0.55)
            axes.axvline(float(truth[0]), color=CONTRAST, linewidth=1.4)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            low, high = _room(np.append(estimate, truth[0]))
        else:
            low, high = _room(np.concatenate([truth, estimate]))
            axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8)
            shown = np.unique(np.linspace(0, len(truth) - 1, MOST_DOTS).astype(int))
            axes.plot(truth[shown], estimate[shown], "o", color=ACCENT, markersize=2.2, alpha=0.6, markeredgewidth=0)
            axes.set_ylim(low, high)
            set_ticks(axes.yaxis, low, high, False, 3)
        axes.set_xlim(low, high)
        set_ticks(axes.xaxis, low, high, False, 3)
        axes.tick_params(labelsize=8)
        return canvas.svg(alt, key)


def _room(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room
