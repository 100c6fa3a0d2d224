"""runs/ opened with DuckDB: every table, rule and method is a view.

The tables' views read the Parquet parts where they lie. They give every column of the contract
with its type (null where no file has it) and keep unknown columns. A trajectory that lies in two
files counts once.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from trajkit.console import query_bar
from trajkit.engines.base import column_meanings, refuse_taken, refuse_unknown
from trajkit.errors import BadData, OutOfMemory, TrajkitError, UsageError, did_you_mean
from trajkit.rules import closure, code, compose, functions, params_sql, views
from trajkit.runs.digests import damaged_files
from trajkit.runs.listing import all_parts
from trajkit.runs.object_store import Location, Url, absolute, let_read, locate, side_by_side, told_by_store
from trajkit.runs.parquet_sql import (
    BY_NAME,
    LOST,
    MEMORY_LIMIT,
    column_problems,
    first_line,
    identifier,
    missing_column,
    quoted,
    source_of,
    torn,
    typed_sql,
)
from trajkit.runs.schema import TABLE_DOCS, TABLES
from trajkit.runs.temporary import TemporaryFolder

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb
    import polars as pl
    import pyarrow as pa

    from trajkit.rules import Rule

Answer = TypeVar("Answer")

OWN_SETTINGS = ("enable_progress_bar", "enable_progress_bar_print", "search_path", "threads")  # what this program sets
MADE = "made"  # the schema of the tables that `make` makes: they hide the views of the same names
WENT_AWAY = "it went away while it was read, as where `trajkit compact` puts its rows into another. Run this again."


class DuckDBEngine:
    """A runs/ folder opened for queries; `path` may be a URL (`trajkit.runs.object_store`).

    `params` replaces defaults of sql/concepts/params.sql by name. `memory_limit` is DuckDB's (None: 1GB);
    beyond it queries spill to the system's temporary folder. `threads` None means all cores.
    `without` are files to pass over. `allow_read` None: a query may do what the user may. Else queries read
    the runs and these files, and nothing else, so that a rule of somebody else's can be run. A folder
    without any part opens with empty tables. Raises
    UsageError for a missing folder or an unknown parameter, BadData for a torn file or a missing or
    mistyped column.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        params: Mapping[str, Any] | None = None,
        *,
        memory_limit: str | None = None,
        threads: int | None = None,
        without: Collection[Location] = (),
        allow_read: Collection[str | os.PathLike[str]] | None = None,
    ) -> None:
        import duckdb

        self.path = locate(path)
        if not self.path.exists():
            if isinstance(self.path, Url):
                missing = "there is no such bucket, or nothing in it below that name."
            else:
                near = [other.name for other in self.path.parent.glob("*/")]
                missing = f"there is no such folder{did_you_mean(self.path.name, near)}"
            raise UsageError(f"{self.path}: {missing} --runs (or --input) names the folder of runs.")
        self._without = set(without)
        self._alike: set[str] = set()  # tables whose files all have the same columns
        self.params_sql = params_sql(params or {})
        self.made: set[str] = set()  # rules whose answer `make` has put into a table
        self._temporary = TemporaryFolder()
        self.temporary = self._temporary.name  # where queries spill
        config: dict[str, Any] = {
            "memory_limit": memory_limit or MEMORY_LIMIT,
            "temp_directory": self.temporary,
            "preserve_insertion_order": False,
            "checkpoint_threshold": "1TB",  # never: it takes time, and what is in memory is gone at the end anyway
        }
        config["python_enable_replacements"] = False  # a name is a table's, never a variable's of this program
        if threads:
            config["threads"] = threads
        self._given: dict[str, Any] = {
            "params": params,
            "memory_limit": memory_limit,
            "threads": threads,
            "without": without,
        }
        self.is_confined = allow_read is not None
        if not isinstance(self.path, Url):
            # What DuckDB 2.0.0 reads ahead by itself finds no room beside a sort that fills the memory, and the query
            # ends. One step ahead is as fast; none at all is three times slower where there are thousands of parts.
            config["read_ahead_depth"] = 1
        try:
            self.con: duckdb.DuckDBPyConnection = duckdb.connect(config=config)
        except duckdb.Error as error:
            raise UsageError(f"--memory-limit {memory_limit}: {error}") from error
        self._open = let_read(self.con, self.path)
        self.con.execute(f"SET TimeZone = 'UTC'; CREATE SCHEMA {MADE}; CREATE SCHEMA shared")
        self.con.execute(f"SET search_path = '{MADE},main'")
        for function in functions():
            self.con.execute(function)
        if allow_read is not None:
            self._confine(allow_read)
        self._named: dict[str, str] = {}  # what `view` has given a name
        self._ids: object = None  # tells the trajectories from others, where `make` has read them
        self._read_folder()

    def confined(self, allow_read: Collection[str | os.PathLike[str]] = ()) -> DuckDBEngine:
        """The same runs opened once more, for queries that may read them and the files `allow_read` alone."""
        return DuckDBEngine(self.path, **self._given, allow_read=allow_read)

    def _confine(self, allow_read: Collection[str | os.PathLike[str]]) -> None:
        """Let DuckDB read the runs and these files, and write where it spills; what lets it do so stays as it is."""
        for file in allow_read:
            if not os.path.isfile(file):
                raise UsageError(f"--allow-read {os.fspath(file)}: there is no such file.")
        files = [name for file in allow_read for name in (os.path.abspath(file), os.path.realpath(file))]
        folders = [self.temporary]
        if isinstance(self.path, Url):
            folders.append(str(self.path))
        else:
            (folders if self.path.is_dir() else files).extend([os.path.abspath(self.path), os.path.realpath(self.path)])
        for name, allowed in (("allowed_directories", folders), ("allowed_paths", files)):
            self.con.execute(f"SET {name} = [{', '.join(map(quoted, allowed))}]")
        self.con.execute("SET enable_external_access = false")
        self.con.execute(f"SET allowed_configs = [{', '.join(map(quoted, OWN_SETTINGS))}]")
        self.con.execute("SET lock_configuration = true")

    def _read_folder(self) -> None:
        """Make the tables' views of the files that are there now."""
        import duckdb

        self.files = {
            table: [file for file in files if file not in self._without]
            for table, files in all_parts(self.path).items()
        }
        self._alike.clear()
        self._undefined = set(views())  # rules whose views nobody has asked for yet: to make all takes half a second
        self._shared: set[str] = set()
        try:
            files = [file for files in self.files.values() for file in files]
            for file, reason in zip(files, side_by_side(partial(torn, opened=self._open), files), strict=True):
                if reason:
                    raise BadData(f"{file}: {reason}. {LOST}")
            self._verify([file for table, files in self.files.items() if table != "messages" for file in files])
            for table, files in self.files.items():
                self._refuse_files(table, files)
            with self.errors():
                for statement in self._table_statements():
                    self.con.execute(statement)
                for name, sql in list(self._named.items()):
                    try:
                        self.con.execute(f"CREATE OR REPLACE VIEW main.{name} AS {sql}")
                    except duckdb.CatalogException:  # it read what `drop` has dropped
                        del self._named[name]
                if self.made and self._identity() != self._ids:
                    grown = "trajectories were added and parts put together while it was read. Run this again."
                    raise TrajkitError(f"{self.path}: {grown}")
        except TrajkitError:
            if not self._gone():
                raise
            self._read_folder()

    def verify_messages(self, chosen: str | None = None) -> None:
        """Raise BadData for a file of messages that is not what was written, by the digest beside it.

        `chosen` is a query for trajectory ids: only the files that hold messages of those. Files in an object store
        are not read for it: the store itself verifies them, and `validate` does.
        """
        if isinstance(self.path, Url) or not self.files["messages"]:
            return

        def holding() -> list[Location]:
            if chosen is None:
                return self.files["messages"]
            source = self._source("messages", ", filename = true")
            found = self.con.execute(
                f"SELECT DISTINCT filename FROM {source} WHERE CAST(trajectory_id AS VARCHAR) IN ({chosen})"
            ).fetchall()
            names = {name for (name,) in found}
            return [file for file in self.files["messages"] if str(file) in names]

        try:
            self._verify(self._ask("", holding))
        except BadData:
            if not self._gone():
                raise
            self._read_folder()
            self.verify_messages(chosen)

    def _verify(self, files: Sequence[Location]) -> None:
        """Raise BadData for a file that is not what was written, by the digest beside it."""
        for file, reason in damaged_files(files, self._open):
            raise BadData(f"{file}: {reason}. {LOST}")

    def _identity(self) -> object:
        """Which trajectories there are, as a count and a sum of digests."""
        return self.con.execute(
            "SELECT count(*), sum(hash(trajectory_id)) FROM (SELECT trajectory_id FROM main.all_trajectories "
            "ANTI JOIN main.repeated USING (trajectory_id) UNION ALL SELECT trajectory_id FROM main.repeated)"
        ).fetchall()

    def _gone(self) -> Location | None:
        """A file that the views read and that is no longer there: `compact` has put its rows into another. None: all
        are there."""
        files = (file for files in self.files.values() for file in files)
        if isinstance(self.path, Url):  # one listing, not a request for each
            there = {file for files in all_parts(self.path).values() for file in files}
            return next((file for file in files if file not in there), None)
        return next((file for file in files if not os.path.lexists(file)), None)

    def _refuse_files(self, table: str, files: list[Location]) -> None:
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
        except duckdb.Error as failed:
            if told := told_by_store(failed):
                raise TrajkitError(told) from failed
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
                raise BadData(f"{file}: " + "\n".join(missing_column(table, field) for field in missing))

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

    def sql(
        self, query: str, limit: int | None = None, params: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> pl.DataFrame:
        """The answer to any SQL over the views, or its first `limit` rows, as a Polars frame.

        `params`: the values of `$name` or `?` in it.
        """

        def ask() -> pl.DataFrame:
            relation = self.con.sql(query, params=params)
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

    def table(self, query: str) -> pa.Table:
        """The answer to any SQL over the views, as an Arrow table."""

        def ask() -> pa.Table:
            return self.con.sql(query).to_arrow_table()

        return self._ask(query, ask)

    def batches(self, query: str, rows: int, threads: int | None = None) -> Iterator[pa.RecordBatch]:
        """The answer to any SQL over the views in batches of at most `rows` rows, read as they are asked for.

        `threads`: fewer than the engine has need less memory, for each reads a row group at a time. None: all.
        """
        given = False
        try:
            for batch in self._batches(query, rows, threads):
                given = True
                yield batch
            return
        except TrajkitError:
            if given or not self._gone():
                raise
        self._read_folder()
        yield from self.batches(query, rows, threads)

    def _batches(self, query: str, rows: int, threads: int | None) -> Iterator[pa.RecordBatch]:
        import duckdb

        with self.errors(), self.con.cursor() as cursor:
            cursor.execute(f"SET search_path = '{MADE},main'")
            [all_threads] = cursor.execute("SELECT current_setting('threads')").fetchall()[0]
            try:
                cursor.execute(f"SET threads = {threads or all_threads}")
                yield from cursor.sql(self.compose(query)).to_arrow_reader(rows)
            except OSError as error:  # what DuckDB met while Arrow asked for the next batch
                lack = "Out of Memory Error" in str(error)
                raise (duckdb.OutOfMemoryException if lack else duckdb.Error)(str(error)) from error
            finally:
                cursor.execute(f"SET threads = {all_threads}")

    def write(self, query: str, file: Path, form: str) -> None:
        """Write the answer to any SQL over the views into `file`: `form` is csv, json or parquet."""
        written = os.path.join(self.temporary, "written") if self.is_confined else str(file)
        self.rows(f"COPY (\n{query}\n) TO {quoted(written)} (FORMAT {form}, USE_TMP_FILE false)")
        if self.is_confined:  # it writes nowhere else
            shutil.copyfile(written, file)
            os.remove(written)

    def rule(self, name: str) -> pl.DataFrame:
        """A table, rule, plan or method by its name, as a Polars frame with its rows in a total order."""
        refuse_unknown(name)
        return self.sql(f"SELECT * FROM {name} ORDER BY ALL")

    def register(self, name: str, frame: pl.DataFrame) -> None:
        """Let queries read `frame` under `name`, which no table or rule has."""
        refuse_taken(name)
        self.con.register(name, frame.to_arrow())

    def compose(self, sql: str) -> str:
        """`sql` with the rules it reads put before it, but for those that `make` has already answered."""
        return compose(sql, {"params": self.params_sql}, given=self.made)

    def make(self, name: str, sql: str) -> None:
        """Put the answer of `sql` into a table `name`, which later queries read in place of the rule of that name."""
        query = self.compose(sql)
        if not self.made:
            self._ask("", self._note_identity)
        self._ask(query, lambda: self.con.execute(f"CREATE OR REPLACE TABLE {MADE}.{name} AS {query}"))
        self.made.add(name)

    def _note_identity(self) -> None:
        self._ids = self._identity()

    def drop(self, name: str) -> None:
        """Forget what `make` put into the table `name`."""
        with self.errors():
            self.con.execute(f"DROP TABLE {MADE}.{name}")
        self.made.discard(name)

    def view(self, name: str, sql: str) -> None:
        """Give `sql` a name for the queries that follow: a view, asked anew by each."""
        composed = self.compose(sql)
        self._ask("", lambda: self.con.execute(f"CREATE OR REPLACE VIEW main.{name} AS {composed}"))
        self._named[name] = composed

    def columns(self, name: str) -> list[str]:
        """The names of a relation's columns."""
        return [row["column_name"] for row in self.rows(f"DESCRIBE {name}")]

    def shown(self, what: str) -> AbstractContextManager[None]:
        """Show on a terminal how far the queries that run inside are."""
        return query_bar(self.con, what)

    def places(self, table: str, keys: Collection[tuple[str | None, int | None]]) -> dict[Any, str]:
        """Where a table's rows lie, by (trajectory_id, seq), of tasks by (task_id, None): "file (row 3)", from 0 on.

        The seq of a trajectory is None too. A row that lies in several files has up to three places, joined by "and".
        """
        if not self.files[table]:
            return {}
        seq = "CAST(seq AS INTEGER)" if table == "messages" else "CAST(NULL AS INTEGER)"
        id = "task_id" if table == "tasks" else "trajectory_id"

        def ask() -> list[tuple[Any, ...]]:
            source = self._source(table, ", filename = true, file_row_number = true")  # other files after a `compact`
            return self.con.execute(
                f"WITH lying AS (SELECT CAST({id} AS VARCHAR) AS trajectory_id, {seq} AS seq, filename, "
                f"file_row_number FROM {source}), sought AS (SELECT unnest(CAST($1 AS VARCHAR[])) AS trajectory_id, "
                "unnest(CAST($2 AS INTEGER[])) AS seq) "
                "SELECT s.trajectory_id, s.seq, array_to_string(list(l.filename || ' (row ' || l.file_row_number "
                "|| ')' ORDER BY l.filename, l.file_row_number)[:3], ' and ') AS place FROM lying AS l JOIN sought "
                "AS s ON l.trajectory_id IS NOT DISTINCT FROM s.trajectory_id AND l.seq IS NOT DISTINCT FROM s.seq "
                "GROUP BY ALL",
                [[key for key, _ in keys], [number for _, number in keys]],
            ).fetchall()

        return {(trajectory_id, seq): place for trajectory_id, seq, place in self._ask("", ask)}

    @contextmanager
    def errors(self) -> Iterator[None]:
        """DuckDB's errors as ours: with an exit code and the way out."""
        import duckdb

        try:
            yield
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise UsageError(f"{error}") from error
        except duckdb.PermissionException as error:
            raise UsageError(
                f"{first_line(error)} Only the runs may be read here. --allow-read FILE allows a file more."
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise OutOfMemory(f"{error}\nGive it more with --memory-limit, or a larger TMPDIR to spill to.") from error
        except duckdb.IOException as error:
            if gone := self._gone():
                raise TrajkitError(f"{gone}: {WENT_AWAY}") from error
            raise TrajkitError(f"{error}\nQueries spill to {self.temporary}; TMPDIR names another place.") from error
        except (duckdb.DataError, duckdb.InvalidInputException, duckdb.SerializationException) as error:
            raise BadData(f"{error}\n`trajkit validate {self.path}` finds the file and the row.") from error
        except duckdb.Error as error:
            if told := told_by_store(error):
                raise TrajkitError(f"{gone}: {WENT_AWAY}" if (gone := self._gone()) else told) from error
            if "\nKeyboardInterrupt" in str(error):  # while DuckDB asked the store for something
                raise KeyboardInterrupt from error
            if type(error) is duckdb.Error:  # the Parquet reader's own, which have no class: a damaged page
                raise BadData(f"{error}\n`trajkit validate {self.path}` finds the damaged file.") from error
            raise TrajkitError(f"{error}") from error

    def statements(self, live: bool = False) -> Iterator[str]:
        """The SQL that makes the views. `live`: for plain DuckDB, reading whatever parts lie below the folder then."""
        yield from functions()
        yield from self._table_statements(live)
        for name in views():
            yield from self._view_statements(name)
            yield from _column_statements(name, self.columns(name))

    def _table_statements(self, live: bool = False) -> Iterator[str]:
        for table in TABLES:
            yield f"CREATE OR REPLACE VIEW main.all_{table} AS {self.table_sql(table, live)}"
        yield (
            "CREATE OR REPLACE TABLE main.repeated AS "
            "SELECT trajectory_id FROM main.all_trajectories GROUP BY trajectory_id HAVING count(*) > 1"
        )
        for table, fields in TABLES.items():
            yield f"CREATE OR REPLACE VIEW main.{table} AS {self._table(table, live)}"
            yield f"COMMENT ON VIEW main.{table} IS {quoted(TABLE_DOCS[table])}"
            for field in fields:
                yield f"COMMENT ON COLUMN main.{table}.{field.name} IS {quoted(field.doc)}"

    def _view_statements(self, name: str, given: Collection[str] = ()) -> Iterator[str]:
        rule = views()[name]
        sql = self.params_sql if name == "params" else rule.sql
        yield f"CREATE OR REPLACE VIEW main.{name} AS {compose(sql, {'params': self.params_sql}, given)}"
        yield f"COMMENT ON VIEW main.{name} IS {quoted(rule.title)}"

    def _ask(self, query: str, run: Callable[[], Answer]) -> Answer:
        """What `run`, which runs `query`, gives, once the views that the query may read are there.

        Where one is missing all the same (a name that is misspelt, say), all are made, so that DuckDB can suggest one.
        """
        import duckdb

        said = code(query)
        words = set(re.findall(r"\w+", said))
        own = set(re.findall(r"(\w+) as (?:materialized )?\(", said))  # the query's own, as `compose` has them
        lists = words & {"show", "pragma", "information_schema"} or "duckdb_" in said
        try:
            with self.errors():
                self._define(self._undefined if lists else words & self._undefined - own - self.made, not lists)
                if lists:
                    self._comment_columns()
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

    def _define(self, names: Collection[str], share: bool = False) -> None:
        """Make the views of these rules. `share`: those that read path_segments read tables of what they share, in the
        schema `shared`. (DuckDB guesses 200 times too many rows for the recursion of path_segments, and with that guess
        would gather messages by the million beside a few actions that it looks for.)"""
        for name in sorted(names):
            read = [*closure(views()[name].sql), views()[name]]
            given: set[str] = set()
            if share and "path_segments" in {rule.name for rule in read}:
                given = {rule.name for rule in read if "Materialized" in rule.keys}
                for rule in read:
                    if rule.name in given - self._shared:
                        self._share(rule)
            if name in self._undefined:
                for statement in self._view_statements(name, given):
                    self.con.execute(statement)
                self._undefined.discard(name)  # only now: a part that goes away makes the statement fail

    def _comment_columns(self) -> None:
        """Say what the columns of the views mean. It takes a while, so it waits until somebody asks for such things."""
        found: dict[str, list[str]] = {}
        for view, column in self.con.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'main' AND comment IS NULL"
        ).fetchall():
            found.setdefault(view, []).append(column)
        for name in found.keys() & views().keys():
            for statement in _column_statements(name, found[name]):
                self.con.execute(statement)

    def _share(self, rule: Rule) -> None:
        """Put a rule's answer into a table, over which its view is."""
        query = compose(rule.sql, {"params": self.params_sql}, self._shared)
        with self.con.cursor() as cursor:  # its search path is main alone: what `make` has made is not for the views
            cursor.execute(f"CREATE OR REPLACE TABLE shared.{rule.name} AS {query}")
            cursor.execute(f"CREATE OR REPLACE VIEW main.{rule.name} AS FROM shared.{rule.name}")
            cursor.execute(f"COMMENT ON VIEW main.{rule.name} IS {quoted(rule.title)}")
        self._shared.add(rule.name)
        self._undefined.discard(rule.name)

    def table_sql(self, table: str, live: bool = False) -> str:
        """The rows of `table` as they lie in the files, with the contract's columns and types, and unknown columns."""
        fields = TABLES[table]
        if not self.files[table]:
            columns = ", ".join(f"CAST(NULL AS {field.type}) AS {field.name}" for field in fields)
            return f"SELECT {columns} WHERE false"
        source = self._source(table)
        if live and self.path.is_dir():
            source = f"read_parquet({quoted(f'{absolute(self.path)}/**/{table}*.parquet')}, {BY_NAME})"
        types = self._types(source)
        if problems := column_problems(table, types):
            where = next((f for f in self.files[table] if column_problems(table, self._types(source_of(f)))), self.path)
            raise BadData(f"{where}: " + "\n".join(problems))
        return typed_sql(table, source, types)

    def _table(self, table: str, live: bool) -> str:
        """The rows of `table`, each once, from those that lie in the files (the view all_<table>)."""
        rows = f"main.all_{table}"
        if table == "tasks":
            return f"SELECT DISTINCT ON (task_id) * FROM {rows} ORDER BY ALL"
        if not live and not self.rows("SELECT 1 FROM repeated LIMIT 1"):
            return f"SELECT * FROM {rows}"
        # A trajectory that lies in two files counts once. The check duplicate_ids finds those that differ.
        key = "trajectory_id" if table == "trajectories" else "trajectory_id, seq"
        return (
            f"SELECT * FROM {rows} AS t ANTI JOIN repeated USING (trajectory_id) UNION ALL "
            f"SELECT * FROM (SELECT DISTINCT ON ({key}) * FROM {rows} AS t SEMI JOIN repeated USING (trajectory_id) "
            "ORDER BY ALL)"
        )

    def _types(self, source: str) -> dict[str, str]:
        with self.errors():
            return {name: kind for name, kind, *_ in self.con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}

    def _source(self, table: str, options: str = "") -> str:
        return source_of(*self.files[table], options=options, alike=table in self._alike)


def _column_statements(view: str, columns: Sequence[str]) -> Iterator[str]:
    for column, meaning in column_meanings(view, columns).items():
        yield f"COMMENT ON COLUMN main.{view}.{identifier(column)} IS {quoted(meaning)}"
