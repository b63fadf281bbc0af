"""How many groups a contrast rests on: few groups an arm cannot be made up for by many units."""

from __future__ import annotations

import numpy as np

from bayeshlm.data.checks.arms import group_constant_factors
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics

FEW_GROUPS = 5  # an arm; below about six the spread between groups is known from hardly anything but its prior


def few_groups(statistics: Statistics) -> dict[str, str]:
    """Treatment -> a sentence, for every treatment given to groups of which some arm has five or fewer.

    References
    ----------
    Taljaard, Teerenstra, Ivers, Fergusson (2016), Clinical Trials 13(4): risks of few clusters in cluster trials.
    """
    messages = {}
    found = group_constant_factors(statistics)
    for name in dict.fromkeys(name for name, _, _ in found):
        mine = [(len(arms), index, arms) for other, index, arms in found if other == name]
        _, index, arms = min(mine, key=lambda entry: entry[0])
        level = statistics.layout.levels[index]
        fewest = int(np.bincount(arms).min())
        if 0 in level.columns and fewest <= FEW_GROUPS:
            messages[name] = _sentence(name, fewest, level.name, "an arm")
    return messages


def few_children(statistics: Statistics, level: Level) -> str | None:
    """The same for a level that is compared itself: how few groups of the level inside it its groups have."""
    levels = statistics.layout.levels
    index = levels.index(level)
    sizes = {k: len(statistics.members[k]) for k, other in enumerate(levels) if set(other.keys) > set(level.keys)}
    if not sizes:
        return None
    inner = min(sizes, key=lambda k: sizes[k])
    pairs = np.unique(statistics.codes[:, [index, inner]], axis=0)
    fewest = int(np.bincount(pairs[:, 0]).min())
    return _sentence(level.name, fewest, levels[inner].name, level.name) if fewest <= FEW_GROUPS else None


def _sentence(what: str, fewest: int, level: str, each: str) -> str:
    groups = f"{fewest} group{'s' * (fewest > 1)} of {level!r}"
    whom = each if each.startswith("an ") else f"a {each!r}"
    return (
        f"The contrast of {what!r} rests on {groups} {whom}, where they are fewest: how much groups differ is then "
        "known from its prior as much as from data (see bayeshlm.sensitivity). More units do not help, more groups do."
    )
