"""The runner with tasks whose results are known: order, seeds, failures, interruptions, damaged files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning, DesignError
from bayeshlm.studies.runner import Results, run, seed_of
from bayeshlm.studies.store import Outcome, canonical, open_store
from tests.data.clusters import dask_client
from tests.studies import mock

KEY = {"kind": "mock"}


def same(a: Results, b: Results) -> bool:
    """Bit for bit."""
    return (
        a.values.keys() == b.values.keys()
        and all(np.array_equal(a.values[name], b.values[name]) for name in a.values)
        and np.array_equal(a.replicate, b.replicate)
    )


def test_known_ranks_come_back_in_order_and_shape() -> None:
    results = run(mock.ranks, 37, random_seed=1, n_jobs=2, progress=False)
    assert results.values["rank"].tolist() == [k % 10 for k in range(37)]
    assert results.replicate.tolist() == list(range(37))
    assert (results.finished, results.replicates, results.resumed, len(results.failures)) == (37, 37, 0, 0)


def test_the_same_on_one_worker_two_workers_and_a_dask_cluster() -> None:
    """Real processes each time; the cluster is of two processes on this machine, on which others may run as well."""
    one = run(mock.draws, 24, random_seed=5, n_jobs=1, progress=False)
    two = run(mock.draws, 24, random_seed=5, n_jobs=2, progress=False)
    with taken(8787), dask_client(), joblib.parallel_config(backend="dask"):
        dask = run(mock.draws, 24, random_seed=5, progress=False)
    assert same(one, two)
    assert same(one, dask)


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    """The port is in use meanwhile: by us, or, where we cannot have it, by somebody else."""
    with socket.socket() as listening:
        with contextlib.suppress(OSError):
            listening.bind(("127.0.0.1", port))
            listening.listen()
        yield


def test_a_replicate_depends_on_its_index_alone() -> None:
    short = run(mock.draws, 5, random_seed=2, n_jobs=1, progress=False)
    long = run(mock.draws, 9, random_seed=2, n_jobs=1, progress=False)
    assert np.array_equal(long.values["normal"][:5], short.values["normal"])
    spawned = np.random.SeedSequence(2).spawn(5)[4]
    assert seed_of(2, 4) == int(spawned.generate_state(1, np.uint64)[0])
    alone = mock.draws(4, np.random.SeedSequence(seed_of(2, 4)))
    assert np.array_equal(alone["normal"], short.values["normal"][4])
    assert len(np.unique(long.values["normal"])) == long.values["normal"].size
    assert not same(short, run(mock.draws, 5, random_seed=3, n_jobs=1, progress=False))


def test_a_seed_is_drawn_and_told_where_none_is_given() -> None:
    first = run(mock.draws, 3, n_jobs=1, progress=False)
    again = run(mock.draws, 3, random_seed=first.random_seed, n_jobs=1, progress=False)
    assert same(first, again)
    assert not same(first, run(mock.draws, 3, n_jobs=1, progress=False))


def test_failures_are_rows_with_their_seed() -> None:
    results = run(mock.some_fail, 10, random_seed=1, n_jobs=2, progress=False)
    assert results.replicate.tolist() == [0, 2, 3, 4, 8]
    assert results.values["rank"].tolist() == [0, 2, 3, 4, 8]
    failures = results.failures.set_index("replicate")
    assert failures.index.tolist() == [1, 5, 6, 7, 9]
    assert failures["error"][5].startswith("ValueError: replicate 5 went wrong")
    assert "other names, shapes or types" in failures["error"][6]
    assert "objects, not numbers: rank" in failures["error"][7]
    assert failures["seed"].tolist() == [seed_of(1, k) for k in (1, 5, 6, 7, 9)]
    assert results.warnings == {"odd weather": 1}  # replicate 6 returned before it warned
    dataset = results.failures_dataset()
    assert dataset["error"].values[0] == failures["error"][1]
    assert dataset.sizes == {"failure": 5}
    with pytest.warns(BayeshlmWarning) as told:
        results.tell()
    assert "5 of 10 replicates failed; the first, number 1" in str(told[0].message)
    assert "odd weather" in str(told[1].message)


def test_a_dead_worker_costs_the_replicate_that_killed_it() -> None:
    results = run(mock.some_die, 8, random_seed=1, n_jobs=2, progress=False)
    assert results.replicate.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert results.failures["replicate"].tolist() == [3]
    assert "process died" in results.failures["error"][0]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"replicates": 0}, "replicates=0"),
        ({"replicates": 2.0}, "replicates=2.0"),
        ({"replicates": True}, "replicates=True"),
        ({"random_seed": -1}, "random_seed=-1"),
        ({"n_jobs": 0}, "n_jobs=0"),
        ({"store": "somewhere"}, "store= needs random_seed"),
    ],
)
def test_impossible_arguments_are_refused_before_any_work(arguments, fragment, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DesignError, match=fragment):
        run(None, **{"replicates": 3, **arguments})
    assert list(tmp_path.iterdir()) == []


def ran(folder: Path) -> list[int]:
    """Indices of the replicates that ran, from the files `Counted` left."""
    found = sorted(int(path.name.split(".")[0]) for path in folder.iterdir())
    shutil.rmtree(folder)
    folder.mkdir()
    return found


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a bit flipped":
        place = content.index(b"NUMPY") + 129  # the first number after a header of 128 bytes
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif how == "without checksum":  # as an earlier version wrote it
        path.write_bytes(content[:-34] + b"\0\0")
    elif how == "pickled":
        with zipfile.ZipFile(path, "a") as archive, archive.open("value/evil.npy", "w") as member:
            np.save(member, np.array([Path("x")], dtype=object), allow_pickle=True)
    elif how == "inflated":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("value/rank.npy", bytes(10_000_000))
    elif how == "another replicate":
        shutil.copy(path.with_name("0000005.npz"), path)


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "a bit flipped", "pickled", "inflated", "another replicate", "without checksum"]
)
def test_a_damaged_file_costs_one_replicate(how, tmp_path) -> None:
    work, store = tmp_path / "work", tmp_path / "store"
    work.mkdir()
    task = mock.Counted(str(work))
    options = {"random_seed": 3, "store": store, "key": KEY, "n_jobs": 1, "progress": False}
    first = run(task, 8, **options)
    assert ran(work) == list(range(8))
    (folder,) = store.iterdir()
    damage(folder / "0000002.npz", how)
    again = run(task, 8, **options)
    assert ran(work) == [2]
    assert again.resumed == 7
    assert same(first, again)
    assert same(first, run(task, 8, **options))
    assert ran(work) == []


def test_no_byte_of_a_replicate_can_change(tmp_path) -> None:
    """Also where zip's own checksums are none: in the names of the members, and in its directory."""
    store = open_store(tmp_path, KEY)
    outcome = Outcome(3, 17, {"rank": np.arange(4), "pit": np.linspace(0, 1, 4)}, 0.5, ("odd weather",))
    store.save(outcome)
    (path,) = store.folder.glob("*.npz")
    content = path.read_bytes()
    for place in sorted({*range(0, len(content), 7), *range(len(content) - 60, len(content))}):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        assert store.load(3, 17) is None, place
    path.write_bytes(content)
    found = store.load(3, 17)
    assert (found.seconds, found.warnings, found.error) == (0.5, ("odd weather",), "")
    assert all(np.array_equal(found.values[name], value) for name, value in outcome.values.items())


class Full:
    """A disk that takes so many files more; then it is full, as the system says it."""

    def __init__(self, monkeypatch, files: int) -> None:
        self.left, rename = files, os.replace

        def replace(source, target):
            if self.left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= 1
            rename(source, target)

        monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_keeps_what_is_finished_and_the_study_goes_on_from_it(jobs, tmp_path, monkeypatch) -> None:
    work, store = tmp_path / "work", tmp_path / "store"
    work.mkdir()
    options = {"random_seed": 3, "store": store, "key": KEY, "n_jobs": jobs, "progress": False}
    with monkeypatch.context() as patch:
        Full(patch, 4)  # what the study is, and three replicates
        with pytest.raises(
            DesignError, match=r"Replicate \d+ cannot be stored in .*: No space left on device\. The finish"
        ):
            run(mock.draws, 8, **options)
    (folder,) = store.iterdir()
    assert len(list(folder.glob("*.npz"))) == 3
    assert len(list(folder.iterdir())) == 4  # no leftovers
    rest = run(mock.Counted(str(work)), 8, **options)
    assert len(ran(work)) == 5
    assert rest.resumed == 3
    assert same(rest, run(mock.draws, 8, random_seed=3, n_jobs=1, progress=False))


def test_a_store_that_cannot_be_written_to_is_refused_before_any_work(tmp_path, monkeypatch) -> None:
    def never(index, seed):
        raise AssertionError("worked")

    options = {"random_seed": 3, "store": tmp_path / "store", "key": {"kind": "never"}, "n_jobs": 1, "progress": False}
    with monkeypatch.context() as patch:
        Full(patch, 0)
        with pytest.raises(DesignError, match=r"store=.*cannot be written to: No space left on device"):
            run(never, 2, **options)

    def refuse(self, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    with monkeypatch.context() as patch:  # root may write to read-only folders: the system's answer is stood in for
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(DesignError, match=r"store=.*cannot be written to: Permission denied"):
            run(never, 2, **options)
    run(mock.draws, 2, **options)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(DesignError, match=r"store=.*cannot be written to: Permission denied"):
            run(never, 2, **options)


def test_leftovers_of_killed_processes_are_cleared(tmp_path) -> None:
    store = open_store(tmp_path, KEY)
    dead, young = store.folder / ".dead.part", store.folder / ".young.part"
    dead.touch()
    young.touch()  # may be being written
    os.utime(dead, (0, 0))
    open_store(tmp_path, KEY)
    assert (dead.exists(), young.exists()) == (False, True)


def test_a_longer_study_takes_the_shorter_one_up(tmp_path) -> None:
    work, store = tmp_path / "work", tmp_path / "store"
    work.mkdir()
    options = {"random_seed": 3, "store": store, "key": KEY, "progress": False}
    run(mock.Counted(str(work)), 4, n_jobs=1, **options)
    ran(work)
    longer = run(mock.Counted(str(work)), 7, n_jobs=2, **options)
    assert ran(work) == [4, 5, 6]
    assert same(longer, run(mock.draws, 7, random_seed=3, n_jobs=1, progress=False))


def test_another_study_never_mixes_in(tmp_path) -> None:
    model = bh.Model("y ~ (1 | g)", family="lognormal")
    keys = [
        {"kind": "sbc", "model": model}, {"kind": "recover", "model": model},
        {"kind": "sbc", "model": bh.Model("y ~ (1 | g)", family="lognormal", priors={"sigma": bh.HalfNormal(2)})},
        {"kind": "sbc", "model": model, "params": {"sigma": 1.0}},
        {"kind": "sbc", "model": model, "params": {"sigma": 1}},
        {"kind": "sbc", "model": model, "design": bh.Design.nested(g=2, i=3)},
        {"kind": "sbc", "model": model, "design": bh.Design.nested(g=2, i=4)},
    ]  # fmt: skip
    for key in keys:
        run(mock.ranks, 2, random_seed=3, store=tmp_path, key=key, n_jobs=1, progress=False)
    run(mock.ranks, 2, random_seed=4, store=tmp_path, key=keys[0], n_jobs=1, progress=False)
    assert len(list(tmp_path.iterdir())) == len(keys) + 1
    assert run(mock.ranks, 2, random_seed=4, store=tmp_path, key=keys[0], n_jobs=1, progress=False).resumed == 2
    first, second = sorted(tmp_path.iterdir())[:2]
    shutil.copy(first / "0000000.npz", second / "0000000.npz")  # by hand: the file knows its study
    resumed = [
        run(mock.ranks, 2, random_seed=seed, store=tmp_path, key=key, n_jobs=1, progress=False).resumed
        for key, seed in [*((key, 3) for key in keys), (keys[0], 4)]
    ]
    assert sorted(resumed) == [1] + [2] * len(keys)


def test_functions_are_told_apart_by_what_they_do_and_close_over() -> None:
    def scaled(factor: float):
        return lambda data: data * factor

    assert canonical(scaled(2.0)) == canonical(scaled(2.0))
    assert canonical(scaled(2.0)) != canonical(scaled(3.0))
    assert canonical(mock.ranks) != canonical(mock.draws)
    with pytest.raises(DesignError, match="cannot tell studies with a set apart"):
        canonical({"x": {1, 2}})


def test_a_store_that_is_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(DesignError, match="is a file"):
        run(mock.ranks, 2, random_seed=3, store=tmp_path / "store", key=KEY, progress=False)


SCRIPT = """
import sys
from bayeshlm.studies import runner
from bayeshlm.studies import store
from tests.studies.mock import Waiting

runner.MAX_BATCH = 1
save = store.Store.save
def told(self, outcome):
    save(self, outcome)
    print("saved", outcome.index, flush=True)
store.Store.save = told
runner.run(Waiting(6, sys.argv[1]), 12, random_seed=9, store=sys.argv[2], key={"kind": "mock"}, n_jobs=int(sys.argv[3]),
           progress=False)
"""


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_keep_what_is_finished(number, jobs, tmp_path) -> None:
    """A real signal to a real process (Ctrl-C: to the group, as a terminal sends it) once six replicates are saved."""
    pipe, store, work = tmp_path / "pipe", tmp_path / "store", tmp_path / "work"
    os.mkfifo(pipe)
    work.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pipe), str(store), str(jobs)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(6):
            line = process.stdout.readline()
            assert line.startswith("saved"), process.stderr.read()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        process.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that wait for the pipe
        process.communicate()
    assert process.returncode in (-number, 130, 1)
    (folder,) = store.iterdir()
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        *(f"{k:07d}.npz" for k in range(6)), "study.json",
    ]  # fmt: skip
    rest = run(mock.Counted(str(work)), 12, random_seed=9, store=store, key=KEY, n_jobs=1, progress=False)
    assert ran(work) == list(range(6, 12))
    assert rest.resumed == 6
    assert same(rest, run(mock.draws, 12, random_seed=9, n_jobs=1, progress=False))
