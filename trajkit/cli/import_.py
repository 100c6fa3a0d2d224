"""`trajkit import`: other projects' logs become a run."""

from __future__ import annotations

import click

from trajkit.cli import Command, completing, json_option, print_json


def _formats() -> list[str]:
    from trajkit.importers import formats

    return list(formats())


@click.command("import", no_args_is_help=True, cls=Command)
@click.argument("format", metavar="FORMAT", shell_complete=completing(_formats))
@click.argument("paths", metavar="PATH...", nargs=-1)
@click.option("--runs", required=True, type=click.Path(), help="Folder of runs to import into.")
@click.option(
    "--role",
    type=click.Choice(["expert", "policy"]),
    default="policy",
    show_default=True,
    help="Whose actions these are: an expert's, or those of the model being tuned.",
)
@click.option("--actor", help="The model or agent, e.g. gpt-4. Default: what the file says, if anything.")
@click.option("--env", help="The environment's name, which also begins the task ids. Default: as the format has it.")
@click.option("--iteration", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="The iteration.")
@click.option("--split", help="train, test, ... Only train is trained on. Default: what the file says, else train.")
@click.option("--strict", is_flag=True, help="Stop at the first bad record instead of setting it aside.")
@click.option(
    "--replace",
    is_flag=True,
    help="A record that says and does the same as a trajectory that is there overwrites its outcome, error and meta.",
)
@click.option("--messages-field", help="openai: where the messages are.  [default: messages]")
@click.option("--task-id-field", help="openai: where the task id is.  [default: task_id]")
@click.option("--reward-field", help="openai: where the reward is; atif: which of the rewards.  [default: reward]")
@click.option("--success-field", help="openai: where the verdict is.  [default: success]")
@click.option("--sample-field", help="openai: where the repeat's number is.  [default: sample]")
@click.option("--tools-field", help="openai: where the tool definitions are.  [default: tools]")
@json_option()
def command(
    format: str,
    paths: tuple[str, ...],
    runs: str,
    role: str,
    actor: str | None,
    env: str | None,
    iteration: int,
    split: str | None,
    strict: bool,
    replace: bool,
    as_json: bool,
    **fields: str | None,
) -> None:
    """Import trajectories from other projects' logs.

    FORMAT is intercode, tau-bench, mint, agentgym (also ETO's), openai or atif. PATH is a file
    (compressed too), a folder, which is searched for the format's files, or - for stdin.

    Importing the same thing again changes nothing. A record that cannot become a trajectory is set
    aside in the run's rejected.jsonl, with file, line, reason and its own text.
    """
    from trajkit.console import clean
    from trajkit.errors import UsageError
    from trajkit.importers import Options, import_files, load, run_folder

    named = {flag.removesuffix("_field").replace("_", "-"): path for flag, path in fields.items() if path}
    known = getattr(load(format), "FIELDS", {})
    for name in named:
        if name not in known:
            raise UsageError(f"--{name}-field: {format} files have their fields at fixed places. Leave it out.")
    options = Options(role=role, actor=actor, env=env, iteration=iteration, split=split, fields=named)

    def say(line: str) -> None:
        click.echo(clean(line), err=True)

    counts = import_files(format, paths, runs, options, strict=strict, replace=replace, say=say)
    run = run_folder(runs, format, options)
    if as_json:
        print_json(vars(counts) | {"run": run})
        return
    click.echo(f"{counts.read:,} records read from {counts.files:,} file{'s' * (counts.files != 1)}", err=True)
    outcome = f" ({counts.no_outcome:,} without an outcome)" if counts.no_outcome else ""
    click.echo(f"{counts.imported:,} imported into {run}{outcome}", err=True)
    if counts.replaced:
        click.echo(f"{counts.replaced:,} trajectories replaced: outcome, error and meta are the records'", err=True)
    if counts.several:
        say(f"{len(counts.several):,} records fit several trajectories, of which none was touched:")
        for number, ids in enumerate(counts.several.values()):
            if number < 10:
                say(f"  {', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''}")
    if counts.already:
        click.echo(f"{counts.already:,} were there already", err=True)
    if counts.duplicates:
        click.echo(f"{counts.duplicates:,} duplicates of others in this import", err=True)
    for note, n in counts.notes.most_common():
        click.echo(f"{n:,} {note}", err=True)
    if total := sum(counts.set_aside.values()):
        click.echo(f"{total:,} set aside in {counts.rejected}:", err=True)
        for reason, n in counts.set_aside.most_common():
            say(f"  {n:,}  {reason}")
