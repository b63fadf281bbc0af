"""Many fits of simulated worlds: simulate, fit, score. One runner, three scorers.

* `runner`, `store`, `progress`: replicates on all cores or a cluster, resumable, the same whatever ran where
* `analysis`: what one replicate does; `worlds`: worlds that break the model's assumptions
* `sbc` (`quantities`, `likelihood`, `uniformity`): is the posterior calibrated?
* `recover`: does a known truth come back?
* `plan/` (`score`): which design to run
"""

__all__ = ["plan", "recover", "sbc", "uniformity"]
