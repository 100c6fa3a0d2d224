"""The Parquet files of a runs/ folder, through Spark's file systems: which there are, their rows, where a row lies."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from trajkit.errors import BadData, UsageError
from trajkit.runs.listing import all_parts, of_whole_parts
from trajkit.runs.parquet_sql import column_problems
from trajkit.runs.schema import JSON_COLUMNS, TABLES

# The contract's types in Spark, and Spark's in DuckDB's words, in which the contract says what a file may hold.
SPARK_TYPES = {
    "VARCHAR": "STRING", "INTEGER": "INT", "BIGINT": "BIGINT", "DOUBLE": "DOUBLE", "FLOAT": "FLOAT",
    "BOOLEAN": "BOOLEAN", "TIMESTAMP": "TIMESTAMP_NTZ", "INTEGER[]": "ARRAY<INT>", "FLOAT[]": "ARRAY<FLOAT>",
}  # fmt: skip
DUCKDB_TYPES = {
    "string": "VARCHAR", "tinyint": "TINYINT", "smallint": "SMALLINT", "int": "INTEGER", "bigint": "BIGINT",
    "float": "FLOAT", "double": "DOUBLE", "boolean": "BOOLEAN", "date": "DATE", "timestamp_ntz": "TIMESTAMP",
    "timestamp": "TIMESTAMP WITH TIME ZONE", "void": '"NULL"', "binary": "BLOB",
}  # fmt: skip
NOTHING = DUCKDB_TYPES["void"]


def listed(spark: Any, path: str) -> dict[str, list[str]]:
    """The files of every table below `path`, as `runs.writer.all_parts` finds them. Raises UsageError without any
    such folder."""
    from py4j.protocol import Py4JJavaError

    named = {}  # by their name below the folder; the name of `path` itself, where it is a file, is empty
    try:
        root = spark._jvm.org.apache.hadoop.fs.Path(path)
        system = root.getFileSystem(spark._jsc.hadoopConfiguration())
        root = system.makeQualified(root)
        if not system.exists(root):
            raise UsageError(f"{path}: there is no such folder. --runs (or --input) names the folder of runs.")
        if system.getScheme() == "file":
            name = unquote(root.toUri().getRawPath())
            return {table: [f"file:{file}" for file in files] for table, files in all_parts(name).items()}
        files = system.listFiles(root, True)
        while files.hasNext():
            file = files.next().getPath()
            below = unquote(file.toUri().getRawPath()).removeprefix(unquote(root.toUri().getRawPath()))
            named[below.removeprefix("/")] = file.toString()
    except Py4JJavaError as error:
        raise UsageError(
            f"{path}: Spark cannot list it: {said(error)}\nPaths are Spark's own: s3a:// needs "
            "Hadoop's AWS module (spark.jars.packages) and its credentials."
        ) from error
    found = [named[name] for name in (named if "" in named else of_whole_parts(named))]
    return {table: [file for file in found if file.rpartition("/")[2].startswith(table)] for table in TABLES}


def typed(spark: Any, table: str, files: list[str]) -> Any:
    """The rows as they lie in the files, with the contract's columns and types, and unknown columns.

    Raises BadData for a missing or mistyped column.
    """

    def read(files: list[str]) -> Any:
        frame = _parquet(spark, files)
        types = {field.name: _in_duckdb(field.dataType.simpleString()) for field in frame.schema.fields}
        types |= dict.fromkeys(_nothing_in(frame, table, types), NOTHING)
        if problems := column_problems(table, types):
            others = f" (or one of the {len(files) - 1} files that are like it)" if len(files) > 1 else ""
            raise BadData(f"{_shown(files[0])}{others}: " + "\n".join(problems))
        return frame.selectExpr(*_columns(table, types))

    return _of_each_kind(files, read) if files else spark.range(0).selectExpr(*_columns(table, {}))


def places(spark: Any, table: str, files: list[str], keys: Collection[tuple[str | None, int | None]]) -> dict[Any, str]:
    """Where rows of `trajectories` or `messages` lie, by (trajectory_id, seq), as `DuckDBEngine.places` says it."""
    columns = (
        "trajectory_id",
        "CAST(seq AS INT) AS seq" if table == "messages" else "-1 AS seq",
        "_metadata.file_path AS file",
        "_metadata.row_index AS row",
    )
    frame = _of_each_kind(files, lambda files: _parquet(spark, files).selectExpr(*columns))
    sought = spark.createDataFrame([(key, -1 if seq is None else seq) for key, seq in keys], "id STRING, n INT")
    same = frame["trajectory_id"].eqNullSafe(sought["id"]) & frame["seq"].eqNullSafe(sought["n"])
    lying: dict[Any, list[tuple[str, int]]] = {}
    for row in frame.join(sought, same, "left_semi").collect():
        key = (row["trajectory_id"], row["seq"] if table == "messages" else None)
        lying.setdefault(key, []).append((_shown(row["file"]), row["row"]))
    return {key: " and ".join(f"{file} (row {row})" for file, row in sorted(rows)[:3]) for key, rows in lying.items()}


def column(name: str) -> str:
    """A column's name in Spark's SQL."""
    return f"`{name.replace('`', '``')}`"


def said(error: BaseException) -> str:
    """What Spark says, without its plans and Java's stack."""
    java = getattr(error, "java_exception", None)
    while java is not None and "awaitResult" in str(java.getMessage()) and java.getCause() is not None:
        java = java.getCause()  # a thread's error: its own message says nothing
    lines = str(java or error).strip().splitlines() or [""]
    first = lines[0].removesuffix(";")
    if first.endswith("Traceback (most recent call last):"):  # a worker's Python: what was raised stands at its end
        raised = [line for line in lines[1:] if re.match(r"\w+(\.\w+)*(Error|Exception): ", line)]
        return " ".join([first, *raised[-1:]])
    return first


def _parquet(spark: Any, files: list[str]) -> Any:
    reader = spark.read.option("mergeSchema", "true").option("__globPaths__", "false")
    return reader.option("recursiveFileLookup", "true").parquet(*files)  # else split=test in a path were a column


def _of_each_kind(files: list[str], read: Callable[[list[str]], Any]) -> Any:
    """What `read` makes of the files; where a column's type differs between them, of each kind by itself."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        return read(files)
    except (PySparkException, Py4JJavaError) as error:
        if "CANNOT_MERGE" not in str(error) or len(files) == 1:
            raise
    half = len(files) // 2
    one, other = _of_each_kind(files[:half], read), _of_each_kind(files[half:], read)
    return one.unionByName(other, allowMissingColumns=True)


def _nothing_in(frame: Any, table: str, types: Mapping[str, str]) -> list[str]:
    """The columns that hold nothing: Parquet's type of a column of nulls is an INT to Spark."""
    numbers = ("INTEGER", "BIGINT", "DOUBLE", "FLOAT")
    fields = [field for field in TABLES[table] if field.type not in numbers]
    suspected = [field.name for field in fields if types.get(field.name) == "INTEGER"]
    if not suspected:
        return []
    counts = frame.selectExpr(*(f"COUNT({column(name)})" for name in suspected)).first()
    return [name for name, n in zip(suspected, counts, strict=True) if n == 0]


def _columns(table: str, types: Mapping[str, str]) -> list[str]:
    """What to select from files whose columns have these types: the contract's columns, then unknown ones."""

    def cast(name: str, kind: str) -> str:
        if types.get(name, NOTHING) == NOTHING:
            return f"CAST(NULL AS {kind}) AS {name}"
        if name in JSON_COLUMNS and types[name] != "VARCHAR":
            return f"TO_JSON({name}, MAP('ignoreNullFields', 'false')) AS {name}"
        return f"CAST({name} AS {kind}) AS {name}"

    known = {field.name: SPARK_TYPES[field.type] for field in TABLES[table]}
    return [cast(name, kind) for name, kind in known.items()] + [column(name) for name in types if name not in known]


def _in_duckdb(kind: str) -> str:
    """Spark's name of a type in DuckDB's words."""
    if kind.startswith("array<"):
        return _in_duckdb(kind[len("array<") : -1]) + "[]"
    if kind.startswith(("struct<", "map<", "decimal(")):
        return kind.upper().replace("<", "(", 1)
    return DUCKDB_TYPES.get(kind, kind.upper())


def _shown(url: str) -> str:
    """A file as a person writes it: a local one without file://."""
    return unquote(urlsplit(url).path) if url.startswith("file:") else url
