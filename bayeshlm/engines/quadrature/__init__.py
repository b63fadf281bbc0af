"""The quadrature engine: yes or no, counts, positive and capped outcomes, with all group effects integrated out.

What is sampled is phi: the common effects, the family's sigma or alpha, and the levels' standard deviations. Everything
group-specific is integrated numerically, level by level, and drawn afterwards from its conditional.

build       a table of rows and a model -> Problem, or the reason why there is none (`unsupported`)
problem     its records
families    what each family needs of the rows, and what multiplies these sums
cells       equal rows taken together within groups, equal groups taken together
tables      numbers compiled in: the table of log Phi, nodes of Hermite rules
fastmath    compiled: a logarithm in vector instructions
likelihood  compiled: l(v), what a group's rows say of its total effect v
integrals   compiled: integrals over v, level by level
compiled    compiled: the integral at many points, draws of all effects
density     the collapsed density of phi, draws of effects, in threads
start       its mode, and coordinates in which it is about standard normal
fit         the driver

Others use `build.unsupported`, `fit.fit_quadrature` and `fit.NotSampledError`. The compiled modules import numba, and
are imported where they are first used.
"""
