"""runs/ opened with DuckDB: every table, rule and method is a view.

The tables' views read the Parquet parts where they lie. They give every column of the contract
with its type (null where no file has it) and keep unknown columns. A trajectory that lies in two
files counts once.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.rules import compose, did_you_mean, params_sql, views
from trajkit.schema import TABLE_DOCS, TABLES, Field
from trajkit.store import all_parts

if TYPE_CHECKING:
    import duckdb
    import polars as pl

Answer = TypeVar("Answer")

MEMORY_LIMIT = "1GB"
# Columns are matched by name; a folder called split=test says nothing about its rows.
BY_NAME = "union_by_name = true, hive_partitioning = false"
MADE = "made"  # the schema of the tables that `make` makes: they hide the views of the same names

# What a column of the contract may be in a file: anything that casts to the contract's type without loss or guess.
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
_ACCEPTED = {
    "VARCHAR": {"VARCHAR", "UUID"},
    "INTEGER": _INTEGERS,
    "BIGINT": _INTEGERS,
    "DOUBLE": _INTEGERS | {"DOUBLE", "FLOAT"},
    "BOOLEAN": {"BOOLEAN"},
    "TIMESTAMP": {"TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S", "TIMESTAMP WITH TIME ZONE", "DATE"},
    "INTEGER[]": {f"{name}[]" for name in _INTEGERS},
    "FLOAT[]": {"FLOAT[]", "DOUBLE[]"},
}
LOST = (
    "Some trajectories may be missing, so nothing was done. Restore the file, or move it out of the runs and import or "
    "explore again what it held."
)
_JSON = {"tools", "tool_calls", "meta"}  # a file may hold these as lists or structs


class Runs:
    """A runs/ folder opened for queries.

    `params` replaces defaults of sql/tables/params.sql by name. `memory_limit` is DuckDB's ("1GB");
    beyond it queries spill to the system's temporary folder. `threads` None means all cores.
    `without` are files to pass over. A folder without any part opens with empty tables. Raises
    UsageError for a missing folder or an unknown parameter, BadData for a torn file or a missing or
    mistyped column.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        params: Mapping[str, Any] | None = None,
        *,
        memory_limit: str = MEMORY_LIMIT,
        threads: int | None = None,
        without: Collection[Path] = (),
    ) -> None:
        import duckdb

        self.path = Path(path)
        if not self.path.exists():
            near = [other.name for other in self.path.parent.glob("*/")]
            raise UsageError(
                f"{self.path}: there is no such folder{did_you_mean(self.path.name, near)} "
                "--runs (or --input) names the folder of runs."
            )
        self._without = set(without)
        self._alike: set[str] = set()  # tables whose files all have the same columns
        self.params_sql = params_sql(params or {})
        self.made: set[str] = set()  # rules whose answer `make` has put into a table
        self._temporary = tempfile.TemporaryDirectory(prefix="trajkit-")
        self.temporary = self._temporary.name  # where queries spill
        config: dict[str, Any] = {
            "memory_limit": memory_limit,
            "temp_directory": self.temporary,
            "preserve_insertion_order": False,
        }
        if threads:
            config["threads"] = threads
        try:
            self.con: duckdb.DuckDBPyConnection = duckdb.connect(config=config)
        except duckdb.Error as error:
            raise UsageError(f"--memory-limit {memory_limit}: {error}") from error
        self.con.execute(f"SET TimeZone = 'UTC'; CREATE SCHEMA {MADE}; SET search_path = '{MADE},main'")
        self._undefined = set(views())  # rules whose views nobody has asked for yet: to make all takes half a second
        self._read_folder()

    def _read_folder(self) -> None:
        """Make the tables' views of the files that are there now."""
        self.files = {
            table: [file for file in files if file not in self._without]
            for table, files in all_parts(self.path).items()
        }
        self._alike.clear()
        try:
            for file in (file for files in self.files.values() for file in files):
                if reason := torn(file):
                    raise BadData(f"{file}: {reason}. {LOST}")
            for table, files in self.files.items():
                self._refuse_files(table, files)
            for statement in self._table_statements():
                with self.errors():
                    self.con.execute(statement)
        except TrajkitError:
            if not self._gone():
                raise
            self._read_folder()

    def _gone(self) -> Path | None:
        """A file that the views read and that is no longer there: `compact` has put its rows into another. None: all
        are there."""
        files = (file for files in self.files.values() for file in files)
        return next((file for file in files if not os.path.lexists(file)), None)

    def _refuse_files(self, table: str, files: list[Path]) -> None:
        """Raise BadData for a file whose footer cannot be read or that lacks a required column, which the union of all
        files would have. Notes whether all files have the same columns."""
        import duckdb

        if not files:
            return
        query = (
            "SELECT file_name, list(name), md5(string_agg(concat_ws(' ', name, duckdb_type, type, num_children, "
            "converted_type, logical_type), ',' ORDER BY column_id)) FROM parquet_schema([{}]) GROUP BY file_name "
            "ORDER BY file_name"
        )
        try:
            found = self.con.execute(query.format(", ".join(quoted(str(file)) for file in files))).fetchall()
        except duckdb.Error:
            for file in files:
                try:
                    self.con.execute(query.format(quoted(str(file))))
                except duckdb.Error as error:
                    raise BadData(f"{file}: cannot be read ({first_line(error)}). {LOST}") from error
            raise
        if len({alike for _, _, alike in found}) == 1:
            self._alike.add(table)
        for file, columns, _ in found:
            missing = [field for field in TABLES[table] if field.required and field.name not in columns]
            if missing:
                raise BadData(f"{file}: " + "\n".join(_missing(table, field) for field in missing))

    def close(self) -> None:
        """Close the connection and remove what it spilled."""
        self.con.close()
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def rows(self, query: str, args: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The answer to any SQL over the views, one dict per row."""

        def ask() -> list[dict[str, Any]]:
            cursor = self.con.execute(query, args)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

        return self._ask(query, ask)

    def sql(self, query: str, limit: int | None = None) -> pl.DataFrame:
        """The answer to any SQL over the views, or its first `limit` rows, as a Polars frame."""

        def ask() -> pl.DataFrame:
            relation = self.con.sql(query)
            if relation is None:
                raise UsageError("that statement gives no rows: ask with a SELECT (or FROM, DESCRIBE, ...).")
            relation = relation if limit is None else relation.limit(limit)
            types = [str(kind) for kind in relation.types]
            if "INTERVAL" in types:  # Polars has none: they become text
                named = zip(map(identifier, relation.columns), types, strict=True)
                texts = (f"CAST({name} AS VARCHAR) AS {name}" if kind == "INTERVAL" else name for name, kind in named)
                relation = relation.project(", ".join(texts))
            frame: pl.DataFrame = relation.pl()
            return frame

        return self._ask(query, ask)

    def rule(self, name: str) -> pl.DataFrame:
        """A table, rule, plan or method by its name, as a Polars frame with its rows in a total order."""
        names = [*TABLES, *views()]
        if name not in names:
            raise UsageError(f"{name}: there is no such rule{did_you_mean(name, names)} Rules: {', '.join(names)}.")
        return self.sql(f"SELECT * FROM {name} ORDER BY ALL")

    def select(self, method: str = "eef") -> pl.DataFrame:
        """What `trajkit select --method ...` writes, as a Polars frame (`trajkit.select` says which)."""
        from trajkit.select import selected

        return selected(self, method)

    def compose(self, sql: str) -> str:
        """`sql` with the rules it reads put before it, but for those that `make` has already answered."""
        return compose(sql, {"params": self.params_sql}, given=self.made)

    def make(self, name: str, sql: str) -> None:
        """Put the answer of `sql` into a table `name`, which later queries read in place of the rule of that name."""
        query = self.compose(sql)
        self._ask(query, lambda: self.con.execute(f"CREATE OR REPLACE TABLE {MADE}.{name} AS {query}"))
        self.made.add(name)

    def drop(self, name: str) -> None:
        """Forget what `make` put into the table `name`."""
        with self.errors():
            self.con.execute(f"DROP TABLE {MADE}.{name}")
        self.made.discard(name)

    def places(self, table: str, keys: Collection[tuple[str | None, int | None]]) -> dict[Any, str]:
        """Where rows of `trajectories` or `messages` lie, by (trajectory_id, seq): "file (row 3)", rows counted from 0.

        The seq of a trajectory is None. A row that lies in several files has up to three places, joined by "and".
        """
        if not self.files[table]:
            return {}
        source = self._source(table, ", filename = true, file_row_number = true")
        seq = "CAST(seq AS INTEGER)" if table == "messages" else "CAST(NULL AS INTEGER)"
        found = self.rows(
            f"WITH lying AS (SELECT CAST(trajectory_id AS VARCHAR) AS trajectory_id, {seq} AS seq, filename, "
            f"file_row_number FROM {source}), sought AS (SELECT unnest(CAST($1 AS VARCHAR[])) AS trajectory_id, "
            "unnest(CAST($2 AS INTEGER[])) AS seq) "
            "SELECT s.trajectory_id, s.seq, array_to_string(list(l.filename || ' (row ' || l.file_row_number || ')' "
            "ORDER BY l.filename, l.file_row_number)[:3], ' and ') AS place FROM lying AS l JOIN sought AS s "
            "ON l.trajectory_id IS NOT DISTINCT FROM s.trajectory_id AND l.seq IS NOT DISTINCT FROM s.seq GROUP BY ALL",
            [[key for key, _ in keys], [number for _, number in keys]],
        )
        return {(row["trajectory_id"], row["seq"]): row["place"] for row in found}

    @contextmanager
    def errors(self) -> Iterator[None]:
        """DuckDB's errors as ours: with an exit code and the way out."""
        import duckdb

        try:
            yield
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise UsageError(f"{error}") from error
        except duckdb.OutOfMemoryException as error:
            raise TrajkitError(f"{error}\nGive it more with --memory-limit, or a larger TMPDIR to spill to.") from error
        except duckdb.IOException as error:
            if gone := self._gone():
                raise TrajkitError(
                    f"{gone}: it went away while it was read, as where `trajkit compact` puts its rows into another. "
                    "Run this again."
                ) from error
            raise TrajkitError(f"{error}\nQueries spill to {self.temporary}; TMPDIR names another place.") from error
        except (duckdb.DataError, duckdb.InvalidInputException, duckdb.SerializationException) as error:
            raise BadData(f"{error}\n`trajkit validate {self.path}` finds the file and the row.") from error
        except duckdb.Error as error:
            if type(error) is duckdb.Error:  # the Parquet reader's own, which have no class: a damaged page
                raise BadData(f"{error}\n`trajkit validate {self.path}` finds the damaged file.") from error
            raise TrajkitError(f"{error}") from error

    def statements(self, live: bool = False) -> Iterator[str]:
        """The SQL that makes the views. `live`: for plain DuckDB, reading whatever parts lie below the folder then."""
        yield from self._table_statements(live)
        for name in views():
            yield from self._view_statements(name)

    def _table_statements(self, live: bool = False) -> Iterator[str]:
        yield (
            "CREATE OR REPLACE TABLE main.repeated AS "
            f"SELECT trajectory_id FROM ({self.table_sql('trajectories', live)}) AS t "
            "GROUP BY trajectory_id HAVING count(*) > 1"
        )
        for table, fields in TABLES.items():
            yield f"CREATE OR REPLACE VIEW main.{table} AS {self._table(table, live)}"
            yield f"COMMENT ON VIEW main.{table} IS {quoted(TABLE_DOCS[table])}"
            for field in fields:
                yield f"COMMENT ON COLUMN main.{table}.{field.name} IS {quoted(field.doc)}"

    def _view_statements(self, name: str) -> Iterator[str]:
        rule = views()[name]
        sql = self.params_sql if name == "params" else rule.sql
        yield f"CREATE VIEW main.{name} AS {compose(sql, {'params': self.params_sql})}"
        yield f"COMMENT ON VIEW main.{name} IS {quoted(rule.title)}"

    def _ask(self, query: str, run: Callable[[], Answer]) -> Answer:
        """What `run`, which runs `query`, gives, once the views that the query may read are there.

        Where one is missing all the same (a name that is misspelt, say), all are made, so that DuckDB can suggest one.
        """
        import duckdb

        words = set(re.findall(r"\w+", query.lower()))
        own = set(re.findall(r"(\w+) as (?:materialized )?\(", query.lower()))  # the query's own, as `compose` has them
        lists = words & {"show", "pragma", "information_schema"} or "duckdb_" in query.lower()
        try:
            with self.errors():
                self._define(self._undefined if lists else words & self._undefined - own - self.made)
                try:
                    return run()
                except duckdb.CatalogException:
                    if not self._undefined:
                        raise
                    self._define(self._undefined)
                    return run()
        except TrajkitError:
            if not self._gone():
                raise
        self._read_folder()
        return self._ask(query, run)

    def _define(self, names: Collection[str]) -> None:
        for name in sorted(names):
            self._undefined.discard(name)
            for statement in self._view_statements(name):
                self.con.execute(statement)

    def table_sql(self, table: str, live: bool = False) -> str:
        """The rows of `table` as they lie in the files, with the contract's columns and types, and unknown columns."""
        fields = TABLES[table]
        if not self.files[table]:
            columns = ", ".join(f"CAST(NULL AS {field.type}) AS {field.name}" for field in fields)
            return f"SELECT {columns} WHERE false"
        source = self._source(table)
        if live and self.path.is_dir():
            source = f"read_parquet({quoted(f'{self.path.resolve()}/**/{table}*.parquet')}, {BY_NAME})"
        types = self._types(source)
        if problems := column_problems(table, types):
            where = next((f for f in self.files[table] if column_problems(table, self._types(source_of(f)))), self.path)
            raise BadData(f"{where}: " + "\n".join(problems))
        return typed_sql(table, source, types)

    def _table(self, table: str, live: bool) -> str:
        """The rows of `table`, each once."""
        sql = self.table_sql(table, live)
        if table == "tasks":
            return f"SELECT DISTINCT ON (task_id) * FROM ({sql}) ORDER BY ALL"
        if not live and not self.rows("SELECT 1 FROM repeated LIMIT 1"):
            return sql
        # A trajectory that lies in two files counts once. The check duplicate_ids finds those that differ.
        key = "trajectory_id" if table == "trajectories" else "trajectory_id, seq"
        return (
            f"SELECT * FROM ({sql}) AS t ANTI JOIN repeated USING (trajectory_id) UNION ALL "
            f"SELECT * FROM (SELECT DISTINCT ON ({key}) * FROM ({sql}) AS t SEMI JOIN repeated USING (trajectory_id) "
            "ORDER BY ALL)"
        )

    def _types(self, source: str) -> dict[str, str]:
        with self.errors():
            return {name: kind for name, kind, *_ in self.con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}

    def _source(self, table: str, options: str = "") -> str:
        return source_of(*self.files[table], options=options, alike=table in self._alike)


def source_of(*files: Path, options: str = "", alike: bool = False) -> str:
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
            problems.append(_missing(table, field))
        elif kind is not None and not _accepted(field, kind):
            problems.append(f"the column {field.name} of {table} is {kind}; {field.type} is needed. {field.doc}")
    return problems


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message; the rest points into SQL that the user did not write."""
    return str(error).partition("\n")[0]


def torn(file: Path) -> str | None:
    """Why `file` is no whole Parquet file, or None."""
    try:
        with file.open("rb") as handle:
            head = handle.read(4)
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 8))
            length, tail = handle.read(4), handle.read(4)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size == 0:
        return "is empty, not a Parquet file"
    if head != b"PAR1" or tail != b"PAR1" or int.from_bytes(length, "little") > size - 12:
        return "is torn, or no Parquet file"
    return None


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _missing(table: str, field: Field) -> str:
    return f"the column {field.name} of {table} is missing; it must be there. {field.doc}"


def _accepted(field: Field, kind: str) -> bool:
    if kind == '"NULL"' or kind in _ACCEPTED[field.type] or (kind.startswith("DECIMAL(") and field.type == "DOUBLE"):
        return True
    if field.type == "VARCHAR":
        nested = kind.startswith(("STRUCT(", "MAP(", "JSON")) or kind.endswith("[]")
        return kind.startswith("ENUM(") or (nested and field.name in _JSON)
    return False


def _column(field: Field, kind: str | None) -> str:
    name = identifier(field.name)
    if kind is None:
        return f"CAST(NULL AS {field.type}) AS {name}"
    if kind == field.type:
        return name
    if field.name in _JSON and kind not in _ACCEPTED["VARCHAR"]:
        return f"CAST(to_json({name}) AS VARCHAR) AS {name}"
    return f"CAST({name} AS {field.type}) AS {name}"
