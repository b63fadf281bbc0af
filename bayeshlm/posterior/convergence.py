"""R-hat and effective sample sizes of many parameters at once.

ArviZ computes the same one parameter at a time, about 5 ms each; a posterior with a thousand groups wants them all.
A test holds both equal.

References
----------
Vehtari, Gelman, Simpson, Carpenter, Buerkner (2021), Bayesian Analysis 16(2): rank-normalised split R-hat (section
4.1), bulk and tail effective sample size (sections 4.2-4.3); Geyer (1992), Statistical Science 7(4), section 3.3, for
the truncation of the autocorrelations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri
from scipy.stats import rankdata

from bayeshlm.arrays import Array

TAIL = (0.05, 0.95)
AT_ONCE = 2**19  # numbers worked on at a time


@dataclass(frozen=True, eq=False)
class Convergence:
    """Per parameter: R-hat, bulk and tail effective sample size, each (parameters,); NaN where undefined."""

    rhat: Array
    ess_bulk: Array
    ess_tail: Array

    @property
    def ess(self) -> Array:
        """The smaller of bulk and tail, NaN if either is."""
        return np.asarray(np.minimum(self.ess_bulk, self.ess_tail))


def convergence(draws: Array) -> Convergence:
    """Convergence of many parameters.

    Parameters
    ----------
    draws : (parameters, chains, draws)

    Returns
    -------
    Convergence
        NaN for parameters that are constant or not finite, and for all of them if there are fewer than 4 draws; R-hat
        also for a single chain, which has nothing to be compared with.
    """
    count, chains, length = draws.shape
    out = np.full((3, count), np.nan)
    step = max(AT_ONCE // max(chains * length, 1), 1)
    if length >= 4:
        for start in range(0, count, step):
            part = slice(start, start + step)
            usable = np.isfinite(draws[part]).all(axis=(1, 2)) & (np.ptp(draws[part], axis=(1, 2)) > 0)
            if usable.any():
                out[:, np.flatnonzero(usable) + start] = _block(draws[part][usable], chains)
    return Convergence(*out)


def bulk_ess(draws: Array) -> Array:
    """Bulk effective sample size alone, (parameters,), of draws (parameters, chains, draws); NaN where undefined."""
    if draws.shape[2] < 4:
        return np.full(len(draws), np.nan)
    varying = np.isfinite(draws).all(axis=(1, 2)) & (np.ptp(draws, axis=(1, 2)) > 0)
    out = np.full(len(draws), np.nan)
    if varying.any():
        out[varying] = _ess(_normal_scores(_split(draws[varying])))
    return out


def _block(draws: Array, chains: int) -> Array:
    split = _split(draws)
    ranked = _normal_scores(split)
    folded = _normal_scores(np.abs(split - np.median(split, axis=(1, 2), keepdims=True)))
    with np.errstate(invalid="ignore", divide="ignore"):  # an indicator without variation gives NaN, as it should
        rhat = np.maximum(_rhat(ranked), _rhat(folded)) if chains > 1 else np.full(len(draws), np.nan)
        edges = np.quantile(draws, TAIL, axis=(1, 2))
        tails = [_ess(_split((draws <= edge[:, None, None]).astype(float))) for edge in edges]
        return np.stack([rhat, _ess(ranked), np.minimum(*tails)])


def _split(draws: Array) -> Array:
    """Each chain in two halves: (parameters, 2 chains, draws // 2)."""
    half = draws.shape[2] // 2
    return np.concatenate([draws[:, :, :half], draws[:, :, -half:]], axis=1)


def _normal_scores(draws: Array) -> Array:
    """Normal scores of the ranks over all chains (equation 14)."""
    ranks = rankdata(draws.reshape(len(draws), -1), axis=1).reshape(draws.shape)
    size = draws.shape[1] * draws.shape[2]
    return np.asarray(ndtri((ranks - 3 / 8) / (size + 1 / 4)))


def _rhat(draws: Array) -> Array:
    """Equations 1-4."""
    length = draws.shape[2]
    within = draws.var(axis=2, ddof=1).mean(axis=1)
    between = length * draws.mean(axis=2).var(axis=1, ddof=1)
    return np.asarray(np.sqrt((between / within + length - 1) / length))


def _ess(draws: Array) -> Array:
    """Equations 9-13; autocovariances by FFT, their sum cut at the first non-positive pair, made monotone."""
    _, chains, length = draws.shape
    centred = draws - draws.mean(axis=2, keepdims=True)
    size = next_fast_len(2 * length)
    spectrum = rfft(centred, size, axis=2)
    covariance = irfft(np.abs(spectrum) ** 2, size, axis=2)[:, :, :length].mean(axis=1) / length
    within = covariance[:, 0] * length / (length - 1)
    variance = covariance[:, 0].copy()
    if chains > 1:
        variance += draws.mean(axis=2).var(axis=1, ddof=1)
    rho = 1 - (within[:, None] - covariance) / variance[:, None]
    rho[:, 0] = 1.0
    last = max(math.ceil((length - 2) / 2) - 1, 0)  # the last pair of lags looked at
    pairs = rho[:, 0 : 2 * last + 1 : 2] + rho[:, 1 : 2 * last + 2 : 2]
    stop = pairs <= 0
    stop[:, -1] = True
    cut = stop.argmax(axis=1)
    kept = np.arange(pairs.shape[1]) < cut[:, None]
    total = np.where(kept, np.minimum.accumulate(pairs, axis=1), 0.0).sum(axis=1)
    edge = rho[np.arange(len(rho)), 2 * cut]
    tau = -1 + 2 * total + np.maximum(edge, 0.0)
    full = chains * length
    ess = full / np.maximum(tau, 1 / math.log10(full))
    return np.asarray(np.where(np.isfinite(variance) & (variance > 0), ess, np.nan))
