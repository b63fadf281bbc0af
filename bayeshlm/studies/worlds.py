"""Worlds that break a model's assumptions, for `recover(..., world=...)`: how wrong do the answers get?

Each is a frozen description that is called with (params, seed) and returns a `World`; its truth holds the parameters
that mean the same in both, so that estimates can be compared with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshlm.errors import DesignError
from bayeshlm.simulation import responses
from bayeshlm.simulation.design import Design
from bayeshlm.simulation.seed_study import seed_study
from bayeshlm.simulation.simulate import World, simulate
from bayeshlm.spec.model import Model


@dataclass(frozen=True)
class SeedWorld:
    """The seed study as it was written: Normal(1, 0.1) multiplicative effects, Normal(75, 10) multiplicative noise.

    `params` are not used: the study has its own. The fitted model is ``score ~ log1p(hs_gpa) + (1 |
    method/instructor)``, lognormal; the truth's standard deviations are the log scale's first-order values.
    """

    students: int = 100_000
    instructors: int = 50
    methods: int = 5
    cap_score: bool = False

    def __call__(self, params: Mapping[str, Any] | None, seed: np.random.SeedSequence) -> World:
        return seed_study(
            students=self.students, instructors=self.instructors, methods=self.methods, cap_score=self.cap_score,
            random_seed=seed,
        )  # fmt: skip


@dataclass(frozen=True)
class HeavyTails:
    """Residuals from a Student t with `degrees` > 2 degrees of freedom, scaled to the sd that `sigma` says.

    Of gaussian and lognormal models; where bounds censor the response, the one with these residuals.
    """

    model: Model
    design: Design
    degrees: float = 3.0

    def __post_init__(self) -> None:
        if not self.degrees > 2:
            raise DesignError(f"HeavyTails: degrees={self.degrees!r} must be above 2, for a finite sd.")
        if self.model.se is not None or self.model.weights is not None:
            raise DesignError("HeavyTails: the model may have no known errors or weights.")
        if not self.model.family_spec.moments_suffice or self.model.terms.sigma is not None:
            raise DesignError(
                f"HeavyTails: the model ({self.model.formula!r}, {self.model.family}) must be gaussian or lognormal, "
                "with one sigma: these are the residuals that it replaces."
            )

    def __str__(self) -> str:
        return f"HeavyTails(degrees={self.degrees:g})"

    def __call__(self, params: Mapping[str, Any] | None, seed: np.random.SeedSequence) -> World:
        of_world, of_noise = seed.spawn(2)
        rng = np.random.default_rng(of_noise)
        given = dict(params or {})
        sigma = float(given["sigma"] if "sigma" in given else self.model.complete_priors["sigma"].sample(rng))
        uncensored = dataclasses.replace(self.model, censored=None)
        world = simulate(uncensored, self.design, params={**given, "sigma": 0.0}, random_seed=of_world)
        response = self.model.terms.response.name
        noise = rng.standard_t(self.degrees, len(world.data)) * sigma * math.sqrt((self.degrees - 2) / self.degrees)
        middle = world.data[response]
        drawn = middle * np.exp(noise) if self.model.family_spec.log_response else middle + noise
        recorded = responses.observed(self.model, drawn.to_numpy())
        return World(world.data.assign(**{response: recorded}), world.truth.assign(sigma=sigma))


@dataclass(frozen=True)
class Capped:
    """A response that cannot exceed a cap, and is recorded as the cap where it would: a test with a top score.

    Parameters
    ----------
    cap : float
        In units of the response.
    """

    model: Model
    design: Design
    cap: float

    def __str__(self) -> str:
        return f"Capped(cap={self.cap:g})"

    def __call__(self, params: Mapping[str, Any] | None, seed: np.random.SeedSequence) -> World:
        world = simulate(self.model, self.design, params=params, random_seed=seed)
        response = self.model.terms.response.name
        return World(world.data.assign(**{response: world.data[response].clip(upper=self.cap)}), world.truth)
