"""`trajkit select`."""

from __future__ import annotations

import click

from trajkit.cli import (
    Command,
    allow_read_option,
    completing,
    engine_options,
    json_option,
    memory_option,
    method_names,
    print_json,
    rule_params,
    runs_option,
    set_option,
)


@click.command(cls=Command)
@runs_option("The folder of runs to choose from.")
@click.option("--out", type=click.Path(), metavar="FILE", help="The Parquet file to write. Not needed with --dry-run.")
@click.option(
    "--method",
    default="eef",
    show_default=True,
    metavar="NAME|FILE.sql",
    shell_complete=completing(method_names, files=True),
    help="A method, or a file of SQL of your own.",
)
@click.option("--iteration", type=int, help="The iteration whose rollouts are judged.  [default: the latest]")
@set_option()
@click.option("--dry-run", is_flag=True, help="Do everything but writing, and print the summary.")
@click.option("--allow-empty", is_flag=True, help="Write a file without rows, and end with 0, where nothing is chosen.")
@engine_options()
@allow_read_option()
@memory_option()
@click.option("--threads", type=click.IntRange(min=1), help="Threads for queries.  [default: all cores]")
@click.option("--trust", is_flag=True, help="Run a FILE.sql of --method on Spark, where it can do whatever Spark may.")
@json_option()
def command(
    runs: str,
    out: str | None,
    method: str,
    iteration: int | None,
    settings: tuple[str, ...],
    dry_run: bool,
    allow_empty: bool,
    engine: str,
    master: str | None,
    allow_read: tuple[str, ...],
    memory_limit: str | None,
    threads: int | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Choose what to train on and write it as one Parquet file with loss weights.

    \b
    trajkit select --input runs/ --out sft.parquet
    trajkit select --input runs/ --out sft.parquet --method rft --set per_task=4
    trajkit select --input runs/ --out pairs.parquet --method eto
    trajkit select --input runs/ --method mine.sql --dry-run
    trajkit select --input runs/ --out sft.parquet --engine spark --master spark://host:7077

    A row of the file is an example: its messages with a weight each, 1 on the actions to train on and
    0 on all else; or a pair: prompt, chosen and rejected messages; or a trajectory with a value for each
    action (step_rewards). What was left out, and why, is printed on stderr.
    """
    from dataclasses import asdict

    from trajkit.errors import UsageError
    from trajkit.selection.select import NothingChosen, select

    if out is None and not dry_run:
        raise UsageError("--out FILE says where to write; --dry-run writes nothing.")
    params = rule_params(settings, own_method=method.endswith(".sql"), iteration=iteration)
    nothing = None
    try:
        summary = select(
            runs,
            None if dry_run else out,
            method,
            params,
            engine=engine,
            master=master,
            memory_limit=memory_limit,
            threads=threads,
            allow_empty=allow_empty,
            allow_read=allow_read,
            trust=trust,
        )
    except NothingChosen as error:
        nothing, summary = error, error.summary
    if as_json:
        written = None if dry_run or nothing else out
        print_json(asdict(summary) | {"n_rows": summary.n_rows, "out": written})
    else:
        click.echo(summary.text(), err=True)
    if not summary.n_rows and not allow_empty:
        raise nothing or NothingChosen(summary)
    if not dry_run and not as_json:
        click.echo(f"wrote {out}", err=True)
