"""`bayeshlm pymc`: what is printed is a module that builds the model."""

from __future__ import annotations

import numpy as np
import pymc as pm

import bayeshlm as bh
from bayeshlm.cli.simulating import load_study


def test_printed_source_builds_the_model_of_a_table(run, study) -> None:
    done = run("pymc", study, "--parameterization", "noncentered")
    assert done.exit_code == 0, done.output
    names: dict[str, object] = {}
    exec(compile(done.stdout, "printed", "exec"), names)
    loaded = load_study(str(study))
    built = names["build"](bh.simulate(loaded.model, loaded.design, random_seed=3).data)
    assert isinstance(built, pm.Model)
    wanted = {*loaded.model.parameters, "1|arm", "1|arm:site", "score"}
    assert wanted <= set(built.named_vars)
    assert "1|arm_offset" in built.named_vars
    assert np.isfinite(built.compile_logp(mode="FAST_COMPILE")(built.initial_point()))


def test_long_lines_are_not_broken(run, study) -> None:
    done = run("pymc", study, columns=30)
    assert max(map(len, done.stdout.splitlines())) > 80


def test_a_study_without_a_model(run, tmp_path) -> None:
    (tmp_path / "empty.py").write_text("x = 1", encoding="utf-8")
    done = run("pymc", "empty.py")
    assert done.exit_code == 2
    assert "'model' is missing" in done.stderr
