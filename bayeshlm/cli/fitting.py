"""`bayeshlm fit` and `bayeshlm report`: data or a saved posterior in; tables, decisions and files out."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeshlm.cli.simulating import check_targets
from bayeshlm.cli.terminal import Terminal
from bayeshlm.errors import DataError, PriorError, listed

if TYPE_CHECKING:
    import xarray as xr

    from bayeshlm.data.statistics import Statistics
    from bayeshlm.posterior.compare import Comparison
    from bayeshlm.posterior.diagnose import Diagnosis
    from bayeshlm.spec.model import Model
    from bayeshlm.spec.priors import Prior

POSTERIOR_SUFFIXES = (".nc", ".netcdf", ".h5", ".zarr")
REPORT_SUFFIXES = (".html", ".htm")
# The name may hold `=` itself and so may the arguments: the last `=` before a call that ends the text is the one.
PRIOR_OPTION = re.compile(r"(?P<name>.+)=\s*(?P<prior>[A-Za-z_]\w*\s*\(.*\))\s*", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """What `bayeshlm fit` was asked for."""

    data: Sequence[str]
    formula: str
    family: str
    priors: Sequence[str]
    se: str | None
    weights: str | None
    censored: str | None
    out: Path | None
    report: Path | None
    compare: Sequence[str]
    engine: str
    draws: int
    chains: int
    seed: int | None
    missing: str
    maximize: bool | None
    reference: str | None


def run(terminal: Terminal, request: Request) -> str:
    """Fit, print, write. The status of the fit: PASS, REVIEW or FAIL."""
    check_targets([(request.out, POSTERIOR_SUFFIXES), (request.report, REPORT_SUFFIXES)])
    if len(request.data) > 1:
        raise DataError(
            f"{len(request.data)} files are given: {listed(request.data)}. For several files of one table give a "
            "pattern in quotes, so that bayeshlm and not the shell expands it: 'data/*.csv'."
        )
    from bayeshlm.data.frames.sources import open_path

    source = request.data[0]
    open_path(source)  # whether it is there and a table, before anything that takes longer to import
    from bayeshlm.data.compress import complete_rows, compress, moments
    from bayeshlm.spec.model import Model

    model = Model(
        request.formula,
        family=request.family,
        priors=parse_priors(request.priors),
        se=request.se,
        weights=request.weights,
        censored=parse_censored(request.censored),
    )

    def read() -> Statistics:
        if model.moments_suffice:
            return compress(model, source, missing=request.missing)
        return moments(model, complete_rows(model, source, request.missing))  # fit reads the rows again

    statistics = terminal.stage("read", read, rows_and_groups)
    data = statistics if model.moments_suffice else source
    check_comparable(statistics, request.compare, request.reference)
    terminal.stage("start", load_libraries)
    from bayeshlm.fit import fit

    posterior = terminal.stage(
        "fit",
        lambda: fit(
            model,
            data,
            engine=request.engine,
            draws=request.draws,
            chains=request.chains,
            random_seed=request.seed,
            missing=request.missing,
            progress=False,
        ),
        lambda p: f"{request.chains} chains of {request.draws:,} draws, {p.attrs['engine']} engine",
    )
    found = terminal.stage("diagnose", lambda: judge(posterior))
    maximize, reference = request.maximize, request.reference
    comparisons = [compared(posterior, by, found, maximize=maximize, reference=reference) for by in request.compare]
    first = next(iter(request.compare), None)
    write(terminal, posterior, out=request.out, report=request.report, by=first, maximize=maximize, reference=reference)
    show(terminal, posterior, found, comparisons)
    return found.status


def report(
    terminal: Terminal, source: Path, *, out: Path, by: str | None, maximize: bool | None, reference: str | None
) -> str:
    """Write the report of a saved posterior. Its status: PASS, REVIEW or FAIL."""
    check_targets([(out, REPORT_SUFFIXES)])
    from bayeshlm.data.store import statistics_from_dataset
    from bayeshlm.posterior.store import load_posterior

    posterior = terminal.stage("load", lambda: load_posterior(source), lambda _: str(source))
    if by is not None:
        check_comparable(statistics_from_dataset(posterior["statistics"].to_dataset()), [by], reference)
    terminal.stage("start", load_libraries)
    found = terminal.stage("diagnose", lambda: judge(posterior))
    write(terminal, posterior, out=None, report=out, by=by, maximize=maximize, reference=reference)
    terminal.status(found.status, found.to_text())
    if by is not None:
        decision(terminal, compared(posterior, by, found, maximize=maximize, reference=reference))
    return found.status


def parse_priors(options: Sequence[str]) -> dict[str, Prior]:
    """Read ``NAME=HalfNormal(0.2)`` options. Raises PriorError naming every one that cannot be read."""
    from bayeshlm.spec.priors import parse_prior

    priors: dict[str, Any] = {}
    problems = []
    for option in options:
        match = PRIOR_OPTION.fullmatch(option)
        if match is None:
            problems.append(f"{option!r} is not NAME=PRIOR, such as 'sigma=HalfNormal(0.3)'")
            continue
        name = match["name"].strip()
        if name in priors:
            problems.append(f"{name!r} has two priors")
        try:
            priors[name] = parse_prior(match["prior"])
        except PriorError as error:
            problems.append(f"{name!r}: {error}".rstrip("."))
    if problems:
        raise PriorError(f"--prior: {'; '.join(problems)}.")
    return priors


def parse_censored(text: str | None) -> Any:
    """Read ``,100``, ``0,100``, ``STATUS`` or ``STATUS,UPPER``. Raises DataError for anything else."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    bounds = [_number(part) for part in parts]
    if len(parts) == 2 and all(b is not None or not part for b, part in zip(bounds, parts, strict=True)):
        return tuple(bounds)
    if len(parts) in (1, 2) and all(parts) and all(b is None for b in bounds):
        return parts[0] if len(parts) == 1 else tuple(parts)
    raise DataError(
        f"--censored {text!r}: give bounds as 'LOW,HIGH', one of them may be empty (',100' for a ceiling of 100), or a "
        "column of none, left, right and interval, as 'STATUS' or 'STATUS,UPPER'."
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def check_comparable(statistics: Statistics, names: Sequence[str], reference: str | None = None) -> None:
    """Refuse, before the fit, what cannot be compared after it. Raises DataError naming every such name."""
    from bayeshlm.posterior.question import resolve
    from bayeshlm.posterior.values import check_question

    problems = []
    for name in names:
        try:
            check_question(statistics, resolve(statistics, name), reference)
        except DataError as error:
            problems.append(f"Cannot compare {name!r}: {error}")
    if problems:
        raise DataError(" ".join(problems))


def judge(posterior: xr.DataTree) -> Diagnosis:
    """The diagnosis behind `attrs["status"]`.

    Where the engine draws group effects independently there may be very many, and it is of the parameters alone.
    """
    from bayeshlm.engines.select import INDEPENDENT
    from bayeshlm.posterior.diagnose import diagnose

    return diagnose(posterior, hyperparameters_only=posterior.attrs.get("engine") in INDEPENDENT)


def compared(
    posterior: xr.DataTree, by: str, found: Diagnosis, *, maximize: bool | None, reference: str | None = None
) -> Comparison:
    """A comparison under the diagnosis that is printed beside it."""
    import dataclasses

    from bayeshlm.posterior.compare import compare

    return dataclasses.replace(compare(posterior, by, maximize=maximize, reference=reference), status=found.status)


def write(
    terminal: Terminal, posterior: xr.DataTree, *, out: Path | None, report: Path | None, by: str | None,
    maximize: bool | None, reference: str | None = None,
) -> None:  # fmt: skip
    """Save the posterior and write the report, where asked for."""
    if out is not None:
        from bayeshlm.posterior.store import save

        terminal.stage("save", lambda: save(posterior, out), lambda p: str(p))
    if report is not None:
        from bayeshlm.report.html import report as write_report

        terminal.stage(
            "report",
            lambda: write_report(posterior, report, by=by, maximize=maximize, reference=reference),
            lambda p: str(p),
        )


def show(terminal: Terminal, posterior: xr.DataTree, found: Diagnosis, comparisons: Sequence[Comparison]) -> None:
    """Convergence, decisions, and the parameters behind them."""
    from bayeshlm.cli import tables
    from bayeshlm.posterior.draws import model_of
    from bayeshlm.posterior.shares import residual_note
    from bayeshlm.posterior.summarize import summarize

    model: Model = model_of(posterior)
    terminal.status(found.status, found.to_text())
    for comparison in comparisons:
        decision(terminal, comparison)
    summary = summarize(without_groups(posterior))
    scale = {
        "identity": "",
        "log": "On the log scale, where effects add: exp(effect) multiplies the outcome.",
        "logit": "On the scale of log odds, where effects add: exp(effect) multiplies the odds.",
    }[model.family_spec.link]
    kinds = (("common effect", "Common effects"), ("variance component", "Variance components"), ("shape", "Shapes"))
    for kind, title in kinds:
        if (summary["kind"] == kind).any():
            terminal.grid(tables.parameters(summary, kind, title, "" if kind == "shape" else scale))
    if (summary["kind"] == "derived").any():
        terminal.grid(tables.parameters(summary, "derived", "Shares of variance", residual_note(model)))
    if not comparisons:
        from bayeshlm.posterior.draws import statistics_of
        from bayeshlm.posterior.question import treatment

        asked = treatment(statistics_of(posterior))
        names = [group.level_name for group in model.terms.groups] if asked is None else [asked.name]
        if names:
            terminal.out.print()
            terminal.say(f"By how much? Which is better? Ask, as in --compare {names[0]} --maximize.", style="dim")


def without_groups(posterior: xr.DataTree) -> xr.DataTree:
    """The posterior of the parameters alone: effective sample sizes of thousands of group effects take long."""
    import xarray as xr

    from bayeshlm.posterior.draws import model_of

    draws = posterior["posterior"].to_dataset()
    kept = {name: node.to_dataset() for name, node in posterior.children.items()}
    kept["posterior"] = draws[[name for name in draws.data_vars if name in model_of(posterior).parameters]]
    slim = xr.DataTree.from_dict(kept)
    slim.attrs = posterior.attrs
    return slim


def decision(terminal: Terminal, comparison: Comparison) -> None:
    """Verdict, groups, contrasts: one record behind all three."""
    from bayeshlm.cli import tables

    terminal.verdict(comparison.verdict(), comparison.status)
    terminal.grid(tables.comparison(comparison))
    if len(comparison.pairs):
        terminal.out.print()
        terminal.grid(tables.contrasts(comparison))


def rows_and_groups(statistics: Statistics) -> str:
    """Rows used and groups of each level, in words."""
    groups = [
        f"{len(members):,} {level.name}"
        for level, members in zip(statistics.layout.levels, statistics.members, strict=True)
    ]
    dropped = statistics.total_rows - statistics.rows
    return ", ".join([f"{statistics.rows:,} rows", *groups, *([f"{dropped:,} rows dropped"] if dropped else [])])


def load_libraries() -> None:
    """Import what every fit needs and reading does not, so that the times after it are of the work."""
    for name in ("pandas", "scipy.optimize", "scipy.stats", "xarray", "bayeshlm.fit"):
        importlib.import_module(name)
