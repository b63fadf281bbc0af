"""The report's leave-one-group-out table and its caution about few groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import bayeshlm as bh
from bayeshlm.posterior.draws import statistics_of
from bayeshlm.report.leaveout import SHOWN, left_out
from tests.test_fit import DESIGN, MODEL


def test_worst_groups_come_first_and_the_page_shows_them(tmp_path: Path) -> None:
    frame = bh.simulate(MODEL, DESIGN, random_seed=4).data
    odd = (frame["method"] == 1) & (frame["instructor"] == frame["instructor"][frame["method"] == 1].min())
    frame.loc[odd, "score"] *= 3
    posterior = bh.fit(MODEL, frame, random_seed=1)
    found = left_out(posterior, statistics_of(posterior))
    assert found is not None
    assert len(found.table.rows) == SHOWN
    result = bh.loo(posterior)
    assert found.table.rows[0][0] == str(result.elpd_i["method:instructor"].values[np.argmin(result.elpd_i.values)])
    page = bh.report(posterior, tmp_path / "report.html", by="method").read_text(encoding="utf-8")
    assert "Groups left out, one by one" in page
    assert "rests on 5 groups of" in page


def test_without_levels_there_is_no_such_table(tmp_path: Path) -> None:
    frame = bh.simulate(MODEL, DESIGN, random_seed=4).data
    posterior = bh.fit(bh.Model("score ~ log1p(hs_gpa)", family="lognormal"), frame, random_seed=1)
    assert left_out(posterior, statistics_of(posterior)) is None
    assert "left out, one by one" not in bh.report(posterior, tmp_path / "r.html").read_text(encoding="utf-8")
