"""Verbs on a posterior: a DataTree in, a small frozen record or a table out.

Nothing here fits. One verb a file; what they share lies in `draws` (reading a posterior by name), `shares`
(variances) and `hyper` (back to what the engine computes with).

* `diagnose`, `convergence`: did it converge?
* `summarize`, `compare`, `predict`: effects, decisions, predictions
* `loo`, `evidence`, `sensitivity`, `check`, `naive`: how far to trust it, and what an analysis of rows would claim
* `store`: save and load
"""

__all__ = [
    "check", "compare", "convergence", "diagnose", "draws", "evidence", "loo", "naive", "predict", "sensitivity",
    "shares", "store", "summarize",
]  # fmt: skip
