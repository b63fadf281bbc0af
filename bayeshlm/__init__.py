"""Bayesian hierarchical models of experiments whose treatment is given to groups and measured on units inside them.

Importing this package imports nothing heavy: names are looked up when they are first used.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from bayeshlm.version import __version__ as __version__

if TYPE_CHECKING:
    from bayeshlm import errors as errors
    from bayeshlm.data.compress import compress as compress
    from bayeshlm.data.default_priors import scaled_priors as scaled_priors
    from bayeshlm.data.statistics import Statistics as Statistics
    from bayeshlm.engines.pymc.model import to_pymc as to_pymc
    from bayeshlm.fit import fit as fit
    from bayeshlm.posterior.compare import Comparison as Comparison
    from bayeshlm.posterior.compare import compare as compare
    from bayeshlm.posterior.diagnose import Diagnosis as Diagnosis
    from bayeshlm.posterior.diagnose import diagnose as diagnose
    from bayeshlm.posterior.evidence import Evidence as Evidence
    from bayeshlm.posterior.evidence import evidence as evidence
    from bayeshlm.posterior.loo import loo as loo
    from bayeshlm.posterior.predict import predict as predict
    from bayeshlm.posterior.sensitivity import Sensitivity as Sensitivity
    from bayeshlm.posterior.sensitivity import sensitivity as sensitivity
    from bayeshlm.posterior.store import load as load
    from bayeshlm.posterior.store import save as save
    from bayeshlm.posterior.summarize import summarize as summarize
    from bayeshlm.report.html import report as report
    from bayeshlm.simulation.design import Covariate as Covariate
    from bayeshlm.simulation.design import Design as Design
    from bayeshlm.simulation.design import Treatment as Treatment
    from bayeshlm.simulation.seed_study import seed_study as seed_study
    from bayeshlm.simulation.simulate import World as World
    from bayeshlm.simulation.simulate import simulate as simulate
    from bayeshlm.spec.model import Model as Model
    from bayeshlm.spec.priors import LKJ as LKJ
    from bayeshlm.spec.priors import PC as PC
    from bayeshlm.spec.priors import At as At
    from bayeshlm.spec.priors import Cauchy as Cauchy
    from bayeshlm.spec.priors import Exponential as Exponential
    from bayeshlm.spec.priors import Flat as Flat
    from bayeshlm.spec.priors import Gamma as Gamma
    from bayeshlm.spec.priors import HalfCauchy as HalfCauchy
    from bayeshlm.spec.priors import HalfNormal as HalfNormal
    from bayeshlm.spec.priors import HalfStudentT as HalfStudentT
    from bayeshlm.spec.priors import InverseGamma as InverseGamma
    from bayeshlm.spec.priors import LogNormal as LogNormal
    from bayeshlm.spec.priors import Normal as Normal
    from bayeshlm.spec.priors import StudentT as StudentT
    from bayeshlm.spec.priors import Uniform as Uniform
    from bayeshlm.studies.plan.plan import plan as plan
    from bayeshlm.studies.recover import recover as recover
    from bayeshlm.studies.sbc import sbc as sbc

_PRIORS = (
    "Normal", "StudentT", "Cauchy", "Flat", "HalfNormal", "HalfStudentT", "HalfCauchy", "Exponential", "Gamma",
    "InverseGamma", "LogNormal", "Uniform", "LKJ", "PC", "At",
)  # fmt: skip
_HOME = {
    "Comparison": "posterior.compare",
    "Covariate": "simulation.design",
    "Design": "simulation.design",
    "Diagnosis": "posterior.diagnose",
    "Evidence": "posterior.evidence",
    "Model": "spec.model",
    "Sensitivity": "posterior.sensitivity",
    "Statistics": "data.statistics",
    "Treatment": "simulation.design",
    "World": "simulation.simulate",
    "compare": "posterior.compare",
    "compress": "data.compress",
    "diagnose": "posterior.diagnose",
    "errors": "errors",
    "evidence": "posterior.evidence",
    "fit": "fit",
    "load": "posterior.store",
    "loo": "posterior.loo",
    "plan": "studies.plan.plan",
    "predict": "posterior.predict",
    "recover": "studies.recover",
    "report": "report.html",
    "save": "posterior.store",
    "sbc": "studies.sbc",
    "scaled_priors": "data.default_priors",
    "seed_study": "simulation.seed_study",
    "sensitivity": "posterior.sensitivity",
    "simulate": "simulation.simulate",
    "summarize": "posterior.summarize",
    "to_pymc": "engines.pymc.model",
    **dict.fromkeys(_PRIORS, "spec.priors"),
}

__all__ = sorted(_HOME)  # computed from the one table above, so that the two cannot differ


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bayeshlm' has no attribute {name!r}")
    module = importlib.import_module(f"bayeshlm.{_HOME[name]}")
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """Keeps `bh.fit` and `bh.report` functions: importing a submodule of the same name would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "errors" or name not in _HOME or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
