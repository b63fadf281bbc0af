"""`bayeshlm sbc`, `recover` and `plan`: a study file in; tables, the stored result and its page out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeshlm.cli.fitting import load_libraries
from bayeshlm.cli.simulating import StudyFile, check_targets, load_study, write_result
from bayeshlm.cli.terminal import Terminal
from bayeshlm.errors import DesignError

if TYPE_CHECKING:
    import xarray as xr

RESULT_SUFFIXES = (".nc",)


@dataclass(frozen=True)
class Request:
    """What a command was asked for.

    Attributes
    ----------
    study : str
        The file, or file.py:name.
    out : Path
        The stored result (.nc); the page stands beside it (.html).
    replicates : int or None
        None: the library's default.
    store : Path or None
        Folder that makes the study resumable.
    jobs : int or None
    seed : int
    """

    study: str
    out: Path
    replicates: int | None
    store: Path | None
    jobs: int | None
    seed: int

    @property
    def page(self) -> Path:
        return self.out.with_suffix(".html")

    def options(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {"store": self.store, "n_jobs": self.jobs, "random_seed": self.seed}
        return chosen | ({} if self.replicates is None else {"replicates": self.replicates})


def sbc(terminal: Terminal, request: Request) -> str:
    """Calibrate. PASS, or FAIL where the verdict says that the fit is not calibrated."""

    def work(study: StudyFile) -> xr.DataTree:
        from bayeshlm.studies.sbc import sbc as calibrate

        return calibrate(study.model, study.design, **request.options())

    return _run(terminal, request, work)


def recover(terminal: Terminal, request: Request) -> str:
    """Recover known parameters. PASS, or FAIL where coverage is off by more than Monte Carlo error."""

    def work(study: StudyFile) -> xr.Dataset:
        from bayeshlm.studies.recover import recover as recovered

        return recovered(study.model, study.design, params=study.params, **request.options())

    def check(study: StudyFile) -> None:
        if study.params is None:
            raise DesignError("recover needs params = {name: value} in the study file: the true values to recover.")

    return _run(terminal, request, work, check)


def plan(terminal: Terminal, request: Request) -> str:
    """Compare designs. PASS; REVIEW or FAIL where no design is sure to meet the target."""

    def work(study: StudyFile) -> xr.Dataset:
        from bayeshlm.studies.plan.plan import plan as planned

        return planned(
            study.model, study.designs, decide=study.decide, params=study.plan_params, costs=study.costs,
            target=study.target, maximize=study.maximize, **request.options(),
        )  # fmt: skip

    def check(study: StudyFile) -> None:
        missing = [name for name in ("designs", "decide") if getattr(study, name) is None]
        if missing:
            raise DesignError(
                f"plan needs {' and '.join(missing)} in the study file: designs = bayeshlm.Design.grid(...), decide = "
                "'the level or treatment to choose'; and, if you like, costs, target, maximize, plan_params."
            )

    return _run(terminal, request, work, check)


def _run(
    terminal: Terminal,
    request: Request,
    work: Callable[[StudyFile], Any],
    check: Callable[[StudyFile], None] = lambda _: None,
) -> str:
    """Load, run, write, show. A study that is interrupted says what it kept."""
    check_targets([(request.out, RESULT_SUFFIXES)])
    study = terminal.stage("load", lambda: load_study(request.study), lambda s: f"{s.model.formula}, {s.model.family}")
    check(study)
    terminal.stage("start", load_libraries)
    try:
        result = terminal.work("study", lambda: work(study), _replicates)
    except KeyboardInterrupt:
        terminal.warn(_kept(request))
        raise
    terminal.stage("save", lambda: write_result(result, request.out), str)
    from bayeshlm.cli import study_tables
    from bayeshlm.report.html import report

    terminal.stage("page", lambda: report(result, request.page), str)
    return str(getattr(study_tables, result.attrs["kind"])(terminal, result))


def _replicates(result: Any) -> str:
    return f"{int(result.attrs['replicates']):,} replicates, seed {result.attrs['random_seed']}"


def _kept(request: Request) -> str:
    """What an interrupted study leaves, and how to go on."""
    if request.store is None:
        return (
            "Nothing of the study is kept. With --store FOLDER finished replicates are, and a rerun goes on from them."
        )
    return (
        f"Finished replicates are kept in {os.fspath(request.store)!r}: the same command, with --seed {request.seed}, "
        "goes on from them."
    )
