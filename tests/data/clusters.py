"""A Spark session and a Dask cluster for tests: started once, on loopback, gone when the test is.

Each is held by one test with many subtests, so that pytest-xdist cannot start one in every worker.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def spark_session(folder: Path) -> Iterator[Any]:
    """One thread, no web page; the Java process ends here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PySpark's own remarks about pandas 3
        from pyspark.sql import SparkSession

        settings = {
            "spark.master": "local[1]", "spark.app.name": "bayeshlm", "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.memory": "600m",
            "spark.sql.shuffle.partitions": "2", "spark.default.parallelism": "2",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            # Tables of a hundred rows: compiling queries would take longer than running them.
            "spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        }  # fmt: skip
        builder = SparkSession.builder
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("OFF")
    gateway = session.sparkContext._gateway
    try:
        yield session
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # Java ends when its standard input does
        gateway.proc.wait(timeout=60)


@contextlib.contextmanager
def dask_client() -> Iterator[Any]:
    """Two worker processes. Every port is one that the system has free: without an address it would be 8787."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        memory_limit="1GiB",
    )  # fmt: skip
    with cluster, Client(cluster) as client:
        yield client
