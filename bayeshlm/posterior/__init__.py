"""Verbs on a posterior: a DataTree in, a small frozen record or a table out.

Nothing here fits. One verb a file; what they share lies in `draws` (reading a posterior by name), `question` (what a
name in `by=`, `decide=` or `level=` stands for: one rule for every verb), `values` and `curve` (what groups, arms and
the values of a number are worth), `wording` (probabilities with the digits that draws can tell), `shares` (variances)
and `hyper` (back to what the engine computes with).

* `diagnose`, `convergence`: did it converge?
* `summarize`, `compare` (`comparison`: its record and words; `response`: arms on the response's scale), `predict`
* `loo`, `evidence`, `sensitivity`, `check`, `naive`: how far to trust it, and what an analysis of rows would claim
* `store`: save and load
"""

__all__ = [
    "check", "compare", "comparison", "convergence", "diagnose", "draws", "evidence", "loo", "naive", "predict",
    "question", "sensitivity", "shares", "store", "summarize", "values",
]  # fmt: skip
