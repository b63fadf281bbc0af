"""The gallery's studies with what the tests need to know of each: a small design, and the twin's own coordinates."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import bayeshlm as bh
from bayeshlm.spec.priors import Prior

MODELS = Path(__file__).parents[2] / "models"
Point = dict[str, Any]


def load_study(name: str) -> ModuleType:
    """A file of models/ as a module."""
    spec = importlib.util.spec_from_file_location(name, MODELS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class ByLot(Prior):
    """0, 1 and 2 by lot, once in every three groups in a row: in equal numbers within their parents of three."""

    def sample(self, rng: np.random.Generator, size: Any = None) -> np.ndarray:
        return rng.permuted(np.arange(size).reshape(-1, 3) % 3, axis=1).ravel().astype(float)


@dataclass(frozen=True)
class Gallery:
    """One study.

    `small` is a design of the same shape whose worlds differ, between seeds, by exchangeable labels only. `latent` are
    the twin's Gaussian variables, `predictor` gives each row's mean, `twin_point` the twin's variables at a truth.
    """

    study: ModuleType
    small: bh.Design
    latent: tuple[str, ...]
    response: str
    outer: str
    inner: str
    predictor: Callable[[xr.Dataset, pd.DataFrame], np.ndarray]
    twin_point: Callable[[xr.Dataset, pd.DataFrame], Point]

    @property
    def deviations(self) -> tuple[str, ...]:
        """The standard deviations."""
        return tuple(name for name, kind in self.study.model.parameters.items() if kind == "scale")


def pairs(data: pd.DataFrame, outer: str, inner: str) -> list[str]:
    """Label of each row's inner group."""
    return [f"{a}:{b}" for a, b in zip(data[outer], data[inner], strict=True)]


def effects(truth: xr.Dataset, data: pd.DataFrame, outer: str, inner: str) -> np.ndarray:
    """Sum of both group effects of each row."""
    both = f"{outer}:{inner}"
    first = truth[f"1|{outer}"].sel({outer: data[outer].to_numpy()}).to_numpy()
    return first + truth[f"1|{both}"].sel({both: pairs(data, outer, inner)}).to_numpy()


def parents(truth: xr.Dataset, outer: str, both: str) -> np.ndarray:
    """Effect of the outer group of each inner group."""
    labels = [int(str(label).split(":")[0]) for label in truth[both].to_numpy()]
    return truth[f"1|{outer}"].sel({outer: labels}).to_numpy()


def teaching_predictor(truth: xr.Dataset, data: pd.DataFrame) -> np.ndarray:
    slope = float(truth["log1p(hs_gpa)"])
    common = float(truth["Intercept"]) + slope * np.log1p(data["hs_gpa"].to_numpy())
    return common + effects(truth, data, "method", "instructor")


def teaching_point(truth: xr.Dataset, data: pd.DataFrame) -> Point:
    slope = float(truth["log1p(hs_gpa)"])
    overall = float(truth["Intercept"]) + slope * float(np.log1p(data["hs_gpa"].to_numpy()).mean())
    above = overall + parents(truth, "method", "method:instructor")
    return {
        "log1p(hs_gpa)": slope,
        "overall": overall,
        "method_level": overall + truth["1|method"].to_numpy(),
        "instructor_level": above + truth["1|method:instructor"].to_numpy(),
    }


def class_effects(truth: xr.Dataset, frame: pd.DataFrame) -> np.ndarray:
    """Effect of class type and grade; the reference of each is 0."""
    total = np.zeros(len(frame))
    for name in ("cltype", "gr"):
        values = dict(zip(truth[f"{name}_dim"].to_numpy(), truth[name].to_numpy(), strict=True))
        total += np.array([values.get(label, 0.0) for label in frame[name].astype(str)])
    return total


def star_predictor(truth: xr.Dataset, data: pd.DataFrame) -> np.ndarray:
    return float(truth["Intercept"]) + class_effects(truth, data) + effects(truth, data, "sch", "tch")


def star_point(truth: xr.Dataset, data: pd.DataFrame) -> Point:
    intercept = float(truth["Intercept"])
    classes = data.drop_duplicates("tch").sort_values(["sch", "tch"])
    above = intercept + parents(truth, "sch", "sch:tch") + class_effects(truth, classes)
    return {
        "Intercept": intercept,
        "cltype": truth["cltype"].to_numpy(),
        "gr": truth["gr"].to_numpy(),
        "school_level": intercept + truth["1|sch"].to_numpy(),
        "class_level": above + truth["1|sch:tch"].to_numpy(),
    }


def gallery(name: str) -> Gallery:
    study = load_study(name)
    if name == "teaching_methods":
        # hs_gpa is 0, 1 or 2 by lot, so that two worlds have the same values of it, in another order.
        grades = bh.Covariate(ByLot(), level="instructor")
        small = bh.Design.nested(method=4, instructor=3, student=5, covariates={"hs_gpa": grades})
        latent = ("log1p(hs_gpa)", "overall", "method_level", "instructor_level")
        levels = ("method", "instructor")
        return Gallery(study, small, latent, "score", *levels, teaching_predictor, teaching_point)
    # Grade by school, so that two worlds differ in the order of schools and of classes only.
    arms = {**dict(study.design.treatments), "gr": bh.Treatment(study.GRADES, level="sch")}
    small = bh.Design.nested(sch=8, tch=6, pupil=3, treatments=arms)
    latent = ("Intercept", "cltype", "gr", "school_level", "class_level")
    return Gallery(study, small, latent, "read", "sch", "tch", star_predictor, star_point)
