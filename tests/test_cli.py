"""The command line as a whole: help, exit codes, and that it starts without what is heavy."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete
from small_runs import pair, trajkit, write_run

from trajkit import __version__
from trajkit.cli import COMMANDS, cli
from trajkit.cli.completion import SHELLS
from trajkit.errors import UsageError

CHECKOUT = Path(__file__).resolve().parents[1]


def test_help_names_every_command() -> None:
    result = trajkit("--help")
    assert result.code == 0 and result.err == ""
    assert all(f"\n  {name} " in result.out for name in COMMANDS)
    assert trajkit("-h") == result


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    result = trajkit(name, "--help")
    assert result.code == 0 and result.err == "" and f"trajkit {name}" in result.out
    assert all(len(line) <= 100 for line in result.out.splitlines())


def test_the_version() -> None:
    assert trajkit("--version") == (0, f"trajkit, version {__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("selct",), "selct: there is no such command (did you mean select?)"),
        (("qqq",), "Commands: "),
        (("--nope",), "--nope"),
        (("select", "--input", "x", "more", "words"), "more words"),
    ],
)
def test_a_wrong_call_exits_with_2(args: tuple[str, ...], said: str) -> None:
    result = trajkit(*args)
    assert result.code == 2 and result.out == "" and said in result.err


TRAIN = ("loop", "trainer", "study", "score", "results", "reproduction")


def all_commands() -> dict[str, click.Command]:
    """Every command of the toolkit, and of what trains beside it."""
    found = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
    return {name: one for name, one in found.items() if one} | {
        f"train.{name}": importlib.import_module(f"train.{name}").command for name in TRAIN
    }


@pytest.mark.parametrize("name", [*COMMANDS, *(f"train.{name}" for name in TRAIN)])
def test_an_option_of_one_value_is_given_once(name: str) -> None:
    command = all_commands()[name]
    options = [one for one in command.params if isinstance(one, click.Option) and not (one.multiple or one.is_flag)]
    assert options or name in ("completion", "validate", "train.reproduction")
    for option in options:
        for first, second in {(option.opts[0], other) for other in option.opts}:
            with pytest.raises(UsageError, match=rf"{re.escape(first)}.* is given twice"):
                command.make_context(name, [first, "1", f"{second}=2"])


@pytest.mark.parametrize(
    "args",
    [
        ("select", "--input", "x", "--set", "m=3", "--set", "m=4"),
        ("select", "--input", "x", "--set", "success-reward=3", "--set", "success_reward=3"),
        ("select", "--input", "x", "--runs", "y"),
        ("select", "--input", "x", "--iteration", "1", "--set", "iteration=2"),
        ("plan", "--runs", "x", "--plan", "initial", "--m", "1", "--set", "m=2"),
        ("explore", "--runs", "x", "--env", "e:E", "--policy", "p:P", "--iteration", "1", "--env-arg", "a=1",
         "--env-arg", "a=1"),
        ("report", "--runs", "x", "--out", "y.html", "--skill", "a=b", "--skill", "a=c"),
    ],
)  # fmt: skip
def test_a_key_of_one_value_is_given_once(args: tuple[str, ...]) -> None:
    done = trajkit(*args, *(["--dry-run"] if args[0] == "select" else []))
    assert (done.code, done.out) == (2, "") and ("given twice" in done.err or "both given" in done.err)


def test_nothing_heavy_is_imported_until_it_is_needed() -> None:
    heavy = ["duckdb", "polars", "pyarrow", "rich", "sqlglot", "torch", "numpy", "tqdm"]
    code = (
        "import sys, importlib, trajkit, trajkit.cli\n"
        "for name, _ in trajkit.cli.COMMANDS.values(): importlib.import_module(f'trajkit.cli.{name}')\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_starts_at_once() -> None:
    """By what is imported, which takes nearly all of the time: the clock would tell of a busy machine."""
    code = (
        "import sys\nbare = set(sys.modules)\n"
        "from trajkit.cli import cli\ncli(['--help'], standalone_mode=False)\n"
        "print(*(set(sys.modules) - bare), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    names = done.stderr.split()
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"click", "trajkit"}
    assert len(names) < 120


def test_messages_steer_no_terminal(tmp_path: Path) -> None:
    """Errors quote trajectories, whose text is not to be trusted."""
    runs = write_run(tmp_path / "runs", pair("e\x1b[2J\x07", role="\x1b]0;owned\x07"))
    result = trajkit("select", "--input", runs, "--dry-run")
    assert result.code == 3 and "\\x1b[2J" in result.err
    assert all(c.isprintable() or c == "\n" for c in result.err)


def test_hostile_values_in_the_summary_steer_no_terminal(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e", split="\x1b[2Jtest\nleft out of 0"))
    result = trajkit("select", "--input", runs, "--dry-run", "--allow-empty")
    assert result.code == 0
    assert all(c.isprintable() or c == "\n" for c in result.err)
    assert result.err.count("\nleft out of") == 1


INTERRUPTED = """
import click
from trajkit.cli import run

@click.command()
def command():
    exec("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)")

run(command, "interrupted")
"""


def test_ctrl_c_exits_with_130_wherever_it_comes(tmp_path: Path) -> None:
    """Also inside an exec of text, as by which dataclasses are made while a module is imported."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    done = subprocess.run([sys.executable, "-m", "interrupted"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert "running it again goes on from there" in done.stderr and "Traceback" not in done.stderr


def test_the_temporary_files_are_gone(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    for args in (("select", "--dry-run"), ("sql", "from outcomes"), ("sql", "selec"), ("plan", "--plan", "initial")):
        command = [sys.executable, "-c", "from trajkit.cli import main; main()", *args, "--runs", str(runs)]
        subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True)
    assert list((tmp_path / "tmp").iterdir()) == []


def complete(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    found = BashComplete(cli, {}, "trajkit", "_TRAJKIT_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in found]


def test_shells_complete_commands_flags_and_the_rules_names() -> None:
    assert complete("se") == ["select"]
    assert complete("select", "--met") == ["--method"]
    assert complete("select", "--method", "eto") == ["eto", "eto_step", "eto_mixture"]
    assert complete("select", "--method", "./mi") == ["<file>"]
    assert complete("plan", "--plan", "skip") == complete("explore", "--plan", "skip") == ["skip_length"]
    assert complete("import", "open") == ["openai"]
    assert complete("export", "x", "--to", "ax") == ["axolotl"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_completion_script(shell: str) -> None:
    result = trajkit("completion", shell)
    assert result.code == 0 and result.err == "" and f"_TRAJKIT_COMPLETE={shell}_complete" in result.out
    assert trajkit("completion", "tcsh").code == 2


def test_summaries_as_json(tmp_path: Path) -> None:
    """One object on stdout, nothing on stderr, and the same numbers as the text has."""

    def told(*args: object, code: int = 0) -> dict[str, Any]:
        result = trajkit(*args, "--json")
        assert result.code == code and result.err == "" and result.out.isascii()
        found = json.loads(result.out)
        assert isinstance(found, dict)
        return found

    rows = [{"task_id": t, "reward": 1.0, "messages": [{"role": "user", "content": "?"}, {"role": "assistant",
             "content": t}]} for t in "ab"]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join([*map(json.dumps, rows), "{}"]))
    runs = tmp_path / "runs"
    imported = told("import", "openai", tmp_path / "log.jsonl", "--runs", runs, "--role", "expert")
    assert (imported["read"], imported["imported"], sum(imported["set_aside"].values())) == (3, 2, 1)
    assert Path(imported["rejected"]).exists()
    assert told("validate", runs)["n_mistakes"] == 0
    chosen = told("select", "--input", runs, "--out", tmp_path / "sft.parquet", "--method", "sft_pos")
    assert (chosen["n_rows"], chosen["n_solved_tasks"], chosen["left_out"]) == (2, 2, [])
    assert Path(chosen["out"]).exists()
    assert told("select", "--input", runs, "--dry-run", "--method", "sft_pos")["out"] is None

    shop = ("--env", "envs.webshop:WebShop", "--env-arg", "train_tasks=2", "--policy", "envs.webshop:Expert",
            "--role", "expert", "--iteration", 0, "--runs", tmp_path / "shop")  # fmt: skip
    assert told("explore", *shop, "--dry-run")["rollouts"] == 2
    made = told("explore", *shop)
    assert made["rollouts"] == made["solved"] + made["failed"] == 2 and made["first_error"] is None
    write_run(runs / "bad", pair("e\x9b2J", role="\x1b[2J"))
    wrong = told("validate", runs, code=3)
    assert wrong["n_mistakes"] == len(wrong["mistakes"]) == sum(wrong["by_check"].values()) > 0


@pytest.mark.parametrize("command", ["validate", "compact", "plan", "report"])
def test_runs_by_position_and_by_name(command: str, tmp_path: Path) -> None:
    """Commands that have no other argument take the folder either way, once."""
    runs = write_run(tmp_path / "runs", pair("e", n_steps=2, reward=1.0))
    more = {"plan": ["--plan", "initial"], "report": ["--out", tmp_path / "report.html"]}.get(command, [])
    by_position = trajkit(command, runs, *more)
    assert by_position.code == 0
    assert trajkit(command, "--runs", runs, *more).code == trajkit(command, "--input", runs, *more).code == 0
    twice = trajkit(command, runs, "--runs", runs, *more)
    assert (twice.code, "say it once" in twice.err) == (2, True)
    missing = trajkit(command, *more)
    assert (missing.code, "'RUNS'" in missing.err and "'--runs'" in missing.err) == (2, True)
