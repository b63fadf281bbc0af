"""Compiled loops: what a group's rows say of its effect, and (in `integrals`) integrals over nested levels.

Numba compiles them at their first use in a process, or takes them from its cache. Nothing imports this module before
it is used.

A group's *total* v is its effect plus those of the groups around it. Given the parent's total b it is N(b, s^2) a
priori, and what its rows say is a function l(v) that does not know b. So l is evaluated once at nodes of its own, and
serves all nodes b of the parent: F(b) = log of the integral of N(v; b, s^2) exp(l(v)) dv. The sum of F over the
children is what the parent's "rows" say. Equally spaced nodes (the trapezoidal rule) converge faster than any power
for such integrands (Trefethen and Weideman 2014, SIAM Review 56(3), section 5), wherever they are placed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from bayeshlm.arrays import Array, Codes
from bayeshlm.engines.quadrature.families import EXP0, INV_SD, INV_VAR, LINEAR, SECOND, SHIFT
from bayeshlm.engines.quadrature.fastmath import OPTIONS, UNCOUNTED, exp_of, log1p_of, log_of
from bayeshlm.engines.quadrature.tables import PER_UNIT, PHI_HIGH, PHI_LOW, log_phi_table

LOG_PHI = log_phi_table()  # compiled in
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
SAFE = 170.0  # |eta + v| up to which products of four odds are numbers
ANCHOR = 16  # nodes after which a geometric sequence starts anew, so that rounding does not add up


class Cells(NamedTuple):
    """What the likelihood needs of the rows, in order of the innermost groups; p common columns.

    Each kind of cell has the starts of the groups `*_first` (groups + 1,), columns `*_x` (cells, p), offsets `*_o`, and
    weights. See `bayeshlm.engines.quadrature.families` for what they stand for.
    """

    linear: Array  # (groups,) coefficient of v, times LINEAR
    square: Array  # (groups,) sum of weights of Gaussian rows, or empty
    cross: Array  # (groups, p + 1) of Gaussian rows: sum w y, sum w x
    e_first: Codes
    e_x: Array
    e_o: Array
    e_w: Array  # (cells, kinds): weights of exp(rate eta)
    rate: Array  # (kinds,)
    s_first: Codes
    s_x: Array
    s_o: Array
    s_w: Array  # (cells, 2): weights of log(1 + exp(eta - SHIFT)): the first plus SECOND times the second
    s_units: Codes  # (groups,) how many of a group's, the first of them, have weights 1 and 0
    c_first: Codes
    c_x: Array
    c_o: Array
    c_k: Array  # sign and root weight: log Phi(k (eta - bound) / sd), the bound taken off the offset
    c_w: Array
    i_first: Codes
    i_x: Array
    i_o: Array
    i_width: Array
    i_k: Array
    i_w: Array


class Tree(NamedTuple):
    """Nested levels, outermost first, all groups in one numbering.

    first: (levels + 1,) where a level's groups start; parent: (groups of all levels,), -1 on the outermost;
    copies: (innermost groups,) how many groups are this one over.
    """

    first: Codes
    parent: Codes
    copies: Array


class Prepared(NamedTuple):
    """What one point phi makes of the cells: l(v) of group g is a sum of its parts.

    Few arrays, as each costs time whenever a compiled function is called.

    first: (groups + 1, 4) where a group's rows of `soft`, `tail` and `between` start, and its number of weights 1
    soft: (3, cells) exp(eta - SHIFT) at v = 0, weight, eta - SHIFT
    tail: (cells, 3) argument of Phi at v = 0, its slope in v, weight
    between: (cells, 4) both arguments at v = 0, minus their slope in v, weight
    plain: (groups, 2) coefficients of v and v^2
    growth: (groups, kinds) coefficients of exp(rate v)
    rate: (kinds,)
    reach: (groups,) largest |eta - SHIFT| of `soft`
    room: scratch
    """

    first: Codes
    soft: Array
    tail: Array
    between: Array
    plain: Array
    growth: Array
    rate: Array
    reach: Array
    room: Array


@njit(**OPTIONS)
def make_prepared(cells: Cells, nodes: int) -> Prepared:
    """Room for a point; `nodes` is the most for which `values` is asked at a time."""
    groups = len(cells.linear)
    first = np.zeros((groups + 1, 4), np.int64)
    first[:, 0], first[:, 1], first[:, 2] = cells.s_first, cells.c_first, cells.i_first
    first[:groups, 3] = cells.s_units
    return Prepared(
        first, np.empty((3, len(cells.s_o))), np.empty((len(cells.c_o), 3)), np.empty((len(cells.i_o), 4)),
        np.zeros((groups, 2)), np.zeros((groups, len(cells.rate))), cells.rate, np.zeros(groups), np.empty(nodes),
    )  # fmt: skip


@njit(**UNCOUNTED)
def prepare(cells: Cells, at: Prepared, beta: Array, par: Array) -> None:
    """Fill `at` for common effects beta and multipliers par."""
    p = len(beta)
    for c in range(len(cells.s_o)):
        eta = cells.s_o[c] - par[SHIFT]
        for j in range(p):
            eta += cells.s_x[c, j] * beta[j]
        at.soft[2, c] = eta
        at.soft[1, c] = cells.s_w[c, 0] + par[SECOND] * cells.s_w[c, 1]
    for c in range(len(cells.s_o)):
        at.soft[0, c] = exp_of(min(max(at.soft[2, c], -700.0), 700.0))
    for c in range(len(cells.c_o)):
        eta = cells.c_o[c]
        for j in range(p):
            eta += cells.c_x[c, j] * beta[j]
        slope = cells.c_k[c] * par[INV_SD]
        at.tail[c, 0], at.tail[c, 1], at.tail[c, 2] = slope * eta, slope, cells.c_w[c]
    for c in range(len(cells.i_o)):
        eta = cells.i_o[c]
        for j in range(p):
            eta += cells.i_x[c, j] * beta[j]
        slope = cells.i_k[c] * par[INV_SD]
        at.between[c, 0], at.between[c, 1] = -slope * eta, slope * (cells.i_width[c] - eta)
        at.between[c, 2], at.between[c, 3] = slope, cells.i_w[c]
    kinds = len(cells.rate)
    for g in range(len(cells.linear)):
        at.reach[g] = 0.0
        for c in range(cells.s_first[g], cells.s_first[g + 1]):
            at.reach[g] = max(at.reach[g], abs(at.soft[2, c]))
        at.plain[g, 0] = par[LINEAR] * cells.linear[g]
        if len(cells.square):
            pull = cells.cross[g, 0]
            for j in range(p):
                pull -= cells.cross[g, 1 + j] * beta[j]
            at.plain[g, 0] += pull * par[INV_VAR]
            at.plain[g, 1] = -0.5 * cells.square[g] * par[INV_VAR]
        for k in range(kinds):
            at.growth[g, k] = 0.0
        for c in range(cells.e_first[g], cells.e_first[g + 1]):
            eta = cells.e_o[c]
            for j in range(p):
                eta += cells.e_x[c, j] * beta[j]
            for k in range(kinds):
                at.growth[g, k] += par[EXP0 + k] * cells.e_w[c, k] * math.exp(cells.rate[k] * eta)


@njit(**UNCOUNTED)
def log_phi(t: float) -> tuple[float, float, float]:
    """Log Phi(t) and its first two derivatives."""
    if t > PHI_HIGH:
        return 0.0, 0.0, 0.0
    if t < PHI_LOW:
        u = 1.0 / (t * t)
        series = 1.0 - u * (1.0 - 3.0 * u * (1.0 - 5.0 * u * (1.0 - 7.0 * u * (1.0 - 9.0 * u))))
        ratio = -t / series
        return -0.5 * t * t - HALF_LOG_TAU - math.log(-t) + math.log(series), ratio, -ratio * (t + ratio)
    k = int((t - PHI_LOW) * PER_UNIT + 0.5)
    d = t - (k / PER_UNIT + PHI_LOW)
    a = LOG_PHI[k]
    f = a[0] + d * (a[1] + d * (a[2] + d * (a[3] + d * (a[4] + d * (a[5] + d * (a[6] + d * a[7]))))))
    f1 = a[1] + d * (2 * a[2] + d * (3 * a[3] + d * (4 * a[4] + d * (5 * a[5] + d * (6 * a[6] + d * 7 * a[7])))))
    f2 = 2 * a[2] + d * (6 * a[3] + d * (12 * a[4] + d * (20 * a[5] + d * (30 * a[6] + d * 42 * a[7]))))
    return f, f1, f2


@njit(**UNCOUNTED)
def log_interval(a: float, b: float) -> tuple[float, float, float]:
    """log(Phi(b) - Phi(a)) for a < b, and its first two derivatives by a shift of both."""
    if a + b > 0:  # in the smaller tail, where the difference keeps its digits
        f, f1, f2 = log_interval_left(-b, -a)
        return f, -f1, f2
    return log_interval_left(a, b)


@njit(**UNCOUNTED)
def log_interval_left(a: float, b: float) -> tuple[float, float, float]:
    upper = log_phi(b)[0]
    lower = log_phi(a)[0]
    gap = lower - upper
    f = upper + (math.log1p(-math.exp(gap)) if gap < -0.69 else math.log(-math.expm1(gap)))
    high = math.exp(-0.5 * b * b - HALF_LOG_TAU - f)
    low = math.exp(-0.5 * a * a - HALF_LOG_TAU - f)
    f1 = high - low
    return f, f1, a * low - b * high - f1 * f1


@njit(**UNCOUNTED)
def powers(start: float, gap: float, count: int, out: Array) -> None:
    """exp(start + j gap) for j < count."""
    ratio = math.exp(min(gap, 700.0))
    for j in range(count):
        if j % ANCHOR == 0:
            out[j] = math.exp(min(start + j * gap, 700.0))
        else:
            out[j] = out[j - 1] * ratio


@njit(**UNCOUNTED)
def soft_sums(g: int, start: float, gap: float, out: Array, at: Prepared) -> None:
    """Take the sums of log(1 + exp(eta + v)) off `out`, where no product of odds leaves the floats."""
    count, odds = len(out), at.room
    powers(start, gap, count, odds)
    c, high = at.first[g, 0], at.first[g + 1, 0]
    units = c + at.first[g, 3]
    while c + 4 <= units:  # four logarithms of weight 1 are the logarithm of a product
        a0, a1, a2, a3 = at.soft[0, c], at.soft[0, c + 1], at.soft[0, c + 2], at.soft[0, c + 3]
        for j in range(count):
            r = odds[j]
            out[j] -= log_of((1.0 + a0 * r) * (1.0 + a1 * r) * (1.0 + a2 * r) * (1.0 + a3 * r))
        c += 4
    while c < high:
        a0, w = at.soft[0, c], at.soft[1, c]
        for j in range(count):
            out[j] -= w * log1p_of(a0 * odds[j])
        c += 1


@njit(**UNCOUNTED)
def far_soft_sums(g: int, start: float, gap: float, out: Array, at: Prepared) -> None:
    """As `soft_sums`, for any eta and v."""
    for c in range(at.first[g, 0], at.first[g + 1, 0]):
        eta, w = at.soft[2, c] + start, at.soft[1, c]
        for j in range(len(out)):
            t = eta + j * gap
            out[j] -= w * (max(t, 0.0) + math.log1p(math.exp(-abs(t))))


@njit(**UNCOUNTED)
def values(g: int, start: float, gap: float, out: Array, at: Prepared) -> None:
    """l(v), log likelihood of group g's rows but for constants, at v = start, start + gap, ... into `out`."""
    count = len(out)
    for j in range(count):
        v = start + j * gap
        out[j] = (at.plain[g, 0] + at.plain[g, 1] * v) * v
    odds = at.room
    for k in range(len(at.rate)):
        powers(at.rate[k] * start, at.rate[k] * gap, count, odds)
        for j in range(count):
            out[j] += at.growth[g, k] * odds[j]
    low, high = at.first[g, 0], at.first[g + 1, 0]
    if high > low:
        if abs(start) + abs(count * gap) + at.reach[g] < SAFE:
            soft_sums(g, start, gap, out, at)
        else:
            far_soft_sums(g, start, gap, out, at)
    for c in range(at.first[g, 1], at.first[g + 1, 1]):
        for j in range(count):
            out[j] += at.tail[c, 2] * log_phi(at.tail[c, 0] + at.tail[c, 1] * (start + j * gap))[0]
    for c in range(at.first[g, 2], at.first[g + 1, 2]):
        for j in range(count):
            moved = at.between[c, 2] * (start + j * gap)
            out[j] += at.between[c, 3] * log_interval(at.between[c, 0] - moved, at.between[c, 1] - moved)[0]


@njit(**UNCOUNTED)
def derivatives(g: int, v: float, at: Prepared) -> tuple[float, float]:
    """Slope of l at v, and its negative second derivative (made positive where l is not concave)."""
    f1 = at.plain[g, 0] + 2.0 * at.plain[g, 1] * v
    f2 = 2.0 * at.plain[g, 1]
    least = 0.0
    for k in range(len(at.rate)):
        rate = at.rate[k]
        term = at.growth[g, k] * math.exp(rate * v)
        f1 += rate * term
        f2 += rate * rate * term
        least += abs(term)
    low, high = at.first[g, 0], at.first[g + 1, 0]
    if abs(v) + at.reach[g] < SAFE:
        odds = math.exp(v)
        for c in range(low, high):
            rest = 1.0 / (1.0 + at.soft[0, c] * odds)
            share = at.soft[0, c] * odds * rest
            f1 -= at.soft[1, c] * share
            f2 -= at.soft[1, c] * share * rest
    else:
        for c in range(low, high):
            rest = 1.0 / (1.0 + math.exp(min(at.soft[2, c] + v, 700.0)))
            f1 -= at.soft[1, c] * (1.0 - rest)
            f2 -= at.soft[1, c] * (1.0 - rest) * rest
    for c in range(at.first[g, 1], at.first[g + 1, 1]):
        rate = at.tail[c, 1]
        _, a1, a2 = log_phi(at.tail[c, 0] + rate * v)
        f1 += at.tail[c, 2] * rate * a1
        f2 += at.tail[c, 2] * rate * rate * a2
    for c in range(at.first[g, 2], at.first[g + 1, 2]):
        rate = at.between[c, 2]
        _, a1, a2 = log_interval(at.between[c, 0] - rate * v, at.between[c, 1] - rate * v)
        f1 -= at.between[c, 3] * rate * a1
        f2 += at.between[c, 3] * rate * rate * a2
    return f1, max(-f2, 0.1 * least)
