"""`plan`: which design to run. Every design is simulated, fitted and decided on many times, on the same worlds."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.checks.table import check_statistics
from bayeshlm.data.layout import Layout
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.build import unsupported
from bayeshlm.errors import BayeshlmError, BayeshlmWarning, DesignError, EngineError, is_failure, listed
from bayeshlm.posterior.question import resolve
from bayeshlm.posterior.values import values_of
from bayeshlm.simulation.design import Design
from bayeshlm.simulation.simulate_statistics import simulate_statistics
from bayeshlm.spec.model import Model
from bayeshlm.studies.plan.planned import summarise
from bayeshlm.studies.plan.question import Question, ask
from bayeshlm.studies.plan.quick import quick_values
from bayeshlm.studies.plan.shared_truth import FIT, UNITS, Streams, fixed, shared_noise, shared_params
from bayeshlm.studies.runner import run
from bayeshlm.studies.score import SCORES, score

if TYPE_CHECKING:
    import os

    import xarray as xr


def plan(
    model: Model,
    designs: Sequence[Design] | Mapping[str, Design],
    *,
    decide: str,
    replicates: int = 200,
    params: Mapping[str, Any] | None = None,
    fit_model: Model | None = None,
    costs: Mapping[str, float] | None = None,
    target: Mapping[str, float] | None = None,
    maximize: bool | None = None,
    prob: float = 0.95,
    store: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
    random_seed: int | None = None,
) -> xr.Dataset:
    """Simulate designs before one is run: how often each finds the best group, what wrong choices cost, its price.

    In every replicate a world is drawn from the design prior (`model`, or `params` where given), each design is run in
    it, fitted with the analysis prior (`fit_model`), and decided as `bayeshlm.compare` decides: the group with the
    smallest expected loss. All designs meet the same worlds (common random numbers, see
    `bayeshlm.studies.plan.shared_truth`), so that differences between designs are known better than each design's own
    figures.

    Parameters
    ----------
    model : Model
        Its priors are the design prior: what may be true.
    designs : sequence or {label: Design} mapping of Design
        See `Design.grid`.
    decide : str
        What is chosen, named as in `bayeshlm.compare`: arms given by `Treatment`, or the groups of a level (`method`).
    replicates : int
    params : mapping, optional
        Values of parameters, as in `bayeshlm.simulate`; the others are drawn from their priors.
    fit_model : Model, optional
        The analysis: the same formula with other priors. Default: `model`.
    costs : mapping, optional
        Price of one group of each level and of one unit, by the levels' names: ``{"instructor": 500, "student": 2}``.
        A level that is not named costs nothing.
    target : mapping, optional
        What the design has to reach: at least, for `p_best`, `assurance` and `power`; at most, for `expected_loss`,
        `outcome_loss` and `width`. Needs `costs`.
    maximize : bool, optional
        Whether larger responses are better. Where nobody says it, the plan is for finding the largest, and says so.
    prob : float
        Probability of the contrasts' intervals, and the P(best) that counts as sure.
    store, n_jobs, progress, random_seed
        As in `bayeshlm.sbc`: folder that makes the study resumable, processes, bar, seed.

    Returns
    -------
    xarray.Dataset
        Over `design`, each with its Monte Carlo standard error (`..._se`):

        - `p_best`: P(the chosen group is truly the best). Equal best groups are each right.
        - `assurance`: P(it is the best, and its posterior P(best) is at least `prob`), over the design prior
          (O'Hagan, Stevens, Campbell 2005, Pharmaceutical Statistics 4(3)).
        - `expected_loss`: how far the chosen group is truly below the best one: in units of the response, or for
          lognormal models as a share of the outcome of an average group (`loss_unit`), which `outcome_loss` has in
          units of the response at the typical outcome (median over worlds).
        - `width` of the contrasts' intervals, mean over pairs of groups; of log ratios for lognormal models.
        - `power`: share of pairs whose interval excludes zero (with `params` that fix the effects: power; over a
          prior: its mean).
        - `coverage`: share of pairs whose interval holds the truth; `prob` if the design prior is the analysis prior.
        - `type_s`: of the intervals that exclude zero, the share on the wrong side; `type_m`: the ratio of mean
          |estimate| to mean |truth| among them (Gelman and Carlin 2014, Perspectives on Psychological Science 9(6);
          as a ratio of means, since over a prior the mean ratio is infinite).
        - `cost`, and `groups` over `level`.

        Further `correct`, `loss` and `interval_width` over (`replicate`, `design`), for differences between designs;
        `finished` and `failed` replicates; `failure_*` over `failure`: replicate, design, seed and error of every fit
        that failed; with a target `meets` (yes, no, uncertain). attrs: `recommended`, `recommendation` (a sentence),
        the models, units, seed.

    Raises
    ------
    DesignError, DataError, PriorError, EngineError
        Before any work, naming every design that cannot be run or decided on.
    """
    question = ask(model, designs, decide, params, fit_model, costs, target, maximize, prob)
    probes = _probe_all(question)
    task = Task(question, tuple(statistics.layout for statistics, _ in probes))
    results = run(
        task, replicates, random_seed=random_seed, store=store, n_jobs=n_jobs, progress=progress,
        description=f"plan, {len(question.designs)} designs",
        key={"kind": "plan", **{f.name: getattr(question, f.name) for f in dataclasses.fields(question)
                                if f.name not in ("costs", "target")}},
    )  # fmt: skip
    results.tell()
    truth = {name: np.asarray(values) for name, values in probes[0][1].items()}
    baseline = values_of(probes[0][0], decide, lambda name: truth[name][None]).baseline
    return summarise(question, results, baseline)


@dataclass(frozen=True)
class Task:
    """One replicate: all designs in one world. Picklable."""

    question: Question
    layouts: tuple[Layout, ...]

    def __call__(self, index: int, seed: np.random.SeedSequence) -> dict[str, Any]:
        question, streams = self.question, Streams(seed)
        count = len(question.designs)
        scores = np.full((count, len(SCORES)), np.nan)
        typical, quick = np.full(count, np.nan), np.zeros(count)
        sizes = np.zeros((count, len(question.levels)))
        errors = [""] * count
        for k, (design, layout) in enumerate(zip(question.designs, self.layouts, strict=True)):
            try:
                found, sizes[k], typical[k], quick[k] = one(question, fixed(design, streams), layout, streams)
                scores[k] = [found[name] for name in SCORES]
            except BaseException as raised:  # whatever ends one design's fit is a row of the failures; others go on
                if not is_failure(raised):
                    raise
                errors[k] = f"{type(raised).__name__}: {' '.join(str(raised).split())}"
        return {
            "scores": scores, "sizes": sizes, "typical": typical, "quick": quick, "errors": np.array(errors),
        }  # fmt: skip


def one(
    question: Question, design: Design, layout: Layout, streams: Streams
) -> tuple[dict[str, float], Array, float, bool]:
    """Simulate, fit and decide once: (scores, groups of each level, typical outcome, whether the quick fit did)."""
    model = question.model
    params = shared_params(model, layout, design, question.params, streams)
    statistics, truth = _world(model, design, params, streams)
    analysed = dataclasses.replace(statistics, model=question.fit_model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeshlmWarning)  # of a mixed factor: the design is simulated as it was asked
        check_statistics(analysed)
    true = values_of(statistics, question.decide, lambda name: truth[name][None])
    values = quick_values(analysed, question.decide, truth, streams.stream(FIT))
    if values.labels != true.labels:
        raise EngineError("The groups fitted are not the groups simulated.")
    found = score(
        values, true.draws[0], log=model.family_spec.log_response, maximize=question.maximize is not False,
        prob=question.prob,
    )  # fmt: skip
    return found, _sizes(question, design), float(true.base[0]), values.quick


def _world(
    model: Model, design: Design, params: Mapping[str, Any], streams: Streams
) -> tuple[Statistics, dict[str, Array]]:
    """(statistics, true values by name) of a design without random sizes."""
    noise = shared_noise(design, streams)
    world = simulate_statistics(model, design, params=params, random_seed=streams.stream(UNITS), mean_noise=noise)
    return world.statistics, {name: values for name, (_, values) in world.parameters.values.items()}


def _sizes(question: Question, design: Design) -> Array:
    """Groups of each of the question's levels, the units among them; 0 for a level that the design lacks."""
    structure = design.draw(np.random.default_rng(0))
    counts = {name: len(parent) for name, parent in structure.parent.items()}
    counts[design.unit] = int(structure.units.sum())
    return np.array([float(counts.get(name, 0)) for name in question.levels])


def _probe_all(question: Question) -> list[tuple[Statistics, dict[str, Array]]]:
    """Simulate every design once and check that it can be fitted and decided on; all offenders in one message."""
    probes, problems = [], []
    streams = Streams(np.random.SeedSequence(0))
    for label, design in zip(question.labels, question.designs, strict=True):
        try:
            probes.append(_probe(question, fixed(design, streams), streams))
        except BayeshlmError as error:
            problems.append((label, error))
    if problems:
        kinds = {str(error): type(error) for _, error in problems}
        told = [
            f"{listed([label for label, other in problems if str(other) == message])}: {message}" for message in kinds
        ]
        kind = next(iter(kinds.values())) if len(set(kinds.values())) == 1 else DesignError
        raise kind(" ".join(told))
    return probes


def _probe(question: Question, design: Design, streams: Streams) -> tuple[Statistics, dict[str, Array]]:
    statistics, truth = _world(question.model, design, question.params, streams)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeshlmWarning)
        check_statistics(statistics)
    refused = unsupported(dataclasses.replace(statistics, model=question.fit_model))
    if refused:
        raise EngineError(refused)
    asked = resolve(statistics, question.decide)
    if asked.kind == "number" or asked.subgroup is not None:
        raise DesignError(
            f"decide={question.decide!r} is a number or an effect in subgroups, of which none is chosen. Give the arms "
            "by Treatment, or name a level."
        )
    values_of(statistics, asked, lambda name: truth[name][None])
    return statistics, truth
