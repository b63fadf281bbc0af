"""What the page of a study shows: a calibration, a recovery or a plan, in the same parts and the same order."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.posterior.wording import share
from bayeshlm.report.contents import Plate
from bayeshlm.report.description import Table, number
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import xarray as xr

MOST_FAILURES = 20
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass(frozen=True)
class Section:
    """A part of the page: heading, paragraphs, figures, tables, in this order. `small` figures stand four in a row."""

    key: str
    title: str
    text: tuple[str, ...] = ()
    plates: tuple[Plate, ...] = ()
    tables: tuple[Table, ...] = ()
    note: str = ""
    small: bool = False


@dataclass(frozen=True)
class StudyPage:
    """A page. `messages` are what a reader has to know before anything else; `lead` is the verdict."""

    title: str
    status: str
    messages: tuple[str, ...]
    meta: tuple[str, ...]
    lead: str
    second: tuple[str, ...]
    sections: tuple[Section, ...]
    formula: str
    family: str
    priors: Table
    provenance: tuple[tuple[str, str], ...]


def with_error(value: float, error: float, digits: int = 3) -> str:
    """A figure with its Monte Carlo standard error."""
    if error != error:
        return number(value, digits)
    if not (error > 0 and math.isfinite(value) and math.isfinite(error)):
        return f"{number(value, digits)} {PLUS_MINUS} {number(error, 2)}"
    places = max(0, 1 - math.floor(math.log10(error)))  # two digits of the error, and no more of the figure
    if places > 6:
        return f"{number(value, digits)} {PLUS_MINUS} {number(error, 2)}"
    text = f"{value:,.{places}f} {PLUS_MINUS} {error:,.{places}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def share_with_error(value: float, error: float, n: int) -> str:
    """A share of `n` studies with its Monte Carlo standard error; all or none of n is no certainty."""
    if math.isnan(value) or n < 1:
        return with_error(value, error)
    if value in (0.0, 1.0):
        return f"{share(round(value), n)} ({'all' if value > 0.5 else 'none'} of {n:,})"
    return with_error(value, error)


def loss_with_error(value: float, error: float, n: int) -> str:
    """A mean over `n` studies of what is mostly 0: where none was above it, that and not 0 is what is known."""
    return f"none seen in {n:,} studies" if value == 0 else with_error(value, error)


def priors(model: Model, analysis: Model, params: Mapping[str, Any]) -> Table:
    """Every parameter: what was assumed true, and the prior of the analysis where it differs."""
    differs = model.complete_priors != analysis.complete_priors
    rows = []
    for name in dict.fromkeys((*model.parameters, *analysis.parameters)):
        true = f"= {_value(params[name])}" if name in params else _prior(model, name)
        rows.append((name, true, *((_prior(analysis, name),) if differs or params else ())))
    rows += [(name, f"= {_value(value)}") + ("",) * (len(rows[0]) - 2) for name, value in params.items()
             if name not in {*model.parameters, *analysis.parameters}]  # fmt: skip
    headers = ("parameter", "in the simulated worlds", *(("in the analysis",) if differs or params else ()))
    return Table(headers, tuple(rows), len(headers))


def _prior(model: Model, name: str) -> str:
    """Empty for a parameter that only the other model has."""
    return f"~ {model.complete_priors.get(name, '')}" if name in model.parameters else ""


def engine_notes(replicates: xr.Dataset) -> tuple[str, ...]:
    """What the engine's own diagnostics say of the studies."""
    moved, failed = (int(np.nansum(replicates[name].values)) for name in ("fallback", "unconverged"))
    notes = [f"In {moved:,} studies the engine fell back on NUTS."] if moved else []
    if failed:
        notes.append(
            f"In {failed:,} studies the fit did not converge, by the criteria of diagnose; they count as any other."
        )
    return tuple(notes)


def analysis_note(model: Model, analysis: Model) -> tuple[str, ...]:
    """That another model than the one that made the data analysed them, if so."""
    told = [(m.formula, m.family, m.se, m.weights, m.censored) for m in (model, analysis)]
    if told[0] == told[1]:
        return ()
    censored = "" if analysis.censored is None else ", censored"
    return (f"The data were analysed by another model: {analysis.formula}, {analysis.family}{censored}.",)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(v)}" for key, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(_value(v) for v in value[:8])
        return f"{shown}, \N{HORIZONTAL ELLIPSIS} ({len(value)} values)" if len(value) > 8 else shown
    return number(value) if isinstance(value, int | float) else str(value)


def failures(rows: Sequence[tuple[str, ...]], headers: tuple[str, ...]) -> Section | None:
    """The fits that failed, the first of them in full."""
    if not rows:
        return None
    left = len(rows) - MOST_FAILURES
    note = f"{left:,} further failures are in the stored result." if left > 0 else ""
    return Section(
        "failures", "Failures",
        (f"{len(rows):,} of the fits failed and are in no figure above. If failures depend on the truth, what is left "
         "is not representative.",),
        tables=(Table(headers, tuple(rows[:MOST_FAILURES]), len(headers), note),),
    )  # fmt: skip


def provenance(attrs: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    """Who made this, with what seed."""
    wanted = (("run", "created_at"), ("replicates", "replicates"), ("random seed", "random_seed"),
              ("engine", "engine"), ("version", "version"))  # fmt: skip
    rows = [(name, str(attrs[key])) for name, key in wanted if key in attrs]
    if "seconds" in attrs:
        rows.append(("seconds of all processes together", number(float(attrs["seconds"]), 3)))
    if "versions" in attrs:
        found = json.loads(attrs["versions"])
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in found.items())))
    return tuple(rows)


def model_of_study(result: xr.Dataset | xr.DataTree, name: str = "model") -> Model:
    return Model.from_json(str(result.attrs[name]))
