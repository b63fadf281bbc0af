"""The report as a reader meets it: its numbers, its safety, its file."""

import html
import html.parser
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.data.layout import Level
from bayeshlm.errors import DataError
from bayeshlm.posterior.draws import statistics_of
from bayeshlm.posterior.naive import naive_comparison
from bayeshlm.posterior.question import assigned_level, treatment

ATTACKS = [
    "<script>alert(1)</script>", "\"quoted\" onload='x'", "$x_{1}$ & more\nline", "\U0001f600 日本語 \u202eevil\x07",
    "L" * 300 + " end", "http://evil.example/x?a=b",
]  # fmt: skip


class Page(html.parser.HTMLParser):
    """Tables (rows of cell texts, by section id), all text, all tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.section, self.words, self.cell = "", [], None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs).get("id") or ""
        elif tag == "table":
            self.tables.setdefault(self.section, []).append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.tables[self.section][-1][-1].append(self.cell)
            self.cell = None

    def handle_data(self, data: str) -> None:
        if "body" in self.tags:
            self.words.append(data)
        if self.cell is not None:
            self.cell += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def figure(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace(",", ""))


def study(arms: list[str], seed: int = 1, **columns: str) -> pd.DataFrame:
    """Groups of 12 rows, four to an arm."""
    rng = np.random.default_rng(seed)
    count = 4 * len(arms)
    group = np.repeat(np.arange(count), 12)
    names = {"y": "y", "x": "x", "arm": "arm", "group": "group", **columns}
    x = rng.normal(size=group.size)
    y = np.exp(2 + 0.2 * x + rng.normal(0, 0.2, count)[group] + rng.normal(0, 0.3, group.size))
    return pd.DataFrame(
        {
            names["y"]: y,
            names["x"]: x,
            names["arm"]: [arms[g % len(arms)] for g in group],
            names["group"]: [f"g{g}" for g in group],
        }
    )


def fit(formula: str, data: pd.DataFrame, **options: object) -> object:
    model = bh.Model(formula, family=options.pop("family", "lognormal"), **options)
    return bh.fit(model, data, draws=250, chains=4, random_seed=3, progress=False)


@pytest.fixture(scope="module")
def posterior() -> object:
    return fit("y ~ x + (1 | arm/group)", study(["a", "b", "c"]))


@pytest.fixture(scope="module")
def page(posterior: object, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = bh.report(posterior, tmp_path_factory.mktemp("report") / "r.html", by="arm", maximize=True)
    return Page(path.read_text(encoding="utf-8"))


def test_verdict_and_tables_are_the_comparisons(posterior: object, page: Page) -> None:
    comparison, naive = bh.compare(posterior, "arm", maximize=True), naive_comparison(posterior, "arm")
    assert comparison.verdict() in page.text
    assert naive.sentence() in page.text
    groups, pairs = page.tables["forests"]
    assert groups[0] == ["arm", "multiplier", "95% interval", "P(best)", "expected loss"]
    assert {row[0] for row in groups[1:]} == {"a", "b", "c"}
    for row in groups[1:]:
        expected = comparison.table.loc[row[0]]
        assert [figure(row[1]), *map(figure, row[2].split(" to "))] == pytest.approx(
            expected.iloc[:3].tolist(), rel=1e-3
        )
        assert row[3] == comparison.probability(expected["p_best"], short=True)
        assert figure(row[4]) == pytest.approx(expected["expected_loss"], rel=1e-2)
    assert len(pairs) == 4
    for row in pairs[1:]:
        first, second = row[0].split(" against ")
        there, rows_alone = comparison.pair(first, second), naive.pair(first, second)
        shown = [figure(row[1]), *map(figure, row[2].split(" to ")), figure(row[5]), *map(figure, row[6].split(" to "))]
        wanted = [there["ratio"], there["lower"], there["upper"]]
        wanted += [rows_alone[k] for k in ("naive", "naive_lower", "naive_upper")]
        assert shown == pytest.approx(wanted, rel=1e-3)
        assert row[3:5] == [comparison.probability(there[name], short=True) for name in ("p_greater", "p_rope")]


def test_variance_components_are_the_summary(posterior: object, page: Page) -> None:
    summary = bh.summarize(posterior).set_index("variable")
    components, shares = page.tables["variance"]
    assert [row[0] for row in components[1:]] == ["1|arm_sigma", "1|arm:group_sigma", "sigma"]
    for row in components[1:]:
        expected = summary.loc[row[0]]
        assert [figure(row[1]), *map(figure, row[2].split(" to "))] == pytest.approx(
            [expected["median"], expected["lower"], expected["upper"]], rel=1e-3
        )
    assert [row[0] for row in shares[1:3]] == ["arm (ICC)", "arm:group (ICC)"]


def test_it_shows_model_priors_data_and_provenance(posterior: object, page: Page) -> None:
    assert "log y i = β Intercept + β x ⋅ x i" in page.text
    priors = page.tables["model"][0]
    stored = bh.Model.from_json(posterior.attrs["model"]).complete_priors  # type: ignore[attr-defined]  # a DataTree
    assert ["x", str(stored["x"])] in [row[:2] for row in priors]
    normal, edge = next(row for row in priors if row[0] == "x"), 1.96 * stored["x"].sigma
    assert [figure(v) for v in normal[2].split(" to ")] == pytest.approx([-edge, edge], rel=2e-2)
    assert page.tables["data"][0] == [["", "rows"], ["rows seen", "144"], ["rows used", "144"]]
    assert page.tables["data"][1][1:] == [["arm", "3", "48", "48", "48"], ["arm:group", "12", "12", "12", "12"]]
    assert f"random seed {posterior.attrs['random_seed']}" in page.text
    assert posterior.attrs["engine_reason"] in page.text


def test_it_is_one_file_without_script_or_network(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset", "xmlns")]
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not [value for _, value in page.attributes if re.search(r"https?:|url\((?!#)", value)]
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    referred = [value[1:] for name, value in page.attributes if name == "href"]
    referred += [found for _, value in page.attributes for found in re.findall(r"url\(#([^)]*)\)", value)]
    assert referred
    assert set(referred) <= set(identifiers)


def test_every_figure_has_words_for_those_who_cannot_see_it(page: Page) -> None:
    alts = [value for name, value in page.attributes if name == "aria-label"]
    assert page.tags.count("svg") == len(alts) >= 9
    assert all(len(alt) > 20 for alt in alts)


def test_names_are_attacks() -> None:
    names = {"y": "<b>y</b> $", "arm": 'a"$&<', "group": "<i>"}
    posterior = fit('`<b>y</b> $` ~ x + (1 + x | `a"$&<`) + (1 | `a"$&<`:`<i>`)', study(ATTACKS, **names))
    from bayeshlm.report.contents import collect
    from bayeshlm.report.html import render

    text = render(collect(posterior, 'a"$&<', maximize=True))
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert "<b>y" not in text
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "$x_{1}$ & more line" in page.text
    assert "\u202e" not in text
    assert "\x07" not in text
    assert "\U0001f600 日本語" in page.text
    assert not [value for name, value in page.attributes if name in ("href", "src") and not value.startswith("#")]
    longest_in_figure = [s for s in re.findall(r"<text[^>]*>([^<]*)</text>", text) if "LLL" in s]
    assert longest_in_figure
    assert max(map(len, longest_in_figure)) < 60


def test_a_loaded_posterior_gives_the_same_report(posterior: object, tmp_path: Path) -> None:
    loaded = bh.load(bh.save(posterior, tmp_path / "fit.nc"))
    first, second = bh.report(posterior, tmp_path / "a.html"), bh.report(loaded, tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html", "fit.nc"]


def test_values_that_are_not_numbers_are_a_failure_on_top(posterior: object, tmp_path: Path) -> None:
    broken = posterior.copy(deep=True)
    broken["posterior"]["1|arm"].to_numpy()[0, 0, 0] = np.nan
    page = Page(bh.report(broken, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.text.index("FAIL: do not use these numbers.") < page.text.index("What moves y?")
    assert "not numbers: nothing can be compared" in page.text
    assert "Choose arm" not in page.text


@pytest.mark.parametrize(("status", "words"), [("FAIL", "FAIL: do not use"), ("REVIEW", "REVIEW: read this")])
def test_chains_that_disagree_are_told_on_top(posterior: object, tmp_path: Path, status: str, words: str) -> None:
    broken = posterior.copy(deep=True)
    sigma = broken["posterior"]["sigma"].to_numpy()
    sigma[0] += sigma.std() * (5 if status == "FAIL" else 0.45)
    assert bh.diagnose(broken, hyperparameters_only=True).status == status
    path = bh.report(broken, tmp_path / "r.html", by="arm", maximize=True)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.index(words) < page.text.index("Which arm?")
    assert "Choose" not in page.text
    assert "for sigma" in page.text
    assert ("THE FIT DID NOT CONVERGE" in page.text) == (status == "FAIL")


def test_a_status_recorded_by_the_fit_is_not_lost(posterior: object, tmp_path: Path) -> None:
    marked = posterior.copy()
    marked.attrs["status"] = "REVIEW"
    assert "REVIEW: read this" in bh.report(marked, tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_treatment_given_to_groups_is_compared_unasked(tmp_path: Path) -> None:
    posterior = fit("y ~ x + arm + (1 | group)", study(["a", "b"]))
    statistics = statistics_of(posterior)
    question = treatment(statistics)
    assert (question.name, question.kind) == ("arm", "categories")
    assert isinstance(level := assigned_level(statistics, "arm"), Level)
    assert level.name == "group"
    page = Page(bh.report(posterior, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "What does arm do to y?" in page.text
    assert bh.compare(posterior, "arm").verdict() in page.text
    assert "Choose" not in page.text
    assert "Forest plot of 8 groups of group" in " ".join(value for _, value in page.attributes)


def test_groups_are_never_compared_unasked() -> None:
    """A treatment given to groups, else what has arms, else a number; the first in the formula; never groups."""
    data = study(["a", "b"]).assign(sex=np.tile(["f", "m"], 48), half=np.tile([0, 1], 48))
    data["dose"] = data["group"].str[1:].astype(int) * 2.5

    def asked(formula: str) -> tuple[str, str] | None:
        question = treatment(bh.compress(bh.Model(formula, family="lognormal"), data))
        return None if question is None else (question.name, question.kind)

    assert asked("y ~ x + sex + (1 | group)") == ("sex", "categories")
    assert asked("y ~ x + sex + half + arm + (1 | group)") == ("arm", "categories")
    assert asked("y ~ x + half + sex + (1 | group)") == ("half", "arms")
    assert asked("y ~ x + sex + dose + (1 | group)") == ("dose", "number")
    assert asked("y ~ x + (1 | group)") == ("x", "number")
    assert asked("y ~ 1 + (1 | arm/group)") is None


def test_a_treatment_whose_effect_has_no_mean_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    data = study(["a", "b"]).assign(half=np.tile([0, 1], 48))
    posterior = fit("y ~ half + half:x + (1 | group)", data)
    page = Page(bh.report(posterior, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "The effect of half cannot be shown at the means of the other columns" in page.text
    assert "Forest plot of 8 groups of group" in " ".join(value for _, value in page.attributes)
    with pytest.raises(DataError, match="whose mean is not known"):
        bh.report(posterior, tmp_path / "asked.html", by="half")


@pytest.mark.parametrize("maximize", [None, True, False])
def test_a_number_gets_its_slope_and_curve_and_nothing_is_chosen(tmp_path: Path, maximize: bool | None) -> None:
    data = study(["a", "b"])
    data["dose"] = data["group"].str[1:].astype(int) * 2.5
    posterior = fit("y ~ dose + (1 | group)", data)
    page = Page(bh.report(posterior, tmp_path / "r.html", maximize=maximize).read_text(encoding="utf-8"))
    comparison = bh.compare(posterior, "dose", maximize=maximize)
    assert "What does dose do to y?" in page.text
    assert comparison.verdict() in page.text
    assert "One more unit of dose" in page.text
    assert ("More dose is better with probability" in page.text) == (maximize is not None)
    assert "Choose" not in page.text
    groups = page.tables["forests"][0]
    assert groups[0] == ["dose", "multiplier", "95% interval"]
    slope = np.exp(posterior["posterior"]["dose"].to_numpy().ravel())
    for row in groups[1:]:
        assert figure(row[1]) == pytest.approx(np.median(slope ** float(row[0])), rel=1e-3)


def test_nothing_to_compare_is_a_report_without_verdict(tmp_path: Path) -> None:
    posterior = fit("y ~ 1", study(["a", "b"]))
    page = Page(bh.report(posterior, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "What moves y?" in page.text
    assert "verdict" not in page.tables
    assert "Choose" not in page.text
    assert [row[0] for row in page.tables["variance"][0][1:]] == ["sigma"]


def test_many_groups_are_capped_and_it_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(90), 3)
    data = pd.DataFrame({"y": np.exp(rng.normal(size=90)[group] * 0.3 + rng.normal(size=270) * 0.2), "group": group})
    posterior = fit("y ~ 1 + (1 | group)", data)
    path = bh.report(posterior, tmp_path / "r.html", by="group", maximize=True)
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.tables["forests"][0]) == 61
    assert "30 further groups, all with a larger expected loss, are left out." in page.text
    assert "The 60 extremes of 90 groups: 30 are left out at the dotted line." in page.text
    unasked = Page(bh.report(posterior, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Choose" not in unasked.text
    assert "The 60 extremes of 90 groups" in unasked.text


def test_mistakes_are_told_before_anything_is_written(posterior: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'nonsense' is neither a level"):
        bh.report(posterior, tmp_path / "r.html", by="nonsense")
    with pytest.raises(DataError, match=r"folder of .* does not exist"):
        bh.report(posterior, tmp_path / "no" / "r.html")
    with pytest.raises(DataError, match="is a folder"):
        bh.report(posterior, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_report(
    posterior: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "r.html"
    target.write_text("old", encoding="utf-8")

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DataError, match="disk full"):
        bh.report(posterior, target)
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_dropped_rows_are_counted_by_column(tmp_path: Path) -> None:
    data = study(["a", "b"])
    data.loc[:4, "x"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that rows are dropped is what the report must say
        posterior = fit("y ~ x + (1 | arm/group)", data)
    page = Page(bh.report(posterior, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert ["dropped: x missing", "5"] in page.tables["data"][0]
    assert ["rows seen", "96"] in page.tables["data"][0]
    assert ["rows used", "91"] in page.tables["data"][0]


def test_page_holds_the_model_as_pymc_source(posterior: object, tmp_path: Path) -> None:
    raw = bh.report(posterior, tmp_path / "r.html").read_text(encoding="utf-8")
    start = raw.index("<pre", raw.index("The same in PyMC"))
    source = html.unescape(raw[raw.index(">", start) + 1 : raw.index("</pre>", start)])
    names: dict[str, object] = {}
    exec(compile(source, "page", "exec"), names)
    assert callable(names["build"])
    assert 'pm.LogNormal("y", eta, sigma' in source
