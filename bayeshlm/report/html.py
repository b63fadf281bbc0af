"""`report`: one self-contained HTML file that works offline, in light and dark, on paper and on a phone."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bayeshlm.errors import DataError
from bayeshlm.storage.whole import write_whole

if TYPE_CHECKING:
    import xarray as xr

    from bayeshlm.report.contents import Contents
    from bayeshlm.report.study import StudyPage

LONGEST_CELL = 80  # characters of a name in a table; all of it is in the cell's title
STUDIES = {"plan": "bayeshlm.report.plan_page", "sbc": "bayeshlm.report.sbc_page",
           "recover": "bayeshlm.report.recover_page"}  # fmt: skip


def report(
    posterior: xr.DataTree | xr.Dataset,
    path: str | os.PathLike[str],
    *,
    by: str | None = None,
    reference: Any = None,
    maximize: bool | None = None,
    rope: tuple[float, float] | None = None,
) -> Path:
    """Write a report on a posterior, or on the result of `sbc`, `recover` or `plan`, as one HTML file.

    Everything comes from the DataTree, so a posterior that was saved and loaded gives the same file. It needs no
    network and holds no script; it is written whole or not at all.

    Parameters
    ----------
    posterior : xarray.DataTree or xarray.Dataset
        Of `fit`, `sbc`, `recover` or `plan`.
    path : path
    by : str, optional
        What to compare, as in `compare`. Default: a common effect that is constant within the groups of a level (a
        treatment given to groups), else one with categories or of two values, else a number; always the first in the
        formula. Groups of a level are compared only where `by` names it; without common effects there is no verdict.
    reference, maximize, rope : optional
        As in `compare`: without `maximize` nothing is chosen.

    Returns
    -------
    pathlib.Path
        Of the file.

    Raises
    ------
    DataError
        If `by` cannot be compared, the tree is no posterior of `fit`, or the folder does not exist or cannot be written
        to.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise DataError(f"The folder of {str(target)!r} does not exist.")
    if target.is_dir():
        raise DataError(f"{str(target)!r} is a folder; the report is a file, e.g. report.html.")
    kind = getattr(posterior, "attrs", {}).get("kind")
    if kind in STUDIES:
        asked = {"by": by, "reference": reference, "maximize": maximize, "rope": rope}
        given = [f"{name}=" for name, value in asked.items() if value is not None]
        if given:
            verb = "belongs" if len(given) == 1 else "belong"
            raise DataError(f"{' and '.join(given)} {verb} to the report of a posterior; this is a {kind}.")
        page = importlib.import_module(STUDIES[kind]).collect(posterior)
        _write(target, render(page, "study.html"))
    else:
        from bayeshlm.report.contents import collect

        tree = cast("xr.DataTree", posterior)
        _write(target, render(collect(tree, by, maximize=maximize, reference=reference, rope=rope)))
    return target


def render(contents: Contents | StudyPage, template: str = "report.html") -> str:
    """The page. Autoescape is on, and characters that cannot be seen are made visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from bayeshlm.report.svg import shortened

    environment = Environment(
        loader=PackageLoader("bayeshlm.report"), autoescape=True, undefined=StrictUndefined, finalize=_finalize,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["brief"] = lambda text: shortened(text, LONGEST_CELL)
    return environment.get_template(template).render(page=contents)


def _finalize(value: Any) -> Any:
    from markupsafe import Markup

    from bayeshlm.report.svg import shown

    return value if isinstance(value, Markup) or not isinstance(value, str) else shown(value)


def _write(target: Path, text: str) -> None:
    """Whole or not at all, so that a reader never meets half a report."""
    try:
        write_whole(target, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))
    except OSError as error:
        raise DataError(f"{str(target)!r} cannot be written: {error.strerror or error}.") from error
