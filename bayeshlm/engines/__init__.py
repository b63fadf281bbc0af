"""From statistics or rows to draws of every parameter: three engines that answer alike.

Cut by how effects are dealt with. `exact/` integrates Gaussian ones out in closed form, `quadrature/` those of other
families numerically, `pymc/` samples them all by NUTS; what they share lies here. The choice is public (`select`), and
all hand back the same record. Nothing here knows what a frame or a posterior's file is.

* `select`: which engine fits a model, and why; `result`: what each hands back; `naming`: arrays into named variables
* `checks`: what statistics say before sampling (perfect fits, improper posteriors); `separation`: flat priors that the
  rows do not bound; `progress`: bars
* `linalg`: many small matrices at a time; recovery from those that cannot be factored
* `exact/`, `quadrature/`, `pymc/`: the engines; `sampling/`: draws from a density of few dimensions, for the first two
"""
