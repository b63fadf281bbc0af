"""Results as rows of text: digits that mean something, decimal points below each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bayeshlm.cli.terminal import Grid
from bayeshlm.posterior.wording import percent, said, spelled

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from bayeshlm.posterior.comparison import Comparison

SHOWN_GROUPS = 10
PROBABILITIES = {
    "p_best": "P(best)", "p_largest": "P(largest)", "p_smallest": "P(smallest)", "p_greater": "P(rise)",
    "p_rope": "P(equal)",
}  # fmt: skip


def parameters(summary: pd.DataFrame, kind: str, title: str, note: str = "") -> Grid:
    """Rows of one kind of `bayeshlm.summarize`: mean, sd, interval, effective sample size, R-hat.

    Shares of variance by their median, as everywhere.
    """
    import pandas as pd

    part = summary[summary["kind"] == kind]
    names = [
        f"{variable}[{label}]" if pd.notna(label) else str(variable)
        for variable, label in zip(part["variable"], part["label"], strict=True)
    ]
    places, centre = [decimals(sd) for sd in part["sd"]], "median" if kind == "derived" else "mean"
    figures = [
        aligned([fixed(v, p) for v, p in zip(part[column], places, strict=True)])
        for column in (centre, "sd", "lower", "upper")
    ]
    figures.append([whole(v) for v in part["ess_bulk"]])
    figures.append([fixed(v, 3) for v in part["rhat"]])
    columns = ("", centre, "sd", "95 % from", "to", "ESS", "R-hat")
    return Grid(title, columns, tuple(zip(names, *figures, strict=True)), note)


def comparison(found: Comparison, truth: xr.DataArray | None = None) -> Grid:
    """Groups, the leading one first; with `truth` (multipliers or differences) also the true values."""
    order = found.told()
    top = order.head(SHOWN_GROUPS)
    places = min(
        (decimals(u - low, digits=3) for low, u in zip(top["lower"], top["upper"], strict=True) if u > low), default=3
    )
    columns = [found.by, spelled(found.effect), _interval(found.prob), "to"]
    figures = [aligned([fixed(v, places) for v in top[column]]) for column in (found.effect, "lower", "upper")]
    for name, title in PROBABILITIES.items():
        if name in top:
            columns.append(title)
            figures.append([found.probability(p, short=True) for p in top[name]])
    loss = ""
    if "expected_loss" in top:
        columns.append("loss")
        loss = " Loss: expected, of choosing this group."
        if found.multiplicative:  # of the outcome; with odds, of probability
            figures.append([f"{100 * loss:.2f} %" for loss in top["expected_loss"]])
        else:
            figures.append(aligned([fixed(loss, places) for loss in top["expected_loss"]]))
    if "probability" in top:
        columns.append("probability")
        figures.append([percent(p) for p in top["probability"]])
    if truth is not None:
        true = [float(truth.sel({found.by: label})) for label in top.index]
        columns += ["truth", "inside"]
        figures.append(aligned([fixed(v, places) for v in true]))
        inside = zip(top["lower"], true, top["upper"], strict=True)
        figures.append(["yes" if low <= v <= u else "no" for low, v, u in inside])
    rest = f" {len(order) - len(top):,} more are not shown." if len(order) > len(top) else ""
    effect = spelled(found.effect).capitalize()
    note = f"{effect} {'of' if found.kind == 'subgroups' else 'relative to'} {found.baseline}.{loss}{rest}"
    names = [said(label) for label in top.index]
    strong = frozenset({0} if found.best is not None else ())
    return Grid("", tuple(columns), tuple(zip(names, *figures, strict=True)), note, strong)


def contrasts(found: Comparison) -> Grid:
    """Pairs, those with the reference or of the leading group first; of subgroups the differences of effects."""
    pairs = found.contrasts()
    shown = pairs.head(SHOWN_GROUPS)
    contrast = found.contrast
    places = _places(zip(shown["lower"], shown["upper"], strict=True))
    figures = [aligned([fixed(v, places) for v in shown[column]]) for column in (contrast, "lower", "upper")]
    figures += [[found.probability(p, short=True) for p in shown[column]] for column in ("p_greater", "p_rope")]
    low, high = found.rope
    columns = ("", spelled(contrast), _interval(found.prob), "to", "P(greater)", "P(equal)")
    between = f"between {low:.3g} and {high:.3g}"
    note = f"P(equal): probability that the {spelled(contrast)} lies {between}, practically no difference."
    if len(found.pairs) > len(shown):
        note += f" {len(found.pairs) - len(shown):,} more pairs are not shown."
    names = [f"{said(a)} against {said(b)}" for a, b in zip(shown["a"], shown["b"], strict=True)]
    return Grid("", columns, tuple(zip(names, *figures, strict=True)), note)


def _interval(prob: float) -> str:
    return f"{100 * prob:g} % from"


def _places(intervals: Iterable[tuple[float, float]]) -> int:
    """Decimals that show three digits of the narrowest interval."""
    return min((decimals(upper - lower, digits=3) for lower, upper in intervals if upper > lower), default=3)


def decimals(scale: float, digits: int = 2) -> int:
    """Decimals that leave `digits` digits of a quantity of this size; a mean is known no better than that."""
    if not math.isfinite(scale) or scale <= 0:
        return 3
    return max(0, digits - 1 - math.floor(math.log10(scale)))


def fixed(value: float, places: int) -> str:
    """A figure with this many decimals; very large and very small ones in powers of ten."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if places > 6 or abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{value:.{places}f}"


def whole(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "-"


def aligned(figures: list[str]) -> list[str]:
    """Pad on the right so that decimal points stand below each other in a right-aligned column."""
    tails = [len(text.partition(".")[2]) + ("." in text) for text in figures]
    widest = max(tails, default=0)
    return [text + " " * (widest - tail) for text, tail in zip(figures, tails, strict=True)]


def count(number: int, noun: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {noun}"
