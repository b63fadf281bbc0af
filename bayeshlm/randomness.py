"""Seeds: what `random_seed=` may be, and the number that stands for it in attributes and stores."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeshlm.errors import DesignError


def whole(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def seed_problem(random_seed: object) -> str:
    """What is wrong with a seed, in words without a full stop; empty if nothing."""
    if random_seed is None or (isinstance(random_seed, int | np.integer) and whole(random_seed) and random_seed >= 0):
        return ""
    return f"random_seed={random_seed!r} must be a whole number of at least 0, or None"


def generator(random_seed: Any) -> np.random.Generator:
    """NumPy's generator of a seed, a SeedSequence, a Generator or None. Raises DesignError for anything else."""
    try:
        return np.random.default_rng(random_seed)
    except (TypeError, ValueError) as error:
        raise DesignError(
            f"random_seed={random_seed!r} must be a whole number of at least 0, a numpy SeedSequence or Generator, or "
            "None."
        ) from error


def chosen_seed(random_seed: int | None) -> int:
    """The seed, or where none is given one from the system, so that it can be stored and used again."""
    if random_seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(random_seed)
