"""The record of a comparison and its words. Table, text and plots all show this one record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.errors import DataError
from bayeshlm.posterior.values import GroupValues
from bayeshlm.posterior.wording import probability

if TYPE_CHECKING:
    import pandas as pd

SHOWN_PAIRS = 15  # of more, only those with the leading group or the reference are shown
SHOWN_EFFECTS = 4  # that a verdict spells out
TOO_MANY = 10.0  # times the data, beyond which a difference is not worth telling
TO_DECIDE = (
    "To decide, say which way is better: maximize=True if larger is, maximize=False if smaller is (--maximize, "
    "--minimize)."
)


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
class Comparison:
    """A comparison of groups, of arms, of the values of a number, or of a treatment's effects in subgroups.

    Attributes
    ----------
    by : str
        The level, common effect, or treatment and subgroup (`arm:sex`).
    table : pandas.DataFrame
        Indexed by group: `multiplier` (where effects multiply; posterior median), `odds_multiplier` (log odds) or
        `difference`, `lower`, `upper`, `p_best`, `expected_loss` (mean of how far the group is from the best one, in
        units of the first column; with log odds of probability), `p_largest`, `p_smallest`. Without a direction
        nothing is best: then `p_best` and `expected_loss` are NaN. With log odds a last column `probability` (median)
        says what the odds mean at the averages of all other columns. Of subgroups the first column is the effect
        (`ratio`, `odds_ratio` or `difference`), followed by `lower`, `upper`, `p_greater`, `p_rope`.
    pairs : pandas.DataFrame
        `a`, `b`, `ratio`, `odds_ratio` or `difference` (a against b), `lower`, `upper`, `p_greater` (P(a > b)),
        `p_rope`. A pair with the reference is against the reference. All pairs for up to 60 groups, else those with the
        leading group or the reference. Of subgroups: the differences between the effects.
    rope : (float, float)
        Ratios or differences in it count as practically equal.
    prob : float
        Probability of the intervals, and the P(best) from which on a group is chosen.
    maximize : bool or None
        Whether larger responses are better; None where nobody said it.
    baseline : str
        What multipliers and differences are relative to.
    status : str
        Convergence of the posterior: PASS, REVIEW or FAIL.
    reference : label or None
        What the others are compared with.
    slope : Slope or None
        Of a number.
    caution : str
        Said where the contrasts rest on five or fewer groups a side.
    tells : str
        More of what would tell more: `groups of 'clinic'`, `rows`.
    effective : float
        Effective draws behind the probabilities, whose resolution is one over them.
    of_shares : bool
        Whether the response is a probability or share.
    values : GroupValues
        The draws behind it all.
    """

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
            return f"{_small(loss * 100)} percentage points of probability"
        if self.multiplicative:
            return f"{_small(loss * 100)} % of the outcome of {self.baseline.partition(', effects of')[0]}"
        return f"{_small(loss)} units of the outcome"

    def shown(self, figures: dict[str, float]) -> str:
        """A contrast with its interval, in words: per cent where effects multiply."""
        write = _points if self.risks else _percent if self.multiplicative else "{:+.3g}".format
        odds = "odds " if "odds" in self.contrast else ""
        middle, lower, upper = (write(figures[name]) for name in (self.contrast, "lower", "upper"))
        return f"{odds}{middle} ({self.prob * 100:g} % interval {lower} to {upper})"

    def probability(self, p: float, *, short: bool = False) -> str:
        """A probability with the digits that the draws behind it can tell; `short` for tables."""
        return probability(p, self.effective, short=short)

    def verdict(self) -> str:
        """The answer in a few sentences: what is chosen, or that the data cannot tell, or what each contrast is."""
        if self.status == "FAIL":
            text = "THE FIT DID NOT CONVERGE: do not use these numbers; nothing is decided by them."
            return f"{text} {' '.join(self._facts())}"
        if self.kind == "number":
            return " ".join([*self._facts(), self._way()]).strip()
        if self.kind == "subgroups":
            return " ".join(self._facts())
        if self.maximize is None:
            return " ".join([*self._facts(), self._ends(), TO_DECIDE])
        return self._decision()

    def _decision(self) -> str:
        best, rival = self.leading, self.runner_up
        row, contrast = self.table.loc[best], self.pair(best, rival)
        p, how = self.probability(row["p_best"]), "largest" if self.maximize else "smallest"
        facts = self._facts()
        loss = f"Expected loss of choosing it: {self.loss_text(row['expected_loss'])}."
        if contrast["p_rope"] >= self.prob and self._little(row["expected_loss"]):
            equal = self.probability(contrast["p_rope"])
            return " ".join([
                f"{self.by} {best} and {rival} are practically equal (probability {equal}): which of them is taken "
                "makes no difference that counts.", *facts, f"For {best}: {loss[0].lower()}{loss[1:]}",
            ])  # fmt: skip
        if row["p_best"] >= self.prob:
            chosen = f"Choose {self.by} {best}: it is the best ({how}) with probability {p}."
            return " ".join([chosen, *facts, loss])
        second = self.probability(self.table.loc[rival, "p_best"])
        return " ".join([
            f"Cannot tell which {self.by} is the best ({how}): {best} is it with probability {p}, {rival} with "
            f"{second}.",
            *facts, f"If one must be taken now, {best} loses least: {loss[0].lower()}{loss[1:]}", self._more(contrast),
        ]).strip()  # fmt: skip

    def _little(self, loss: float) -> bool:
        """Whether an expected loss is no more than what counts as equal; of odds it is another scale, and not asked."""
        return self.effect == "odds_multiplier" or loss <= self.rope[1] - (1.0 if self.multiplicative else 0.0)

    def _facts(self) -> list[str]:
        """The contrasts in sentences, each with one sign: against the reference, or of what leads."""
        if self.kind == "number":
            return [self._slope_sentence()]
        if self.kind == "subgroups":
            return self._subgroup_sentences()
        against = [label for label in self.ranked.index if label != self.reference]
        if self.reference is not None and len(against) <= SHOWN_EFFECTS:
            couples = [(label, self.reference) for label in against]
            if self.leading != self.reference and self.runner_up != self.reference:
                couples.append((self.leading, self.runner_up))
        else:
            couples = [self.shown_pair]
        return [self._sentence(a, b) for a, b in couples]

    def _sentence(self, a: Any, b: Any) -> str:
        figures = self.pair(a, b)
        p = self.probability(figures["p_greater"])
        return f"{a} against {b}: {self.shown(figures)}, larger with probability {p}."

    def _ends(self) -> str:
        largest, smallest = self.table["p_largest"], self.table["p_smallest"]
        p, q = self.probability(float(largest.max())), self.probability(float(smallest.max()))
        return f"Largest: {self.by} {largest.idxmax()} (probability {p}); smallest: {smallest.idxmax()} ({q})."

    def _slope_sentence(self) -> str:
        assert self.slope is not None
        slope = self.slope
        figures = {self.contrast: slope.effect, "lower": slope.lower, "upper": slope.upper}
        p = self.probability(slope.p_greater)
        if slope.straight:
            return f"One more unit of {slope.unit}: {self.shown(figures)}, a rise with probability {p}."
        high, low = self.shown_pair
        whole = self.pair(high, low)
        return (
            f"{self.by} {said(high)} against {said(low)}: {self.shown(whole)}, larger with probability "
            f"{self.probability(whole['p_greater'])}; on average {self.shown(figures)} a unit. The curve is bent: see "
            "its points."
        )

    def _way(self) -> str:
        if self.maximize is None or self.slope is None:
            return ""
        high, low = self.shown_pair
        p = self.slope.p_greater if self.maximize else 1 - self.slope.p_greater
        bent = f"{said(high)} is better than {said(low)}"
        more = f"More {self.slope.unit} is better" if self.slope.straight else bent
        return f"{more} with probability {self.probability(p)}."

    def _subgroup_sentences(self) -> list[str]:
        rows = self.table.head(SHOWN_EFFECTS)
        each = "; ".join(
            f"{said(label)}: {self.shown({str(name): value for name, value in row.items()})}"
            for label, row in zip(rows.index, rows.to_dict("records"), strict=True)
        )
        more = f" ({len(self.table) - len(rows)} more in the table)" if len(self.table) > len(rows) else ""
        pair = self.shown_pair
        figures = self.pair(*pair)
        p = self.probability(figures["p_greater"])
        a, b = map(said, pair)
        return [
            f"Effect of {self.baseline}: {each}{more}.",
            f"The effect in {a} against that in {b}: {self.shown(figures)}, larger in {a} with probability {p}.",
        ]

    def _more(self, contrast: dict[str, float]) -> str:
        """How much more data would tell the leading two apart, if their difference is as estimated."""
        from scipy.special import ndtri

        labels = list(self.table.index)
        a, b = labels.index(self.leading), labels.index(self.runner_up)
        difference = self.values.draws[:, a] - self.values.draws[:, b]
        middle, spread = abs(float(np.median(difference))), float(np.std(difference))
        times = (float(ndtri(self.prob)) * spread / middle) ** 2 if middle > 0 else math.inf
        if times <= 1:
            return ""
        if times > TOO_MANY:
            return (
                f"If the difference is as estimated, more than {TOO_MANY:g} times as many {self.tells} would be needed "
                "to tell these two apart."
            )
        many = f"{times:.1f}" if times < 3 else f"{times:.0f}"
        return (
            f"If the difference is as estimated, about {many} times as many {self.tells} would tell these two apart; "
            "bayeshlm.plan works it out for a design."
        )

    def to_text(self) -> str:
        """Verdict and tables as plain text."""
        low, high = self.rope
        note = "" if self.status == "PASS" else f"Convergence: {self.status}.\n"
        caution = f"\n{self.caution}" if self.caution else ""
        effect = f"effect of {self.baseline}" if self.kind == "subgroups" else f"relative to {self.baseline}"
        between = "Differences between the effects" if self.kind == "subgroups" else "Pairs"
        return (
            f"{note}{self.verdict()}{caution}\n\n{self.by}, {spelled(self.effect)} {effect}\n"
            f"{self.told().head(20).to_string(float_format=lambda v: f'{v:.4g}')}\n\n"
            f"{between} (practically equal: {low:.4g} to {high:.4g})\n"
            f"{self.contrasts().head(20).to_string(index=False, float_format=lambda v: f'{v:.4g}')}"
        )

    def told(self) -> pd.DataFrame:
        """The table as it is shown: what leads first, without columns that say nothing here."""
        ranked = self.ranked
        if self.kind == "subgroups":
            return ranked
        without = ["p_best", "expected_loss"] if self.maximize is None else ["p_largest", "p_smallest"]
        if self.kind == "number":
            without = ["p_best", "expected_loss", "p_largest", "p_smallest"]
        return ranked.drop(columns=without)


def spelled(name: str) -> str:
    """A column's name in words: odds ratio, for `odds_ratio`."""
    return name.replace("_", " ")


def said(label: Any) -> str:
    """A label in a sentence: numbers without digits that nobody needs."""
    return f"{label:.6g}" if isinstance(label, float) else str(label)


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def _points(difference: float) -> str:
    return f"{difference * 100:+.1f} points"


def _small(loss: float) -> str:
    """Two digits; an expected loss that no draw shows is small, not nothing."""
    return f"{loss:.2g}" if loss >= 0.001 else "less than 0.001"
