"""The command line: one file per command, loaded when it is called."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from trajkit import __version__
from trajkit.errors import Exit, TrajkitError, UsageError

# The command, its module below trajkit.cli, and its line in `trajkit --help`.
COMMANDS = {
    "import": ("import_", "Read an agent's logs into runs/."),
    "plan": ("plan", "Print the rollouts that explore would make."),
    "explore": ("explore", "Simulate a policy from s_0 and from states along recorded trajectories."),
    "select": ("select", "Choose what to train on and write it with loss weights."),
    "export": ("export", "Write what select chose for another trainer (TRL, Unsloth, Axolotl, OpenAI, verl, ...)."),
    "sql": ("sql", "Query runs/: every table, rule and method is a view."),
    "show": ("show", "Draw a trajectory or an example, its branches' outcomes and what is trained on."),
    "explain": ("explain", "Say why a method chose what it chose of a task, and why the others lost."),
    "report": ("report", "Write one HTML file: win rates, branches, what is trained on, every task to look at."),
    "validate": ("validate", "Find what is wrong in runs/."),
    "compact": ("compact", "Put the many small parts that explore leaves together into few large ones."),
    "completion": ("completion", "Print the shell's completion script."),
}
STOPPED = "stopped; what was written so far is whole, and running it again goes on from there"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """A command that takes each option of one value once, and whose stdout holds one thing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option in self.params:
            once = isinstance(option, click.Option) and not (option.multiple or option.is_flag or option.count)
            if once and sum(other is option for other in given) > 1:
                raise UsageError(f"{' or '.join(option.opts)} is given twice: say it once, for it has one value.")
        rest = super().parse_args(ctx, args)
        if ctx.params.get("out") == "-" and ctx.params.get("as_json"):
            raise UsageError("--json prints the summary on stdout, to which --out - writes. Name a file.")
        return rest


class _Commands(click.Group):
    """Commands by name, each imported only when it is needed, so that --help is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"trajkit.cli.{COMMANDS[name][0]}").command
        command.name = name
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `| head` has read enough; click would end with 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(Exit.DONE)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from trajkit.errors import did_you_mean

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise UsageError(
                f"{args[0]}: there is no such command{did_you_mean(args[0], list(COMMANDS))} "
                f"Commands: {', '.join(COMMANDS)}."
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trajkit")
def cli() -> None:
    """Decide what to train LLM agents on.

    Trajectories are Parquet tables below runs/, every selection rule is a file of SQL, and out come
    datasets with loss weights. stdout is data, stderr is talk. Exit codes: 0 done, 2 wrong usage,
    3 bad data, 130 stopped by Ctrl-C, 1 anything else.
    """


def main() -> None:
    """The `trajkit` command."""
    run(cli, "trajkit")


def run(command: click.Command, name: str) -> None:
    """Run a command and end the process: errors as one line on stderr, exit codes as `Exit` has them."""
    try:
        # click gives the code of its own Exit back, and None when done
        sys.exit(command.main(prog_name=name, standalone_mode=False))
    except TrajkitError as error:
        _stop(str(error), error.exit_code)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _stop(shown.getvalue().rstrip("\n"), Exit.USAGE, "")
    except (click.Abort, KeyboardInterrupt):
        # `python -m` remembers that the interrupt came inside an exec of text (as dataclasses and named tuples are made
        # by while something is imported), and would end by the signal. Another exec makes it forget.
        exec("")
        _stop(STOPPED, Exit.INTERRUPTED)
    except RuntimeError as error:
        if str(error) != "Query interrupted":  # what DuckDB makes of Ctrl-C
            raise
        _stop(STOPPED, Exit.INTERRUPTED)
    except OSError as error:
        _stop(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), Exit.FAILED)


def _stop(message: str, code: int, name: str = "trajkit: ") -> None:
    from trajkit.console import clean
    from trajkit.quoting import hide

    lines = hide(message).split("\n")  # they may quote trajectories, whose text could steer a terminal
    click.echo("\n".join([name + clean(lines[0]), *map(clean, lines[1:])]), err=True)
    sys.exit(code)


def runs_option(help: str = "The folder of runs.") -> Decorator:
    """--runs, and --input as its alias."""
    return click.option("--runs", "--input", "runs", required=True, type=click.Path(), metavar="FOLDER", help=help)


def runs_argument(help: str = "The folder of runs, in place of RUNS.") -> Decorator:
    """RUNS, or --runs (--input) in its place: for commands that have no other argument."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(*args: Any, folder: str | None, runs: str | None, **more: Any) -> Any:
            if folder is not None and runs is not None:
                raise UsageError(f"RUNS is {folder} and --runs is {runs}: say it once, for it has one value.")
            if folder is None and runs is None:
                raise UsageError("Missing argument 'RUNS' (or the option '--runs').")
            return function(*args, runs=runs if folder is None else folder, **more)

        by_name = click.option("--runs", "--input", "runs", type=click.Path(), metavar="FOLDER", help=help)
        by_position = click.argument("folder", required=False, type=click.Path(), metavar="[RUNS]")
        return by_position(by_name(command))

    return decorate


def set_option() -> Decorator:
    """--set key=value, repeated."""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a parameter of the rules (sql/concepts/params.sql), e.g. success_reward=0.8; repeatable.",
    )


def template_arg_option(when: str = "With --tokenizer: give it") -> Decorator:
    """--template-arg key=value, repeated."""
    return click.option(
        "--template-arg",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"{when} to the chat template, e.g. enable_thinking=false. Repeatable.",
    )


def on_refused_option() -> Decorator:
    """--on-refused."""
    return click.option(
        "--on-refused",
        type=click.Choice(["error", "drop"]),
        help="With --tokenizer: what becomes of a row that the chat template cannot hold: an error, or left out and "
        "counted.  [default: error]",
    )


def memory_option() -> Decorator:
    """--memory-limit."""
    return click.option(
        "--memory-limit", metavar="SIZE", help="Memory for queries; beyond it they spill to TMPDIR.  [default: 1GB]"
    )


def allow_read_option() -> Decorator:
    """--allow-read, repeated."""
    return click.option(
        "--allow-read",
        multiple=True,
        type=click.Path(),
        metavar="FILE",
        help="Let a FILE.sql (a method's, a plan's) read this file beside the runs. Repeatable.",
    )


def engine_options() -> Decorator:
    """--engine and --master."""
    engine = click.option(
        "--engine",
        default="duckdb",
        show_default=True,
        metavar="duckdb|spark",
        shell_complete=completing(lambda: ["duckdb", "spark"]),
        help="What answers the queries: spark goes beyond one machine.",
    )
    master = click.option("--master", metavar="URL", help="Spark's cluster, e.g. spark://host:7077 or local[4].")
    return lambda command: engine(master(command))


def completing(names: Callable[[], list[str]], files: bool = False) -> Callable[..., Any]:
    """`shell_complete` of a value that is one of `names`, or, with `files`, a file."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return found + ([CompletionItem(incomplete, type="file")] if files and not found else [])

    return complete


def method_names() -> list[str]:
    """What --method completes to."""
    from trajkit.rules import methods

    return methods()


def plan_names() -> list[str]:
    """What --plan completes to."""
    from trajkit.rules import plans

    return plans()


def json_option() -> Decorator:
    """--json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout, not as text on stderr."
    )


def print_json(value: Any) -> None:
    """`value` as one line of JSON on stdout; in ASCII, so that no quoted text steers a terminal."""
    import json

    click.echo(json.dumps(value, default=str))


def key_values(flag: str, pairs: tuple[str, ...]) -> dict[str, str]:
    """key=value pairs as a dict."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} {pair}: it is written {flag} key=value.")
        key = key.strip().replace("-", "_")
        if key in values:
            raise UsageError(f"{flag} {key} is given twice: say it once, for it has one value.")
        values[key] = value.strip()
    return values


def rule_params(settings: tuple[str, ...], own_method: bool = False, **flags: Any) -> dict[str, Any]:
    """The rules' parameters from --set and from flags of their own (None: not given).

    A name that the built-in rules do not have is refused, unless it may be meant for a method of the user's own.
    """
    from trajkit.errors import did_you_mean
    from trajkit.rules import param_names

    params: dict[str, Any] = key_values("--set", settings)
    for name in params:
        if name not in param_names() and not own_method:
            raise UsageError(
                f"--set {name}: there is no such parameter{did_you_mean(name, param_names())} "
                f"Parameters: {', '.join(param_names())}."
            )
        if flags.get(name) is not None:
            raise UsageError(f"--{name} and --set {name} are both given: say it once, for it has one value.")
    return params | {name: value for name, value in flags.items() if value is not None}
