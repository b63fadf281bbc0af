"""The generative story in PyMC: the definition for humans, what `to_pymc` returns, and what NUTS samples.

* `model`: the model of given data; `builder`: its parts, from common effects to the response; `data`: what it is told
* `observations`: rows, or what is left of them after lossless compression; `families`: one likelihood each
* `priors`: descriptions -> random variables; `transform`: the scales that are sampled
* `parameterization`: how each level's effects are sampled, as totals, deviations or between
* `named`: the story in the posterior's own variables; `algebra`: small pieces of linear algebra in tensors
* `nuts`: the NUTS engine; `start`: where its chains begin
* `source/`: the model as text that runs without bayeshlm
"""
