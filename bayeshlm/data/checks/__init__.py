"""What data must be before anything is fitted: every offender named, in the user's words, with what to do.

Cut by what is looked at: rows as they are, or sums, where studies of any size are judged alike.

* `table`: rows value by value, then the sums: constants, aliases, groups that tell nothing
* `support`: what a response may be under each family, and what of it may be censored
* `arms`: treatments given to groups: one group an arm, contaminated groups
* `clusters`: how few groups a contrast rests on
"""

__all__ = ["clusters", "support", "table", "arms"]
