"""Verbs on a posterior: a DataTree in, a small frozen record or a table out.

Nothing here fits. One verb a file; what they share lies in `draws` (reading a posterior by name), `question` (what a
name in `by=`, `decide=` or `level=` stands for: one rule for every verb), `values`, `columns` and `curve` (what groups,
arms and the values of a number are worth), `wording` (figures in words), `shares` (variances) and `hyper` (back to what
the engine computes with).

* `diagnose`, `convergence`: did it converge? `conflict`: do the data lie where the priors expected them?
* `summarize`, `predict`, `compare`; of the latter `comparison` is the record, made of `figures` and `verdict`, and
  `response` puts arms on the scale of the response
* `loo` (its record: `left_out`), `evidence`, `sensitivity`, `check`, `naive`: how far to trust it, and what an analysis
  of rows would claim
* `store`: save and load
"""

__all__ = [
    "check", "compare", "comparison", "convergence", "diagnose", "draws", "evidence", "loo", "naive", "predict",
    "question", "sensitivity", "shares", "store", "summarize", "values", "wording",
]  # fmt: skip
