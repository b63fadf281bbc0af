"""Planning: every design simulated, fitted and decided on many times, in the same worlds.

* `plan`: the verb; `question`: its arguments, checked before any work
* `shared_truth`: common random numbers for all designs; `quick`: the quick fit of one simulated study
* `planned`: scores in, Dataset and recommendation out; `targets`: the cheapest design that meets a target
"""

__all__ = ["plan", "planned", "quick"]
