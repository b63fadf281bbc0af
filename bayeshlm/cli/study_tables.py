"""Results of studies on the terminal: the verdict first, then figures with their Monte Carlo errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bayeshlm.cli.terminal import Grid, Terminal

if TYPE_CHECKING:
    import xarray as xr

    from bayeshlm.report.study import StudyPage

SHOWN_DESIGNS = 20
SHOWN_ROWS = 12


def plan(terminal: Terminal, result: xr.Dataset) -> str:
    """Recommendation and designs. PASS, REVIEW (none is sure to meet the target) or FAIL (none does)."""
    from bayeshlm.report.plan_page import collect, figure, frontier_of
    from bayeshlm.studies.plan.planned import amount

    page = collect(result, figures=False)
    _head(terminal, page)
    shown, left_out = frontier_of(result, SHOWN_DESIGNS)
    labels = result["design"].values
    meets = result["meets"].values if "meets" in result else None
    columns: list[tuple[str, list[str]]] = []
    if meets is not None:
        columns.append(("target", [str(meets[k]) for k in shown]))
    if math.isfinite(float(result["cost"][0])):
        columns.append(("cost", [amount(float(result["cost"][k])) for k in shown]))
    for name, title in (("p_best", "P(best)"), ("expected_loss", "loss"), ("assurance", "assurance")):
        columns.append((title, [figure(result, k, name) for k in shown]))
    recommended = [k for k, index in enumerate(shown) if labels[index] == result.attrs["recommended"]]
    note = f"\N{PLUS-MINUS SIGN}: Monte Carlo standard error. Loss: {result.attrs['loss_unit']}."
    if left_out:
        note += f" {left_out} designs that are dearer and no better are on the page only."
    rows = zip([str(labels[k]) for k in shown], *(cells for _, cells in columns), strict=True)
    terminal.out.print()
    terminal.grid(Grid("", ("design", *(title for title, _ in columns)), tuple(rows), note, frozenset(recommended)))
    return page.status


def sbc(terminal: Terminal, result: xr.DataTree) -> str:
    """Verdict and the quantities that are nearest to failing. PASS, REVIEW (replicates failed) or FAIL."""
    from bayeshlm.report.sbc_page import collect

    page = collect(result, figures=False)
    _head(terminal, page)
    _table(terminal, page, "coverage", SHOWN_ROWS, "the page lists the others")
    return page.status


def _head(terminal: Terminal, page: StudyPage) -> None:
    terminal.verdict(page.lead, page.status)
    for line in (*page.messages, *page.second):
        terminal.say(line)


def _table(terminal: Terminal, page: StudyPage, key: str, most: int, rest: str) -> None:
    """The first rows of a table of the page."""
    section = next(section for section in page.sections if section.key == key)
    table = section.tables[0]
    left = len(table.rows) - most
    note = section.note + (f" {left} more: {rest}." if left > 0 else "")
    terminal.out.print()
    terminal.grid(Grid("", table.headers, table.rows[:most], note))


def recover(terminal: Terminal, result: xr.Dataset) -> str:
    """Verdict, and errors of the quantities with the lowest coverage. PASS, REVIEW (replicates failed) or FAIL."""
    from bayeshlm.report.recover_page import collect

    page = collect(result, figures=False)
    _head(terminal, page)
    _table(terminal, page, "coverage", SHOWN_ROWS, "the page lists the others")
    return page.status
