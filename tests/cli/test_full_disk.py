"""A disk that is full or read-only: exit code 2, the reason in a sentence, no leftovers; what is finished is kept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))  # of every file: EFBIG
from bayeshlm.cli import main
main()
"""
FIT = ["fit", "trial.csv", "-f", "y ~ (1 | arm/site)", "--draws", "100", "--seed", "1"]


def limited(room: int, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own in which no file grows beyond `room` bytes."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(room), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        ([*FIT, "--out", "fit.nc"], "fit.nc"),
        ([*FIT, "--out", "fit.zarr"], "fit.zarr"),
        (["simulate", "study.py", "--out", "d.csv"], "d.csv"),
        (["simulate", "study.py", "--out", "d.parquet"], "d.parquet"),
    ],
)
def test_a_full_disk(trial, study, tmp_path, arguments, target) -> None:
    done = limited(300, arguments, tmp_path)
    assert done.returncode == 2, done
    error = done.stderr[done.stderr.index("Error: ") :]
    assert error.startswith(f"Error: '{target}' cannot be written: ")
    assert "File too large" in error
    assert error.count("\n") == 1  # no print of HDF5's, no traceback
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.py", "trial.csv"]


def test_a_report_on_a_full_disk(run, trial, tmp_path, monkeypatch) -> None:
    fitted = run(*FIT, "--out", "fit.nc")
    assert fitted.exit_code == 0

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    done = run("report", "fit.nc", "--out", "r.html")
    assert done.exit_code == 2
    assert "Error: 'r.html' cannot be written: No space left on device." in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.nc", "trial.csv"]


def test_a_study_keeps_its_finished_replicates(run, study, tmp_path, monkeypatch) -> None:
    command = ["sbc", "study.py:pilot", "--store", "kept", "-n", "6", "-j", "1", "--seed", "1"]
    rename, left = os.replace, [4]

    def replace(source, target):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        done = run(*command)
    assert done.exit_code == 2
    assert "cannot be stored in" in done.stderr
    assert "No space left on device. The finished replicates there are kept" in " ".join(done.stderr.split())
    (folder,) = Path("kept").iterdir()
    assert len(list(folder.glob("*.npz"))) == 3
    assert not list(folder.glob(".*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "study.py"]
    done = run(*command)
    assert done.exit_code in (0, 1)  # six replicates calibrate nothing
    assert len(list(folder.glob("*.npz"))) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "sbc.html", "sbc.nc", "study.py"]


def test_a_study_whose_store_is_read_only_is_refused(run, study, tmp_path, monkeypatch) -> None:
    rename = Path.mkdir

    def mkdir(self, *args, **kwargs):  # root may write anywhere: the system's answer is stood in for
        if "kept" in str(self):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        rename(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    done = run("sbc", "study.py:pilot", "--store", "kept", "-n", "2", "-j", "1")
    assert done.exit_code == 2
    assert "Error: store='kept' cannot be written to: Read-only file system." in " ".join(done.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["study.py"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_standard_output_on_a_full_disk(trial, tmp_path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bayeshlm", *FIT], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: No space left on device"
    assert "Traceback" not in done.stderr
