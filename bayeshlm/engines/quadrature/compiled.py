"""Compiled drivers: the integral at many points, and draws of all effects at each. Imported when used."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from bayeshlm.arrays import Array, Codes
from bayeshlm.engines.quadrature.families import CAP
from bayeshlm.engines.quadrature.fastmath import OPTIONS, UNCOUNTED, driver
from bayeshlm.engines.quadrature.integrals import (
    CENTRE,
    FIRST,
    GAP,
    HIGH,
    LOW,
    MOST_NODES,
    OWN,
    PRECISION,
    Nodes,
    find_modes,
    integrate,
    interpolate,
    make_nodes,
)  # fmt: skip
from bayeshlm.engines.quadrature.likelihood import (
    Cells,
    Prepared,
    Tree,
    derivatives,
    make_prepared,
    prepare,
    values,
)  # fmt: skip

TRIES = 1000  # of a rejection; one in twenty is turned down
LEAST = 1e-6  # of the largest weight: below it the proposal's ratio is not looked at
CONDITIONAL, REACH = 0.4, 7.0  # gap and half-width of the nodes that a draw is made from, in standard deviations


@driver
def log_likelihoods(
    cells: Cells, tree: Tree, beta: Array, par: Array, scales: Array, start: Array, start_shift: Array, fine: float,
    drop: float, out: Array, centre: Array,
) -> None:  # fmt: skip
    """Log of the integral over all effects at each of B points, into `out`; NaN where it could not be found.

    beta (B, p), par (B, PARAMETERS), scales (B, levels), start (innermost groups,): totals near the modes where
    `start_shift` (B,) is 0; it is added to them. The modes at the last point go into `centre` (innermost groups,).
    """
    levels = scales.shape[1]
    at = make_prepared(cells, 2 * MOST_NODES)
    if levels == 0:
        for b in range(len(beta)):
            prepare(cells, at, beta[b], par[b])
            values(0, 0.0, 1.0, out[b : b + 1], at)
        return
    inner, total = tree.first[levels - 1], tree.first[levels]
    nodes = make_nodes(total)
    found = np.empty(2 * MOST_NODES)
    room = np.empty((5, 2 * MOST_NODES))
    sums = np.empty(64 * max(inner, 1))
    for b in range(len(beta)):
        prepare(cells, at, beta[b], par[b])
        for g in range(inner, total):
            nodes.numbers[g, CENTRE] = start[g - inner] + start_shift[b]
        if find_modes(tree, at, par[b], scales[b], nodes):
            out[b], room, sums = integrate(tree, at, par[b], scales[b], nodes, fine, drop, found, room, sums)
        else:
            out[b] = math.nan
    for g in range(inner, total):
        centre[g - inner] = nodes.numbers[g, CENTRE]


@driver
def draw_effects(
    cells: Cells, tree: Tree, beta: Array, par: Array, scales: Array, start: Array, start_shift: Array, fine: float,
    drop: float, seeds: Codes, members: Codes, member_first: Codes, outer: Array, innermost: Array, told: Array,
) -> None:  # fmt: skip
    """Effects of all groups at each of B points, from the outermost level down, by rejection.

    outer (B, groups of outer levels), innermost (B, groups before equal ones were taken together, in the order of
    `members`); told (B, 2): log of the integral, and the largest error of interpolating l of outer groups at twice
    their gap (2^8 times that at the gap itself).
    """
    levels = scales.shape[1]
    inner, total = tree.first[levels - 1], tree.first[levels]
    at = make_prepared(cells, 2 * MOST_NODES)
    nodes = make_nodes(total)
    found = np.empty(2 * MOST_NODES)
    room = np.empty((5, 2 * MOST_NODES))
    sums = np.empty(64 * max(inner, 1))
    drawn = np.zeros(inner)
    one = np.empty(1)
    for b in range(len(beta)):
        np.random.seed(seeds[b])  # each draw's own, so that it does not matter which thread draws it
        prepare(cells, at, beta[b], par[b])
        for g in range(inner, total):
            nodes.numbers[g, CENTRE] = start[g - inner] + start_shift[b]
        told[b] = 0.0
        if not find_modes(tree, at, par[b], scales[b], nodes):
            told[b, 0] = math.nan
            outer[b] = math.nan
            innermost[b] = math.nan
            continue
        told[b, 0], room, sums = integrate(tree, at, par[b], scales[b], nodes, fine, drop, found, room, sums)
        for level in range(levels):
            s = scales[b, level]
            last = level == levels - 1
            for g in range(tree.first[level], tree.first[level + 1]):
                above = drawn[tree.parent[g]] if level else 0.0
                first = nodes.counts[g, FIRST]
                mine = sums[:0] if last else sums[first : first + nodes.counts[g, LOW] + nodes.counts[g, HIGH] + 1]
                if not last:
                    told[b, 1] = max(told[b, 1], roughness(mine))
                gap, x0, low, count = conditional(g, level, above, s, drop, tree, nodes, mine, found, at, par[b])
                limit = proposal_limit(room[0], found, count, low, gap, x0 - above, s)
                if not last:
                    drawn[g] = reject(g, -1, above, s, gap, x0, low, count, limit, room[0], nodes, mine, at, one)
                    outer[b, g] = drawn[g] - above
                    continue
                for m in range(member_first[g - inner], member_first[g - inner + 1]):
                    innermost[b, members[m]] = reject(
                        g, g - inner, above, s, gap, x0, low, count, limit, room[0], nodes, mine, at, one
                    ) - above  # fmt: skip


@njit(**OPTIONS)
def roughness(mine: Array) -> float:
    """Largest error of every second node's value interpolated from the others, where the ends are not near."""
    others = mine[::2].copy()
    worst = 0.0
    for j in range(9, len(mine) - 9, 2):
        worst = max(worst, abs(interpolate(0.5 * j, others, len(others)) - mine[j]))
    return worst


@njit(**UNCOUNTED)
def of_rows(g: int, row: int, start: float, gap: float, out: Array, nodes: Nodes, mine: Array, at: Prepared) -> None:
    """L of a group at start, start + gap, ...: evaluated for innermost group `row`, else between the nodes."""
    if row >= 0:
        values(row, start, gap, out, at)
        return
    for j in range(len(out)):
        x = (start + j * gap - nodes.numbers[g, CENTRE]) / nodes.numbers[g, GAP] + nodes.counts[g, LOW]
        out[j] = interpolate(x, mine, len(mine))


@njit(**UNCOUNTED)
def conditional(
    g: int, level: int, above: float, s: float, drop: float, tree: Tree, nodes: Nodes, mine: Array, found: Array,
    at: Prepared, par: Array,
) -> tuple[float, float, int, int]:  # fmt: skip
    """Nodes of a group's total given its parent's: (gap, node of number `low`, low, number); `found` gets l there."""
    levels = len(tree.first) - 1
    row = g - tree.first[levels - 1] if level == levels - 1 else -1
    k = 1.0 / (1.0 + nodes.numbers[g, PRECISION] * s * s)
    x0 = nodes.numbers[g, CENTRE]
    if level:
        x0 += k * (above - nodes.numbers[tree.parent[g], CENTRE])
    own = nodes.numbers[g, OWN]
    if row >= 0:
        slope, information = derivatives(row, x0, at)
        own = s * s / (1.0 + information * s * s)
        step = own * (slope - (x0 - above) / (s * s))
        x0 += min(max(step, -4.0 * math.sqrt(own)), 4.0 * math.sqrt(own))
    half = len(found) // 2
    gap = max(min(CONDITIONAL * math.sqrt(own), 0.5 * par[CAP]), 2.0 * REACH * math.sqrt(own) / half)
    low = high = min(math.ceil(REACH * math.sqrt(own) / gap), half - 1)
    away = x0 - above
    of_rows(g, row, x0 - low * gap, gap, found[half - low : half + high + 1], nodes, mine, at)
    top = -math.inf
    for j in range(-low, high + 1):
        top = max(top, found[half + j] - 0.5 * ((away + j * gap) / s) ** 2)
    block = 4
    while low < half - 1 - block and found[half - low] - 0.5 * ((away - low * gap) / s) ** 2 > top - drop:
        of_rows(g, row, x0 - (low + block) * gap, gap, found[half - low - block : half - low], nodes, mine, at)
        for j in range(low + 1, low + block + 1):
            top = max(top, found[half - j] - 0.5 * ((away - j * gap) / s) ** 2)
        low += block
    while high < half - 1 - block and found[half + high] - 0.5 * ((away + high * gap) / s) ** 2 > top - drop:
        of_rows(g, row, x0 + (high + 1) * gap, gap, found[half + high + 1 : half + high + 1 + block], nodes, mine, at)
        for j in range(high + 1, high + block + 1):
            top = max(top, found[half + j] - 0.5 * ((away + j * gap) / s) ** 2)
        high += block
    count = low + high + 1
    for j in range(count):
        found[j] = found[half - low + j]
    return gap, x0, low, count


@njit(**UNCOUNTED)
def proposal_limit(cumulated: Array, found: Array, count: int, low: int, gap: float, away: float, s: float) -> float:
    """Weights of the proposal into `cumulated`, summed up, and the most that the density is of the proposal.

    The proposal is a sum of cubic B-splines about the nodes, weighted by the density there: a density of nearly the
    target's shape, wider by gap^2 / 3.
    """
    top = -math.inf
    for j in range(count):
        found[j] -= 0.5 * ((away + (j - low) * gap) / s) ** 2
        top = max(top, found[j])
    total = 0.0
    for j in range(count):
        found[j] = math.exp(found[j] - top)
        total += found[j]
        cumulated[j] = total
    limit = 1.0
    for j in range(1, count - 1):
        if found[j] > LEAST:
            limit = max(limit, 6.0 * found[j] / (found[j - 1] + 4.0 * found[j] + found[j + 1]))
    cumulated[count] = top  # weights are densities over exp(top)
    return 1.01 * limit


@njit(**UNCOUNTED)
def spline(t: float) -> float:
    """Cubic B-spline: the density of the sum of four uniform numbers less 2."""
    t = abs(t)
    if t >= 2.0:
        return 0.0
    if t >= 1.0:
        return (2.0 - t) ** 3 / 6.0
    return 2.0 / 3.0 - t * t * (1.0 - 0.5 * t)


@njit(**UNCOUNTED)
def reject(
    g: int, row: int, above: float, s: float, gap: float, x0: float, low: int, count: int, limit: float,
    cumulated: Array, nodes: Nodes, mine: Array, at: Prepared, one: Array,
) -> float:  # fmt: skip
    """One draw of a group's total given its parent's; NaN where none was accepted."""
    top, total = cumulated[count], cumulated[count - 1]
    for _ in range(TRIES):
        target = np.random.random() * total
        j, end = 0, count - 1
        while j < end:
            middle = (j + end) // 2
            if cumulated[middle] < target:
                j = middle + 1
            else:
                end = middle
        place = j + np.random.random() + np.random.random() + np.random.random() + np.random.random() - 2.0
        x = x0 + (place - low) * gap
        nearest = math.floor(place)
        proposed = 0.0
        for i in range(max(nearest - 1, 0), min(nearest + 3, count)):
            weight = cumulated[i] - (cumulated[i - 1] if i else 0.0)
            proposed += weight * spline(place - i)
        of_rows(g, row, x, gap, one, nodes, mine, at)
        f = one[0] - 0.5 * ((x - above) / s) ** 2
        if math.log(np.random.random() + 1e-300) < f - top - math.log(limit * proposed + 1e-300):
            return x
    return math.nan
