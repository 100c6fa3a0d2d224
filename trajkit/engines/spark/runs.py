"""runs/ opened with Spark: what `trajkit.engines.duckdb.DuckDBEngine` is with DuckDB.

Spark lists and reads the files, answers the rules and sorts the chosen messages; they come to this process in Arrow
batches, to be put together and written as ever. The answers are the same rows.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from trajkit.engines.base import refuse_taken, refuse_unknown
from trajkit.engines.spark.files import column, listed, places, said, typed
from trajkit.engines.spark.translate import PRINTF, translate
from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.rules import closure, params_sql, references, views
from trajkit.runs import canonical
from trajkit.runs.digests import damaged_files
from trajkit.runs.parquet_sql import LOST, quoted
from trajkit.runs.schema import TABLES
from trajkit.runs.temporary import TemporaryFolder

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

SETTINGS = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.cteRecursionLevelLimit": "-1",  # branches of branches, however deep
    "spark.sql.cteRecursionRowLimit": "-1",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
}


class SparkEngine:
    """A runs/ folder opened for queries on Spark, with the methods of `trajkit.engines.duckdb.DuckDBEngine`.

    `path` is a folder, or a URL as Spark has them (s3a://, hdfs://, file://). `master` is a cluster's URL or local[n];
    None: the session that is running, else what Spark's own configuration says, else local[*]. Queries are in DuckDB's
    dialect. Raises UsageError where pyspark or the folder is missing, BadData for a file that cannot be read and a
    missing or mistyped column.
    """

    def __init__(
        self, path: str | os.PathLike[str], params: Mapping[str, Any] | None = None, *, master: str | None = None
    ) -> None:
        self.path = os.fspath(path)
        self.params_sql = params_sql(params or {})
        self.made: set[str] = set()
        self._temporary = TemporaryFolder()
        self.temporary = self._temporary.name
        self._named: set[str] = set()  # rules that are views, or kept
        self._kept: dict[str, Any] = {}
        self.spark = _session(master).newSession()
        for key, value in SETTINGS.items():
            self.spark.conf.set(key, value)
        self.spark.udf.register(PRINTF, lambda form, *values: None if None in values else form % values)
        from pyspark.cloudpickle import register_pickle_by_value

        register_pickle_by_value(canonical)  # type: ignore[no-untyped-call]  # its workers may have no trajkit
        self.spark.udf.register("canonical_calls", canonical.canonical_calls)
        self.files = listed(self.spark, self.path)
        self._verify(table for table in TABLES if table != "messages")
        for table in TABLES:
            self._read(table)

    def close(self) -> None:
        """Forget what was kept. The session goes on: it may be the user's own."""
        for frame in self._kept.values():
            frame.unpersist()
        self._kept.clear()
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The answer to any SQL over the views, one dict per row."""
        with self.errors():
            frame = self._frame(query)
            return [row.asDict(recursive=True) for row in frame.collect()]

    def table(self, query: str) -> pa.Table:
        """The answer to any SQL over the views, as an Arrow table."""
        with self.errors():
            return self._frame(query).toArrow()

    def batches(self, query: str, rows: int) -> Iterator[pa.RecordBatch]:
        """The answer to any SQL over the views, which orders it, in batches of about `rows` rows."""
        import pyarrow as pa

        def packed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:  # runs on the workers
            import pyarrow

            for batch in batches:
                sink = pyarrow.BufferOutputStream()
                with pyarrow.ipc.new_stream(sink, batch.schema) as stream:
                    stream.write_batch(batch)
                yield pyarrow.record_batch([pyarrow.array([sink.getvalue().to_pybytes()])], names=["batch"])

        with self.errors():
            for row in self._frame(query).mapInArrow(packed, "batch binary").toLocalIterator(prefetchPartitions=True):
                for batch in pa.ipc.open_stream(row["batch"]):
                    yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))

    def sql(self, query: str, limit: int | None = None) -> pl.DataFrame:
        """The answer to any SQL over the views, or its first `limit` rows, as a Polars frame."""
        import polars as pl

        frame = pl.from_arrow(self.table(query if limit is None else f"SELECT * FROM ({query}) AS t LIMIT {limit}"))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def write(self, query: str, file: Path, form: str) -> None:
        """Write the answer to any SQL over the views into `file`: `form` is csv, json or parquet."""
        import duckdb

        with duckdb.connect() as con:
            con.register("answer", self.table(query))
            con.execute(f"COPY answer TO {quoted(str(file))} (FORMAT {form}, USE_TMP_FILE false)")

    def rule(self, name: str) -> pl.DataFrame:
        """A table, rule, plan or method by its name, as a Polars frame with its rows in a total order."""
        refuse_unknown(name)
        columns = self.columns(name)
        return self.sql(f"SELECT * FROM {name} ORDER BY {', '.join(str(n + 1) for n in range(len(columns)))}")

    def register(self, name: str, frame: pl.DataFrame) -> None:
        """Let queries read `frame` under `name`, which no table or rule has."""
        refuse_taken(name)
        self.spark.createDataFrame(frame.to_pandas()).createOrReplaceTempView(name)

    def compose(self, sql: str) -> str:
        """`sql` as it is: the rules that it reads are views."""
        return sql

    def make(self, name: str, sql: str) -> None:
        """Keep the answer of `sql` under `name`, which later queries read in place of the rule of that name."""
        with self.errors():
            self._keep(name, self._frame(sql))
        self.made.add(name)

    def drop(self, name: str) -> None:
        """Forget what `make` keeps under `name`."""
        self._kept.pop(name).unpersist()
        self.spark.catalog.dropTempView(name)
        self._named.discard(name)
        self.made.discard(name)

    def view(self, name: str, sql: str) -> None:
        """Give `sql` a name for the queries that follow."""
        with self.errors():
            self._frame(sql).createOrReplaceTempView(name)

    def verify_messages(self, chosen: str | None = None) -> None:
        """Raise BadData for a file of messages on this machine that is not what was written, by the digest beside it.

        Elsewhere the file system verifies what it reads, and `chosen` is not looked at.
        """
        self._verify(["messages"])

    def _verify(self, tables: Iterable[str]) -> None:
        urls = [url for table in tables for url in self.files[table] if url.startswith("file:")]
        files = [Path(url.removeprefix("file:")) for url in urls]
        for file, reason in damaged_files(files, lambda file: cast(BinaryIO, file.open("rb"))):
            raise BadData(f"{file}: {reason}. {LOST}")

    def columns(self, name: str) -> list[str]:
        """The names of a relation's columns."""
        with self.errors():
            return list(self._frame(f"SELECT * FROM {name}").columns)

    def shown(self, what: str) -> AbstractContextManager[None]:
        """Spark shows by itself how far it is."""
        return nullcontext()

    def places(self, table: str, keys: Collection[tuple[str | None, int | None]]) -> dict[Any, str]:
        """Where rows of `trajectories` or `messages` lie, by (trajectory_id, seq), as `DuckDBEngine.places` says it."""
        with self.errors():
            return places(self.spark, table, self.files[table], keys) if self.files[table] and keys else {}

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Spark's errors as ours: with an exit code and the way out."""
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import AnalysisException, ParseException, PySparkException

        try:
            yield
        except (AnalysisException, ParseException) as error:
            raise UsageError(f"Spark: {said(error)}") from error
        except (PySparkException, Py4JJavaError) as error:
            if any(word in str(error) for word in ("FAILED_READ_FILE", "CANNOT_READ_FILE_FOOTER", "is not a Parquet")):
                raise BadData(
                    f"{self.path}: Spark: {said(error)}\nRestore that file, or move it out of the runs and "
                    "import or explore again what it held."
                ) from error
            if "OutOfMemoryError" in str(error):
                raise TrajkitError(
                    f"Spark: {said(error)}\nGive it more memory: spark.driver.memory and spark.executor.memory in "
                    "spark-defaults.conf below SPARK_CONF_DIR."
                ) from error
            raise TrajkitError(f"Spark: {said(error)}") from error

    def _read(self, table: str) -> None:
        """Make the views of a table: `all_<table>`, the rows as they lie there, and the table, each row once."""
        with self.errors():
            typed(self.spark, table, self.files[table]).createOrReplaceTempView(f"all_{table}")
            self._each_once(table)

    def _each_once(self, table: str) -> None:
        if table == "trajectories":
            repeated = f"SELECT trajectory_id FROM all_{table} GROUP BY trajectory_id HAVING COUNT(*) > 1"
            self._kept["repeated"] = self.spark.sql(repeated).persist()
            self._kept["repeated"].createOrReplaceTempView("repeated")
        key = {"tasks": "task_id", "trajectories": "trajectory_id", "messages": "trajectory_id, seq"}[table]
        if table != "tasks" and self._kept["repeated"].isEmpty():
            self.spark.table(f"all_{table}").createOrReplaceTempView(table)
            return
        names = [column(name) for name in self.spark.table(f"all_{table}").columns]
        columns, order = ", ".join(names), ", ".join(f"{name} NULLS LAST" for name in names)
        semi, apart = "", ""
        if table != "tasks":
            semi = "LEFT SEMI JOIN repeated USING (trajectory_id)"
            apart = f"SELECT {columns} FROM all_{table} LEFT ANTI JOIN repeated USING (trajectory_id) UNION ALL "
        self.spark.sql(
            f"{apart}SELECT {columns} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY {order}) "
            f"AS _place FROM all_{table} {semi}) WHERE _place = 1"
        ).createOrReplaceTempView(table)

    def _frame(self, query: str) -> Any:
        """Spark's frame of a query in DuckDB's dialect, once the rules that it reads are views.

        What several rules read is kept: Spark would answer it in each.
        """
        for rule in closure(query, given=self._named):
            frame = self.spark.sql(translate(self.params_sql if rule.name == "params" else rule.sql))
            if rule.name in _shared():
                self._keep(rule.name, frame)
            else:
                frame.createOrReplaceTempView(rule.name)
                self._named.add(rule.name)
        return self.spark.sql(translate(query))

    def _keep(self, name: str, frame: Any) -> None:
        """Answer `frame` into a view of that name.

        Later queries start from its rows: with its query in each of theirs Spark would plan for minutes. The rows know
        how they were made all the same, so that a worker that dies takes none with it.
        """
        from pyspark.sql import DataFrame

        rows = self.spark._jsparkSession.createDataFrame(frame._jdf.javaRDD(), frame._jdf.schema())
        self._kept[name] = kept = DataFrame(rows, self.spark).persist()
        kept.count()
        kept.createOrReplaceTempView(name)
        self._named.add(name)


def _session(master: str | None) -> Any:
    """The session that runs in this process (which may be the user's own), or a new one."""
    try:
        from pyspark import SparkConf
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UsageError(
            f"--engine spark needs pyspark ({error}): pip install 'trajkit[spark]' (and Java 17)."
        ) from error

    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)  # errors are told once, as trajkit's
    if running := SparkSession.getActiveSession():
        if master not in (None, running.sparkContext.master):
            raise UsageError(f"--master {master}: this process has a Spark session on {running.sparkContext.master}.")
        return running
    configured = SparkConf()
    master = master or configured.get("spark.master") or "local[*]"
    if master.startswith("local"):  # Spark's Python is then on this machine: this one, whichever comes first in PATH
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("trajkit").master(master)
    if not configured.contains("spark.ui.showConsoleProgress"):
        builder = builder.config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower())
    if not configured.contains("spark.sql.warehouse.dir"):  # else a folder spark-warehouse appears where one works
        builder = builder.config("spark.sql.warehouse.dir", _warehouse().name)
    try:
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        return session
    except Exception as error:  # Java is missing or too old, no such cluster
        raise UsageError(f"Spark does not start: {said(error)} (it needs Java 17; --master names it)") from error


@cache
def _shared() -> frozenset[str]:
    """The rules that several rules read."""
    readers = Counter(name for rule in views().values() for name in references(rule.sql))
    return frozenset(name for name in views() if readers[name] > 1) - {"params"}


@cache
def _warehouse() -> TemporaryFolder:
    """Where Spark would put tables, had it any to keep: removed when this process ends."""
    return TemporaryFolder()
