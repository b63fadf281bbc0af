"""What a verdict decides: only in a direction, only of a fit that did not fail, only what the data can tell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.posterior.draws import flat
from tests.posterior.fabricated import fabricated


def of_arms(values: dict[str, float], spread: float = 1.0, family: str = "gaussian") -> xr.DataTree:
    """A posterior whose arms `b` and `c` are off `a` by these values, 0.1 `spread` wide; 12 groups, 4 an arm."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 5)})
    data["arm"] = np.array(list("abc"))[data["g"] % 3]
    data["y"] = rng.uniform(1, 2, len(data))
    posterior = fabricated(bh.Model("y ~ arm + (1 | g)", family=family), data, {"sigma": 1.0, "Intercept": 1.0})
    draws = posterior["posterior"]["arm"].to_numpy()
    for k, arm in enumerate("bc"):
        noise = np.random.default_rng(k).permutation(np.linspace(-1.7, 1.7, draws[..., 0].size))  # sd 0.98
        draws[..., k] = values[arm] + 0.1 * spread * noise.reshape(draws.shape[:2])
    posterior.attrs["status"] = "PASS"
    return posterior


def test_without_a_direction_nothing_is_chosen() -> None:
    """Issue 12, 7: `pain ~ arm` chose the arm with more pain."""
    posterior = of_arms({"b": 1.0, "c": -1.0})
    found = bh.compare(posterior, "arm")
    assert found.best is None
    assert found.table[["p_best", "expected_loss"]].isna().all(axis=None)
    assert found.table.loc["b", "p_largest"] == found.table.loc["c", "p_smallest"] == 1
    assert "Largest: arm b" in found.verdict()
    assert "smallest: c" in found.verdict()
    assert "maximize=True" in found.verdict()
    assert "--minimize" in found.verdict()
    assert "Choose" not in found.to_text()
    assert "p_best" not in found.to_text()
    up, down = bh.compare(posterior, "arm", maximize=True), bh.compare(posterior, "arm", maximize=False)
    assert (up.best, down.best) == ("b", "c")
    assert up.verdict().startswith("Choose arm b: it is the best (largest)")
    assert down.verdict().startswith("Choose arm c: it is the best (smallest)")
    pd.testing.assert_frame_equal(up.pairs, down.pairs)
    pd.testing.assert_frame_equal(up.pairs, found.pairs)


@pytest.mark.parametrize("maximize", [None, True, False])
def test_a_failed_fit_chooses_nothing(maximize: bool | None) -> None:
    posterior = of_arms({"b": 1.0, "c": -1.0})
    posterior.attrs["status"] = "FAIL"
    found = bh.compare(posterior, "arm", maximize=maximize)
    assert found.best is None
    assert found.verdict().startswith("THE FIT DID NOT CONVERGE")
    assert "Choose" not in found.to_text()


def test_what_the_data_cannot_tell_is_not_chosen() -> None:
    """Issue 12, 9: "Choose method 4" at 48.7 % against 48.1 %."""
    found = bh.compare(of_arms({"b": 0.30, "c": 0.304}, spread=3), "arm", maximize=True)
    assert found.table["p_best"].max() < 0.6
    text = found.verdict()
    assert text.startswith(f"Cannot tell which arm is the best (largest): {found.best} is it with probability")
    assert "Choose" not in text
    assert "more than 10 times as many groups of 'g'" in text
    assert f"{found.best} loses least; expected loss of choosing it: " in text
    assert all(sentence.count(": ") <= 1 for sentence in text.split(". ") if "loses least" in sentence)


def test_how_much_more_would_tell() -> None:
    posterior = of_arms({"b": 0.2, "c": -2.0}, spread=2)
    found = bh.compare(posterior, "arm", maximize=True)
    draws = flat(posterior, "arm")[:, 0]
    assert 0.75 < (draws > 0).mean() < 0.9
    times = (1.6448536 * draws.std() / np.median(draws)) ** 2
    assert 1 < times < 3
    assert f"about {times:.1f} times as many groups of 'g' would tell these two apart" in found.verdict()
    assert "Choose arm b" in bh.compare(posterior, "arm", maximize=True, prob=0.7).verdict()


def test_what_makes_no_difference_that_counts_is_said() -> None:
    found = bh.compare(of_arms({"b": 0.3, "c": 0.301}, spread=0.1), "arm", maximize=True, rope=(-0.1, 0.1))
    best, second = found.best, found.runner_up
    assert found.verdict().startswith(f"arm {best} and {second} are practically equal (probability")
    assert "Choose" not in found.verdict()


@pytest.mark.parametrize("family", ["gaussian", "lognormal"])
@pytest.mark.parametrize("maximize", [None, True, False])
def test_a_contrast_has_one_sign(family: str, maximize: bool | None) -> None:
    """Treatment less control in verdict, table and plot, whichever is better; else what leads comes first."""
    from bayeshlm.report.comparing import contrast_forest

    found = bh.compare(of_arms({"b": 0.5, "c": -0.5}, family=family), "arm", maximize=maximize)
    shown = found.contrasts()
    leading = "c" if maximize is False else "b"
    assert {tuple(row) for row in shown[["a", "b"]].to_numpy()} == {
        ("b", "a"), ("c", "a"), (leading, "c" if leading == "b" else "b")
    }  # fmt: skip
    for row in shown.to_dict("records"):
        figures = {name: row[name] for name in (found.contrast, "lower", "upper")}
        assert found.pair(row["a"], row["b"]) == {k: v for k, v in row.items() if k not in "ab"}
        sentence = f"{row['a']} against {row['b']}: {found.shown(figures)}"
        assert (sentence in found.verdict()) == (row["b"] == "a")
    forest, left_out = contrast_forest(found)
    assert left_out == 0
    assert sorted(forest.middle) == pytest.approx(sorted(shown[found.contrast]))


def test_loss_is_said_to_be_of_choosing_it_and_of_whom() -> None:
    text = bh.compare(of_arms({"b": 0.3, "c": 0.2}, family="lognormal"), "arm", maximize=True).verdict()
    assert "xpected loss of choosing it:" in text
    assert "% of the outcome of arm a" in text
    assert "if this choice is wrong" not in text
    groups = bh.compare(of_arms({"b": 0.3, "c": 0.2}, family="lognormal"), "g", maximize=True).verdict()
    assert "% of the outcome of the average group." in groups


def test_two_leaders_that_are_equal_are_no_choice_while_a_third_may_be_far_better() -> None:
    """The leading two differ by nothing; the third, of which little is known, makes the expected loss large."""
    posterior = of_arms({"b": 0.3, "c": 0.301}, spread=0.1)
    draws = posterior["posterior"]["arm"].to_numpy()
    rng = np.random.default_rng(1)
    draws[...] -= rng.normal(0, 1, draws.shape[:2])[..., None]  # all that is sure is b against c
    found = bh.compare(posterior, "arm", maximize=True, rope=(-0.1, 0.1))
    assert {found.best, found.runner_up} == {"b", "c"}
    assert found.pair("b", "c")["p_rope"] == 1
    assert found.verdict().startswith("Cannot tell which arm is the best")
