"""Draws from a log density of one to twenty dimensions, told nothing else about it.

* `modes`: where the peaks are and how wide
* `importance`: a mixture of t adapted until it is efficient, then independence Metropolis; evidence
* `pareto`: how heavy the tail of importance weights is, which decides whether they are believed
* `nuts_fallback`: NUTS on the same density, where they are not
"""

__all__ = ["importance", "modes", "nuts_fallback", "pareto"]
