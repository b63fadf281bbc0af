"""The commands and their options."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bayeshlm.cli.terminal import NOT_CONVERGED, session
from bayeshlm.version import __version__

app = typer.Typer(
    name="bayeshlm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Bayesian hierarchical models of experiments whose treatment is given to groups and measured on the units "
        "inside them: simulate a study, fit it exactly, and decide which group is best and how sure you can be."
    ),
    epilog=(
        "Exit codes: 0 all is well; 1 the fit did not converge, or a study's verdict is no; 2 something to correct in "
        "the input; "
        "70 a bug; 130 interrupted."
    ),
)

Family = Literal[
    "gaussian", "lognormal", "student_t", "cv_normal", "gamma", "bernoulli", "binomial", "poisson", "negative_binomial"
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Same seed, same machine, same answer. Default: a new one.")
]

Direction = Annotated[
    bool | None,
    typer.Option(
        "--maximize/--minimize",
        help="Whether larger or smaller responses are better. Without it nothing is chosen.",
        show_default=False,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option("--reference", help="What the others are compared with; default: the first.", metavar="LABEL"),
]


def _help(*paragraphs: str, examples: str) -> str:
    """A command's help; the mark before the examples keeps their line ends."""
    return "\n\n".join([*paragraphs, f"\b\nExamples:\n{examples}"])


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=lambda v: _version(v), is_eager=True),
    ] = False,
) -> None:
    """Options before the command."""


@app.command(
    help=_help(
        "The study of 100,000 students, start to report: which of 5 teaching methods is best, and was that right?",
        "Needs no data, no network and no extra package.",
        examples="  bayeshlm demo\n  bayeshlm demo --out-dir somewhere --seed 7",
    )
)
def demo(
    out_dir: Annotated[
        Path, typer.Option("--out-dir", help="Folder for the report, the posterior and the data.", file_okay=False)
    ] = Path("bayeshlm-demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another study.")] = 1,
) -> None:
    with session() as terminal:
        from bayeshlm.cli import showcase

        _finish(showcase.run(terminal, folder=out_dir, seed=seed))


@app.command(
    help=_help(
        "Fit a model to a CSV or Parquet file, and decide between groups.",
        examples=(
            "  bayeshlm fit students.parquet --family lognormal --compare method --maximize \\\n"
            "    -f 'score ~ log1p(hs_gpa) + (1 | method/instructor)'\n"
            "  bayeshlm fit 'trial-*.csv' -f 'pain ~ arm + (1 | clinic)' --compare arm --minimize \\\n"
            "    --prior '1|clinic_sigma=HalfNormal(2)' --out fit.nc --report fit.html\n"
            "  bayeshlm fit trial.csv --family binomial -f 'p(recovered, patients) ~ arm + (1 | clinic)'\n"
            "  bayeshlm fit scores.csv --family lognormal --censored ,100 -f 'score ~ (1 | method/instructor)'"
        ),
    )
)
def fit(
    data: Annotated[
        list[str], typer.Argument(help="CSV or Parquet file, or a pattern of several in quotes.", metavar="DATA")
    ],
    formula: Annotated[
        str, typer.Option("--formula", "-f", help="For example 'score ~ hs_gpa + (1 | method/instructor)'.")
    ],
    family: Annotated[
        Family,
        typer.Option(
            "--family",
            help="Effects add to the mean (gaussian, student_t), to the log odds (bernoulli, binomial), or multiply.",
        ),
    ] = "gaussian",
    prior: Annotated[
        list[str] | None,
        typer.Option(
            "--prior", help="NAME=PRIOR, such as 'sigma=HalfNormal(0.3)'; may be repeated.", metavar="NAME=PRIOR"
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            help="Treatment, number or level to compare; arm:sex for the effect of arm by sex. May be repeated.",
            metavar="NAME",
        ),
    ] = None,
    maximize: Direction = None,
    reference: Reference = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Save the posterior: .nc or .zarr.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write a report: .html.")] = None,
    se: Annotated[str | None, typer.Option("--se", help="Column of known standard errors.", metavar="COLUMN")] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Column of precision weights.", metavar="COLUMN")
    ] = None,
    censored: Annotated[
        str | None,
        typer.Option(
            "--censored",
            help="Bounds 'LOW,HIGH' at which values stand for 'or beyond', one of them may be empty: ',100'. Or the "
            "column that says none, left, right, interval: 'STATUS' or 'STATUS,UPPER'.",
            metavar="BOUNDS",
        ),
    ] = None,
    engine: Annotated[
        Literal["auto", "exact", "quadrature", "nuts"],
        typer.Option("--engine", help="auto: the exact engine or quadrature where they apply, else NUTS."),
    ] = "auto",
    missing: Annotated[
        Literal["drop", "error"], typer.Option("--missing", help="Rows with missing values: leave out, or refuse.")
    ] = "drop",
    draws: Annotated[int, typer.Option("--draws", min=1, help="Draws in each chain.")] = 1000,
    chains: Annotated[int, typer.Option("--chains", min=1, help="Chains.")] = 4,
    seed: Seed = None,
) -> None:
    with session() as terminal:
        from bayeshlm.cli import fitting

        request = fitting.Request(
            data, formula, family, prior or [], se, weights, censored, out, report, compare or [], engine, draws,
            chains, seed, missing, maximize, reference,
        )  # fmt: skip
        _finish(fitting.run(terminal, request))


@app.command(
    help=_help(
        "Simulate a study that a Python file describes.",
        "The file is run, so give only files you trust. It defines `model` and `design`, and may define `params`, the "
        "true values by name; what `params` leaves out is drawn from the priors. With file.py:name they are taken from "
        "the object or mapping of that name.",
        examples=(
            "  bayeshlm simulate models/teaching_methods.py --out students.parquet --seed 1\n"
            "  bayeshlm simulate studies.py:pilot --out pilot.csv --truth pilot-truth.nc"
        ),
    )
)
def simulate(
    study: Annotated[
        str, typer.Argument(help="Python file that defines `model` and `design`, or file.py:name.", metavar="STUDY")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Data to write: .csv, .csv.gz or .parquet.")],
    truth: Annotated[Path | None, typer.Option("--truth", help="Write the true parameters too: .nc.")] = None,
    seed: Seed = None,
) -> None:
    with session() as terminal:
        from bayeshlm.cli import simulating

        simulating.run(terminal, study, out=out, truth=truth, seed=seed)


Study = Annotated[
    str, typer.Argument(help="Python file that defines `model` and `design`, or file.py:name.", metavar="STUDY")
]
Replicates = Annotated[int | None, typer.Option("--replicates", "-n", min=1, help="Simulated studies.")]
Store = Annotated[
    Path | None,
    typer.Option("--store", help="Folder for finished replicates: a rerun goes on from them.", file_okay=False),
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", help="Processes; default: one a core.")]
StudySeed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same answer, whatever the processes.")]
RESULT = "Result to write (.nc); its page stands beside it (.html)."
TRUSTED = "The file is run, so give only files you trust."


@app.command(
    help=_help(
        "Simulation-based calibration: do intervals hold the truth as often as they say, for this model and design?",
        f"{TRUSTED} Exit code 1: the fit is not calibrated.",
        examples="  bayeshlm sbc models/teaching_methods.py\n"
        "  bayeshlm sbc study.py:pilot --replicates 1000 --store sbc-replicates",
    )
)
def sbc(
    study: Study,
    replicates: Replicates = None,
    out: Annotated[Path, typer.Option("--out", "-o", help=RESULT)] = Path("sbc.nc"),
    store: Store = None,
    jobs: Jobs = None,
    seed: StudySeed = 1,
) -> None:
    _study("sbc", study, out, replicates, store, jobs, seed)


@app.command(
    help=_help(
        "Parameter recovery: fit studies simulated with the file's `params`, and compare estimates with them.",
        f"{TRUSTED} Exit code 1: some parameter is not recovered.",
        examples="  bayeshlm recover models/teaching_methods.py --replicates 200",
    )
)
def recover(
    study: Study,
    replicates: Replicates = None,
    out: Annotated[Path, typer.Option("--out", "-o", help=RESULT)] = Path("recover.nc"),
    store: Store = None,
    jobs: Jobs = None,
    seed: StudySeed = 1,
) -> None:
    _study("recover", study, out, replicates, store, jobs, seed)


@app.command(
    help=_help(
        "Which design to run: how often each of the file's `designs` finds the best group, and at what cost.",
        "The file defines `model`, `design`, `designs` and `decide`, and may define `costs`, `target`, `maximize` and "
        f"`plan_params` (values to assume; the rest comes from the priors). {TRUSTED} Exit code 1: no design is sure "
        "to meet the target.",
        examples="  bayeshlm plan models/teaching_methods.py --replicates 400 --store plan-replicates",
    )
)
def plan(
    study: Study,
    replicates: Replicates = None,
    out: Annotated[Path, typer.Option("--out", "-o", help=RESULT)] = Path("plan.nc"),
    store: Store = None,
    jobs: Jobs = None,
    seed: StudySeed = 1,
) -> None:
    _study("plan", study, out, replicates, store, jobs, seed)


@app.command(
    help=_help(
        "Print a study's model as PyMC source text, to be read, run and extended.",
        "The text needs PyMC and pandas, not bayeshlm: it defines build(data), which returns the pymc.Model of a "
        "table. The study's file is run, as by `simulate`.",
        examples=(
            "  bayeshlm pymc models/teaching_methods.py\n"
            "  bayeshlm pymc models/clinic_trial.py --parameterization noncentered > clinic_trial_pymc.py"
        ),
    )
)
def pymc(
    study: Annotated[
        str, typer.Argument(help="Python file that defines `model` and `design`, or file.py:name.", metavar="STUDY")
    ],
    parameterization: Annotated[
        Literal["auto", "centered", "noncentered"],
        typer.Option("--parameterization", help="How group effects are sampled; auto: by the information in a group."),
    ] = "auto",
) -> None:
    with session() as terminal:
        from bayeshlm.cli import simulating

        simulating.show_source(terminal, study, parameterization=parameterization)


@app.command(
    help=_help(
        "Write the report of a saved posterior: one HTML file that needs nothing else.",
        examples="  bayeshlm report fit.nc\n  bayeshlm report fit.nc --by method --maximize --out methods.html",
    )
)
def report(
    posterior: Annotated[Path, typer.Argument(help="Posterior saved by `fit --out` or bayeshlm.save.", metavar="FIT")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Report to write: .html.")] = Path("report.html"),
    by: Annotated[
        str | None, typer.Option("--by", help="Treatment, number or level to compare.", metavar="NAME")
    ] = None,
    maximize: Direction = None,
    reference: Reference = None,
) -> None:
    with session() as terminal:
        from bayeshlm.cli import fitting

        _finish(fitting.report(terminal, posterior, out=out, by=by, maximize=maximize, reference=reference))


def _study(
    kind: str, study: str, out: Path, replicates: int | None, store: Path | None, jobs: int | None, seed: int
) -> None:
    with session() as terminal:
        from bayeshlm.cli import studying

        status = getattr(studying, kind)(terminal, studying.Request(study, out, replicates, store, jobs, seed))
        if status != "PASS":
            raise typer.Exit(NOT_CONVERGED)


def main() -> None:
    """Entry point of the command `bayeshlm`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name outside the terminal's encoding is no reason to stop
    app(prog_name="bayeshlm")


def _finish(status: str) -> None:
    if status == "FAIL":
        raise typer.Exit(NOT_CONVERGED)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bayeshlm {__version__}")
        raise typer.Exit
