"""Worlds with a known truth, in NumPy; independent of PyMC, so that each can catch the other's mistakes.

* `design`: how many groups and units, which covariates, who gets which treatment
* `parameters`: the truth, given or drawn from the priors
* `default_priors`: defaults on the scale of a design's columns; `frame`: a design's rows, before anything has an effect
* `simulate`: rows; `simulate_statistics`, `units`: their sums without the rows
* `responses`, `densities`: draws and log densities of every family
* `seed_study`: the study this project grew from
"""

__all__ = [
    "default_priors",
    "densities",
    "design",
    "parameters",
    "responses",
    "seed_study",
    "simulate",
    "simulate_statistics",
]
