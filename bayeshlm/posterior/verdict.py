"""What a comparison says in a few sentences: chosen, practically equal, or not to be told; and each contrast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.posterior.wording import said

if TYPE_CHECKING:
    from bayeshlm.posterior.figures import Figures

SHOWN_EFFECTS = 4  # that a verdict spells out
TOO_MANY = 10.0  # times the data, beyond which a difference is not worth telling
TO_DECIDE = (
    "To decide, say which way is better: maximize=True if larger is, maximize=False if smaller is (--maximize, "
    "--minimize)."
)


def verdict(found: Figures) -> str:
    """The answer in a few sentences: what is chosen, or that the data cannot tell, or what each contrast is."""
    if found.status == "FAIL":
        text = "THE FIT DID NOT CONVERGE: do not use these numbers; nothing is decided by them."
        return f"{text} {' '.join(_facts(found))}"
    if found.kind == "number":
        return " ".join([*_facts(found), _way(found)]).strip()
    if found.kind == "subgroups":
        return " ".join(_facts(found))
    if found.maximize is None:
        return " ".join([*_facts(found), _ends(found), TO_DECIDE])
    return _decision(found)


def _decision(found: Figures) -> str:
    best, rival = found.leading, found.runner_up
    row, contrast = found.table.loc[best], found.pair(best, rival)
    p, how = found.probability(row["p_best"]), "largest" if found.maximize else "smallest"
    facts = _facts(found)
    amount = found.loss_text(row["expected_loss"])
    if contrast["p_rope"] >= found.prob and _little(found, row["expected_loss"]):
        equal = found.probability(contrast["p_rope"])
        return " ".join([
            f"{found.by} {best} and {rival} are practically equal (probability {equal}): which of them is taken "
            "makes no difference that counts.", *facts, f"Expected loss of choosing {best}: {amount}.",
        ])  # fmt: skip
    if row["p_best"] >= found.prob:
        chosen = f"Choose {found.by} {best}: it is the best ({how}) with probability {p}."
        return " ".join([chosen, *facts, f"Expected loss of choosing it: {amount}."])
    second = found.probability(found.table.loc[rival, "p_best"])
    return " ".join([
        f"Cannot tell which {found.by} is the best ({how}): {best} is it with probability {p}, {rival} with "
        f"{second}.",
        *facts, f"If one must be taken now, {best} loses least; expected loss of choosing it: {amount}.",
        _more(found, contrast),
    ]).strip()  # fmt: skip


def _little(found: Figures, loss: float) -> bool:
    """Whether an expected loss is no more than what counts as equal; of odds it is another scale, and not asked."""
    return found.effect == "odds_multiplier" or loss <= found.rope[1] - (1.0 if found.multiplicative else 0.0)


def _facts(found: Figures) -> list[str]:
    """The contrasts in sentences, each with one sign: against the reference, or of what leads."""
    if found.kind == "number":
        return [_slope_sentence(found)]
    if found.kind == "subgroups":
        return _subgroup_sentences(found)
    against = [label for label in found.ranked.index if label != found.reference]
    if found.reference is not None and len(against) <= SHOWN_EFFECTS:
        couples = [(label, found.reference) for label in against]
        if found.leading != found.reference and found.runner_up != found.reference:
            couples.append((found.leading, found.runner_up))
    else:
        couples = [found.shown_pair]
    return [_sentence(found, a, b) for a, b in couples]


def _sentence(found: Figures, a: Any, b: Any) -> str:
    figures = found.pair(a, b)
    p = found.probability(figures["p_greater"])
    return f"{a} against {b}: {found.shown(figures)}, larger with probability {p}."


def _ends(found: Figures) -> str:
    largest, smallest = found.table["p_largest"], found.table["p_smallest"]
    p, q = found.probability(float(largest.max())), found.probability(float(smallest.max()))
    return f"Largest: {found.by} {largest.idxmax()} (probability {p}); smallest: {smallest.idxmax()} ({q})."


def _slope_sentence(found: Figures) -> str:
    assert found.slope is not None
    slope = found.slope
    figures = {found.contrast: slope.effect, "lower": slope.lower, "upper": slope.upper}
    p = found.probability(slope.p_greater)
    if slope.straight:
        return f"One more unit of {slope.unit}: {found.shown(figures)}, a rise with probability {p}."
    high, low = found.shown_pair
    whole = found.pair(high, low)
    return (
        f"{found.by} {said(high)} against {said(low)}: {found.shown(whole)}, larger with probability "
        f"{found.probability(whole['p_greater'])}; on average {found.shown(figures)} a unit. The curve is bent: see "
        "its points."
    )


def _way(found: Figures) -> str:
    if found.maximize is None or found.slope is None:
        return ""
    high, low = found.shown_pair
    p = found.slope.p_greater if found.maximize else 1 - found.slope.p_greater
    bent = f"{said(high)} is better than {said(low)}"
    more = f"More {found.slope.unit} is better" if found.slope.straight else bent
    return f"{more} with probability {found.probability(p)}."


def _subgroup_sentences(found: Figures) -> list[str]:
    rows = found.table.head(SHOWN_EFFECTS)
    each = "; ".join(
        f"{said(label)}: {found.shown({str(name): value for name, value in row.items()})}"
        for label, row in zip(rows.index, rows.to_dict("records"), strict=True)
    )
    more = f" ({len(found.table) - len(rows)} more in the table)" if len(found.table) > len(rows) else ""
    pair = found.shown_pair
    figures = found.pair(*pair)
    p = found.probability(figures["p_greater"])
    a, b = map(said, pair)
    return [
        f"Effect of {found.baseline}: {each}{more}.",
        f"The effect in {a} against that in {b}: {found.shown(figures)}, larger in {a} with probability {p}.",
    ]


def _more(found: Figures, contrast: dict[str, float]) -> str:
    """How much more data would tell the leading two apart, if their difference is as estimated."""
    from scipy.special import ndtri

    labels = list(found.table.index)
    a, b = labels.index(found.leading), labels.index(found.runner_up)
    difference = found.values.draws[:, a] - found.values.draws[:, b]
    middle, spread = abs(float(np.median(difference))), float(np.std(difference))
    times = (float(ndtri(found.prob)) * spread / middle) ** 2 if middle > 0 else math.inf
    if times <= 1:
        return ""
    if times > TOO_MANY:
        return (
            f"If the difference is as estimated, more than {TOO_MANY:g} times as many {found.tells} would be needed "
            "to tell these two apart."
        )
    many = f"{times:.1f}" if times < 3 else f"{times:.0f}"
    return (
        f"If the difference is as estimated, about {many} times as many {found.tells} would tell these two apart; "
        "bayeshlm.plan works it out for a design."
    )
