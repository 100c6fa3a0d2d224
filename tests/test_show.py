"""`trajkit show`: the picture says what the rules' views say, without colour, and lets no text act on the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_runs import trajkit
from worlds import Traj, World, policy, write
from worlds import expert as an_expert

from envs.webshop import Expert, Novice, WebShop
from trajkit.console import clean, shorten
from trajkit.display.terminal import find, picture
from trajkit.display.terminal.trajectory import READS
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.engines.one_task import answer
from trajkit.errors import UsageError
from trajkit.exploration.explore import Settings, explore
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    folder, env = tmp_path_factory.mktemp("shown"), WebShop(train_tasks=40)
    explore(folder, env, Expert(), plans=["initial"], settings=Settings("expert", 0))
    explore(folder, env, Novice(), plans=["initial", "skip_length"], settings=Settings("policy", 1))
    with DuckDBEngine(folder) as opened:
        answer(opened, READS)
        yield opened


def drawn(runs: DuckDBEngine, trajectory_id: str, width: int = 110, colour: bool = False, **how: bool) -> str:
    file = io.StringIO()
    system: Any = "truecolor" if colour else None
    console = Console(file=file, width=width, force_terminal=colour, color_system=system, markup=False, highlight=False)
    for part in picture(runs, trajectory_id, width=width, **how):
        console.print(part)
    return file.getvalue()


def test_the_most_instructive_expert_has_a_solved_recovery_state(runs: DuckDBEngine) -> None:
    (shown,) = find(runs, None, None)
    assert runs.rows("SELECT from_step FROM eef WHERE kind = 'recovery' AND expert_id = ?", [shown])
    text = drawn(runs, shown)
    assert "<<< RECOVERY" in text
    assert "(initial state)" in text
    assert "(recovery state)" in text


def test_the_picture_is_what_the_views_say(runs: DuckDBEngine) -> None:
    for expert in runs.rows("SELECT * FROM experts ORDER BY expert_id LIMIT 12"):
        text = drawn(runs, expert["expert_id"])
        steps = re.findall(r"^ s_(\d+) +(\+ solved|x failed|\. not run)(?: <<< (RECOVERY))? ", text, re.MULTILINE)
        assert [int(step) for step, *_ in steps] == list(range(expert["n_actions"]))
        branches = runs.rows("SELECT step, solved FROM branch_points WHERE expert_id = ?", [expert["expert_id"]])
        said = {row["step"]: "+ solved" if row["solved"] else "x failed" for row in branches}
        assert {int(step): word for step, word, _ in steps if word != ". not run"} == said
        recovery = runs.rows("SELECT step FROM first_recovery_state WHERE expert_id = ?", [expert["expert_id"]])
        assert [int(step) for step, _, mark in steps if mark] == [row["step"] for row in recovery]
        chosen = runs.rows(
            "SELECT e.*, o.n_actions FROM eef AS e JOIN outcomes AS o USING (trajectory_id) "
            "WHERE e.task_id = ? AND (e.kind = 'initial' OR e.expert_id = ?) ORDER BY kind",
            [expert["task_id"], expert["expert_id"]],
        )
        solutions = text.split("Solution of ")[1:]
        assert len(solutions) == len(chosen)
        for row, solution in zip(chosen, solutions, strict=True):
            assert solution.startswith(f"s_{row['from_step']} ({row['kind']} state): {row['trajectory_id']}")
            masks = re.findall(r"^ \[(x| )\] (LOSS|context) +a_(\d+) ", solution, re.MULTILINE)
            assert masks == [
                ("x", "LOSS", str(step)) if step >= row["from_step"] else (" ", "context", str(step))
                for step in range(row["n_actions"])
            ]
        for kind in {"initial"} | ({"recovery"} if recovery else set()):
            assert (f"({kind} state) yet: nothing to train on" in text) == (kind not in {row["kind"] for row in chosen})


@pytest.mark.parametrize("how", [{}, {"observations": True}, {"full": True}])
def test_it_fits_the_terminal_and_colour_adds_nothing_to_the_text(runs: DuckDBEngine, how: dict[str, bool]) -> None:
    (shown,) = find(runs, None, None)
    for width in (40, 80):
        text = drawn(runs, shown, width=width, **how)
        assert max(len(line) for line in text.splitlines()) <= width
        assert "[x] LOSS" in text and "[ ] context" in text
    coloured = drawn(runs, shown, colour=True, **how)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == drawn(runs, shown, **how)


def test_an_id_shows_what_was_seen_and_full_shows_every_word(runs: DuckDBEngine) -> None:
    (shown,) = find(runs, None, None)
    text = drawn(runs, shown, width=200, observations=True)
    said = runs.rows("SELECT * FROM messages WHERE trajectory_id = ? ORDER BY seq", [shown])
    assert [int(step) for step in re.findall(r" o_(\d+)  ", text)] == [
        m["step"] for m in said if m["role"] != "assistant"
    ]
    assert "What eef makes of it:" in text
    text = drawn(runs, shown, width=10_000, full=True)
    for message in said:
        assert all(f"| {line}\n" in text for line in message["content"].split("\n"))
    recovery, solution = runs.rows(
        "SELECT from_step, trajectory_id FROM eef WHERE kind = 'recovery' AND expert_id = ?", [shown]
    )[0].values()
    marks = re.findall(
        r"^\[(.)\] \w+ +a_(\d+)  assistant", text.split(f"(recovery state): {solution}")[-1], re.MULTILINE
    )
    assert marks == [("x" if step >= recovery else " ", str(step)) for step in range(len(marks))]
    trained = [line for line in text.splitlines() if line.startswith("x| ")]
    assert trained and all(line.startswith(("x| Thought:", "x| Action:")) for line in trained)


def test_rollouts_step_rewards_and_what_has_no_outcome(tmp_path: Path) -> None:
    """Several rollouts of one state as shares, what the scorer says of each action, branches of branches, drift."""
    mc = [Traj(f"mc{n}", "scorer", "b", parent="p1", at=3, reward=n / 2, sample=n) for n in range(3)]
    world = World(
        (
            an_expert("e", "aaaa", reward=0.5),
            *(policy(f"r{n}", "bb", sample=n, reward=float(n > 0)) for n in range(3)),
            policy("p0", "bb", parent="e", at=2, sample=0, reward=1.0),
            policy("p1", "bb", parent="e", at=2, sample=1),
            policy("d", "b", parent="e", at=3, ended="drift", reward=None),
            policy("pp", "ab", parent="p1", at=3, sample=2),
            *mc,
        )
    )
    with DuckDBEngine(write(world, tmp_path)) as runs:
        answer(runs, READS)
        text = drawn(runs, "e")
        states = re.findall(r"^ (s_\d) +(\S.*?)  ", text, re.MULTILINE)
        assert states[:4] == [
            ("s_0", "+ solved 2/3"),
            ("s_1", ". not run"),
            ("s_2", "+ solved 1/2"),
            ("s_3", "? no outcome (1)"),
        ]
        text = drawn(runs, "p1")
        assert re.search(r"^ s_2 +policy +0\.5 \(3\) +go b ", text, re.MULTILINE)
        text = drawn(runs, "pp", observations=True)
        assert "a_0 ... a_1 expert e, a_2 policy p1, a_3 ... a_4 its own" in text
        assert " o_3  pp sees 3 " in text and " o_3  p1 sees 3 " not in text
        assert "ended: drift" in drawn(runs, "d") and "error: the server died" in drawn(runs, "d")
        assert "NO OUTCOME" in drawn(runs, "d")
        assert "scorer rollouts are never trained on" in drawn(runs, "mc1")
    assert "task t: failed, reward 0.5" in trajkit("show", "e", "--runs", tmp_path).out
    assert "task t: solved, reward 0.5" in trajkit("show", "e", "--runs", tmp_path, "--set", "success_reward=0.5").out


def test_find_by_id_prefix_and_task(runs: DuckDBEngine) -> None:
    everything = [row["trajectory_id"] for row in runs.rows("SELECT trajectory_id FROM trajectories ORDER BY 1")]
    assert find(runs, everything[0], None) == [everything[0]]
    assert find(runs, everything[0][:12], None) == [everything[0]]
    with pytest.raises(UsageError, match="several ids start so"):
        find(runs, "", None)
    with pytest.raises(UsageError, match="no trajectory with this id"):
        find(runs, "nothing", None)
    with pytest.raises(UsageError, match="not both"):
        find(runs, everything[0], "t")
    with pytest.raises(UsageError, match=r"no trajectory of such a task.*did you mean webshop-"):
        find(runs, None, "webshop")
    (expert,) = runs.rows("SELECT * FROM experts ORDER BY expert_id LIMIT 1")
    assert find(runs, None, expert["task_id"]) == [expert["expert_id"]]


def test_any_trajectory_can_be_shown(runs: DuckDBEngine) -> None:
    for (branch,) in (
        runs.rows(f"SELECT * FROM outcomes WHERE branch_step {where} LIMIT 1") for where in ("= 0", "> 2")
    ):
        text = drawn(runs, branch["trajectory_id"])
        assert text.count(" click[Buy Now] ") >= 1
        assert " s_0 " in text
        if branch["branch_step"]:
            assert f"branched at s_{branch['branch_step']} from {branch['parent_id']}" in text
            by = re.findall(r"^ s_\d+ +(expert|policy) ", text, re.MULTILINE)
            assert by == ["expert"] * branch["branch_step"] + ["policy"] * branch["n_steps"]
            why = runs.rows("SELECT * FROM why_eef WHERE trajectory_id = ?", [branch["trajectory_id"]])
            assert re.findall(r"^\[(x| )\] (?:not )?chosen for s_(\d+)", text, re.MULTILINE) == [
                ("x" if row["chosen"] else " ", str(row["step"])) for row in sorted(why, key=lambda r: r["kind"])
            ]


HOSTILE = "a\x1b[31mred\x1b]0;title\x07 [bold]b[/bold] [link=x]c \u202eevil\u2069 \x9b2J \r\n\x00 \U0001f600 é :smile:"


def test_no_text_acts_on_the_terminal(tmp_path: Path) -> None:
    def hostile(**more: Any) -> Any:
        own = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": f"Action: {HOSTILE}"}]
        return record(task_id=HOSTILE, actor=HOSTILE, messages=own, ended="done", **more)

    calls: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": HOSTILE, "arguments": HOSTILE}}]},
    ]
    with RunWriter(tmp_path / "run") as writer:
        writer.add(hostile(role="expert", success=True))
        writer.add(hostile(role="policy", iteration=1, success=False))
        writer.add(record(task_id=HOSTILE, role="expert", messages=calls, ended="error", error=HOSTILE))
    with DuckDBEngine(tmp_path) as opened:
        for shown in find(opened, None, HOSTILE):
            text = drawn(opened, shown, width=400)
            assert all(c.isprintable() or c == "\n" for c in text)
            assert r"a\x1b[31mred\x1b]0;title\x07 [bold]b[/bold] [link=x]c \u202eevil\u2069 \x9b2J \r\n\x00 " in text
            assert "\U0001f600 é :smile:" in text


def test_clean_and_shorten() -> None:
    assert clean("a b\tc\u2028d\ud800") == r"a b\tc\u2028d\ud800"
    assert shorten("x" * 10**7, 20) == "x" * 17 + "..."
    assert shorten("\x00" * 30, 20) == r"\x00\x00\x00\x00\..."


def test_the_command_line(runs: DuckDBEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = trajkit("show", "--runs", runs.path)
    assert shown.code == 0 and "\x1b" not in shown.out and "[x] LOSS" in shown.out
    (one,) = runs.rows("SELECT * FROM experts ORDER BY expert_id LIMIT 1")
    other = trajkit("show", "--runs", runs.path, "--task", one["task_id"], "--iteration", "7")
    assert "solved" in other.out or "failed" in other.out
    assert "+ solved" not in other.out  # nobody has explored in iteration 7
    assert " o_0  " in trajkit("show", one["expert_id"][:10], "--runs", runs.path).out
    for args, said in (
        (["--runs", tmp_path], "no expert trajectory"),
        (["--runs", tmp_path / "gone"], "no such folder"),
        ([one["expert_id"]], "--runs FOLDER"),
        ([one["task_id"], "--runs", runs.path], f"--task {one['task_id']}"),
        (["--runs", runs.path, "--task", "webshop-0"], "did you mean webshop-"),
        (["--runs", runs.path, "--set", "nope=1"], "no such parameter"),
        (["--runs", runs.path, "--example", "1"], "are for a file"),
    ):
        result = trajkit("show", *args)
        assert result.code == 2 and said in result.err, result


def test_colour_on_a_terminal_and_none_with_no_color(runs: DuckDBEngine) -> None:
    """The real thing in a pseudo-terminal."""
    import os
    import pty
    import subprocess
    import sys

    def ask(**environment: str) -> str:
        there, here = pty.openpty()
        command = [sys.executable, "-c", "from trajkit.cli import main; main()", "show", "--runs", str(runs.path)]
        environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
        with subprocess.Popen(command, stdout=here, env=environ) as process:
            os.close(here)
            parts = []
            try:
                while part := os.read(there, 65536):
                    parts.append(part)
            except OSError:  # what Linux says at the end of a pseudo-terminal
                pass
        os.close(there)
        assert process.returncode == 0
        return b"".join(parts).decode()

    plain = trajkit("show", "--runs", runs.path).out
    assert "\x1b[1;32m[x] LOSS\x1b[0m" in ask()
    without = ask(NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*3\dm", without) and "[x] LOSS" in without
    assert re.sub(r"\x1b\[[\d;]*m|\r", "", without) == plain
