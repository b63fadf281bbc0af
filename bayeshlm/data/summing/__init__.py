"""Rows -> sums: the only place that reads all rows.

Cut in the order of the work: sums by cell know no design columns, design columns know no rows.

* `cells`: sums of every combination of groups and categories, in memory or where the rows live
* `assemble`: cells -> `Statistics`: design columns laid out, groups named
* `joint`: the columns that two parts have in common, for adding them
* `sharing`: what leaves a site: labels of its own, cells that are too small
"""

__all__ = ["assemble", "cells", "joint", "sharing"]
