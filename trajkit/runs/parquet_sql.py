"""Parquet files as DuckDB reads them: which types a column may have, and the SQL that reads it as the contract's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import BinaryIO

from trajkit.runs.object_store import Location, told_by_store
from trajkit.runs.schema import JSON_COLUMNS, TABLES, Field

MEMORY_LIMIT = "1GB"


# Columns are matched by name; a folder called split=test says nothing about its rows.
BY_NAME = "union_by_name = true, hive_partitioning = false"


# What a column of the contract may be in a file: anything that casts to the contract's type without loss or guess.
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}


_ACCEPTED = {
    "VARCHAR": {"VARCHAR", "UUID"},
    "INTEGER": _INTEGERS,
    "BIGINT": _INTEGERS,
    "DOUBLE": _INTEGERS | {"DOUBLE", "FLOAT"},
    "FLOAT": _INTEGERS | {"DOUBLE", "FLOAT"},
    "BOOLEAN": {"BOOLEAN"},
    "TIMESTAMP": {"TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S", "TIMESTAMP WITH TIME ZONE", "DATE"},
    "INTEGER[]": {f"{name}[]" for name in _INTEGERS},
    "FLOAT[]": {"FLOAT[]", "DOUBLE[]"},
}


LOST = (
    "Some trajectories may be missing, so nothing was done. Restore the file, or move it out of the runs and import or "
    "explore again what it held."
)


def source_of(*files: Location, options: str = "", alike: bool = False) -> str:
    """The SQL that reads these Parquet files, columns matched by name.

    `alike`: all have the same columns, so that DuckDB need not open every file before each query to find them.
    """
    names = "hive_partitioning = false" if alike else BY_NAME
    return f"read_parquet([{', '.join(quoted(str(file)) for file in files)}], {names}{options})"


def typed_sql(table: str, source: str, types: Mapping[str, str]) -> str:
    """The rows of `source`, whose columns have these types, with the contract's columns and types, and unknown ones."""
    fields = TABLES[table]
    typed = [_column(field, types.get(field.name)) for field in fields]
    extra = [identifier(name) for name in types if name not in {field.name for field in fields}]
    return f"SELECT {', '.join(typed + extra)} FROM {source}"


def column_problems(table: str, types: Mapping[str, str]) -> list[str]:
    """What is missing or mistyped among a table's columns (DuckDB's types by name)."""
    problems = []
    for field in TABLES[table]:
        kind = types.get(field.name)
        if kind is None and field.required:
            problems.append(missing_column(table, field))
        elif kind is not None and not _accepted(field, kind):
            problems.append(f"the column {field.name} of {table} is {kind}; {field.type} is needed. {field.doc}")
    return problems


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message; the rest points into SQL that the user did not write."""
    return told_by_store(error) or str(error).partition("\n")[0]


def torn(file: Location, opened: Callable[[Location], BinaryIO] | None = None) -> str | None:
    """Why `file` is no whole Parquet file, or None. `opened` opens it; None: it opens itself."""
    try:
        with opened(file) if opened else file.open("rb") as handle:
            head = handle.read(4)
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 8))
            tail = handle.read(8)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size == 0:
        return "is empty, not a Parquet file"
    if head != b"PAR1" or tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > size - 12:
        return "is torn, or no Parquet file"
    return None


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def missing_column(table: str, field: Field) -> str:
    return f"the column {field.name} of {table} is missing; it must be there. {field.doc}"


def _accepted(field: Field, kind: str) -> bool:
    decimal = kind.startswith("DECIMAL(") and field.type in ("DOUBLE", "FLOAT")
    if kind == '"NULL"' or kind in _ACCEPTED[field.type] or decimal:
        return True
    if field.type == "VARCHAR":
        nested = kind.startswith(("STRUCT(", "MAP(", "JSON")) or kind.endswith("[]")
        return kind.startswith("ENUM(") or (nested and field.name in JSON_COLUMNS)
    return False


def _column(field: Field, kind: str | None) -> str:
    name = identifier(field.name)
    if kind is None:
        return f"CAST(NULL AS {field.type}) AS {name}"
    if kind == field.type:
        return name
    if field.name in JSON_COLUMNS and kind not in _ACCEPTED["VARCHAR"]:
        return f"CAST(to_json({name}) AS VARCHAR) AS {name}"
    return f"CAST({name} AS {field.type}) AS {name}"
