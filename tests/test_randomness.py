"""Seeds are whole numbers of at least 0 or None, everywhere; what else is given is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

import bayeshlm as bh
from bayeshlm.errors import DesignError
from bayeshlm.randomness import chosen_seed, generator, seed_problem


@pytest.mark.parametrize("seed", [-1, 1.0, True, "1", np.int64(-3), np.float64(2), [1]])
def test_what_is_no_seed_is_said(seed) -> None:
    assert seed_problem(seed) == f"random_seed={seed!r} must be a whole number of at least 0, or None"


@pytest.mark.parametrize("seed", [0, 7, 2**70, np.uint64(5), None])
def test_what_is_one_is_kept(seed) -> None:
    assert seed_problem(seed) == ""
    chosen = chosen_seed(seed)
    assert isinstance(chosen, int)
    assert seed is None or chosen == seed


def test_none_is_another_one_each_time() -> None:
    assert len({chosen_seed(None) for _ in range(20)}) == 20  # two alike: once in 10**7 runs


@pytest.mark.parametrize("seed", [-1, "1", 1.5])
def test_simulations_refuse_it_too(seed) -> None:
    with pytest.raises(DesignError, match=r"random_seed=.* must be a whole number of at least 0"):
        generator(seed)
    priors = {"Intercept": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1)}
    model, design = bh.Model("y ~ 1 + (1 | g)", priors=priors), bh.Design.nested(g=2, unit=2)
    with pytest.raises(DesignError, match="random_seed="):
        bh.simulate(model, design, random_seed=seed)
    with pytest.raises(DesignError, match="random_seed="):
        bh.seed_study(random_seed=seed)
