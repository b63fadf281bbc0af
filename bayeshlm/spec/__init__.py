"""What the user wrote, as frozen records: no data, no computation.

Cut so that everything below the engines can read a model without knowing how it is fitted.

* `model`: `Model`, the formula with its family and priors
* `formula`: text -> terms; `terms`: what a formula is made of; `expressions`: the arithmetic it may contain
* `spellings`: what R, brms and statsmodels write otherwise, for the messages that refuse it
* `families`: the scale on which effects add, what a response may be
* `priors`: distributions with log density, draws and JSON
"""

__all__ = ["expressions", "families", "model", "priors", "terms"]  # what other wings use
