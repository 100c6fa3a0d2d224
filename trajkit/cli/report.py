"""`trajkit report`."""

from __future__ import annotations

import click

from trajkit.cli import (
    Command,
    allow_read_option,
    completing,
    json_option,
    memory_option,
    method_names,
    print_json,
    rule_params,
    runs_argument,
    set_option,
)


@click.command(cls=Command)
@runs_argument()
@click.option("--out", required=True, type=click.Path(), metavar="FILE", help="The HTML file to write.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("eef",),
    show_default=True,
    metavar="NAME|FILE.sql",
    shell_complete=completing(method_names, files=True),
    help="Mark what this method chooses; repeatable.",
)
@click.option(
    "--skill",
    "skills",
    multiple=True,
    metavar="NAME=REGEX",
    help="Count the actions that match as a skill, e.g. 'next=(?i)click\\[next'; repeatable.",
)
@click.option("--iteration", type=int, help="The iteration whose rollouts are judged.  [default: the latest]")
@set_option()
@allow_read_option()
@memory_option()
@json_option()
def command(
    runs: str,
    out: str,
    methods: tuple[str, ...],
    skills: tuple[str, ...],
    iteration: int | None,
    settings: tuple[str, ...],
    allow_read: tuple[str, ...],
    memory_limit: str | None,
    as_json: bool,
) -> None:
    """Write one HTML file that needs no network: what was explored, what is trained on, every task to look at.

    \b
    trajkit report --runs runs/ --out report.html
    trajkit report --runs runs/ --out report.html --method eef --method rft
    trajkit report --runs runs/ --out report.html --skill 'next=(?i)click\\[next'

    On top are charts of win rates, branches and costs, each with its numbers and the SQL behind them; below, the tasks
    to search: open one to see its branch tree and read its messages. Texts are cut where the file would grow too large
    for a browser; the page, and stderr, say so.
    """
    from dataclasses import asdict

    from trajkit.display.report import report
    from trajkit.errors import UsageError

    patterns = {}
    for skill in skills:
        name, equals, pattern = skill.partition("=")
        if not equals or not name or not pattern:
            raise UsageError(f"--skill {skill}: it is written --skill NAME=REGEX.")
        if name in patterns:
            raise UsageError(f"--skill {name} is given twice: say it once, for it has one value.")
        patterns[name] = pattern
    params = rule_params(settings, own_method=any(name.endswith(".sql") for name in methods), iteration=iteration)
    written = report(runs, out, methods, patterns, params, memory_limit=memory_limit, allow_read=allow_read)
    if as_json:
        print_json(asdict(written))
    else:
        click.echo(written.text(), err=True)
