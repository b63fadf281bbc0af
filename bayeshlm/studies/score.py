"""What one simulated study's decision was worth: the choice against the truth, and its contrasts' intervals."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.errors import EngineError
from bayeshlm.studies.plan.quick import QuickValues

ALL_PAIRS = 12  # up to so many groups all pairs are judged; of more each with the next, which has the same expectation
SCORES = (
    "correct", "assured", "loss", "spread", "width", "excludes_zero", "wrong_sign", "covered",
    "estimate_if_sure", "truth_if_sure",
)  # fmt: skip


def score(values: QuickValues, truth: Array, *, log: bool, maximize: bool, prob: float) -> dict[str, float]:
    """Score a decision against the truth.

    Parameters
    ----------
    values : QuickValues
        Posterior of the groups' values.
    truth : (groups,)
        Their true values, in the same order, on the scale on which effects add.
    log : bool
        Effects multiply: losses are of multipliers, contrasts are log ratios.
    maximize : bool
        Whether larger is better.
    prob : float
        Probability of the contrasts' equal-tailed intervals, and of a best group that counts as assured.

    Returns
    -------
    dict of str to float
        `correct` 1 where the chosen group (the smallest posterior expected loss, as `bayeshlm.compare` chooses) is
        truly best; `assured` 1 where moreover its posterior P(best) is at least `prob`; `loss` of the choice and
        `spread` from best to worst group, as multipliers or differences; means over pairs of groups: `width` of the
        interval, `excludes_zero`, `wrong_sign` (excludes 0 on the wrong side; a true 0 has no right side), `covered`,
        and |posterior median| and |truth| where the interval excludes 0, else 0.

    Raises
    ------
    EngineError
        If draws are not finite.
    """
    with np.errstate(over="ignore"):  # refused below
        shown, true = (np.exp(values.draws), np.exp(truth)) if log else (values.draws, truth)
    if not np.isfinite(shown).all() or not np.isfinite(true).all():
        raise EngineError("Draws or truth leave the floats: the priors allow absurd effects.")
    if not maximize:
        shown, true = -shown, -true
    chosen = int(np.argmax(shown.mean(axis=0)))
    best = true.max()
    top = shown == shown.max(axis=1, keepdims=True)
    p_best = float((top[:, chosen] / top.sum(axis=1)).mean())
    correct = float(true[chosen] == best)
    return {
        "correct": correct, "assured": correct * (p_best >= prob), "loss": float(best - true[chosen]),
        "spread": float(best - true.min()), **_contrasts(values, truth, prob),
    }  # fmt: skip


def _contrasts(values: QuickValues, truth: Array, prob: float) -> dict[str, float]:
    a, b = _pairs(len(truth))
    difference = truth[a] - truth[b]
    lower, middle, upper = np.quantile(
        values.draws[:, a] - values.draws[:, b], [(1 - prob) / 2, 0.5, (1 + prob) / 2], axis=0
    )
    sure = (lower > 0) | (upper < 0)
    wrong = sure & (np.sign(middle) != np.sign(difference))
    return {
        "width": float((upper - lower).mean()), "excludes_zero": float(sure.mean()), "wrong_sign": float(wrong.mean()),
        "covered": float(((lower <= difference) & (difference <= upper)).mean()),
        "estimate_if_sure": float((np.abs(middle) * sure).mean()),
        "truth_if_sure": float((np.abs(difference) * sure).mean()),
    }  # fmt: skip


def _pairs(groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if groups > ALL_PAIRS:
        first = np.arange(groups)
        return first, (first + 1) % groups
    pairs = np.array(list(itertools.combinations(range(groups), 2)))
    return pairs[:, 0], pairs[:, 1]
