"""`trajkit plan`."""

from __future__ import annotations

import click

from trajkit.cli import (
    Command,
    allow_read_option,
    completing,
    engine_options,
    plan_names,
    rule_params,
    runs_argument,
    set_option,
)
from trajkit.cli.sql import FORMATS, print_rows
from trajkit.errors import UsageError


@click.command(cls=Command)
@runs_argument()
@click.option(
    "--plan",
    "plans",
    multiple=True,
    required=True,
    metavar="NAME|FILE.sql",
    shell_complete=completing(plan_names),
    help="initial, skip_length, every_step, bisection, apt, score_expert, score_policy, or a file of your own. "
    "Repeatable.",
)
@allow_read_option()
@click.option("--iteration", type=int, help="Leave out the policy's rollouts already made in this iteration.")
@click.option("--m", type=int, help="Simulations per expert trajectory (skip_length).  [default: 5]")
@click.option("--samples", type=int, help="Rollouts from each state.  [default: 1]")
@set_option()
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@engine_options()
def command(
    runs: str,
    plans: tuple[str, ...],
    allow_read: tuple[str, ...],
    iteration: int | None,
    m: int | None,
    samples: int | None,
    settings: tuple[str, ...],
    form: str,
    engine: str,
    master: str | None,
) -> None:
    """Print the rollouts that explore would make: a row each, task_id, parent_id, branch_step, sample, role.

    Of bisection and apt it is the next round.

    \b
    trajkit plan --runs runs/ --plan initial --plan skip_length --m 5 --iteration 1
    """
    from trajkit.engines import opened
    from trajkit.engines.checks import conflicts, told_conflicts
    from trajkit.exploration.pending import answered, readable
    from trajkit.rules import missing_rollouts
    from trajkit.rules import plan as find_plan

    params = rule_params(settings, iteration=iteration, m=m, samples=samples)
    asked = [find_plan(name, reads_files=bool(allow_read)) for name in plans]
    limit = readable(asked, allow_read)
    if engine == "spark" and limit is not None:
        raise UsageError("--plan FILE.sql needs --engine duckdb: on Spark a file of SQL can do whatever Spark may.")
    with opened(runs, params, engine=engine, master=master, allow_read=limit) as folder:
        missing = missing_rollouts(answered(folder, asked))
        print_rows(folder, missing, form)
        [counts] = folder.rows(f"SELECT count(*) AS n, count(DISTINCT task_id) AS n_tasks FROM ({missing}) AS p")
        click.echo(f"{counts['n']:,} rollouts of {counts['n_tasks']:,} tasks", err=True)
        if left_out := conflicts(folder):
            click.echo(told_conflicts(left_out), err=True)
