"""log p(y | theta) with all effects integrated out: what is asked of it, which form it gets, nested levels.

* `protocol`: `Density`, what every form answers, and its evaluation in chunks
* `bind`: the one place that chooses a form, and refuses what would take too much memory or time
* `nested`: the sweep from the innermost groups outwards, and draws on the way back
* `effects`: draws of one level's effects given all above; `residuals`: a sigma that differs by a factor
* `compiled`: the sweep's inner loop where groups are many and have several effects
"""
