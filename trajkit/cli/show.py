"""`trajkit show`: a trajectory, or an example that `select` wrote, in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from trajkit.cli import Command, on_refused_option, rule_params, set_option, template_arg_option
from trajkit.errors import UsageError


@click.command("show", cls=Command)
@click.argument("what", metavar="[ID | FILE.parquet]", required=False)
@click.option("--task", metavar="T", help="Show the expert trajectories of this task.")
@click.option("--runs", "--input", type=click.Path(), metavar="FOLDER", help="Folder of runs to read.")
@click.option("--iteration", type=click.IntRange(0), help="Whose rollouts to show; the latest when not given.")
@set_option()
@click.option("--example", metavar="ID", help="Which example (pair) of the file, or how its id begins; else the first.")
@click.option(
    "--tokenizer",
    metavar="FOLDER|OWNER/NAME",
    help="Show the example token by token, as this model's tokenizer has it.",
)
@click.option("--per-step", is_flag=True, help="With --tokenizer: one row per trained action.")
@on_refused_option()
@template_arg_option()
@click.option("--full", is_flag=True, help="Whole messages, not a line of each; of tokens one line each, with its id.")
def command(
    what: str | None,
    task: str | None,
    runs: str | None,
    iteration: int | None,
    settings: tuple[str, ...],
    example: str | None,
    tokenizer: str | None,
    per_step: bool,
    on_refused: str | None,
    template_arg: tuple[str, ...],
    full: bool,
) -> None:
    """Show a trajectory, or what exactly gets loss of an example that `select` wrote.

    \b
    trajkit show --runs runs/                     the most instructive expert trajectory
    trajkit show ID --runs runs/                  any trajectory: ID is its id or how that begins
    trajkit show --task T --runs runs/            the expert trajectories of a task
    trajkit show sft.parquet --example ID         an example or pair: each message with its weight
    trajkit show sft.parquet --tokenizer model/   token by token, as it is trained on

    What is trained on is green and marked by x at the beginning of the line, what is context is dim.
    """
    if what is not None and (what.endswith(".parquet") or Path(what).is_file()):
        if task is not None or runs is not None or iteration is not None or settings:
            raise UsageError("--task, --runs, --iteration and --set are for trajectories; a file needs none of them.")
        if tokenizer is None and (per_step or on_refused or template_arg):
            raise UsageError("--per-step, --on-refused and --template-arg are for token ids: name a --tokenizer.")
        _file(what, example, tokenizer, full, per_step, on_refused, template_arg)
        return
    if example is not None or tokenizer is not None:
        raise UsageError(
            "--example and --tokenizer are for a file: `trajkit select --out sft.parquet` writes one, and "
            "`trajkit show sft.parquet` shows it."
        )
    if runs is None:
        raise UsageError("--runs FOLDER says where the trajectories are; or name a FILE.parquet that `select` wrote.")
    _trajectories(what, task, runs, iteration, settings, full)


def _trajectories(
    trajectory_id: str | None,
    task: str | None,
    folder: str,
    iteration: int | None,
    settings: tuple[str, ...],
    full: bool,
) -> None:
    from trajkit.console import screen
    from trajkit.display.terminal import find, picture
    from trajkit.display.terminal.trajectory import READS
    from trajkit.engines.duckdb import DuckDBEngine
    from trajkit.engines.one_task import one_task

    console = screen()
    with DuckDBEngine(folder, rule_params(settings, iteration=iteration)) as runs:
        if task is not None and trajectory_id is None:
            one_task(runs, task, READS)
        found = find(runs, trajectory_id, task)
        if task is None:
            [row] = runs.rows("SELECT task_id FROM trajectories WHERE trajectory_id = ?", [found[0]])
            one_task(runs, row["task_id"], READS)
        for number, shown in enumerate(found):
            if number:
                console.print()
            observations = trajectory_id is not None
            for part in picture(runs, shown, observations=observations, full=full, width=console.width):
                console.print(part)


def _file(
    file: str,
    example: str | None,
    tokenizer: str | None,
    full: bool,
    per_step: bool,
    on_refused: str | None,
    template_arg: tuple[str, ...],
) -> None:
    from trajkit.console import screen
    from trajkit.display.terminal.examples import find_example, shown

    console = screen()
    found = find_example(file, example)
    if tokenizer is None:
        parts = shown(found)
    else:
        from trajkit.display.terminal.tokens import shown_tokens
        from trajkit.exploration.env import key_values

        args = key_values(template_arg)
        parts = shown_tokens(found, tokenizer, full, per_step, args, on_refused or "error")
    for part in parts:
        console.print(part)
