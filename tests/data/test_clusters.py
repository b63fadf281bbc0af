"""Spark and Dask, for real: the statistics, checks and messages of any other frame."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning, DataError
from tests.data.clusters import dask_client, spark_session
from tests.data.nist import MODEL as NIST
from tests.data.nist import assert_nist, nist_table
from tests.data.tables import assert_same, table
from tests.data.test_statistics import MODELS

SHAPES = ("categories", "lognormal", "weights and se", "no groups")
SPREAD = bh.Model("y ~ x + (1 | school); sigma ~ arm")


def typed() -> pa.Table:
    """Columns of many types, some values missing."""
    d = table(90, seed=3)
    days = [datetime.date(2024, 2, int(g)) for g in d.grade]
    small = [None if k in (5, 17) else int(v) for k, v in enumerate(d.grade * 30)]
    return pa.table({
        "y": pa.array(np.round(d.y * 1e6).astype("int64"), pa.int32()),
        "price": pa.array([Decimal(f"{v:.2f}") for v in d.x], pa.decimal128(9, 2)),
        "small": pa.array(small, pa.int8()),
        "day": pa.array(days, pa.date32()),
        "flag": pa.array((d.grade > 1).tolist()),
        "school": pa.array(d.school.tolist(), pa.int16()),
        "teacher": pa.array([None if k == 8 else t for k, t in enumerate(d.teacher)]),
    })  # fmt: skip


TYPED = bh.Model("y ~ price + I(small**2) + C(day) + flag + (small | school) + (1 | day:teacher)")


def hostile(d: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, bh.Model, str]]:
    x, where = bh.Model("y ~ x + (1 | school)"), d.index.isin([3, 7])
    return {
        "infinity that the formula hides": (
            d.assign(x=d.x.where(~where, np.inf)), bh.Model("y ~ I(1 / x) + (1 | school)"), "'x' is infinite in 2 rows"
        ),
        "division by zero": (
            d.assign(x=d.x.where(~where, 0.0)), bh.Model("y ~ I(1 / x) + (1 | school)"), "'I(1 / x)' is not finite: 2"
        ),
        "empty": (d.iloc[:0], x, "The table has no rows"),
        "text": (d.assign(y=d.arm), x, "A number is needed: 'y'"),
    }  # fmt: skip


def check_frames(subtests, read, folder):
    """`read` opens a Parquet file (or files) with the cluster."""

    def through_file(d, name):
        path = folder / f"{name}.parquet"
        pieces = {"row_group_size": 40} if name == "plain" else {}
        (pq.write_table(d, path) if isinstance(d, pa.Table) else d.to_parquet(path, index=False, **pieces))
        return read(str(path))

    plain = table()
    frame = through_file(plain, "plain")
    for name, model in {**{name: MODELS[name] for name in SHAPES}, "sigma by arm": SPREAD}.items():
        with subtests.test(model=name):
            assert_same(bh.compress(model, plain), bh.compress(model, frame), 1e-12)
    with subtests.test("NIST, offsets up to 1e12"):
        assert_nist(bh.compress(NIST, through_file(nist_table(), "nist")))
    with subtests.test("types and missing values"):
        with pytest.warns(BayeshlmWarning, match=r"3 of 90 rows dropped .*'small' \(2\), 'teacher' \(1\)"):
            expected = bh.compress(TYPED, typed())
        with pytest.warns(BayeshlmWarning, match=r"3 of 90 rows dropped .*'small' \(2\), 'teacher' \(1\)"):
            found = bh.compress(TYPED, through_file(typed(), "typed"))
        assert_same(expected, found, 1e-12)
        with pytest.raises(DataError, match="'small' in 2 rows"):
            bh.compress(TYPED, through_file(typed(), "typed"), missing="error")
    with subtests.test("words for missing"):
        words = plain.assign(arm=plain.arm.where(~plain.index.isin([3, 7]), "NA"))
        with pytest.warns(BayeshlmWarning, match=r"rows dropped .*'arm' \(2\)\. Note: the words"):
            found = bh.compress(bh.Model("y ~ arm + (1 | school)"), through_file(words, "words"))
        with pytest.warns(BayeshlmWarning, match="2 of"):
            expected = bh.compress(bh.Model("y ~ arm + (1 | school)"), words)
        assert_same(expected, found, 1e-12)
    for name, (d, model, message) in hostile(plain).items():
        with subtests.test(bad=name), pytest.raises(DataError) as caught:
            bh.compress(model, through_file(d, name))
        assert message in str(caught.value)


def test_spark(subtests, tmp_path):
    with spark_session(tmp_path) as session:
        check_frames(subtests, session.read.parquet, tmp_path)
        with subtests.test("a file that is gone"):
            gone = tmp_path / "gone.parquet"
            table().to_parquet(gone)
            frame = session.read.parquet(str(gone))
            gone.unlink()
            with pytest.raises(DataError, match="cannot be read"):
                bh.compress(MODELS["no groups"], frame)


def test_dask(subtests, tmp_path):
    import dask.dataframe as dd

    with dask_client():
        check_frames(subtests, lambda path: dd.read_parquet(path, split_row_groups=True), tmp_path)
        d = table()
        d["arm"] = pd.Categorical(d.arm, ["small", "never", "plain", "aide"])
        with subtests.test("categories in the order of their type"):
            model = MODELS["categories"]
            assert_same(bh.compress(model, d), bh.compress(model, dd.from_pandas(d, npartitions=3)), 1e-12)
        with subtests.test("categories not known yet"):
            frame = dd.from_pandas(d.astype({"arm": object}), npartitions=3).astype({"arm": "category"})
            expected = bh.compress(MODELS["se"], d.astype({"arm": object}))
            assert_same(expected, bh.compress(MODELS["se"], frame), 1e-12)
