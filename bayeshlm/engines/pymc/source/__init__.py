"""A model as PyMC source text.

* `writer`: the whole of it, in the order in which a reader wants it; `text`: pieces, from columns to likelihoods
"""
