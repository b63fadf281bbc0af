"""One study, coded and stored in every way: the same posterior, the same guards, the same comparison."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bayeshlm as bh
from bayeshlm.data.checks.clusters import few_groups
from bayeshlm.data.checks.table import check_statistics
from bayeshlm.data.table import tabulate
from bayeshlm.errors import BayeshlmWarning, DataError

PRIORS = {
    "Intercept": bh.Normal(10, 5), "arm": bh.Normal(0, 3), "age": bh.Normal(0, 1), "1|clinic_sigma": bh.HalfNormal(2),
    "sigma": bh.HalfNormal(2),
}  # fmt: skip
MODEL = bh.Model("y ~ arm + age + (1 | clinic)", priors=PRIORS)
ARMS = ["control", "new"]

Code = Callable[[pd.Series], Any]
CODINGS: dict[str, Code] = {
    "text": lambda new: pd.Series(np.where(new, "new", "control"), dtype=object),
    "string": lambda new: pd.Series(np.where(new, "new", "control"), dtype="string"),
    "0/1": lambda new: new.astype(int),
    "float": lambda new: new.astype(float),
    "nullable": lambda new: new.astype("Int64"),
    "bool": lambda new: new,
    "nullable bool": lambda new: new.astype("boolean"),
    "category": lambda new: pd.Series(np.where(new, "new", "control")).astype("category"),
    "ordered": lambda new: pd.Series(pd.Categorical(np.where(new, "new", "control"), ARMS, ordered=True)),
    "category of 0/1": lambda new: new.astype(int).astype("category"),
}
STORES = ("pandas", "Polars", "lazy Polars", "PyArrow", "DuckDB", "CSV", "CSV with index", "Parquet", "DuckDB file")


def stored(frame: pd.DataFrame, store: str, folder: Path) -> Any:
    """The same rows as each store hands them over."""
    path = folder / f"study{len(list(folder.iterdir()))}"
    match store:
        case "pandas":
            return frame
        case "Polars":
            return pl.from_pandas(frame)
        case "lazy Polars":
            return pl.from_pandas(frame).lazy()
        case "PyArrow":
            return pa.Table.from_pandas(frame, preserve_index=False)
        case "DuckDB":
            connection = duckdb.connect()
            connection.register("study", frame)
            return connection.sql("SELECT * FROM study")
        case "CSV" | "CSV with index":
            frame.to_csv(f"{path}.csv", index=store == "CSV with index")
            return f"{path}.csv"
        case "Parquet":
            frame.to_parquet(f"{path}.parquet")
            return f"{path}.parquet"
    with duckdb.connect(f"{path}.duckdb") as connection:
        connection.register("frame", frame)
        connection.execute("CREATE TABLE study AS SELECT * FROM frame")
    return f"{path}.duckdb::study"


def study(clinics: int, code: Code) -> pd.DataFrame:
    """Clinics in turn in the one and the other arm, eight patients each."""
    rng = np.random.default_rng(1)
    clinic = np.repeat(np.arange(clinics), 8)
    new = clinic % 2 == 1
    y = 10 + 1.5 * new + rng.normal(size=clinics)[clinic] + rng.normal(size=len(clinic))
    frame = pd.DataFrame({"y": y, "clinic": clinic + 101, "age": rng.normal(50, 10, len(clinic)).round(1)})
    return frame.assign(arm=code(pd.Series(new)))


def treatment(posterior: Any) -> np.ndarray:
    """Draws of the new arm's effect: one number, or the one category besides the reference."""
    draws = posterior["posterior"]["arm"].to_numpy()
    return draws.reshape(draws.shape[0] * draws.shape[1])


def said(work: Callable[[], object]) -> list[str]:
    """What a call warns of and refuses, with the arm's labels made alike."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            work()
            refused = []
        except DataError as error:
            refused = [str(error)]
    return [*(str(w.message) for w in caught if issubclass(w.category, BayeshlmWarning)), *refused]


@pytest.fixture(scope="module")
def reference() -> Any:
    return bh.fit(MODEL, study(12, CODINGS["text"]), random_seed=1, draws=250)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("coding", CODINGS)
def test_posterior_guards_and_comparison(coding: str, store: str, reference: Any, tmp_path: Path) -> None:
    code = CODINGS[coding]
    posterior = bh.fit(MODEL, stored(study(12, code), store, tmp_path), random_seed=1, draws=250)
    # Sums differ in their last digits from store to store; the draws follow them.
    np.testing.assert_allclose(treatment(posterior), treatment(reference), rtol=1e-6, atol=1e-9)
    for name in ("Intercept", "age", "1|clinic", "1|clinic_sigma", "sigma"):
        mine, other = (tree["posterior"][name].to_numpy() for tree in (posterior, reference))
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-8)
    assert posterior.attrs["log_evidence"] == pytest.approx(reference.attrs["log_evidence"], rel=1e-9)
    mine, other = (bh.compare(tree, "arm", maximize=True).table for tree in (posterior, reference))
    np.testing.assert_allclose(mine.to_numpy(dtype=float), other.to_numpy(dtype=float), rtol=1e-6, atol=1e-9)
    mine, other = (bh.compare(tree, "clinic").table for tree in (posterior, reference))
    np.testing.assert_allclose(mine.to_numpy(dtype=float), other.to_numpy(dtype=float), rtol=1e-6, atol=1e-9)
    assert mine.index.tolist() == other.index.tolist()


@pytest.mark.parametrize("store", STORES)
def test_rows_of_other_families(store: str, tmp_path: Path) -> None:
    """What a likelihood of rows reads: the same design, groups and responses, whatever the coding."""
    model = bh.Model("y ~ arm + age + (1 | clinic)", family="bernoulli")
    answers = study(12, CODINGS["text"])["y"] > 11
    wanted = tabulate(model, study(12, CODINGS["text"]).assign(y=answers))
    for k, code in enumerate(CODINGS.values()):
        frame = study(12, code).assign(y=answers if k % 2 else answers.astype(int))
        table = tabulate(model, stored(frame, store, tmp_path))
        for name in ("codes", "columns", "response", "trials"):
            np.testing.assert_allclose(getattr(table, name), getattr(wanted, name), rtol=1e-12)
        assert table.statistics.members == wanted.statistics.members


def one_clinic_an_arm(code: Code) -> pd.DataFrame:
    return study(2, code)


def missing_ages(code: Code) -> pd.DataFrame:
    frame = study(12, code)
    return frame.assign(age=frame["age"].where(frame.index >= 5))


def contaminated(code: Code) -> pd.DataFrame:
    """One row of the other arm in a clinic."""
    new = pd.Series(np.repeat(np.arange(12), 8) % 2 == 1)
    new[3] = True
    return study(12, CODINGS["text"]).assign(arm=code(new))


def ungrouped(code: Code) -> pd.DataFrame:
    """The controls of a partially nested design, without a clinic."""
    frame = study(12, code)
    return frame.assign(clinic=frame["clinic"].where(frame["clinic"] % 2 == 0))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    ("faulty", "says"),
    [
        (one_clinic_an_arm, "Each 'arm' has one 'clinic' only"),
        (missing_ages, "5 of 96 rows dropped for missing values in 'age' (5)."),
        (contaminated, "'arm' is the same for all rows of most groups of 'clinic', but not in '101'."),
        (ungrouped, "48 of 96 rows dropped for missing values in 'clinic' (48)."),
    ],
)
def test_guards(faulty: Callable[[Code], pd.DataFrame], says: str, store: str, tmp_path: Path) -> None:
    """In whatever coding, what is said begins alike. Of arms of which one is left, coding decides the words."""
    for coding, code in CODINGS.items():
        data = stored(faulty(code), store, tmp_path)
        messages = said(lambda data=data: check_statistics(bh.compress(MODEL, data)))
        assert messages, coding
        assert messages[0].startswith(says), coding
        if faulty is ungrouped:
            assert "give each a label of its own" in messages[0]
            assert messages[1].startswith(
                "First of all, 48 of 96 rows were dropped for missing values in 'clinic' (48)."
            )


def test_two_valued_numbers_are_arms_and_others_are_not() -> None:
    dose = study(4, CODINGS["0/1"])
    dose["arm"] = dose["clinic"] - 101.0  # 0, 1, 2, 3: a slope has two clinics more than it needs
    assert few_groups(bh.compress(MODEL, dose)) == {}
    check_statistics(bh.compress(MODEL, dose))
    two = study(8, lambda new: new * 20.0 + 5)
    assert "The contrast of 'arm' rests on 4 groups of 'clinic' an arm" in few_groups(bh.compress(MODEL, two))["arm"]
    curved = bh.Model("y ~ arm + I(arm**2) + I(arm**3) + (1 | clinic)")
    with pytest.raises(DataError, match=r"The 4 groups of 'clinic' are fitted without rest by .*'I\(arm \*\* 3\)'"):
        check_statistics(bh.compress(curved, dose))


def test_rows_without_a_group_by_the_message() -> None:
    """What the message says to do with ungrouped controls runs, and gives them no effect of a group."""
    frame = ungrouped(CODINGS["0/1"])
    labels = frame["clinic"].astype("string").fillna("alone " + frame.index.to_series().astype(str))
    priors = {name: prior for name, prior in PRIORS.items() if "|" not in name}
    model = bh.Model("y ~ arm + age + (0 + arm | clinic)", priors={**priors, "arm|clinic_sigma": bh.HalfNormal(2)})
    posterior = bh.fit(model, frame.assign(clinic=labels), random_seed=1)
    assert posterior.attrs["rows"] == 96
    assert posterior["posterior"].sizes["clinic"] == 6 + 48


WORDS = ("NA", "", "nan", "NULL")


@pytest.mark.parametrize("store", STORES)
def test_words_for_missing(store: str, tmp_path: Path) -> None:
    """Text that a CSV file would read as missing is missing in all stores, as a category and as a group."""
    frame = study(12, CODINGS["text"])
    frame["clinic"] = "c" + frame["clinic"].astype(str)
    frame.loc[[0, 40], "arm"] = WORDS[:2]
    frame.loc[[1, 41], "clinic"] = WORDS[2:]
    data = stored(frame, store, tmp_path)
    with pytest.warns(BayeshlmWarning, match=r"4 of 96 rows dropped .* 'arm' \(2\), 'clinic' \(2\)") as caught:
        statistics = bh.compress(MODEL, data)
    assert statistics.rows == 92
    assert statistics.layout.categories["arm"] == tuple(ARMS)
    assert len(statistics.members[0]) == 12
    if not store.startswith("CSV"):
        assert "4 times in 'arm', 'clinic'; if that is a category, give it another name" in str(caught[0].message)
    with pytest.raises(DataError, match="'arm' in 2 rows, 'clinic' in 2 rows"):
        bh.compress(MODEL, data, missing="error")


def test_words_for_missing_in_new_rows(reference: Any) -> None:
    new = pd.DataFrame({"arm": ["NA"], "age": [50.0], "clinic": [101]})
    with pytest.raises(DataError, match="'arm' is missing in 1 rows"):
        bh.predict(reference, new)


def test_new_rows_in_booleans_for_0_and_1() -> None:
    posterior = bh.fit(MODEL, study(12, CODINGS["0/1"]), random_seed=1, draws=250)
    new = study(12, CODINGS["0/1"]).head(20).drop(columns="y")
    both = [bh.predict(posterior, new.assign(arm=arm), random_seed=1)["predictions"] for arm in (new.arm, new.arm == 1)]
    np.testing.assert_array_equal(*(next(iter(part.data_vars.values())).to_numpy() for part in both))


def with_days(values: Any) -> pd.DataFrame:
    return study(12, CODINGS["text"]).assign(day=values)


DAYS = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(96) % 30, unit="D")


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("values", [DAYS, DAYS.date, DAYS.astype(str), DAYS + pd.Timedelta("8h")])
def test_a_date_is_no_category_unless_asked_for(store: str, values: Any, tmp_path: Path) -> None:
    data = stored(with_days(values), store, tmp_path)
    with pytest.raises(DataError, match=r"Column 'day' .*make a column of days.*write C\(day\) or \(1 \| day\)"):
        bh.compress(bh.Model("y ~ day + (1 | clinic)"), data)
    assert len(bh.compress(bh.Model("y ~ C(day) + (1 | clinic)"), data).layout.categories["day"]) == 30
    assert len(bh.compress(bh.Model("y ~ arm + (1 | day)"), data).members[0]) == 30


@pytest.mark.parametrize("store", ["pandas", "PyArrow", "Parquet", "CSV", "CSV with index"])
def test_one_name_for_two_columns(store: str, tmp_path: Path) -> None:
    frame = study(12, CODINGS["text"])
    twice = pd.concat([frame, frame[["age"]] + 1], axis=1)
    table = pa.Table.from_arrays([pa.array(twice.iloc[:, k]) for k in range(twice.shape[1])], names=list(twice.columns))
    data: Any = table
    if store == "Parquet":
        nested = pa.array([{"age": 1, "age_1": 2}] * len(frame))  # a name inside a column is none of the columns'
        pq.write_table(table.append_column("inside", nested), tmp_path / "twice.parquet")
        data = tmp_path / "twice.parquet"
    elif store != "PyArrow":
        data = stored(twice, store, tmp_path)
    with pytest.raises(DataError, match=r"olumn 'age' is .*more than once\. Rename or drop"):
        bh.compress(MODEL, data)
    plain = frame.assign(age_1=1.0, inside=[{"age": 1, "age_1": 2}] * len(frame))  # DuckDB's name for a second 'age'
    assert bh.compress(MODEL, stored(plain, store, tmp_path)).rows == 96


def test_spellings_of_other_places_are_answered() -> None:
    """An index is no column, decimal commas are no text, and a response is a number: what to do is said."""
    frame = study(12, CODINGS["text"])
    with pytest.raises(DataError, match=r"'clinic' is in the index, which is no column: give data.reset_index\(\)"):
        bh.compress(MODEL, frame.set_index("clinic"))
    comma = frame["age"].map("{:.1f}".format).str.replace(".", ",")
    for column, formula in (("age", "y ~ age"), ("y", "y ~ arm"), ("age", "y ~ log(age)")):
        with pytest.raises(DataError, match=rf"{column!r} has decimal commas \('\d+,\d'\)\. .*decimal=','"):
            bh.compress(bh.Model(formula), frame.assign(**{column: comma}))
    assert bh.compress(bh.Model("y ~ C(age)"), frame.assign(age=comma)).rows == 96
    text = frame.assign(age=frame["age"].astype(str))  # a CSV file of the same rows has numbers
    with pytest.raises(DataError, match=r"Column 'age' holds numbers as text .*astype\(float\), or write C\(age\)"):
        bh.compress(MODEL, text)
    assert bh.compress(bh.Model("y ~ C(age)"), text).rows == 96
    whole = frame.assign(age=np.where(frame["age"] > 50, "1", "2"))  # labels, as far as anybody can tell
    assert bh.compress(bh.Model("y ~ age"), whole).layout.categories["age"] == ("1", "2")
    halves = frame.assign(age=pd.Categorical(np.where(frame["age"] > 50, 0.5, 1.5)))  # categories by their type
    assert bh.compress(bh.Model("y ~ age"), halves).layout.categories["age"] == ("0.5", "1.5")
    words = frame.assign(y=np.where(frame["y"] > 10, "yes", "no"))
    with pytest.raises(DataError, match=r"data\['y'\] == 'yes'\) for family='bernoulli'"):
        bh.compress(MODEL, words)
    with pytest.raises(DataError, match="Booleans are a response of family='bernoulli'"):
        bh.compress(MODEL, frame.assign(y=frame["y"] > 10))
