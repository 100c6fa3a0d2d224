"""What answers SQL over a folder of runs: DuckDB on this machine, Spark on a cluster."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from trajkit.engines.base import Engine
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError

ENGINES = ("duckdb", "spark")


def opened(
    path: str | os.PathLike[str],
    params: Mapping[str, Any] | None = None,
    *,
    engine: str = "duckdb",
    master: str | None = None,
    memory_limit: str | None = None,
    threads: int | None = None,
    allow_read: Collection[str | os.PathLike[str]] | None = None,
) -> Engine:
    """runs/ opened by one of `ENGINES`. `allow_read` is as in `DuckDBEngine`.

    Raises as `DuckDBEngine` and `SparkEngine` do, and UsageError for what is the other's.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: there is no such engine. Engines: {', '.join(ENGINES)}.")
    if engine == "spark":
        from trajkit.engines.spark.runs import SparkEngine

        if memory_limit or threads:
            raise UsageError(
                "--memory-limit and --threads are DuckDB's. Spark's are in its own configuration "
                "(spark-defaults.conf below SPARK_CONF_DIR): spark.driver.memory, spark.executor.memory, local[4]."
            )
        return SparkEngine(path, params, master=master)
    if master:
        raise UsageError("--master is a Spark cluster's: it goes with --engine spark.")
    return DuckDBEngine(path, params, memory_limit=memory_limit, threads=threads, allow_read=allow_read)
