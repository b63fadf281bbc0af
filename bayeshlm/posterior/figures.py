"""The figures of a comparison: tables, pairs, which sign a contrast is shown with, and how a figure is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bayeshlm.errors import DataError
from bayeshlm.posterior.values import GroupValues
from bayeshlm.posterior.wording import percent_change, points, probability, small

if TYPE_CHECKING:
    import pandas as pd

SHOWN_PAIRS = 15  # of more, only those with the leading group or the reference are shown


@dataclass(frozen=True, eq=False)
class Slope:
    """What one more unit of a number does.

    Attributes
    ----------
    unit : str
        `dose`, or the expression that has the slope, `log1p(dose)`.
    effect, lower, upper : float
        Ratio, odds ratio or difference, and its interval.
    p_greater : float
        P(the slope is positive).
    p_rope : float
        P(one more unit makes practically no difference).
    straight : bool
        False where the curve is bent: then the slope is that from its first point to its last.
    """

    unit: str
    effect: float
    lower: float
    upper: float
    p_greater: float
    p_rope: float
    straight: bool


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of a comparison; `bayeshlm.posterior.comparison.Comparison` adds the words, and describes them."""

    by: str
    table: pd.DataFrame
    pairs: pd.DataFrame
    rope: tuple[float, float]
    prob: float
    maximize: bool | None
    baseline: str
    status: str
    reference: Any
    slope: Slope | None
    caution: str
    tells: str
    effective: float
    of_shares: bool
    values: GroupValues = field(repr=False)
    conflicts: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`groups`, `categories`, `arms`, `number`, or `subgroups` (effects of a treatment in subgroups)."""
        return "subgroups" if self.values.question.subgroup is not None else self.values.question.kind

    @property
    def effect(self) -> str:
        """`multiplier`, `odds_multiplier` or `difference`; of subgroups `ratio`, `odds_ratio` or `difference`."""
        return str(self.table.columns[0])

    @property
    def contrast(self) -> str:
        """`ratio`, `odds_ratio` or `difference`."""
        return str(self.pairs.columns[2])

    @property
    def multiplicative(self) -> bool:
        """Whether no difference is 1, and not 0."""
        return self.effect != "difference"

    @property
    def risks(self) -> bool:
        """Whether differences are of probabilities (``scale="response"`` of binary responses and shares)."""
        return self.values.means is not None and self.of_shares

    @property
    def best(self) -> Any:
        """The group with the smallest expected loss.

        None where nobody said which way is better, where the fit failed, and of a number or of subgroups, whose values
        and effects are not chosen between.
        """
        if self.maximize is None or self.status == "FAIL" or self.kind in ("number", "subgroups"):
            return None
        return self.table["expected_loss"].idxmin()

    @property
    def leading(self) -> Any:
        """What is shown first: the group with the smallest expected loss, or without a direction the largest."""
        if "expected_loss" in self.table and self.table["expected_loss"].notna().all():
            return self.table["expected_loss"].idxmin()
        return self.table[self.effect].idxmax()

    @property
    def runner_up(self) -> Any:
        """The group with the second smallest expected loss, or without a direction the second largest."""
        return self.ranked.index[1]

    @property
    def ranked(self) -> pd.DataFrame:
        """The table, what leads first; a number's values and subgroups in their own order."""
        if self.kind in ("number", "subgroups"):
            return self.table
        if self.table["expected_loss"].notna().all():
            return self.table.sort_values("expected_loss", kind="stable")
        return self.table.sort_values(self.effect, ascending=False, kind="stable")

    @property
    def shown_pair(self) -> tuple[Any, Any]:
        """The contrast to show where there is room for one: what leads against the runner-up, or the reference last."""
        if self.kind == "number":
            return self.table.index[-1], self.table.index[0]
        if self.kind == "subgroups":
            labels = [label for label, arm in zip(self.values.labels, self.values.same, strict=True) if arm == 0]
            return labels[-1], labels[0]
        return self._turned(self.leading, self.runner_up)

    def _turned(self, a: Any, b: Any) -> tuple[Any, Any]:
        return (b, a) if self.reference is not None and a == self.reference else (a, b)

    def pair(self, a: Any, b: Any) -> dict[str, float]:
        """The contrast of `a` against `b`, whichever way round `pairs` lists it."""
        contrast = self.contrast
        listed = self.pairs[
            ((self.pairs["a"] == a) & (self.pairs["b"] == b)) | ((self.pairs["a"] == b) & (self.pairs["b"] == a))
        ]
        if listed.empty:
            raise DataError(f"No pair of {a!r} and {b!r} in this comparison.")
        row = listed.iloc[0]
        figures = {str(name): float(value) for name, value in row.items() if name not in ("a", "b")}
        if row["a"] == a:
            return figures
        turned = {k: 1 / figures[k] if self.multiplicative else -figures[k] for k in (contrast, "lower", "upper")}
        figures |= {contrast: turned[contrast], "lower": turned["upper"], "upper": turned["lower"]}
        figures |= {"p_greater": 1 - figures["p_greater"]}
        if "ratio_lower" in figures:
            figures |= {"ratio": 1 / figures["ratio"]}
            figures |= {"ratio_lower": 1 / figures["ratio_upper"], "ratio_upper": 1 / figures["ratio_lower"]}
        return figures

    def contrasts(self) -> pd.DataFrame:
        """The pairs as they are shown everywhere: each with one sign, those with the reference first.

        Against the reference where it is one of the two; else what is better (without a direction, larger) first.
        More than 15 pairs: only those with the reference, or where there is none with the leading group.
        """
        import pandas as pd

        if self.kind in ("number", "subgroups"):
            return self.pairs
        order = {label: k for k, label in enumerate(self.ranked.index)}
        listed = [tuple(row) for row in self.pairs[["a", "b"]].itertuples(index=False)]
        if len(listed) > SHOWN_PAIRS:
            anchor = self.leading if self.reference is None else self.reference
            listed = [couple for couple in listed if anchor in couple]
        turned = [self._turned(*sorted(couple, key=order.__getitem__)) for couple in listed]
        turned.sort(key=lambda c: (self.reference is not None and c[1] != self.reference, order[c[0]], order[c[1]]))
        rows = [{"a": a, "b": b, **self.pair(a, b)} for a, b in turned]
        return pd.DataFrame(rows, columns=list(self.pairs.columns))

    def loss_text(self, loss: float) -> str:
        """An expected loss with its unit."""
        if self.effect == "odds_multiplier" or self.risks:
            return f"{small(loss * 100)} percentage points of probability"
        if self.multiplicative:
            return f"{small(loss * 100)} % of the outcome of {self.baseline.partition(', effects of')[0]}"
        return f"{small(loss)} units of the outcome"

    def shown(self, figures: dict[str, float]) -> str:
        """A contrast with its interval, in words: per cent where effects multiply."""
        write = points if self.risks else percent_change if self.multiplicative else "{:+.3g}".format
        odds = "odds " if "odds" in self.contrast else ""
        middle, lower, upper = (write(figures[name]) for name in (self.contrast, "lower", "upper"))
        return f"{odds}{middle} ({self.prob * 100:g} % interval {lower} to {upper})"

    def probability(self, p: float, *, short: bool = False) -> str:
        """A probability with the digits that the draws behind it can tell; `short` for tables."""
        return probability(p, self.effective, short=short)
