"""`trajkit sql`."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajkit.cli import Command, engine_options, memory_option, rule_params, runs_option, set_option

if TYPE_CHECKING:
    from trajkit.engines.base import Engine
    from trajkit.engines.duckdb import DuckDBEngine

FORMATS = ("table", "csv", "json", "parquet")
SUFFIXES = {"csv": (".csv",), "json": (".json", ".jsonl", ".ndjson"), "parquet": (".parquet",)}
TABLE_ROWS = 50


@click.command(cls=Command)
@click.argument("query", required=False)
@runs_option()
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--out",
    type=click.Path(),
    metavar="FILE",
    help="Write there instead of to stdout (parquet needs it on a terminal).",
)
@click.option("--init", is_flag=True, help="Print a script that makes plain `duckdb -init` see the same views.")
@set_option()
@engine_options()
@memory_option()
def command(
    query: str | None,
    runs: str,
    form: str,
    out: str | None,
    init: bool,
    settings: tuple[str, ...],
    engine: str,
    master: str | None,
    memory_limit: str | None,
) -> None:
    """Query runs/ with DuckDB's SQL: every table, rule, plan and method is a view.

    \b
    trajkit sql --runs runs/                                       lists the views
    trajkit sql "describe trajectories" --runs runs/               says what each column means
    trajkit sql "from first_recovery_state" --runs runs/
    trajkit sql "select role, count(*) from trajectories group by 1" --runs runs/ --format csv
    trajkit sql --runs runs/ --init > views.sql && duckdb -init views.sql

    The query does what you may do: it can read other files, and COPY writes.
    """
    from trajkit.engines import opened
    from trajkit.engines.duckdb import DuckDBEngine
    from trajkit.errors import UsageError

    with opened(runs, rule_params(settings), engine=engine, master=master, memory_limit=memory_limit) as folder:
        if isinstance(folder, DuckDBEngine):
            if init:
                for statement in folder.statements(live=True):
                    click.echo(f"{statement};")
            else:
                print_rows(folder, _documented(folder, query or VIEWS), form, out)
        elif init or query is None:
            raise UsageError("--engine spark answers a query; the list of views and --init are DuckDB's.")
        else:
            print_rows(folder, query, form, out)


# What `trajkit sql` says without a query.
VIEWS = """
SELECT view_name AS name, comment AS meaning FROM duckdb_views() WHERE comment IS NOT NULL ORDER BY view_name
"""


def _documented(runs: DuckDBEngine, query: str) -> str:
    """`describe TABLE` with what each column means."""
    found = re.fullmatch(r"\s*(?:describe|desc)\s+(\w+)\s*;?\s*", query, re.IGNORECASE)
    if not found or not runs.rows("SELECT 1 FROM duckdb_views() WHERE view_name = ?", [found[1].lower()]):
        return query
    return (
        "SELECT column_name, data_type AS column_type, coalesce(comment, '') AS meaning FROM duckdb_columns() "
        f"WHERE table_name = '{found[1].lower()}' ORDER BY column_index"
    )


def print_rows(runs: Engine, query: str, form: str, out: str | None = None) -> None:
    """Write the answer to `query` to stdout, or to the file `out`, which appears whole or not at all."""
    from trajkit.errors import UsageError
    from trajkit.rules import one_statement
    from trajkit.runs.atomic import STDOUT, check_out, whole
    from trajkit.runs.object_store import locate

    query = one_statement(query)
    goal = STDOUT if out is None else locate(out)
    if form == "table" and goal == STDOUT:
        click.echo(_table(runs, query))
        return
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise UsageError("--format parquet is not for a terminal: name a file with --out, or pipe it on.")
    if form == "table":
        suffix = Path(goal.name).suffix.lower()
        form = next((form for form, suffixes in SUFFIXES.items() if suffix in suffixes), form)
        if form == "table":
            raise UsageError(f"--out {out}: its name ends in .csv, .json or .parquet, or --format says which it is.")
    if out is not None:
        check_out(goal, SUFFIXES[form])
    with whole(goal) as file:
        runs.write(query, Path(file.name), form)


def _table(runs: Engine, query: str) -> str:
    """The first rows as a table. Characters that could steer a terminal are shown as dots."""
    import polars as pl

    from trajkit.console import STEERING

    frame = runs.sql(query, limit=TABLE_ROWS + 1)
    shown = frame.head(TABLE_ROWS).with_columns(pl.col(pl.String).str.replace_all(STEERING, "·"))
    width = shutil.get_terminal_size((160, 24)).columns
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=200, tbl_width_chars=width, tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True, tbl_formatting="UTF8_BORDERS_ONLY",
    ):  # fmt: skip
        text = str(shown)
    more = f"\n(the first {TABLE_ROWS} rows; --format csv gives all)" if frame.height > TABLE_ROWS else ""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text) + more
