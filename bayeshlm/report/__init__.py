"""Pages: one self-contained HTML file of a posterior, a calibration, a recovery or a plan.

Numbers come from the records of `posterior` and `studies`; nothing is computed here that they do not hold.

* `html`: the verb `report`; templates lie beside it
* of a posterior: `contents` (everything it shows), `comparing`, `description`, `leaveout`, `plots`
* of a study: `study`, `sbc_page`, `recover_page`, `plan_page`, `study_plots`
* `svg`: figures as inline SVG
"""

__all__ = ["html", "plan_page", "recover_page", "sbc_page", "study"]
