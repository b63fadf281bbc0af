"""Against ArviZ, parameter by parameter."""

from __future__ import annotations

import numpy as np
import pytest
from arviz_stats.base import array_stats

from bayeshlm.posterior.convergence import TAIL, bulk_ess, convergence


def autoregressive(rng: np.random.Generator, coefficient: float, shape: tuple[int, int]) -> np.ndarray:
    noise = rng.normal(size=shape)
    out = np.empty(shape)
    out[:, 0] = noise[:, 0]
    for k in range(1, shape[1]):
        out[:, k] = coefficient * out[:, k - 1] + noise[:, k]
    return out


@pytest.mark.parametrize("shape", [(4, 1000), (2, 101), (4, 7), (1, 50), (3, 4)])
def test_equals_arviz(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    draws = np.stack([
        *(autoregressive(rng, c, shape) for c in (0.0, 0.5, 0.95, -0.7)),
        rng.standard_cauchy(shape), np.round(rng.normal(size=shape), 1),
        rng.normal(size=shape) + np.arange(shape[0])[:, None],
        rng.normal(size=shape) * np.arange(1, shape[0] + 1)[:, None],
    ])  # fmt: skip
    found = convergence(draws)
    np.testing.assert_array_equal(bulk_ess(draws), found.ess_bulk)
    for k, one in enumerate(draws):
        with np.errstate(all="ignore"):
            expected = (array_stats.rhat(one), array_stats.ess(one), array_stats.ess(one, method="tail", prob=TAIL))
        mine = (found.rhat[k], found.ess_bulk[k], found.ess_tail[k])
        for a, b in zip(mine, expected, strict=True):
            # ArviZ counts a constant tail indicator as independent; here it has no answer.
            if np.isfinite(a):
                assert a == pytest.approx(float(b), rel=1e-9)
            else:
                assert np.isnan(b) or b == one.size


def test_undefined_is_nan() -> None:
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(4, 2, 50))
    draws[0, 0, 3] = np.nan
    draws[1, 1, 2] = np.inf
    draws[2] = 3.0
    found = convergence(draws)
    assert np.isnan(found.rhat[:3]).all()
    assert np.isnan(found.ess[:3]).all()
    assert np.isfinite(found.rhat[3])
    assert np.isfinite(found.ess[3])
    assert np.isnan(convergence(draws[:, :, :3]).ess).all()
    assert np.isnan(convergence(draws[:, :1]).rhat).all()


def test_many_at_once_equal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(3).normal(size=(50, 4, 100))
    whole = convergence(draws)
    monkeypatch.setattr("bayeshlm.posterior.convergence.AT_ONCE", 1000)
    parts = convergence(draws)
    assert np.array_equal(whole.ess, parts.ess)
    assert np.array_equal(whole.rhat, parts.rhat)
