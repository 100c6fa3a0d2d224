"""What every engine answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self

from trajkit.errors import UsageError, did_you_mean
from trajkit.rules import Rule, closure, references, rules, views
from trajkit.runs.schema import TABLES

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl
    import pyarrow as pa


class Engine(Protocol):
    """A runs/ folder opened for queries. Every table, rule, plan and method is a view in it.

    Attributes:
        path: The folder, or its URL.
        params_sql: The SQL of the view `params`, as this engine was opened with it.
        made: The rules whose answers `make` has put into tables.
        temporary: A folder for what does not fit into memory.
    """

    path: Any
    params_sql: str
    made: set[str]
    files: dict[str, list[Any]]

    def close(self) -> None:
        """Forget all; what is temporary goes."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The answer to any SQL over the views, one dict per row."""

    def sql(self, query: str, limit: int | None = None) -> pl.DataFrame:
        """The answer to any SQL over the views, or its first `limit` rows, as a Polars frame."""

    def table(self, query: str) -> pa.Table:
        """The answer to any SQL over the views, as an Arrow table."""

    def batches(self, query: str, rows: int) -> Iterator[pa.RecordBatch]:
        """The answer to any SQL over the views, in batches of about `rows` rows."""

    def write(self, query: str, file: Path, form: str) -> None:
        """Write the answer to any SQL over the views into `file`: `form` is csv, json or parquet."""

    def rule(self, name: str) -> pl.DataFrame:
        """A table, rule, plan or method by its name, with its rows in a total order."""

    def register(self, name: str, frame: pl.DataFrame) -> None:
        """Let queries read `frame` under `name`."""

    def compose(self, sql: str) -> str:
        """`sql` with the rules that it reads put before it, but for those in `made`."""

    def make(self, name: str, sql: str) -> None:
        """Put the answer of `sql` into a table `name`, which later queries read in place of the rule of that name."""

    def drop(self, name: str) -> None:
        """Forget what `make` or `view` put there."""

    def view(self, name: str, sql: str) -> None:
        """Give `sql` a name."""

    def verify_messages(self, chosen: str | None = None) -> None:
        """Raise BadData where a file of messages that holds a trajectory of `chosen` (None: any) is damaged."""

    def columns(self, name: str) -> list[str]:
        """The names of a relation's columns."""

    def shown(self, what: str) -> AbstractContextManager[None]:
        """Show how far the queries are that run inside."""

    def places(self, table: str, keys: Collection[tuple[str | None, int | None]]) -> dict[Any, str]:
        """Where rows of `table` lie, by (trajectory_id, seq)."""

    def errors(self) -> AbstractContextManager[None]:
        """What goes wrong inside is raised as this library's errors."""


def refuse_unknown(name: str) -> None:
    """Raise UsageError unless there is a table, rule, plan or method of that name."""
    names = [*TABLES, *views()]
    if name not in names:
        raise UsageError(f"{name}: there is no such rule{did_you_mean(name, names)} Rules: {', '.join(names)}.")


def refuse_taken(name: str) -> None:
    """Raise UsageError where a table, rule, plan or method has that name, or it is none for SQL."""
    if not name.isidentifier():
        raise UsageError(f"{name!r} cannot be the name of a table: it may have letters, digits and underscores.")
    if name.lower() in (*TABLES, *views(), "params"):
        raise UsageError(f"{name}: a table or a rule has that name. Take another.")


def column_meanings(name: str, columns: Iterable[str]) -> dict[str, str]:
    """What the columns of a rule mean: the comment behind each, else what a rule or a table that it reads says of its
    column of that name. A column of which nobody says anything is left out.
    """
    rule = rules()[name]
    read = _tables_read(rule)
    found = {field.name: field.doc for table in reversed(TABLES) if table in read for field in TABLES[table]}
    for part in (*closure(rule.sql), rule):
        if part.name != "params" or part is rule:  # a rule reads its values; its columns are none of theirs
            found |= part.column_comments
    return {column: found[column] for column in columns if column in found}


def _tables_read(rule: Rule) -> set[str]:
    read = {name for part in (rule, *closure(rule.sql)) for name in references(part.sql)}
    return {name.removeprefix("all_") for name in read}
