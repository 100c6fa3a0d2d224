"""`trajkit explain`."""

from __future__ import annotations

import click

from trajkit.cli import (
    Command,
    allow_read_option,
    completing,
    memory_option,
    method_names,
    rule_params,
    runs_option,
    set_option,
)


@click.command("explain", cls=Command)
@click.option("--task", metavar="T", help="The task to explain.")
@runs_option()
@click.option(
    "--method",
    default="eef",
    show_default=True,
    metavar="NAME|FILE.sql",
    shell_complete=completing(method_names, files=True),
    help="A method of `select`, or a file of SQL of your own.",
)
@click.option("--iteration", type=int, help="The iteration whose rollouts are judged.  [default: the latest]")
@set_option()
@allow_read_option()
@memory_option()
def command(
    task: str | None,
    runs: str,
    method: str,
    iteration: int | None,
    settings: tuple[str, ...],
    allow_read: tuple[str, ...],
    memory_limit: str | None,
) -> None:
    """Say why a method chose what it chose of a task, and why each other trajectory lost.

    \b
    trajkit explain --task T --runs runs/
    trajkit explain --task T --runs runs/ --method rft --set per_task=4
    trajkit sql "from why_eef where task_id = 'T'" --runs runs/ --format json    the same as rows

    Trajectories that lost for the same reason are told of together. Of eef it also says of each expert which states
    were simulated, with what outcome, and why one of them needs recovery or none does.
    """
    from trajkit.console import screen
    from trajkit.engines.duckdb import DuckDBEngine
    from trajkit.errors import UsageError
    from trajkit.rules import method as find_method
    from trajkit.selection.explain import explain, told

    if task is None:
        raise UsageError(
            f'--task T says which task; `trajkit sql "SELECT DISTINCT task_id FROM trajectories" --runs {runs} '
            "--format csv` lists them."
        )
    rule = find_method(method, reads_files=bool(allow_read))
    params = rule_params(settings, own_method=method.endswith(".sql"), iteration=iteration)
    console = screen()
    with DuckDBEngine(runs, params, memory_limit=memory_limit, allow_read=allow_read) as opened:
        for part in told(explain(opened, task, rule)):
            console.print(part)
