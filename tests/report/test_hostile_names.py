"""Names of columns and groups made to break out of SQL, HTML and files, from a Parquet file to the report."""

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from tests.report.test_html import Page

GROUPS = [
    "<script>document.title='owned'</script>", "'; DROP TABLE students; --", '" onmouseover="alert(1)',
    "a $b_1$ \\frac",
    "two\nlines", "\U0001f600 \u65e5\u672c\u8a9e \u202eevil", "{{ 7 * 7 }} {% raw %}", "<img src=x onerror=alert(1)>",
]  # fmt: skip
OUTCOME, LEVEL, SLOPE = "score </td><script>1</script>", "g'\"; DROP TABLE t; --", "$x$ & \U0001f600 {{ x }}"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(len(GROUPS)), 15)
    folder = tmp_path_factory.mktemp("it's a [folder] $HOME")
    d = pd.DataFrame({
        OUTCOME: rng.normal(group / 4, 1), SLOPE: rng.normal(size=len(group)), LEVEL: np.array(GROUPS)[group]
    })  # fmt: skip
    d.to_parquet(folder / "data '; --[1].parquet")
    return folder / "data '; --[1].parquet"


def test_hostile_names_travel_from_a_file_to_the_report(path):
    priors = {"Intercept": bh.Normal(0, 5), SLOPE: bh.Normal(0, 1), f"1|{LEVEL}_sigma": bh.HalfNormal(1),
              "sigma": bh.HalfNormal(2)}  # fmt: skip
    model = bh.Model(f"`{OUTCOME}` ~ `{SLOPE}` + (1 | `{LEVEL}`)", priors=priors)
    assert bh.Model.from_json(model.to_json()) == model
    posterior = bh.fit(model, path, random_seed=1, progress=False)
    assert sorted(GROUPS) == posterior["posterior"][f"1|{LEVEL}"][LEVEL].values.tolist()
    loaded = bh.load(bh.save(posterior, path.with_name("fit.nc")))
    assert loaded["posterior"][f"1|{LEVEL}"][LEVEL].values.tolist() == sorted(GROUPS)
    table = bh.compare(loaded, LEVEL).table
    assert set(table.index) == set(GROUPS)
    report = bh.report(loaded, path.with_name("report.html"), by=LEVEL)
    page = Page(report.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for name, value in page.attributes if name in ("src", "href") and value == "x"]
    words = " ".join("".join(page.words).split())
    assert "\u202e" not in words, "the report shows direction marks instead of obeying them"
    for name in (*GROUPS, OUTCOME, LEVEL, SLOPE):
        for part in name.split("\u202e"):
            assert " ".join(part.split()) in words, name


def test_hostile_names_of_statistics_survive_a_file(path):
    model = bh.Model(f"`{OUTCOME}` ~ `{SLOPE}` + (1 | `{LEVEL}`)")
    statistics = bh.compress(model, path, site="<b>site</b>", own=[LEVEL])
    loaded = bh.load(bh.save(statistics, path.with_name("statistics.zarr")))
    assert [label for (label,) in loaded.members[0]] == sorted(f"<b>site</b>: {name}" for name in GROUPS)
