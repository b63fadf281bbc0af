"""Many replicates of one task: on all cores or a cluster, resumable, and the same whatever ran where.

joblib spreads the work (loky's processes by default; ``joblib.parallel_config(backend="dask")`` and its likes are
honoured). A replicate's seed comes from the study's seed and its own index alone, and workers use one BLAS thread
each, so that neither order, number nor kind of the workers changes a bit of the result.
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.engines.progress import progress_bar
from bayeshlm.errors import BayeshlmWarning, DesignError, is_failure, outside_package
from bayeshlm.randomness import chosen_seed, seed_problem, whole
from bayeshlm.studies.store import Outcome, open_store
from bayeshlm.version import __version__

if TYPE_CHECKING:
    import os

    import pandas as pd
    import xarray as xr

Task = Callable[[int, np.random.SeedSequence], Mapping[str, Any]]
BATCH_SECONDS = 0.5  # of work sent to a worker at once: enough to forget the sending, little to lose
MAX_BATCH = 32
DIED = "The worker process died while it ran this replicate (out of memory?)"


@dataclass(frozen=True, eq=False)
class Results:
    """What a study's replicates returned.

    Attributes
    ----------
    values : dict of str to (finished, ...) arrays
        In order of the replicate, whatever the order in which they finished.
    replicate : (finished,) int
        Their numbers.
    failures : pandas.DataFrame
        `replicate`, `seed`, `error`; ``task(replicate, numpy.random.SeedSequence(seed))`` fails again.
    warnings : dict of str to int
        Message -> replicates that gave it.
    random_seed : int
    replicates, resumed : int
        Asked for, and how many of them came from the store.
    seconds : (finished,)
        Each replicate's own time, of the run that made it.
    """

    values: dict[str, NDArray[Any]]
    replicate: NDArray[np.int64]
    failures: pd.DataFrame
    warnings: dict[str, int]
    random_seed: int
    replicates: int
    resumed: int
    seconds: NDArray[np.float64]

    @property
    def finished(self) -> int:
        return len(self.replicate)

    def failures_dataset(self) -> xr.Dataset:
        """`failures` as a Dataset with dimension `failure`, for a DataTree."""
        import xarray as xr

        columns = {name: ("failure", self.failures[name].to_numpy()) for name in ("replicate", "seed")}
        error = ("failure", self.failures["error"].to_numpy(dtype=str))
        return xr.Dataset({**columns, "error": error})

    def tell(self) -> None:
        """One warning that counts the failures, and one that sums up the replicates' own warnings."""
        if len(self.failures):
            first = self.failures.iloc[0]
            warnings.warn(
                f"{len(self.failures)} of {self.replicates} replicates failed; the first, number {first['replicate']} "
                f"(seed {first['seed']}): {first['error']}",
                BayeshlmWarning,
                stacklevel=outside_package(),
            )
        if self.warnings:
            message, count = max(self.warnings.items(), key=lambda item: item[1])
            warnings.warn(
                f"Replicates gave {len(self.warnings)} different warnings; the most frequent, in {count} of "
                f"{self.replicates}: {message}",
                BayeshlmWarning,
                stacklevel=outside_package(),
            )


def run(
    task: Task,
    replicates: int,
    *,
    random_seed: int | None = None,
    store: str | os.PathLike[str] | None = None,
    key: Mapping[str, Any] | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
    description: str = "replicates",
) -> Results:
    """Run a task for every replicate.

    Parameters
    ----------
    task : callable
        ``task(index, seed_sequence)`` -> mapping of name to number or small array, the same names and shapes each
        time. It has to be picklable (by joblib's cloudpickle) where several processes run it.
    replicates : int
    random_seed : int, optional
        Replicate i gets the same seed whatever `replicates` is: a longer study contains the shorter one.
    store : path, optional
        Folder for finished replicates, written as they finish. A rerun reads them and does the rest (failed replicates
        are tried again); a study that differs in anything `key` tells has a folder of its own.
    key : mapping
        What makes the study what it is: kind, model, design, parameters, options. Seed and version are added.
    n_jobs : int, optional
        Processes, as joblib counts them (-1: all cores). None: what ``joblib.parallel_config`` says, else all cores.
    progress : bool
        Show a bar with rate, failures and time left.
    description : str
        What the bar calls it.

    Returns
    -------
    Results

    Raises
    ------
    DesignError
        Before any work, for impossible arguments and a store that cannot be written to; later where it takes no more
        (a full disk). What a replicate raises becomes a row of `failures`.
    """
    check_arguments(replicates, random_seed, n_jobs, store=store)
    entropy = chosen_seed(random_seed)
    shelf = open_store(store, _complete_key(key or {}, entropy)) if store is not None else None
    outcomes: dict[int, Outcome] = {}
    if shelf is not None:
        found = (shelf.load(index, seed_of(entropy, index)) for index in range(replicates))
        outcomes = {outcome.index: outcome for outcome in found if outcome is not None}
    resumed = len(outcomes)
    todo = [index for index in range(replicates) if index not in outcomes]
    with (
        progress_bar(description, replicates, shown=progress and bool(todo), done=resumed) as show,
        contextlib.closing(_outcomes(task, todo, entropy, n_jobs)) as finished,  # whatever ends this ends the work
    ):
        failed = 0
        for outcome in finished:
            outcomes[outcome.index] = outcome
            if shelf is not None and not outcome.error:
                shelf.save(outcome)
            failed += bool(outcome.error)
            show(len(outcomes), f"{failed} failed" if failed else "")
    return _collect([outcomes[index] for index in range(replicates)], entropy, resumed)


def seed_of(random_seed: int, index: int) -> int:
    """Seed of one replicate: `numpy.random.SeedSequence(random_seed).spawn(...)[index]`, as one number."""
    child = np.random.SeedSequence(random_seed, spawn_key=(index,))  # what spawn makes, without making the others
    return int(child.generate_state(1, np.uint64)[0])


def check_arguments(
    replicates: int,
    random_seed: int | None,
    n_jobs: int | None,
    *,
    store: object = None,
) -> None:
    """Refuse impossible arguments of a study, all of them in one message. Raises DesignError."""
    problems = []
    if not whole(replicates) or replicates < 1:
        problems.append(f"replicates={replicates!r} must be a whole number of at least 1")
    if problem := seed_problem(random_seed):
        problems.append(problem)
    if n_jobs is not None and (not whole(n_jobs) or n_jobs == 0):
        problems.append(f"n_jobs={n_jobs!r} must be a whole number other than 0 (-1: all cores), or None")
    if store is not None and random_seed is None:
        problems.append("store= needs random_seed=: a study with another seed each time has nothing to resume")
    if problems:
        raise DesignError("; ".join(problems) + ".")


def _complete_key(key: Mapping[str, Any], entropy: int) -> dict[str, Any]:
    return {**key, "random_seed": entropy, "version": __version__, "numpy": np.__version__}


@dataclass(frozen=True)
class Batch:
    """Replicates that one worker does in one go; each stands for itself."""

    task: Task
    indices: tuple[int, ...]
    entropy: int

    def __call__(self) -> list[Outcome]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):  # cores are shared by workers, and threads would change the last bits
            return [self._one(index) for index in self.indices]

    def _one(self, index: int) -> Outcome:
        seed = seed_of(self.entropy, index)
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                returned = self.task(index, np.random.SeedSequence(seed))
                values = {name: np.asarray(value) for name, value in returned.items()}
                error = _unfit(values)
            except BaseException as raised:  # whatever ends one replicate is a row, with its error and seed
                if not is_failure(raised):
                    raise
                values, error = {}, _told(raised)
        messages = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        return Outcome(index, seed, {} if error else values, time.perf_counter() - began, messages, error)


def _unfit(values: Mapping[str, NDArray[Any]]) -> str:
    objects = [name for name, value in values.items() if value.dtype.hasobject]
    return f"The task returned objects, not numbers: {', '.join(objects)}" if objects else ""


def _told(error: BaseException) -> str:
    """The error with the place in which it arose, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].name}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _outcomes(task: Task, todo: Sequence[int], entropy: int, n_jobs: int | None) -> Generator[Outcome]:
    """Every replicate's outcome as it finishes; a worker that dies costs the replicate that killed it."""
    died = _deaths()
    left, pace = dict.fromkeys(todo), Pace()
    while left:
        sent: list[Batch] = []
        try:
            for outcome in _dispatch(task, list(left), entropy, n_jobs, pace, sent):
                del left[outcome.index]
                yield outcome
        except died:
            # One of those under way killed its process: each again, alone in its own.
            suspects = [index for batch in sent for index in batch.indices if index in left]
            for index in suspects:
                alone: list[Batch] = []
                try:
                    outcome = next(_dispatch(task, [index], entropy, 2, Pace(), alone))
                except died:
                    outcome = Outcome(index, seed_of(entropy, index), {}, 0.0, (), DIED)
                del left[index]
                yield outcome


def _deaths() -> tuple[type[Exception], ...]:
    """What backends raise where a worker process is gone."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if "distributed" not in sys.modules:
        return (TerminatedWorkerError,)
    from distributed.scheduler import KilledWorker

    return (TerminatedWorkerError, KilledWorker)


class Pace:
    """How many replicates make a batch, from the time the finished ones took."""

    def __init__(self) -> None:
        self.seconds, self.done = 0.0, 0

    def note(self, outcome: Outcome) -> None:
        self.seconds, self.done = self.seconds + outcome.seconds, self.done + 1

    @property
    def batch(self) -> int:
        """1 until something is known."""
        if not self.done:
            return 1
        return int(np.clip(BATCH_SECONDS * self.done / max(self.seconds, 1e-9), 1, MAX_BATCH))


def _dispatch(
    task: Task, todo: list[int], entropy: int, n_jobs: int | None, pace: Pace, sent: list[Batch]
) -> Iterator[Outcome]:
    """Outcomes by way of joblib, from whatever backend is configured; `sent` takes every batch that was begun."""
    import joblib
    from joblib.parallel import get_active_backend

    backend, configured = get_active_backend()
    if n_jobs is None:
        local = type(backend).__name__ == "LokyBackend" and configured == 1  # nothing configured
        n_jobs = joblib.cpu_count() if local else configured
    workers = max(joblib.effective_n_jobs(n_jobs), 1)
    queue = iter(todo)
    if not backend.supports_return_generator:  # some clusters' backends return lists only: a wave at a time
        while wave := list(_batches(task, queue, entropy, pace, len(todo), workers, sent, limit=4 * workers)):
            for outcomes in joblib.Parallel(n_jobs=n_jobs, batch_size=1)(joblib.delayed(batch)() for batch in wave):
                yield from _noted(outcomes, pace)
        return
    work = _batches(task, queue, entropy, pace, len(todo), workers, sent)
    results = joblib.Parallel(n_jobs=n_jobs, batch_size=1, return_as="generator_unordered", pre_dispatch="2*n_jobs")(
        joblib.delayed(batch)() for batch in work
    )
    try:
        for outcomes in results:
            yield from _noted(outcomes, pace)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib warns of replicates given up; whoever interrupts knows
            results.close()


def _noted(outcomes: list[Outcome], pace: Pace) -> Iterator[Outcome]:
    for outcome in outcomes:
        pace.note(outcome)
        yield outcome


def _batches(
    task: Task, queue: Iterator[int], entropy: int, pace: Pace, total: int, workers: int, sent: list[Batch],
    limit: int | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Batches of the size the pace allows, smaller towards the end so that the workers finish together."""
    made = 0
    left = total
    while limit is None or made < limit:
        size = max(min(pace.batch, left // (2 * workers)), 1)
        indices = tuple(index for _, index in zip(range(size), queue, strict=False))
        if not indices:
            return
        left -= len(indices)
        made += 1
        sent.append(Batch(task, indices, entropy))
        yield sent[-1]


def _collect(outcomes: list[Outcome], entropy: int, resumed: int) -> Results:
    import pandas as pd

    good = [outcome for outcome in outcomes if not outcome.error]
    reference = {name: (value.shape, value.dtype.kind) for name, value in good[0].values.items()} if good else {}
    odd = [o for o in good if {n: (v.shape, v.dtype.kind) for n, v in o.values.items()} != reference]
    bad = [(o.index, o.seed, o.error) for o in outcomes if o.error]
    bad += [(o.index, o.seed, "Its values have other names, shapes or types than the first replicate's") for o in odd]
    good = [outcome for outcome in good if outcome not in odd]
    return Results(
        {name: np.stack([outcome.values[name] for outcome in good]) for name in reference},
        np.array([outcome.index for outcome in good], dtype=np.int64),
        pd.DataFrame({
            "replicate": np.array([row[0] for row in sorted(bad)], dtype=np.int64),
            "seed": np.array([row[1] for row in sorted(bad)], dtype=np.uint64),
            "error": pd.Series([row[2] for row in sorted(bad)], dtype=str),
        }),
        dict(Counter(message for outcome in outcomes for message in outcome.warnings)),
        entropy, len(outcomes), resumed, np.array([outcome.seconds for outcome in good]),
    )  # fmt: skip
