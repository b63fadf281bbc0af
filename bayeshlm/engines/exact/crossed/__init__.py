"""Crossed levels: one large sparse symmetric matrix in place of the sweep.

The level with the most groups integrates out as in `density.nested`; the effects of the others meet in a matrix that is
factored, at every theta where it is small, else at few nodes between which the density is interpolated.

* `density`: `Crossed`, the density as it stands; `products`: what of it does not depend on theta
* `products_by_sigma`: the same where sigma differs by a factor
* `interpolated`: `Interpolated`, the density by polynomials; `polynomials`: those
* `moments`: where the search for their region starts; `draws`: effects from few factorisations
"""
