"""`trajkit validate`."""

from __future__ import annotations

from collections import Counter

import click

from trajkit.cli import Command, json_option, print_json


@click.command(cls=Command)
@click.argument("runs", type=click.Path())
@json_option()
def command(runs: str, as_json: bool) -> None:
    """Find what is wrong in RUNS, a folder of runs.

    stdout has a line per mistake: check, file and row, trajectory_id, what is wrong, separated by tabs.
    stderr has the counts. Exit code 3 when there is a mistake. With --json stdout has all of it as one object.
    """
    from dataclasses import asdict

    from trajkit.checks import validate
    from trajkit.errors import Exit
    from trajkit.terminal import clean

    counts: Counter[str] = Counter()
    problems = []
    for problem in validate(runs):
        counts[problem.check] += 1
        if as_json:
            problems.append(asdict(problem))
            continue
        fields = (problem.check, problem.where, problem.trajectory_id or "", problem.problem)
        click.echo("\t".join(clean(field) for field in fields))
    if as_json:
        print_json({"runs": runs, "n_mistakes": counts.total(), "by_check": counts, "mistakes": problems})
        raise click.exceptions.Exit(Exit.BAD_DATA if counts else Exit.DONE)
    for check, n in sorted(counts.items()):
        click.echo(f"{n:>9,}   {check}", err=True)
    click.echo(f"{sum(counts.values()):,} mistakes in {runs}" if counts else f"no mistakes in {runs}", err=True)
    if counts:
        raise click.exceptions.Exit(Exit.BAD_DATA)
