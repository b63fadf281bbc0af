"""The exact engine: Gaussian and lognormal responses, all effects integrated out, few hyperparameters sampled.

Cut along the work: statistics and priors become a numeric problem, a problem is bound to a density, the density is
sampled by `engines/sampling`, effects are drawn on the way back. Whoever works on a posterior starts from `build` and
`density.bind`, and knows no more of a density than its protocol says.

* `fit`: the driver; `build`: statistics and priors -> problem, or the reason why there is none; `problem`: its records
* `hyperparameters`: theta on the unconstrained scale and as users know it
* `density/`: the protocol, the choice, nested levels; `crossed/`: crossed ones
* `effect_moments`: means and standard deviations where draws would not fit in memory
* `leave_out/`: predictive densities of groups given the others, for `loo`
"""

__all__ = ["build", "crossed", "density", "fit", "hyperparameters", "leave_out", "problem"]
