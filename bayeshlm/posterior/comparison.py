"""The record of a comparison: figures and words. Table, text and plots all show this one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayeshlm.posterior.figures import Figures, Slope
from bayeshlm.posterior.verdict import verdict
from bayeshlm.posterior.wording import share, spelled

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Slope"]
COUNTED = ("p_best", "p_largest", "p_smallest", "p_greater", "p_rope")  # in draws


@dataclass(frozen=True, eq=False)
class Comparison(Figures):
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
    conflicts : tuple of str
        Where data and priors contradict each other, to be read before the verdict.
    """

    def verdict(self) -> str:
        """The answer in a few sentences: what is chosen, or that the data cannot tell, or what each contrast is."""
        return verdict(self)

    def to_text(self) -> str:
        """Verdict and tables as plain text."""
        low, high = self.rope
        note = "" if self.status == "PASS" else f"Status: {self.status}{'' if self.conflicts else ' (see diagnose)'}.\n"
        note += "".join(f"{conflict}\n" for conflict in self.conflicts)
        caution = f"\n{self.caution}" if self.caution else ""
        effect = f"effect of {self.baseline}" if self.kind == "subgroups" else f"relative to {self.baseline}"
        between = "Differences between the effects" if self.kind == "subgroups" else "Pairs"
        return (
            f"{note}{self.verdict()}{caution}\n\n{self.by}, {spelled(self.effect)} {effect}\n"
            f"{self._written(self.told().head(20)).to_string(float_format=lambda v: f'{v:.4g}')}\n\n"
            f"{between} (practically equal: {low:.4g} to {high:.4g})\n"
            f"{self._written(self.contrasts().head(20)).to_string(index=False, float_format=lambda v: f'{v:.4g}')}"
        )

    def _written(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with its probabilities as text: draws show no certainty, and few draws few digits."""
        texts = {
            name: [share(float(p), self.effective, short=True) for p in table[name]]
            for name in COUNTED
            if name in table
        }
        return table.assign(**texts)

    def told(self) -> pd.DataFrame:
        """The table as it is shown: what leads first, without columns that say nothing here."""
        ranked = self.ranked
        if self.kind == "subgroups":
            return ranked
        without = ["p_best", "expected_loss"] if self.maximize is None else ["p_largest", "p_smallest"]
        if self.kind == "number":
            without = ["p_best", "expected_loss", "p_largest", "p_smallest"]
        return ranked.drop(columns=without)
