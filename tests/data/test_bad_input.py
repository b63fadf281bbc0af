"""Bad input: what is wrong with the table -> which error, and what it says."""

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning, DataError, FormulaError
from tests.data.tables import IN_MEMORY, table


def with_values(column, value, rows=(3, 7)):
    d = table()
    d.loc[list(rows), column] = value
    return d


def nested(**changes):
    """Eight teachers in four schools, an arm given to teachers."""
    rng = np.random.default_rng(1)
    teacher = np.repeat(np.arange(8), 10)
    d = pd.DataFrame({"y": rng.normal(size=80), "teacher": teacher, "school": teacher // 2,
                      "arm": np.where(teacher % 2 == 0, "a", "b"), "one": "all", "row": np.arange(80)})  # fmt: skip
    return d.assign(**{name: make(d) for name, make in changes.items()})


X = "y ~ x + (1 | school)"
CASES = {
    "missing column": ("y ~ scool + (1 | shcool)", table(), DataError, "did you mean 'school' for 'scool'"),
    "missing weights column": (bh.Model(X, weights="wt"), table(), DataError, "Column not in the data: 'wt'"),
    "empty table": (X, table().iloc[:0], DataError, "The table has no rows"),
    "no complete row": (X, table().assign(x=np.nan), DataError, "No complete row is left: 'x' in 120 rows"),
    "infinite": (X, with_values("x", np.inf), DataError, "'x' is infinite in 2 rows (the first at positions 3, 7"),
    "infinite y": (X, with_values("y", -np.inf), DataError, "'y' is infinite in 2 rows"),
    "not positive": (bh.Model("y ~ (1 | school)", family="lognormal"), table().assign(y=1.0).assign(
        y=lambda d: np.where(d.index < 2, -d.y, d.y)), DataError, "'y' is not positive, which lognormal needs: 2 rows"),
    "zero weight": (bh.Model(X, weights="w"), with_values("w", 0.0), DataError, "'w' (weights or standard errors)"),
    "log of a negative": ("y ~ log(x) + (1 | school)", with_values("x", -1.0), DataError,
                          "term 'log(x)' is not finite"),
    "squares overflow": (X, table().assign(x=lambda d: d.x * 1e200), DataError, "too large for floats"),
    "constant y": (X, table().assign(y=3.7), DataError, "'y' is constant"),
    "one row": (X, table().iloc[:1], DataError, "1 complete row only"),
    "one group": ("y ~ (1 | one)", nested(), DataError, "'one' has one group only"),
    "one category": ("y ~ one + (1 | teacher)", nested(), DataError, "one category only ('all')"),
    "one group an arm": ("y ~ arm + (1 | teacher)", nested().query("teacher < 2"), DataError,
                         "Each 'arm' has one 'teacher' only: the effect of the arm cannot be told"),
    "one row a group": ("y ~ (1 | school/row)", nested(), DataError,
                        "'school:row' has one row in each of its 80 groups"),
    "same levels twice": ("y ~ (1 | school/copy)", nested(copy=lambda d: d.school), DataError, "have the same groups"),
    "aliased": ("y ~ x + copy + (1 | school)", table().assign(copy=lambda d: 2 * d.x - 3), DataError,
                "combinations of the others and cannot be told from them: 'copy'"),
    "constant column": ("y ~ c + (1 | school)", table().assign(c=4.0), DataError, "'c'"),
    "scale of a constant": ("y ~ scale(c) + (1 | school)", table().assign(c=4.0), DataError, "values that vary"),
    "text response": ("arm ~ x + (1 | school)", table(), DataError, "A number is needed: 'arm'"),
    "text in a transform": ("y ~ log(arm) + (1 | school)", table(), DataError, "A number is needed: 'arm'"),
    "too many categories": ("y ~ name + (1 | school)", table(300).assign(name=[f"n{k}" for k in range(300)]), DataError,
                            "has 300 of them"),
    "not a frame": (X, {"y": [1]}, DataError, "data is a dict"),
    "no such file": (X, "nowhere.csv", DataError, "No file at 'nowhere.csv'"),
    "formula syntax": ("y ~ x +", table(), FormulaError, "nothing stands after the last operator"),
    "unknown function": ("y ~ sine(x) + (1 | school)", table(), FormulaError, "Unknown function 'sine'"),
    "code in a formula": ("y ~ x.real + (1 | school)", table(), FormulaError, "outside the formula grammar"),
    "a unit's own level": ("y ~ 1 + (1 | row)", nested(), DataError,
                           "one row in each of its 80 groups: its variance cannot be told from the residual variance"),
    "numbers as objects": ("y ~ price + (1 | school)", table().assign(
        price=lambda d: [Decimal(int(g)) for g in d.grade]), DataError, "holds numbers, but its type is object"),
    "a database without its table": (X, "data.duckdb::t", DataError, "No file at 'data.duckdb'"),
    "no data": (X, None, DataError, "data is a NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused(case):
    model, data, error, fragment = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeshlmWarning)  # default priors, dropped rows: not the point here
        with pytest.raises(error) as caught:
            bh.fit(bh.Model(model) if isinstance(model, str) else model, data, draws=10, chains=1, random_seed=0)
    assert fragment in str(caught.value)


VALUES = ["infinite", "log of a negative", "not positive", "empty table", "squares overflow"]


@pytest.mark.parametrize("kind", IN_MEMORY)
@pytest.mark.parametrize("case", VALUES)
def test_bad_values_are_refused_in_every_frame(kind, case):
    model, data, error, fragment = CASES[case]
    model = bh.Model(model) if isinstance(model, str) else model
    with pytest.raises(error) as caught:
        bh.compress(model, IN_MEMORY[kind](data))
    assert fragment.split(" (the first")[0] in str(caught.value)


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_missing_values_are_dropped_counted_and_named(kind):
    d = with_values("x", np.nan)
    d["arm"] = d.arm.where(d.index > 4, None)
    d["school"] = d.school.astype("Int64").where(d.index != 50)
    model = bh.Model("y ~ x + arm + (1 | school)")
    with pytest.warns(BayeshlmWarning, match=r"7 of 120 rows dropped .* 'x' \(2\), 'arm' \(5\), 'school' \(1\)"):
        found = bh.compress(model, IN_MEMORY[kind](d))
    assert (found.total_rows, found.rows, found.missing) == (120, 113, {"x": 2, "arm": 5, "school": 1})
    assert found.members == (((0,), (1,), (2,), (3,)),)
    with pytest.raises(DataError, match=r"'x' in 2 rows.*missing='drop'"):
        bh.compress(model, IN_MEMORY[kind](d), missing="error")
    with pytest.raises(DataError, match="'drop' or 'error'"):
        bh.compress(model, d, missing="ignore")


def test_nan_and_null_are_both_missing_in_polars():
    d = pl.DataFrame(
        {"y": [1.0, 2.0, 3.0, 4.0, 5.0], "x": [1.0, float("nan"), None, 2.0, 4.0], "g": ["a", "b", "a", None, "b"]}
    )
    for frame in (d, d.lazy()):
        with pytest.warns(BayeshlmWarning, match="3 of 5 rows"):
            found = bh.compress(bh.Model("y ~ x + (1 | g)"), frame)
        assert found.rows == 2
        assert found.missing == {"x": 2, "g": 1}


def test_a_contaminated_treatment_is_warned_of():
    d = nested()
    d.loc[0, "arm"] = "b"
    with pytest.warns(BayeshlmWarning) as caught:
        bh.fit(bh.Model("y ~ arm + (1 | teacher)"), d, draws=200, chains=2, random_seed=1)
    assert any("not in '0'" in str(w.message) and "contaminated" in str(w.message) for w in caught)


def columns():
    d = table()
    return {
        "bool": (d.grade > 1, ["True"]),
        "date": (pd.to_datetime("2024-01-30") + pd.to_timedelta(d.grade, "D"), ["2024-02-01", "2024-02-02"]),
        "unused levels": (pd.Categorical(d.arm, ["never", "small", "aide", "plain"]), ["aide", "plain"]),
        "nullable": (d.arm.astype("string"), ["plain", "small"]),
        "nullable bool": ((d.grade > 1).astype("boolean"), ["True"]),
        "mixed": (d.arm.where(d.arm != "small", 7).astype(object), ["aide", "plain"]),
    }


@pytest.mark.parametrize("kind", ["bool", "date", "unused levels", "nullable", "nullable bool", "mixed"])
def test_categories_of_every_type(kind):
    values, labels = columns()[kind]
    term = "C(k)" if kind == "date" else "k"  # a date is no category unless it is said to be one
    found = bh.compress(bh.Model(f"y ~ {term} + (1 | school)"), table().assign(k=values))
    assert found.layout.common[1].labels == tuple(labels)
    grouped = bh.compress(bh.Model("y ~ (1 | k)"), table().assign(k=values))
    assert set(labels) <= set(grouped.labels(0))
    check = table().assign(k=values)
    first = np.array([str(v).startswith(labels[0]) for v in check.k])
    assert found.total().mean[0] + found.shift[0] == pytest.approx(first.mean())


@pytest.mark.parametrize("kind", ["pandas", "polars", "polars lazy", "pyarrow", "duckdb"])
def test_labels_are_the_same_from_every_frame(kind):
    d = table()
    d["day"] = pd.to_datetime("2024-01-30") + pd.to_timedelta(d.grade, "D")
    d["hour"] = pd.to_datetime("2024-01-30") + pd.to_timedelta(d.grade, "h")
    d["flag"], d["half"] = d.grade > 1, d.grade / 2
    d["price"] = [Decimal(f"{g}.50") for g in d.grade]
    found = bh.compress(bh.Model("y ~ C(day) + C(hour) + C(half) + (1 | flag) + (1 | price)"), IN_MEMORY[kind](d))
    assert found.layout.common[1].labels == ("2024-02-01", "2024-02-02")
    assert found.layout.common[2].labels == ("2024-01-30 02:00:00", "2024-01-30 03:00:00")
    assert found.layout.common[3].labels == ("1", "1.5")
    assert found.labels(0) == ["False", "True"]
    assert found.labels(1) == ["1.5", "2.5", "3.5"]


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_any_column_name(kind):
    names = {"x": "a b", "y": "1 'y\" $", "school": "<sch/ool>;--", "arm": "\u00e9\u4e2d"}
    text = "`1 'y\" $` ~ `a b` + `\u00e9\u4e2d` + (1 | `<sch/ool>;--`)"
    plain = bh.compress(bh.Model("y ~ x + arm + (1 | school)"), table())
    odd = bh.compress(bh.Model(text), IN_MEMORY[kind](table().rename(columns=names)))
    np.testing.assert_allclose(odd.scatter, plain.scatter, rtol=1e-10, atol=1e-10)


def test_integers_do_not_wrap():
    d = table().assign(y=lambda f: (f.y * 1e6).astype("int32"), x=lambda f: np.arange(len(f), dtype="int8"))
    for make in IN_MEMORY.values():
        found = bh.compress(bh.Model("y ~ x + (1 | school)"), make(d))
        assert found.total().scatter[1, 1] == pytest.approx(d.y.astype(float).var(ddof=0) * len(d), rel=1e-12)


def test_a_million_labels_keep_their_types_and_order():
    d = pd.DataFrame({"y": np.arange(40.0) % 7, "g": np.arange(40) % 20 - 5, "t": [f"t{k % 20}" for k in range(40)]})
    found = bh.compress(bh.Model("y ~ 1 + (1 | g) + (1 | t)"), d)
    assert found.labels(0) == list(range(-5, 15))
    assert {type(label) for label in found.labels(0)} == {int}
    assert found.labels(1) == sorted(f"t{k}" for k in range(20))


def test_a_missing_group_never_joins_the_last_one():
    """pandas codes what is missing as -1, which as an index means the last group."""
    d = pd.DataFrame({"y": [1.0, 2.0, 3.0, 4.0, 100.0], "g": ["a", "a", "b", "b", None]})
    for make in IN_MEMORY.values():
        with pytest.warns(BayeshlmWarning, match=r"1 of 5 rows dropped .*'g' \(1\)"):
            found = bh.compress(bh.Model("y ~ 1 + (1 | g)"), make(d))
        np.testing.assert_allclose(found.mean[:, 0] + found.shift[0], [1.5, 3.5])


def test_a_database_names_its_tables(tmp_path):
    import duckdb

    file = tmp_path / "d.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE scores AS SELECT 1.0 AS y")
    with pytest.raises(DataError, match="has no table 'score'; it has 'scores'"):
        bh.compress(bh.Model("y ~ 1"), f"{file}::score")
    with pytest.raises(DataError, match="is a database; name the table too"):
        bh.compress(bh.Model("y ~ 1"), file)
    (tmp_path / "no.duckdb").write_text("no database")
    with pytest.raises(DataError, match="cannot be read"):
        bh.compress(bh.Model("y ~ 1"), f"{tmp_path / 'no.duckdb'}::scores")


def test_an_integer_beyond_64_bits_is_an_error_and_not_another_group():
    import duckdb

    relation = duckdb.connect().sql(
        "SELECT y, (2::HUGEINT ** 90)::HUGEINT + y::INT AS g FROM (VALUES (1.0), (2.0)) t(y)"
    )
    with pytest.raises(DataError, match="cannot be read"):
        bh.compress(bh.Model("y ~ 1 + (1 | g)"), relation)
    small = duckdb.connect().sql("SELECT y, (9007199254740992::HUGEINT + y::INT) AS g FROM (VALUES (1.0), (2.0)) t(y)")
    assert bh.compress(bh.Model("y ~ 1 + (1 | g)"), small).labels(0) == [9007199254740993, 9007199254740994]


def test_a_row_broken_late_in_a_file_is_a_data_error(tmp_path):
    """DuckDB guesses types from the first rows; what breaks later shows when the file is read."""
    path = tmp_path / "late.csv"
    rows = [f"{k % 7},{k}.5" for k in range(60_000)] + ["3,not a number"]
    path.write_text("\n".join(["g,y", *rows]) + "\n")
    with pytest.raises(bh.errors.DataError, match="cannot be read"):
        bh.compress(bh.Model("y ~ 1 + (1 | g)"), path)


def test_reused_labels_are_named():
    data = nested(seat=lambda d: d.teacher % 2)
    model = bh.Model("y ~ (1 | school) + (1 | seat)", family="lognormal")
    data["y"] = np.exp(data["y"] / 10)
    with pytest.warns(BayeshlmWarning, match=r"'seat' 0 being the same one.*write \(1 \| school/seat\)"):
        posterior = bh.fit(model, data, engine="exact", random_seed=1)
    assert "crossed" in posterior.attrs["engine_reason"]


@pytest.mark.parametrize("bad", [np.inf, -1.0])
def test_names_with_braces_are_named(bad):
    """A message is no template: what a user calls a column stands in it as it is."""
    d = table().assign(**{"{y}": lambda f: np.exp(f.y)})
    d.loc[2, "{y}"] = bad
    with pytest.raises(DataError, match=r"'\{y\}' is .* 1 rows \(the first at positions 2"):
        bh.compress(bh.Model("`{y}` ~ x + (1 | school)", family="lognormal"), d)
