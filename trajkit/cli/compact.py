"""`trajkit compact`."""

from __future__ import annotations

import click

from trajkit.cli import Command, json_option, memory_option, print_json, runs_argument


@click.command(cls=Command)
@runs_argument()
@click.option("--dry-run", is_flag=True, help="Write and remove nothing; say what would become of what.")
@memory_option()
@click.option("--threads", type=click.IntRange(min=1), help="Threads for queries.  [default: all cores]")
@json_option()
def command(runs: str, dry_run: bool, memory_limit: str | None, threads: int | None, as_json: bool) -> None:
    """Put the many small parts of each run in RUNS together into few large ones.

    \b
    trajkit compact runs/
    trajkit compact runs/ --dry-run

    explore leaves a part every two seconds. Rows, columns and types stay as they are, and so does what
    is selected. It may run while others explore and read, and be killed at any time: run it again.
    """
    from dataclasses import asdict

    from trajkit.runs.compact import compact

    summary = compact(runs, dry_run=dry_run, memory_limit=memory_limit, threads=threads)
    if as_json:
        print_json(asdict(summary))
    else:
        click.echo(summary.text(), err=True)
