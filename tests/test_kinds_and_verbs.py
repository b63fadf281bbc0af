"""A table of kinds of models and of verbs: what `fit` passes, all others pass too, or refuse by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bayeshlm as bh
from tests.kinds import KINDS, Kind

FEW: dict[str, Any] = {"random_seed": 1, "n_jobs": 1, "progress": False}
PROPER = "Give proper priors|Give params= or priors"
# (verb, kind) -> the words of the refusal.
REFUSED = {
    ("loo", "no levels"): "no groups that could be left out",
    ("loo", "no levels, se"): "no groups that could be left out",
    ("evidence", "flat"): PROPER, ("sbc", "flat"): PROPER, ("recover", "flat"): PROPER, ("plan", "flat"): PROPER,
}  # fmt: skip


def loo(kind: Kind, posterior: Any) -> None:
    found = bh.loo(posterior)
    assert np.isfinite(found.elpd)


def sensitivity(kind: Kind, posterior: Any) -> None:
    found = bh.sensitivity(posterior, kind.decide)
    assert np.isfinite(found.table[["prior", "likelihood"]].to_numpy()).all()


def evidence(kind: Kind, posterior: Any) -> None:
    assert np.isfinite(bh.evidence(posterior).log_evidence)


def compare(kind: Kind, posterior: Any) -> None:
    assert kind.decide is not None
    found = bh.compare(posterior, kind.decide, maximize=True)
    np.testing.assert_allclose(found.table["p_largest"].sum(), 1.0)


def sbc(kind: Kind, posterior: Any) -> None:
    found = bh.sbc(kind.model, kind.design, replicates=2, draws=50, **FEW)
    assert found.attrs["failed"] == 0


def recover(kind: Kind, posterior: Any) -> None:
    found = bh.recover(kind.model, kind.design, replicates=2, draws=50, **FEW)
    assert found.attrs["failed"] == 0


def plan(kind: Kind, posterior: Any) -> None:
    assert kind.decide is not None
    found = bh.plan(kind.model, [kind.design], decide=kind.decide, replicates=2, maximize=True, **FEW)
    assert found["finished"].item() == 2, found["failure_error"].values


VERBS: tuple[Callable[[Kind, Any], None], ...] = (loo, sensitivity, evidence, compare, sbc, recover, plan)


def posterior_of(kind: Kind) -> Any:
    """Fit to data simulated with whatever is flat at a proper prior."""
    priors = kind.model.complete_priors
    proper = kind.model.with_priors({n: p if p.proper else bh.Normal(0, 1) for n, p in priors.items()})
    frame = bh.simulate(proper, kind.design, random_seed=1).data
    posterior: Any = bh.fit(kind.model, frame, draws=250, random_seed=1, progress=False)
    assert posterior.attrs["engine"] == "exact"
    assert posterior.attrs["status"] != "FAIL"
    return posterior


@pytest.mark.filterwarnings("ignore:.*Every .* occurs in every:bayeshlm.errors.BayeshlmWarning")  # they do
@pytest.mark.parametrize("name", KINDS)
def test_what_fit_passes_all_verbs_pass(name: str) -> None:
    kind = KINDS[name]
    posterior = posterior_of(kind)
    for verb in VERBS:
        refusal = REFUSED.get((verb.__name__, name))
        if refusal is None:
            verb(kind, posterior)
            continue
        with pytest.raises(bh.errors.BayeshlmError, match=refusal):
            verb(kind, posterior)
