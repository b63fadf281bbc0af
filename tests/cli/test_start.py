"""A command imports what it uses when it uses it: what the user mistyped is told before anything slow is imported.

Counted in modules, not in seconds, which a busy machine would stretch.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "numpy", "formulaic", "pandas", "xarray", "scipy", "scipy.stats", "arviz_stats", "matplotlib", "pymc", "duckdb",
    "narwhals", "joblib", "h5netcdf", "zarr",
}  # fmt: skip
CODE = """
import atexit, sys
atexit.register(lambda: print(" ".join(name for name in sys.modules if name in {heavy!r})))
from bayeshlm.cli import main
main()
"""
FIT = ["fit", "trial.csv", "-f", "y ~ (1 | arm/site)"]
READING = {"numpy", "narwhals", "duckdb"}
READ = READING | {"pandas"}  # in which DuckDB hands the sums over


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["fit", "nowhere.csv", "-f", "y ~ x*z + (1 | g)"], {"narwhals"}),
        ([*FIT, "--out", "fit.txt"], set()),
        ([*FIT, "--draws", "none"], set()),
        ([*FIT, "--prior", "sigma=HalfNormal(-1)"], READING),
        (["fit", "trial.csv", "-f", "y ~ (1 | arm"], READING),
        (["fit", "trial.csv", "-f", "y ~ log(x) + (1 | arms)"], READING),
        ([*FIT, "--family", "poisson"], READ),
        ([*FIT, "--missing", "error"], READ),
        ([*FIT, "--compare", "teacher"], READ),
        (["report", "nowhere.nc"], {"numpy", "narwhals"}),
        (["simulate", "nowhere.py", "--out", "d.csv"], set()),
        (["sbc", "nowhere.py"], set()),
        (["sbc", "study.py:nobody"], {"numpy"}),
        (["recover", "study.py"], {"numpy"}),
        (["plan", "study.py"], {"numpy"}),
    ],
)
def test_an_error_imports_no_more_than_it_takes(trial, study, tmp_path, arguments, allowed) -> None:
    code = CODE.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr
    assert set(done.stdout.splitlines()[-1].split()) - allowed == set()


def test_a_fit_imports_no_sampler_and_no_plots(trial, tmp_path) -> None:
    """The exact engine needs neither PyMC nor matplotlib, and the terminal's summary no ArviZ."""
    done = subprocess.run([sys.executable, "-c", CODE.format(heavy=HEAVY), *FIT, "--draws", "50", "--compare", "arm"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "scipy.stats" in loaded  # so the list is of the process that fitted
    assert not loaded & {"pymc", "matplotlib", "arviz_stats", "joblib", "zarr"}
