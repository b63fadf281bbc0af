"""`bayeshlm demo`: the 100,000-student study from start to report, and against the truth."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from bayeshlm.cli import fitting, simulating, tables
from bayeshlm.cli.terminal import Grid, Terminal

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from bayeshlm.posterior.compare import Comparison

FORMULA = "score ~ log1p(hs_gpa) + (1 | method/instructor)"
FILES = {
    "report.html": "the report: open it in a browser",
    "fit.nc": "the posterior: bayeshlm.load reads it, ArviZ too",
    "students.parquet": "the data",
    "truth.nc": "the true parameters",
}
# What the study this project grew from is made of: score = (20 + 20 gpa) * Normal(75, 10) * instructor * method with
# sds 0.1 and 0.05, on the log scale.
TRUTH = {
    "Intercept": math.log(20 * 75),
    "log1p(hs_gpa)": 1.0,
    "1|method_sigma": 0.05,
    "1|method:instructor_sigma": 0.1,
    "sigma": 10 / 75,
}


def run(terminal: Terminal, *, folder: Path, seed: int) -> str:
    """Simulate, fit, decide, compare with the truth, report. The status of the fit."""
    folder.mkdir(parents=True, exist_ok=True)
    terminal.heading("Which of 5 teaching methods gives the best scores?")
    terminal.say("100,000 students, taught by 50 instructors, 10 on each method; simulated, so the answer is known.")
    terminal.line(f"Model: {FORMULA}, lognormal", style="dim")
    terminal.out.print()
    terminal.stage("start", fitting.load_libraries)
    from bayeshlm.data.compress import compress
    from bayeshlm.fit import fit
    from bayeshlm.posterior.summarize import summarize
    from bayeshlm.simulation.design import Design
    from bayeshlm.simulation.simulate import simulate
    from bayeshlm.spec.model import Model
    from bayeshlm.spec.priors import HalfNormal, Normal

    model = Model(
        FORMULA,
        family="lognormal",
        priors={
            "Intercept": Normal(7, 1),
            "log1p(hs_gpa)": Normal(1, 0.5),
            "1|method_sigma": HalfNormal(0.1),
            "1|method:instructor_sigma": HalfNormal(0.2),
            "sigma": HalfNormal(0.3),
        },
    )
    design = Design.nested(method=5, instructor=10, student=2000, covariates={"hs_gpa": Normal(3, 0.25)})
    world = terminal.stage(
        "simulate",
        lambda: simulate(model, design, params=TRUTH, random_seed=seed),
        lambda w: tables.count(len(w.data), "students"),
    )
    statistics = terminal.stage("read", lambda: compress(model, world.data), fitting.rows_and_groups)
    posterior = terminal.stage(
        "fit", lambda: fit(model, statistics, random_seed=seed, progress=False),
        lambda p: f"{p['posterior'].sizes['chain']} chains of {p['posterior'].sizes['draw']:,} draws, no approximation",
    )  # fmt: skip
    found = terminal.stage("diagnose", lambda: fitting.judge(posterior))
    comparison = terminal.stage("compare", lambda: fitting.compared(posterior, "method", found, maximize=True))
    data, truth = folder / "students.parquet", folder / "truth.nc"
    terminal.stage("write", lambda: simulating.write_data(world.data, data), lambda p: str(p))
    terminal.stage("write", lambda: simulating.write_result(world.truth, truth), lambda p: str(p))
    fitting.write(terminal, posterior, out=folder / "fit.nc", report=folder / "report.html", by="method", maximize=True)

    terminal.status(found.status, found.to_text())
    terminal.verdict(comparison.verdict(), comparison.status)
    terminal.grid(tables.comparison(comparison, multipliers(world.truth)))
    terminal.out.print()
    terminal.grid(tables.contrasts(comparison))
    terminal.heading("Was it right? The study is simulated, so we can look")
    terminal.say(hindsight(comparison, multipliers(world.truth)))
    terminal.out.print()
    terminal.grid(coverage(summarize(posterior), world.truth))
    terminal.heading("Files")
    widest = max(len(str(folder / name)) for name in FILES)
    for name, what in FILES.items():
        terminal.line(f"  {folder / name!s:<{widest}}  {what}")
    terminal.heading("Next: the same on a table of yours")
    terminal.line(f"  bayeshlm fit {shlex.quote(str(data))} --family lognormal \\")
    terminal.line(f"    --formula {shlex.quote(FORMULA)} \\")
    terminal.line("    --compare method --maximize")
    return found.status


def multipliers(truth: xr.Dataset) -> xr.DataArray:
    """What each method truly multiplies scores by."""
    import numpy as np

    return truth["1|method"].copy(data=np.exp(truth["1|method"].to_numpy()))


def hindsight(comparison: Comparison, truth: xr.DataArray) -> str:
    """Whether the truly best method was chosen, and what the choice costs if not."""
    best = truth["method"].to_numpy()[truth.to_numpy().argmax()]
    if best == comparison.leading:
        return f"Method {best} is truly the best one: the right choice."
    chosen = float(truth.sel({"method": comparison.leading}))  # as a keyword `method` would be sel's own argument
    lost = 1 - chosen / float(truth.max())
    p = comparison.table.loc[best, "p_best"]
    return (
        f"Method {best} is truly the best one; it was given a probability of {comparison.probability(float(p))}. "
        f"Choosing {comparison.leading} instead costs {100 * lost:.2g} % of the score."
    )


def coverage(summary: pd.DataFrame, truth: xr.Dataset) -> Grid:
    """How many true values lie in their 95 % intervals; single parameters with their figures."""
    rows, places = [], []
    for name in truth.data_vars:
        part = summary[summary["variable"] == name]
        values = truth[name].to_numpy().reshape(-1)
        if truth[name].ndim:
            values = truth[name].sel({truth[name].dims[0]: list(part["label"])}).to_numpy()
        inside = (part["lower"].to_numpy() <= values) & (values <= part["upper"].to_numpy())
        single = len(part) == 1
        row = part.iloc[0]
        places.append(tables.decimals(row["sd"]))
        figures = [values[0], row["mean"], row["lower"], row["upper"]] if single else [math.nan] * 4
        verdict = ("yes" if inside[0] else "no") if single else f"{int(inside.sum())} of {len(inside)}"
        rows.append((str(name), figures, verdict))
    columns = [
        tables.aligned([tables.fixed(figures[k], p) for (_, figures, _), p in zip(rows, places, strict=True)])
        for k in range(4)
    ]
    names, verdicts = [name for name, _, _ in rows], [verdict for _, _, verdict in rows]
    return Grid(
        "", ("", "truth", "mean", "95 % from", "to", "inside"), tuple(zip(names, *columns, verdicts, strict=True)),
        "Over many studies 95 of 100 true values lie inside; the groups of one study err together.",
    )  # fmt: skip
