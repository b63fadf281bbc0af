"""From a user's frame or file to checked sums, or rows: the only wing that sees a frame.

Cut by what is known. `frames/` knows stores and column types, `summing/` rows and their groups, `checks/` what may be
asked of a study; the records hold arrays and labels only, so that no floor above needs to know what a frame is.

* `compress`: rows in, statistics out: the driver; `table`: rows, for likelihoods that sums do not suffice for
* `statistics`: the record of sums, and how two parts add up; `cross_products`: weighted moments, pooled and projected
* `layout`: which design columns a formula has, and which parameters they carry; `groups`: groupings as codes and labels
* `default_priors`: priors on the scale of the data; `prior_points`: where the intercept's holds
* `store`: statistics as a Dataset, and back
* `frames/`: stores, columns, categories, missing values; new rows for a model that was fitted
* `summing/`: rows -> sums a cell -> statistics; the columns that two parts have in common
* `checks/`: rows, responses, groups, arms: every offender named before any work
"""

__all__ = [
    "checks", "compress", "cross_products", "default_priors", "frames", "groups", "layout", "prior_points",
    "statistics", "store",
    "table",
]  # fmt: skip
