"""Compiled integrals over the totals of nested groups. Imported when used; see `likelihood` for the idea."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from bayeshlm.arrays import Array, Codes
from bayeshlm.engines.quadrature.families import CAP, STEP
from bayeshlm.engines.quadrature.fastmath import OPTIONS, UNCOUNTED, log_of
from bayeshlm.engines.quadrature.likelihood import HALF_LOG_TAU, Prepared, Tree, derivatives, powers, values
from bayeshlm.engines.quadrature.tables import hermite_rule

ENOUGH = 0.4  # of a standard deviation: a Newton step below it leaves less than the nodes' placing needs
MOST_STEPS, MOST_NODES, WIDENINGS = 40, 1200, 8
LOOSE, WEAK = 3.0, 0.05  # see `lay_nodes`
BLOCK = 4  # nodes by which an innermost group's are extended
POINTS, WEIGHTS = hermite_rule(7)  # compiled in
MORE_POINTS, MORE_WEIGHTS = hermite_rule(13)
# Columns of `Nodes.numbers` and `Nodes.counts`
CENTRE, PRECISION, PULL, OWN, MARGINAL, GAP, LEFT, RIGHT = range(8)
LOW, HIGH, FIRST, SMOOTH = range(4)


class Nodes(NamedTuple):
    """Per group of all levels where its integrand is, and the nodes laid there.

    numbers: (groups, 8)
        joint mode of the total; information of the rows about it at the mode; PRECISION times where they draw it;
        variance given the parent's total; variance; gap between nodes; how far nodes reach to both sides, in standard
        deviations.
    counts: (groups, 4)
        nodes below the mode; above; place of the first among the nodes of all outer levels; 1 where nodes resolve l
        rather than the integrand (see `lay_nodes`).
    """

    numbers: Array
    counts: Codes


@njit(**OPTIONS)
def make_nodes(groups: int) -> Nodes:
    return Nodes(np.zeros((groups, 8)), np.zeros((groups, 4), np.int64))


@njit(**UNCOUNTED)
def find_modes(tree: Tree, at: Prepared, par: Array, scales: Array, nodes: Nodes) -> bool:
    """Joint mode of all totals by Newton's method, from the innermost groups' CENTRE; False if it fails.

    Messages go up the tree and means come down, as in the exact engine's sweep: a group whose rows have information I
    about its total tells its parent I / (1 + I s^2).
    """
    number = nodes.numbers
    levels = len(scales)
    inner = tree.first[levels - 1]
    total = tree.first[levels]
    for _ in range(MOST_STEPS):
        for g in range(inner):
            number[g, PRECISION] = 0.0
            number[g, PULL] = 0.0
        for g in range(inner, total):
            f1, f2 = derivatives(g - inner, number[g, CENTRE], at)
            number[g, PRECISION] = f2
            number[g, PULL] = f2 * number[g, CENTRE] + f1
        for level in range(levels - 1, 0, -1):
            s2 = scales[level] * scales[level]
            for g in range(tree.first[level], tree.first[level + 1]):
                many = tree.copies[g - inner] if level == levels - 1 else 1.0
                shrink = many / (1.0 + number[g, PRECISION] * s2)
                number[tree.parent[g], PRECISION] += shrink * number[g, PRECISION]
                number[tree.parent[g], PULL] += shrink * number[g, PULL]
        largest = 0.0
        for level in range(levels):
            s2 = scales[level] * scales[level]
            for g in range(tree.first[level], tree.first[level + 1]):
                above, spread = 0.0, 0.0
                if level:
                    above, spread = number[tree.parent[g], CENTRE], number[tree.parent[g], MARGINAL]
                k = 1.0 / (1.0 + number[g, PRECISION] * s2)
                number[g, OWN] = s2 * k
                number[g, MARGINAL] = s2 * k + k * k * spread
                new = (s2 * number[g, PULL] + above) * k
                if level == levels - 1:
                    step = new - number[g, CENTRE]
                    if not math.isfinite(step):
                        return False
                    step = min(max(step, -par[STEP]), par[STEP])
                    largest = max(largest, abs(step) / math.sqrt(number[g, MARGINAL] + 1e-300))
                    number[g, CENTRE] += step
                else:
                    number[g, CENTRE] = new
        if largest < ENOUGH:
            return True
    return False


@njit(**UNCOUNTED)
def lay_nodes(tree: Tree, par: Array, scales: Array, nodes: Nodes, fine: float) -> int:
    """Gaps of all groups, and the nodes of the outer levels; returns their number.

    Nodes resolve a total given its parent's. Where the rows say little within the prior's width (WEAK), and the total
    is known LOOSE times better given its parent's than by itself, they would be many: l is smooth on the wider scale,
    nodes resolve that, and the integrals take l between them by interpolation.
    """
    number, count = nodes.numbers, nodes.counts
    levels = len(scales)
    used = 0
    for level in range(levels):
        s2 = scales[level] * scales[level]
        for g in range(tree.first[level], tree.first[level + 1]):
            weak = number[g, PRECISION] * s2 < WEAK
            loose = number[g, MARGINAL] > LOOSE * LOOSE * number[g, OWN]
            count[g, SMOOTH] = 1 if level and weak and loose else 0
            sd = math.sqrt(number[g, MARGINAL])
            if count[g, SMOOTH]:
                gap = fine * min(0.3 * sd, 0.6 * par[CAP])
            else:
                gap = fine * min(0.75 * math.sqrt(number[g, OWN]), par[CAP])
            gap = max(gap, sd * (number[g, LEFT] + number[g, RIGHT]) / MOST_NODES)
            number[g, GAP] = gap
            count[g, LOW] = math.ceil(sd * number[g, LEFT] / gap)
            count[g, HIGH] = math.ceil(sd * number[g, RIGHT] / gap)
            if level < levels - 1:
                count[g, FIRST] = used
                used += count[g, LOW] + count[g, HIGH] + 1
    return used


@njit(**UNCOUNTED)
def prior_of_total(g: int, level: int, tree: Tree, scales: Array, nodes: Nodes, slope: float) -> tuple[float, float]:
    """(variance, centre less the group's own) of a total a priori, its parent's total known as the other groups tell.

    By Gaussian approximation at the mode, where l has this slope.
    """
    variance = scales[level] * scales[level]
    if level == 0:
        return variance, -nodes.numbers[g, CENTRE]
    told = nodes.numbers[g, PRECISION] / (1.0 + nodes.numbers[g, PRECISION] * variance)
    known = 1.0 / nodes.numbers[tree.parent[g], MARGINAL]
    variance += 1.0 / max(known - told, 1e-12 * known)
    return variance, -slope * variance


@njit(**UNCOUNTED)
def walk(
    g: int, level: int, inner: int, tree: Tree, scales: Array, nodes: Nodes, drop: float, found: Array, at: Prepared
) -> int:
    """L at an innermost group's nodes into `found`, on both sides until the integrand is `drop` below its top.

    Node j is at CENTRE + (j - LOW) GAP. Returns the number of nodes.
    """
    v, gap = nodes.numbers[g, CENTRE], nodes.numbers[g, GAP]
    half = len(found) // 2
    low, high = min(nodes.counts[g, LOW], half - 1), min(nodes.counts[g, HIGH], half - 1)
    values(g - inner, v - low * gap, gap, found[half - low : half + high + 1], at)
    slope = (found[half + 1] - found[half - 1]) / (2.0 * gap)
    variance, away = prior_of_total(g, level, tree, scales, nodes, slope)
    top = -math.inf
    for j in range(-low, high + 1):
        top = max(top, found[half + j] - 0.5 * (j * gap - away) ** 2 / variance)
    while low < half - 1 - BLOCK and found[half - low] - 0.5 * (low * gap + away) ** 2 / variance > top - drop:
        values(g - inner, v - (low + BLOCK) * gap, gap, found[half - low - BLOCK : half - low], at)
        for j in range(low + 1, low + BLOCK + 1):
            top = max(top, found[half - j] - 0.5 * (j * gap + away) ** 2 / variance)
        low += BLOCK
    while high < half - 1 - BLOCK and found[half + high] - 0.5 * (high * gap - away) ** 2 / variance > top - drop:
        values(g - inner, v + (high + 1) * gap, gap, found[half + high + 1 : half + high + 1 + BLOCK], at)
        for j in range(high + 1, high + BLOCK + 1):
            top = max(top, found[half + j] - 0.5 * (j * gap - away) ** 2 / variance)
        high += BLOCK
    nodes.counts[g, LOW], nodes.counts[g, HIGH] = low, high
    count = low + high + 1
    for j in range(count):
        found[j] = found[half - low + j]
    return count


@njit(**UNCOUNTED)
def interpolate(x: float, known: Array, count: int) -> float:
    """Value at x, in gaps from the first node, of the polynomial through the eight nodes around."""
    points = min(count, 8)
    start = min(max(math.floor(x) - points // 2 + 1, 0), count - points)
    upper, lower, sign = 0.0, 0.0, 1.0
    binomial = 1.0
    for j in range(points):
        d = x - (start + j)
        if d == 0.0:
            return known[start + j]
        weight = sign * binomial / d
        upper += weight * known[start + j]
        lower += weight
        sign = -sign
        binomial = binomial * (points - 1 - j) / (j + 1)
    return upper / lower


@njit(**UNCOUNTED)
def add_integrals(
    g: int, level: int, tree: Tree, scales: Array, nodes: Nodes, known: Array, sums: Array, copies: float, room: Array,
    fine: float,
) -> None:  # fmt: skip
    """Add F of group g, from l `known` at its nodes, to `sums` at its parent's nodes (at 0 for the outermost level)."""
    s, count = scales[level], len(known)
    base, step, many = 0.0, 0.0, 1
    if level:
        p = tree.parent[g]
        step, many = nodes.numbers[p, GAP], nodes.counts[p, LOW] + nodes.counts[p, HIGH] + 1
        base = nodes.numbers[p, CENTRE] - nodes.counts[p, LOW] * step
    v, gap, low = nodes.numbers[g, CENTRE], nodes.numbers[g, GAP], nodes.counts[g, LOW]
    if nodes.counts[g, SMOOTH]:
        points, weights = (POINTS, WEIGHTS) if fine >= 1.0 else (MORE_POINTS, MORE_WEIGHTS)
        for i in range(many):
            middle = (base + i * step - v) / gap + low
            top = interpolate(middle, known, count)
            total = 0.0
            for k in range(len(points)):
                total += weights[k] * math.exp(interpolate(middle + points[k] * s / gap, known, count) - top)
            sums[i] += copies * (top + math.log(total))
        return
    # exp(l) is taken out as e_j = exp(l_j - (x_j - m)^2 / 2 W), which falls to both sides; with it goes the factor
    # exp(-(x_j - b)^2 / 2 s^2 + (x_j - m)^2 / 2 W), a geometric sequence with a geometric ratio along j.
    slope = (known[low + 1] - known[low - 1]) / (2.0 * gap)
    wide, away = prior_of_total(g, level, tree, scales, nodes, slope)
    e = room[0]
    top = -math.inf
    for j in range(count):
        d = (j - low) * gap - away
        e[j] = known[j] - 0.5 * d * d / wide
        top = max(top, e[j])
    for j in range(count):
        e[j] = math.exp(e[j] - top)
    curve = -0.5 / (s * s) + 0.5 / wide
    ratio = math.exp(2.0 * curve * gap * gap)
    constant = top + math.log(gap / s) - HALF_LOG_TAU + 0.5 * away * away / wide
    total, term, up, down = room[1], room[2], room[3], room[4]
    # The factor at node low + 1 over that at node low, and at low - 1: geometric along the parent's nodes i.
    linear = -(v - base) / (s * s) - away / wide
    powers((linear + curve * gap) * gap, step * gap / (s * s), many, up)
    powers((-linear + curve * gap) * gap, -step * gap / (s * s), many, down)
    for i in range(many):
        total[i] = e[low]
        term[i] = 1.0
    for j in range(low + 1, count):
        for i in range(many):
            term[i] *= up[i]
            up[i] *= ratio
            total[i] += e[j] * term[i]
    for i in range(many):
        term[i] = 1.0
    for j in range(low - 1, -1, -1):
        for i in range(many):
            term[i] *= down[i]
            down[i] *= ratio
            total[i] += e[j] * term[i]
    for i in range(many):
        d = v - (base + i * step)
        sums[i] += copies * (constant - 0.5 * d * d / (s * s) + log_of(max(total[i], 1e-300)))


@njit(**OPTIONS)
def integrate(
    tree: Tree, at: Prepared, par: Array, scales: Array, nodes: Nodes, fine: float, drop: float, found: Array,
    room: Array, sums: Array,
) -> tuple[float, Array, Array]:  # fmt: skip
    """Log of the integral over all effects, from the modes that `find_modes` left.

    Returns it, and `room` and `sums` (l of the outer groups at their nodes), which may have grown.
    """
    levels = len(scales)
    inner, total = tree.first[levels - 1], tree.first[levels]
    reach = math.sqrt(2.0 * drop)
    for g in range(total):
        nodes.numbers[g, LEFT] = reach
        nodes.numbers[g, RIGHT] = reach
    root = np.zeros(1)
    for _ in range(WIDENINGS):
        used = lay_nodes(tree, par, scales, nodes, fine)
        if len(sums) < used:
            sums = np.empty(2 * used)
        sums[:used] = 0.0
        root[0] = 0.0
        widest = len(found)
        for g in range(inner):
            widest = max(widest, nodes.counts[g, LOW] + nodes.counts[g, HIGH] + 1)
        if room.shape[1] < widest:
            room = np.empty((5, widest))
        for g in range(inner, total):
            count = walk(g, levels - 1, inner, tree, scales, nodes, drop, found, at)
            target = root if levels == 1 else sums[nodes.counts[tree.parent[g], FIRST] :]
            add_integrals(g, levels - 1, tree, scales, nodes, found[:count], target, tree.copies[g - inner], room, fine)
        short = False
        for level in range(levels - 2, -1, -1):
            for g in range(tree.first[level], tree.first[level + 1]):
                first = nodes.counts[g, FIRST]
                mine = sums[first : first + nodes.counts[g, LOW] + nodes.counts[g, HIGH] + 1]
                if widen(g, level, tree, scales, nodes, mine, drop):
                    short = True
                target = root if level == 0 else sums[nodes.counts[tree.parent[g], FIRST] :]
                add_integrals(g, level, tree, scales, nodes, mine, target, 1.0, room, fine)
        if not short:
            break
    return root[0], room, sums


@njit(**UNCOUNTED)
def widen(g: int, level: int, tree: Tree, scales: Array, nodes: Nodes, mine: Array, drop: float) -> bool:
    """Whether an outer group's nodes end before its integrand does; its reach is then made longer."""
    low, count, gap = nodes.counts[g, LOW], len(mine), nodes.numbers[g, GAP]
    slope = (mine[low + 1] - mine[low - 1]) / (2.0 * gap)
    wide, away = prior_of_total(g, level, tree, scales, nodes, slope)
    top = -math.inf
    for j in range(count):
        top = max(top, mine[j] - 0.5 * ((j - low) * gap - away) ** 2 / wide)
    short = False
    if not mine[0] - 0.5 * (low * gap + away) ** 2 / wide < top - 0.8 * drop:
        nodes.numbers[g, LEFT] *= 1.5
        short = True
    if not mine[count - 1] - 0.5 * ((count - 1 - low) * gap - away) ** 2 / wide < top - 0.8 * drop:
        nodes.numbers[g, RIGHT] *= 1.5
        short = True
    return short
