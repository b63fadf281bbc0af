"""Saved results: nothing finished is ever lost, and no number that changed on disk is ever read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning, DataError
from bayeshlm.posterior.store import load_posterior
from bayeshlm.storage import whole

SUFFIXES = [".nc", ".zarr"]
PRIORS = {
    "Intercept": bh.Normal(0, 1), "x": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1),
}  # fmt: skip
MODEL = bh.Model("y ~ x + (1 | g)", priors=PRIORS)


def data() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(12), 4)
    x = rng.normal(size=48)
    return pd.DataFrame({"g": g, "x": x, "y": x + rng.normal(0, 1, 12)[g] + rng.normal(0, 1, 48)})


@pytest.fixture(scope="module")
def posterior() -> xr.DataTree:
    return bh.fit(MODEL, data(), draws=100, random_seed=1)


@pytest.fixture(scope="module")
def other(posterior: xr.DataTree) -> xr.DataTree:
    """Another finished posterior of the same shape."""
    return bh.fit(MODEL, data(), draws=100, random_seed=2)


def same(a: xr.DataTree, b: xr.DataTree) -> bool:
    return a.attrs == b.attrs and all(a[g].to_dataset().identical(b[g].to_dataset()) for g in a.children)


def sigma(tree: xr.DataTree) -> np.ndarray:
    return tree["posterior"]["sigma"].values


# ------------------------------------------------------------------------------------------------ replacing a file


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_the_old_one(posterior, other, tmp_path, monkeypatch, suffix, failing) -> None:
    path = bh.save(posterior, tmp_path / f"fit{suffix}")
    rename, calls = os.replace, []

    def replace(source, target):
        if path in (Path(source), Path(target)):  # Zarr renames too, within the folder it writes
            calls.append(source)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    if suffix == ".nc" and failing == 2:
        bh.save(other, path)  # a file takes one rename
        assert same(bh.load(path), other)
    else:
        with pytest.raises(DataError, match=r"Input/output error\. What was there before is untouched"):
            bh.save(other, path)
        assert same(bh.load(path), posterior)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_where_nothing_can_be_renamed_back_both_are_kept_and_the_next_load_finds_the_new_one(
    posterior, other, tmp_path, monkeypatch
) -> None:
    path = bh.save(posterior, tmp_path / "fit.zarr")
    rename, calls = os.replace, []

    def replace(source, target):
        if path in (Path(source), Path(target)):
            calls.append(source)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(DataError, match="Input/output error"):
            bh.save(other, path)
    assert not path.exists()
    assert same(bh.load(path), other)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


SCRIPT = """
import os, signal, sys
import bayeshlm as bh

source, target, number, at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
posterior = bh.load(source)
rename, calls = os.replace, []
def replace(a, b):
    if target in (str(a), str(b)):  # Zarr renames too, within the folder it writes
        calls.append(a)
    if len(calls) == at:
        os.kill(os.getpid(), number)
    rename(a, b)
os.replace = replace
bh.save(posterior, target)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_at_the_last_rename_loses_nothing(posterior, other, tmp_path, suffix, number) -> None:
    """Of a folder the last rename is the second: the old one has stepped aside, the new one is not in place."""
    target, source = bh.save(posterior, tmp_path / f"fit{suffix}"), bh.save(other, tmp_path / "other.nc")
    last = 1 if suffix == ".nc" else 2
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(source), str(target), str(int(number)), str(last)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -number, done.stderr
    left = sorted(p.name for p in tmp_path.iterdir())
    if number == signal.SIGINT:  # waits until the new one is in place
        assert left == [target.name, source.name]
        assert same(bh.load(target), other)
        return
    assert len(left) == (3 if suffix == ".nc" else 2)  # .nc: target, source and a leftover; .zarr: no target
    found = bh.load(target)
    assert same(found, posterior if suffix == ".nc" else other)
    bh.save(posterior, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == [target.name, source.name]


WRITING = """
import os, signal, sys
from bayeshlm.storage import whole
def write(part):
    part.write_text("half")
    os.kill(os.getpid(), int(sys.argv[2]))
whole.write_whole(sys.argv[1], write)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_while_it_writes_leaves_the_old_one(tmp_path, number) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    done = subprocess.run([sys.executable, "-c", WRITING, str(target), str(int(number))], check=False, timeout=60,
                          stderr=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == -number
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == (1 if number == signal.SIGINT else 2)
    whole.write_whole(target, lambda part: part.write_text("new"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "new"


def test_a_save_under_way_is_no_leftover(tmp_path) -> None:
    """Another process may write the same path: its workspace is locked while it lives."""
    target = tmp_path / "a.txt"

    def write(part: Path) -> None:
        inner = subprocess.run(
            [sys.executable, "-c", "import sys; from bayeshlm.storage.whole import write_whole\n"
             "write_whole(sys.argv[1], lambda part: part.write_text('inner'))", str(target)], check=True,
        )  # fmt: skip
        assert inner.returncode == 0
        part.write_text("outer")

    whole.write_whole(target, write)
    assert target.read_text() == "outer"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_another_process_puts_there_in_between_is_replaced(tmp_path, monkeypatch) -> None:
    target = tmp_path / "a.zarr"
    rename = os.replace

    def replace(source, into):
        if Path(into) == target and not target.exists():
            target.mkdir()
            (target / "theirs").touch()
            monkeypatch.setattr(os, "replace", rename)
        rename(source, into)

    def write(part: Path) -> None:
        part.mkdir()
        (part / "ours").touch()

    monkeypatch.setattr(os, "replace", replace)
    whole.write_whole(target, write)
    assert [p.name for p in target.iterdir()] == ["ours"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_permissions_and_links_are_kept(posterior, tmp_path) -> None:
    for suffix in SUFFIXES:
        path = bh.save(posterior, tmp_path / f"fit{suffix}")
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        folders = [] if path.is_file() else [path, *(p for p in path.rglob("*") if p.is_dir())]
        umask = os.umask(0)
        os.umask(umask)
        assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o666 & ~umask}
        for p in files:
            p.chmod(0o600)
        for p in folders:
            p.chmod(0o700)
        link = tmp_path / f"link{suffix}"
        link.symlink_to(path)
        bh.save(posterior, link)
        assert link.is_symlink()
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
        assert {stat.S_IMODE(p.stat().st_mode) for p in folders} <= {0o700}
        assert same(bh.load(link), posterior)


def test_what_is_no_result_is_not_replaced(posterior, tmp_path) -> None:
    (tmp_path / "a.nc").mkdir()
    with pytest.raises(DataError, match=r"a\.nc' is a folder"):
        bh.save(posterior, tmp_path / "a.nc")
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").touch()
    with pytest.raises(DataError, match="a folder of something else"):
        bh.save(posterior, tmp_path / "a.zarr")
    (tmp_path / "b.zarr").touch()
    with pytest.raises(DataError, match="is a file"):
        bh.save(posterior, tmp_path / "b.zarr")
    (tmp_path / "c.zarr").mkdir()
    assert same(bh.load(bh.save(posterior, tmp_path / "c.zarr")), posterior)


# ----------------------------------------------------------------------------------------------------- a full disk

FULL = """
import resource, sys
import bayeshlm as bh
posterior = bh.load(sys.argv[1])
for room in sys.argv[3:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), resource.RLIM_INFINITY))  # of every file: EFBIG
    try:
        bh.save(posterior, sys.argv[2])
    except bh.errors.DataError as error:
        sys.stderr.write(f"{error}\\n")
"""


@pytest.mark.parametrize(("suffix", "rooms"), [(".nc", (0, 700, 20_000, 60_000)), (".zarr", (0, 700, 1500))])
def test_a_full_disk_is_one_sentence_and_no_leftover(posterior, tmp_path, suffix, rooms) -> None:
    """No print of HDF5's, no crash as the process ends; the kernel refuses the writes of a real process."""
    source, target = bh.save(posterior, tmp_path / "source.nc"), tmp_path / f"fit{suffix}"
    assert source.stat().st_size > max(rooms)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(source), str(target), *map(str, rooms)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    sentence = f"{str(target)!r} cannot be written: File too large. What was there before is untouched."
    assert done.stderr.splitlines() == [sentence] * len(rooms)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_the_limit_of_these_tests_is_of_this_system() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # else the above shows nothing


# ------------------------------------------------------------------------------------------------------- checksums


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def places(size: int, count: int) -> list[tuple[int, int]]:
    """Places all over a file, and a bit for each."""
    rng = np.random.default_rng(size)
    return [(int(place), int(rng.integers(8))) for place in np.unique(rng.integers(size, size=count))]


def refused_or_unchanged(path: Path, original: xr.DataTree) -> bool:
    """Whether a file is refused. Where it loads its numbers are those that were saved, and it is said."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            loaded = bh.load(path)
        except DataError:
            return True
    assert ["no checksum" in str(warning.message) for warning in told] == [True]  # the mark itself was hit
    assert np.array_equal(sigma(loaded), sigma(original))
    return False


def test_no_byte_of_a_file_can_change(posterior, tmp_path) -> None:
    content = bh.save(posterior, tmp_path / "fit.nc").read_bytes()
    path = tmp_path / "flipped.nc"
    chosen = places(len(content), 1500)
    mark = content.index(b"bayeshlm-sha256:")
    chosen += [(place, 0) for place in range(mark - 40, mark + 90, 3)]  # the checksum's own surroundings
    refused = 0
    for place, bit in chosen:
        path.write_bytes(flipped(content, place, bit))
        refused += refused_or_unchanged(path, posterior)
    assert refused > len(chosen) - 30
    for end in (0, 7, 4000, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(DataError):
            bh.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DataError):
        bh.load(path)


def test_no_byte_of_a_folder_can_change(posterior, tmp_path) -> None:
    path = bh.save(posterior, tmp_path / "fit.zarr")
    files = sorted(p for p in path.rglob("*") if p.is_file())
    refused = tried = 0
    for file in files:
        content = file.read_bytes()
        for place, bit in places(len(content), 4):
            file.write_bytes(flipped(content, place, bit))
            refused += refused_or_unchanged(path, posterior)
            tried += 1
        file.write_bytes(content)
        kept = tmp_path / "kept"
        shutil.move(file, kept)  # Zarr takes a chunk that is missing for one of zeros
        assert refused_or_unchanged(path, posterior)
        shutil.move(kept, file)
    assert refused > tried - 5
    assert same(bh.load(path), posterior)


def test_statistics_and_studies_have_checksums_too(tmp_path) -> None:
    statistics = bh.compress(MODEL, data())
    design = bh.Design.nested(g=3, unit=4, covariates={"x": bh.Normal(0, 1)})
    options = {"replicates": 3, "random_seed": 1, "n_jobs": 1, "progress": False}
    results = {
        "statistics": statistics,
        "sbc": bh.sbc(MODEL, design, **options),
        "recover": bh.recover(MODEL, design, **options),
        "plan": bh.plan(MODEL, [design, bh.Design.nested(g=4, unit=4, covariates={"x": bh.Normal(0, 1)})], decide="g",
                        **options),
        "predict": bh.predict(bh.fit(MODEL, statistics, draws=50, random_seed=1), data().head(3), random_seed=1),
    }  # fmt: skip
    for name, result in results.items():
        for suffix in SUFFIXES:
            path = bh.save(result, tmp_path / f"{name}{suffix}")
            loaded = bh.load(path)
            assert type(loaded) is type(result)
            if isinstance(result, xr.Dataset):
                xr.testing.assert_equal(loaded, result)
                assert loaded.attrs == result.attrs
            elif isinstance(result, xr.DataTree):
                assert all(loaded[g].to_dataset().equals(result[g].to_dataset()) for g in result.children)
                assert loaded.attrs == result.attrs
            else:
                assert np.array_equal(loaded.mean, result.mean)
            if suffix == ".nc":
                content = path.read_bytes()
                for place, bit in places(len(content), 60):
                    path.write_bytes(flipped(content, place, bit))
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        with pytest.raises((DataError, BayeshlmWarning)):
                            bh.load(path)
                path.write_bytes(content)
            if name != "statistics":
                with pytest.raises(DataError, match="not a posterior of fit"):
                    load_posterior(path)


def test_a_file_without_checksum_is_read_and_said(posterior, tmp_path) -> None:
    posterior.to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    with pytest.warns(BayeshlmWarning, match="has no checksum"):
        loaded = bh.load(tmp_path / "fit.nc")
    assert same(loaded, posterior)
    assert same(bh.load(bh.save(loaded, tmp_path / "again.nc")), posterior)


def test_a_file_that_another_program_changed_is_refused_until_it_says_so(posterior, tmp_path) -> None:
    path = bh.save(posterior, tmp_path / "fit.nc")
    with xr.open_datatree(path, engine="h5netcdf") as tree:  # the checksum is an attribute among others
        loaded = tree.load()
    loaded["posterior"]["sigma"] = loaded["posterior"]["sigma"] * 2
    loaded.to_netcdf(tmp_path / "changed.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="changed by another program"):
        bh.load(tmp_path / "changed.nc")
    del loaded.attrs["checksum"]
    loaded.to_netcdf(tmp_path / "changed.nc", engine="h5netcdf")
    with pytest.warns(BayeshlmWarning, match="has no checksum"):
        assert np.array_equal(sigma(bh.load(tmp_path / "changed.nc")), 2 * sigma(posterior))


# ------------------------------------------------------------------------------------------------ crafted contents

DEEP = "[" * 100_000


def crafted(posterior: xr.DataTree, **attrs: object) -> xr.DataTree:
    tree = posterior.copy(deep=False)
    tree.attrs = {**posterior.attrs, **attrs}
    return tree


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("notes", "no JSON", "no JSON"),
        ("notes", '{"a": 1}', "not the JSON of a list of texts"),
        ("notes", "[1, 2]", "not the JSON of a list of texts"),
        ("notes", DEEP, "no JSON"),
        ("notes", 3.0, "not the JSON of a list of texts"),
        ("cautions", "[[]]", "not the JSON of a list of texts"),
        ("versions", '["1"]', "not the JSON of a mapping"),
        ("versions", DEEP, "no JSON"),
        ("rows_missing", '{"y": "many"}', "not the JSON of a mapping"),
        ("parameterization", "[]", "not the JSON of a mapping"),
        ("random_seed", "seven", "not a whole number"),
        ("random_seed", -1, "not a whole number"),
        ("rows", 1.5, "not a whole number"),
        ("pareto_k", "0.1", "not a number"),
        ("efficiency", "nan?", "not a number"),
        ("log_evidence", np.array([1.0, 2.0]), "not a number"),
        ("seconds", "soon", "not a number"),
        ("status", "SPLENDID", "not one of 'PASS', 'REVIEW', 'FAIL'"),
        ("status", 1, "not one of 'PASS'"),
        ("maximize", 2, "not one of 0, 1, ''"),
        ("engine", 7, "not a text"),
        ("model", DEEP, "is no model"),
        ("model", '{"formula": ' + DEEP, "is no model"),
        ("model", json.dumps({"formula": "y ~ " + "(" * 9000 + "x" + ")" * 9000, "priors": {}}), "is no model"),
        ("model", json.dumps({"formula": "y ~ x", "priors": [1]}), "is no model"),
        (
            "model",
            json.dumps({"formula": "y ~ x", "priors": {"x": {"name": "Normal", "mu": "0", "sigma": "1"}}}),
            "no mo",
        ),
        ("model", 12, "not a text"),
        ("model", json.dumps({"formula": "y ~ z + (1 | g)", "priors": {}}), "the parameter 'z' has no draws"),
        ("model", json.dumps({"formula": "y ~ x + (1 | g)", "priors": {}}), "of another model"),
    ],
)
def test_crafted_attributes_are_refused_by_name(posterior, tmp_path, name, value, problem) -> None:
    path = bh.save(crafted(posterior, **{name: value}), tmp_path / "fit.nc")  # its checksum is right
    with pytest.raises(DataError, match="damaged, or not written by bayeshlm") as refused:
        bh.load(path)
    assert problem in str(refused.value)
    assert name in str(refused.value) or "parameter" in problem or "another model" in problem
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_offenders_are_named_at_once(posterior, tmp_path, suffix) -> None:
    path = bh.save(crafted(posterior, notes="x", versions="y", rows="z"), tmp_path / f"fit{suffix}")
    with pytest.raises(DataError) as refused:
        bh.load(path)
    assert all(f"'{name}'" in str(refused.value) for name in ("notes", "versions", "rows"))


def test_crafted_variables_and_groups_are_refused_by_name(posterior, tmp_path) -> None:
    parts = {name: node.to_dataset() for name, node in posterior.children.items()}
    texts = parts["posterior"].assign(sigma=parts["posterior"]["sigma"].astype(str))
    without = parts["posterior"].drop_vars("sigma")
    turned = parts["posterior"].assign(sigma=parts["posterior"]["sigma"].transpose("draw", "chain"))
    statistics = parts["statistics"]
    deep = statistics.assign_attrs(record=DEEP)
    for changed, problem in (
        ({"posterior": texts}, "'sigma' of 'posterior'"),
        ({"posterior": without}, "the parameter 'sigma' has no draws"),
        ({"posterior": turned}, "'sigma' of 'posterior'"),
        ({"statistics": statistics.assign_attrs(record="{")}, "statistics"),
        ({"statistics": deep}, "statistics"),
        ({"statistics": statistics.drop_vars("scatter")}, "scatter"),
    ):
        tree = xr.DataTree.from_dict({**parts, **changed})
        tree.attrs = posterior.attrs
        with pytest.raises(DataError, match="damaged") as refused:
            bh.load(bh.save(tree, tmp_path / "fit.nc"))
        assert problem in str(refused.value)
    tree = xr.DataTree.from_dict({name: part for name, part in parts.items() if name != "statistics"})
    tree.attrs = posterior.attrs
    with pytest.raises(DataError, match="there is no group 'statistics'"):
        bh.load(bh.save(tree, tmp_path / "fit.nc"))
