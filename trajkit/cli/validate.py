"""`trajkit validate`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from trajkit.cli import Command, json_option, print_json, runs_argument


@click.command(cls=Command)
@runs_argument()
@json_option()
def command(runs: str, as_json: bool) -> None:
    """Find what is wrong in RUNS, a folder of runs.

    stdout has a line per mistake: check, file and row, trajectory_id, what is wrong, separated by tabs.
    stderr has the counts. Exit code 3 when there is a mistake. Warnings, which may be no mistakes, are told
    after them, and leave the exit code 0. With --json stdout has all of it as one object.
    """
    from dataclasses import asdict

    from trajkit.console import clean
    from trajkit.engines.checks import validate
    from trajkit.errors import Exit

    counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    problems: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for problem in validate(runs):
        counts[problem.warning][problem.check] += 1
        if as_json:
            told = asdict(problem)
            del told["warning"]
            problems[problem.warning].append(told)
            continue
        fields = (problem.check, problem.where, problem.trajectory_id or "", problem.problem)
        click.echo("\t".join(clean(field) for field in fields))
    mistakes, warnings = counts[False], counts[True]
    if as_json:
        found = {"n_mistakes": mistakes.total(), "by_check": mistakes, "mistakes": problems[False]}
        print_json({"runs": runs} | found | {"n_warnings": warnings.total(), "warnings": problems[True]})
        raise click.exceptions.Exit(Exit.BAD_DATA if mistakes else Exit.DONE)
    for check, n in [*sorted(mistakes.items()), *sorted(warnings.items())]:
        click.echo(f"{n:>9,}   {check}", err=True)
    said = f", {warnings.total():,} warnings" if warnings else ""
    click.echo(f"{f'{mistakes.total():,}' if mistakes else 'no'} mistakes in {runs}{said}", err=True)
    if mistakes:
        raise click.exceptions.Exit(Exit.BAD_DATA)
