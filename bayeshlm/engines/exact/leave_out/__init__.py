"""log p(y_g | the rows of the other groups, theta) for every group of a level, from the statistics alone.

* `nested`: by sums over siblings, never by a difference; the evidence of the data, and statistics without a group
* `crossed`: by downdating one factorisation, or anew where that has no digits; which of the two is cheaper
"""
