"""Each mistake by itself in a small runs/ folder: `validate` finds it, names where it lies, and counts it."""

# ruff: noqa: E501 (the tables of cases have a line per case)

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import Row, pair, talk, traj, trajkit, write_run, write_table

CHECKOUT = Path(__file__).resolve().parents[1]
NAN, INF = float("nan"), float("inf")

Pair = tuple[list[Row], list[Row]]


def branch(id: str, parent: str | None, at: int = 1, task: str = "t", **given: Any) -> Pair:
    return pair(id, task, role="policy", parent_id=parent, branch_step=at, n_steps=1, **given)


def changed(id: str, number: int, **change: Any) -> Pair:
    """A trajectory one of whose messages is changed."""
    rows = talk(id)
    rows[number] |= change
    return [traj(id)], rows


def found(runs: Path) -> list[list[str]]:
    """The lines of `validate`: check, where (below runs), trajectory, problem; and the counts agree with them."""
    result = trajkit("validate", runs)
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert result.code == (3 if lines else 0), result
    assert all(len(line) == 4 for line in lines)
    counts = {line.split()[1]: int(line.split()[0]) for line in result.err.splitlines()[:-1]}
    checks = [line[0] for line in lines]
    assert counts == {check: checks.count(check) for check in checks}
    assert result.err.splitlines()[-1] == (f"{len(lines)} mistakes in {runs}" if lines else f"no mistakes in {runs}")
    return [[line[0], line[1].replace(f"{runs}/", ""), *line[2:]] for line in lines]


T, M = "a/trajectories.parquet (row {})", "a/messages.parquet (row {})"
# Name: what is beside a sound expert "e" (trajectory row 0, message rows 0 to 4), and what validate says, in full.
MISTAKES: dict[str, tuple[list[Pair], list[tuple[str, str, str, str]]]] = {
    "nan": ([pair("x", reward=NAN)], [("bad_rewards", T.format(1), "x", "reward is nan; ")]),
    "inf": ([pair("x", reward=-INF)], [("bad_rewards", T.format(1), "x", "reward is -inf; ")]),
    "role": ([pair("x", role="oracle")], [("bad_values", T.format(1), "x", "role is oracle; it must be expert, ")]),
    "no role": ([pair("x", role=None)], [("bad_values", T.format(1), "x", "role is null; it must be expert, ")]),
    "ended": ([pair("x", ended="crash")], [("bad_values", T.format(1), "x", "ended is crash; it must be done, ")]),
    "no task": ([([traj("x", None)], talk("x"))], [("bad_values", T.format(1), "x", "task_id is null or empty")]),
    "no n_steps": (
        [([traj("x", n_steps=None)], talk("x"))],
        [("bad_values", T.format(1), "x", "n_steps is null; it counts from 0")],
    ),
    "no branch_step": (
        [([traj("x", branch_step=None)], talk("x"))],
        [("bad_values", T.format(1), "x", "branch_step is null; it counts from 0")],
    ),
    "negative branch_step": (
        [pair("x", branch_step=-1)],
        [("bad_values", T.format(1), "x", "branch_step is -1; it counts from 0")],
    ),
    "no id": (
        [([traj(None)], [])],
        [
            ("bad_values", T.format(1), "", "trajectory_id is null or empty"),
            ("n_steps_mismatch", T.format(1), "", "n_steps is 2 but its messages hold 0 actions"),
            ("no_messages", T.format(1), "", "it has no messages"),
        ],
    ),
    "n_steps": (
        [([traj("x", n_steps=3)], talk("x"))],
        [("n_steps_mismatch", T.format(1), "x", "n_steps is 3 but its messages hold 2 actions")],
    ),
    "parent in no file": ([branch("x", "gone")], [("bad_parents", T.format(1), "x", "its parent gone is in no file")]),
    "parent at s_0 in no file": (
        [pair("x", parent_id="gone")],
        [("bad_parents", T.format(1), "x", "its parent gone is in no file")],
    ),
    "no parent": (
        [branch("x", None)],
        [("bad_parents", T.format(1), "x", "branch_step is 1 but it has no parent_id")],
    ),
    "parent of another task": (
        [branch("x", "e", task="other")],
        [("bad_parents", T.format(1), "x", "its task is other but its parent e is of task t")],
    ),
    "beyond its parent": (
        [branch("x", "e", at=3)],
        [("bad_parents", T.format(1), "x", "branch_step is 3 but its parent e ends after 2 actions")],
    ),
    "cycle of one": ([branch("x", "x")], [("parent_cycles", T.format(1), "x", "its parents lead back to itself")]),
    "cycle of one at s_0": (
        [pair("x", parent_id="x")],
        [("parent_cycles", T.format(1), "x", "its parents lead back to itself")],
    ),
    "cycle of two": (
        [branch("x", "y"), branch("y", "x")],
        [("parent_cycles", T.format(row), id, "its parents lead back") for row, id in enumerate("xy", 1)],
    ),
    "cycle of three and a branch of it": (
        [branch("x", "y"), branch("y", "z"), branch("z", "x"), branch("b", "x")],
        [("parent_cycles", T.format(row), id, "its parents lead back") for row, id in enumerate("xyz", 1)],
    ),
    "no messages": (
        [([traj("x", n_steps=0)], [])],
        [("no_messages", T.format(1), "x", "it has no messages")],
    ),
    "stray messages": (
        [([], talk("x"))],
        [("stray_messages", M.format(5), "x", "messages name it, but no trajectory has this id")],
    ),
    "messages without id": (
        [([], [{**talk("x")[0], "trajectory_id": None}])],
        [("stray_messages", M.format(5), "", "messages have no trajectory_id")],
    ),
    "gap": ([changed("x", 4, seq=9)], [("seq_gaps", M.format(5), "x", "its 5 messages have seq 0 to 9, with gaps")]),
    "repeat": ([changed("x", 4, seq=3)], [("seq_gaps", M.format(5), "x", "a seq occurs twice among its messages")]),
    "starts late": (
        [([traj("x")], [{**row, "seq": row["seq"] + 1} for row in talk("x")])],
        [("seq_gaps", M.format(5), "x", "its first message has seq 1; it should be 0")],
    ),
    "branch starts late": (
        [([traj("x", parent_id="e", branch_step=1)], [{**row, "seq": row["seq"] + 1} for row in talk("x", 2, 1)])],
        [("seq_gaps", M.format(5), "x", "its first message has seq 3; it should be 2")],
    ),
    "step": ([changed("x", 2, step=0)], [("step_gaps", M.format(7), "x", "message 2 has step 0; 1 actions lie before")]),
    "no seq": ([changed("x", 4, seq=None)], [("bad_messages", M.format(9), "x", "message ?: seq is null")]),
    "no step": ([changed("x", 4, step=None)], [("bad_messages", M.format(9), "x", "message 4: step is null")]),
    "message's role": (
        [changed("x", 4, role="robot")],
        [("bad_messages", M.format(9), "x", "message 4: role is 'robot'; it must be system, ")],
    ),
    "no message's role": (
        [changed("x", 4, role=None)],
        [("bad_messages", M.format(9), "x", "message 4: role is null; it must be system, ")],
    ),
    "empty message": (
        [changed("x", 1, content=None)],
        [("bad_messages", M.format(6), "x", "message 1: neither content nor tool_calls")],
    ),
    "tool_calls": (
        [changed("x", 1, tool_calls="[{")],
        [("bad_messages", M.format(6), "x", "message 1: tool_calls is no JSON")],
    ),
    "tools": ([pair("x", tools="[{")], [("bad_json", T.format(1), "x", "tools is no JSON")]),
    "meta": ([pair("x", meta="no")], [("bad_json", T.format(1), "x", "meta is no JSON")]),
    "tools and meta": (
        [pair("x", tools="no", meta="")],
        [("bad_json", T.format(1), "x", "meta is no JSON"), ("bad_json", T.format(1), "x", "tools is no JSON")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_named_and_counted(tmp_path: Path, name: str) -> None:
    beside, wanted = MISTAKES[name]
    lines = found(write_run(tmp_path, pair("e"), *beside))
    assert [line[:3] for line in lines] == [list(want[:3]) for want in wanted]
    for line, want in zip(lines, wanted, strict=True):
        assert line[3].startswith(want[3])


def test_a_task_of_two_worlds_is_found_wherever_it_is_said(tmp_path: Path) -> None:
    """Two trajectories, a trajectory and tasks, tasks alone; and select leaves them out, counts and names them."""
    write_run(
        tmp_path,
        pair("e", "sound", split="train", env="shop"),
        pair("n", "sound"),
        pair("a", "two", split="train", env="shop"),
        pair("b", "two", split="test", env="barn"),
        pair("c", "mixed", split="train"),
        pair("d", "listed"),
        *(pair(f"x{n}", f"x{n}", split="train") for n in range(10)),
    )
    for n, split in enumerate(("train", "test")):
        tasks = [{"task_id": "listed", "env": None, "split": split, "meta": None}]
        tasks += [{"task_id": "mixed", "env": "shop", "split": "dev", "meta": None}] * n
        tasks += [{"task_id": f"x{k}", "env": None, "split": "test", "meta": None} for k in range(10)] * n
        write_table(tasks, "tasks", tmp_path / f"{n}" / "tasks.parquet")
    lines = [line for line in found(tmp_path) if not line[3].startswith("the task x")]
    assert {line[0] for line in lines} == {"task_conflicts"}
    both = "0/tasks.parquet (row 0) and 1/tasks.parquet (row 0)"
    assert sorted(line[1:] for line in lines) == [
        [both, "", "the task listed has two splits: test in tasks, train elsewhere"],
        [both, "", "the task listed has two splits: train in tasks, test elsewhere"],
        ["1/tasks.parquet (row 1)", "", "the task mixed has two splits: dev in tasks, train elsewhere"],
        ["a/trajectories.parquet (row 2)", "a", "the task two has two envs: shop here, barn elsewhere"],
        ["a/trajectories.parquet (row 2)", "a", "the task two has two splits: train here, test elsewhere"],
        ["a/trajectories.parquet (row 3)", "b", "the task two has two envs: barn here, shop elsewhere"],
        ["a/trajectories.parquet (row 3)", "b", "the task two has two splits: test here, train elsewhere"],
        ["a/trajectories.parquet (row 4)", "c", "the task mixed has two splits: train here, dev elsewhere"],
    ]
    told = trajkit("select", "--input", tmp_path, "--method", "sft_all", "--dry-run").err.splitlines()
    assert "2 examples" in told and "         14   its task has two splits" in told
    assert told[-1] == (
        "13 tasks left out, for two splits or two envs are said of them in the files (`trajkit validate` says where): "
        "listed, mixed, two, x0, x1, x2, x3, x4, x5, x6 and 3 more"
    )


def test_copies_of_a_trajectory_may_say_less_of_its_task_but_nothing_else(tmp_path: Path) -> None:
    write_run(tmp_path / "1", pair("e"))
    write_run(tmp_path / "2", pair("e", split="train", env="shop"))
    assert found(tmp_path) == []
    write_run(tmp_path / "3", pair("e", split="test"))
    assert {(line[0], line[3]) for line in found(tmp_path)} == {
        ("task_conflicts", f"the task t has two splits: {one} here, {other} elsewhere")
        for one, other in (("train", "test"), ("test", "train"))
    }


def test_what_is_no_mistake(tmp_path: Path) -> None:
    """A parent in a later file, a branch of a branch, context, tool calls without text, no outcome, an odd split."""
    rows = talk("x")
    rows[1] |= {"content": None, "tool_calls": '[{"function":{"name":"f","arguments":"{}"}}]'}
    rows[2] |= {"role": "tool", "tool_call_id": "1"}
    example = talk("y")
    example[1] |= {"context": True}
    for row in example[2:]:
        row["step"] -= 1
    empty = talk("z")
    empty[0]["content"] = ""
    write_run(tmp_path / "1", branch("b", "e"), ([traj("bb", parent_id="b", branch_step=2)], talk("bb", 2, 2)))
    write_run(
        tmp_path / "2",
        pair("e"),
        pair("d", split="dev"),
        ([traj("x", reward=None, ended=None)], rows),
        ([traj("y", n_steps=1, ended="error", reward=None)], example),
        ([traj("z", role="scorer", iteration=None, sample=None)], empty),
        pair("at the end", parent_id="e", branch_step=2, n_steps=0),
    )
    assert found(tmp_path) == []


# --- whole files ---


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def footer_start(path: Path) -> int:
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + 8] = bytes(255 - byte for byte in data[at : at + 8])
    path.write_bytes(data)


TORN: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: cut(path, 0),
    "in its header": lambda path: cut(path, 3),
    "after its header": lambda path: cut(path, 4),
    "in a data page": lambda path: cut(path, 60),
    "before its footer": lambda path: cut(path, footer_start(path)),
    "in its footer": lambda path: cut(path, footer_start(path) + 30),
    "in its last bytes": lambda path: cut(path, path.stat().st_size - 1),
    "a text file": lambda path: path.write_text("trajectory_id,task_id\n1,2\n" * 9),
    "a text between magic words": lambda path: path.write_bytes(b"PAR1" + b"x" * 99 + b"PAR1"),
    "a broken footer": lambda path: flip(path, footer_start(path) + 4),
}


@pytest.mark.parametrize("how", TORN)
def test_a_torn_file_is_named_and_the_others_are_read(tmp_path: Path, how: str) -> None:
    table = "trajectories" if list(TORN).index(how) % 2 else "messages"
    write_run(tmp_path, pair("e"))
    write_run(tmp_path / "more", pair("f"), pair("g", reward=NAN))
    torn = tmp_path / "a" / f"{table}.parquet"
    TORN[how](torn)
    lines = found(tmp_path)
    assert lines[0][:3] == ["torn_file", f"a/{table}.parquet", ""]
    assert ["bad_rewards", "more/a/trajectories.parquet (row 1)", "g"] in [line[:3] for line in lines]
    commands = [("select", "--dry-run"), ("sql", "from outcomes"), ("plan", "--plan", "initial")]
    for command in commands if how == "empty" else commands[:1]:
        result = trajkit(*command, "--runs", tmp_path)
        assert result.code == 3, (command, result)
        assert str(torn) in result.err and "Traceback" not in result.err, (command, result)


def test_a_file_damaged_inside_is_named(tmp_path: Path) -> None:
    """Its footer is whole, so that only reading the data shows it."""
    write_run(tmp_path, *(pair(f"e{number}") for number in range(500)))
    damaged = tmp_path / "a" / "messages.parquet"
    column = pq.ParquetFile(damaged).metadata.row_group(0).column(4)
    for at in range(column.data_page_offset, column.data_page_offset + 400, 40):
        flip(damaged, at)
    result = trajkit("validate", tmp_path)
    assert result.code == 3
    assert str(damaged) in result.out + result.err
    result = trajkit("select", "--runs", tmp_path, "--dry-run", "--method", "sft_all")
    assert result.code == 3 and "validate" in result.err


COLUMNS = {
    "trajectory_id missing": ("trajectories", {"without": ["trajectory_id"]}, "trajectory_id of trajectories is missing"),
    "n_steps missing": ("trajectories", {"without": ["n_steps"]}, "the column n_steps of trajectories is missing"),
    "content missing": ("messages", {"without": ["content"]}, "the column content of messages is missing"),
    "seq missing": ("messages", {"without": ["seq"]}, "the column seq of messages is missing"),
    "reward a text": ("trajectories", {"types": {"reward": pa.string()}}, "reward of trajectories is VARCHAR; DOUBLE"),
    "branch_step a text": ("trajectories", {"types": {"branch_step": pa.string()}}, "branch_step of trajectories is VAR"),
    "n_steps a float": ("trajectories", {"types": {"n_steps": pa.float64()}}, "n_steps of trajectories is DOUBLE; INT"),
    "success a text": ("trajectories", {"types": {"success": pa.string()}}, "success of trajectories is VARCHAR; BOOL"),
    "success a number": ("trajectories", {"types": {"success": pa.int32()}}, "success of trajectories is INTEGER; BOOL"),
    "step a text": ("messages", {"types": {"step": pa.string()}}, "step of messages is VARCHAR; INTEGER is needed"),
    "context a text": ("messages", {"types": {"context": pa.string()}}, "context of messages is VARCHAR; BOOLEAN"),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_a_wrong_column_in_one_file_is_named(tmp_path: Path, name: str) -> None:
    """Whether the file is the first or the last, and so whichever type the union of the files has."""
    folder = "0" if list(COLUMNS).index(name) % 2 else "z"
    table, options, said = COLUMNS[name]
    write_run(tmp_path, pair("e"))
    write_run(tmp_path / folder, pair("f", success=True))
    rows, messages = pair("f", success=True)
    wrong = tmp_path / folder / "a" / f"{table}.parquet"
    if name == "success a number":
        rows[0]["success"] = 1
    write_table(rows if table == "trajectories" else messages, table, wrong, **options)  # type: ignore[arg-type]
    lines = found(tmp_path)
    assert lines[0][:3] == ["columns", f"{folder}/a/{table}.parquet", ""]
    assert said in lines[0][3]
    result = trajkit("select", "--runs", tmp_path, "--dry-run", "--method", "sft_all")
    assert result.code == 3, result
    assert str(wrong) in result.err and said in result.err


def test_a_number_too_large_is_refused(tmp_path: Path) -> None:
    rows, messages = pair("e")
    write_table([{**rows[0], "iteration": 2**40}], "trajectories", tmp_path / "trajectories.parquet", types={"iteration": pa.int64()})  # fmt: skip
    write_table(messages, "messages", tmp_path / "messages.parquet")
    result = trajkit("select", "--runs", tmp_path, "--dry-run")
    assert result.code == 3 and "1099511627776" in result.err
    result = trajkit("validate", tmp_path)
    assert result.code == 3 and str(tmp_path / "trajectories.parquet") in result.out + result.err


# --- the same id twice ---


def twice(folder: Path, first: Pair, second: Pair) -> list[list[str]]:
    write_run(folder / "1", pair("e"), first)
    write_run(folder / "2", second)
    return found(folder)


BOTH = "1/a/trajectories.parquet (row 1) and 2/a/trajectories.parquet (row 0)"


def test_the_same_twice_is_no_mistake(tmp_path: Path) -> None:
    assert twice(tmp_path, pair("x"), pair("x")) == []
    assert twice(tmp_path, pair("x"), pair("x", meta="{}", split="train", iteration=None)) == []


@pytest.mark.parametrize("change", [{"reward": 0.5}, {"task_id": "other"}, {"ended": None}, {"role": "policy"}])
def test_the_same_id_with_another_row(tmp_path: Path, change: Row) -> None:
    lines = twice(tmp_path, pair("x"), pair("x", **{"task": "t"} | {("task" if k == "task_id" else k): v for k, v in change.items()}))  # fmt: skip
    assert [line[:3] for line in lines] == [["duplicate_ids", BOTH, "x"]]


def test_the_same_id_with_other_messages(tmp_path: Path) -> None:
    assert [line[:3] for line in twice(tmp_path, pair("x"), changed("x", 1, content="other"))] == [
        ["duplicate_ids", BOTH, "x"]
    ]
    rows, messages = pair("x")
    assert [line[:3] for line in twice(tmp_path, (rows, messages), (rows, messages[:-1]))] == [
        ["duplicate_ids", BOTH, "x"]
    ]


# --- the command ---


def test_the_wrong_folder(tmp_path: Path) -> None:
    result = trajkit("validate", tmp_path / "nowhere")
    assert result.code == 2 and "nowhere: there is no such folder" in result.err
    assert trajkit("validate").code == 2


def test_a_problem_is_one_line_and_steers_no_terminal(tmp_path: Path) -> None:
    """Text from the data goes to stdout: its control characters are escaped, tabs and newlines above all."""
    write_run(tmp_path, pair("x\ty\n\x1b[2J", role="a\rb\x1b]0;owned\x07"))
    result = trajkit("validate", tmp_path)
    [line] = result.out.removesuffix("\n").split("\n")
    assert line.count("\t") == 3
    assert "\x1b" not in line and "\r" not in line and "\x07" not in line


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    write_run(tmp_path, pair("x", reward=NAN))
    code = "from trajkit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "validate", tmp_path], cwd=CHECKOUT, capture_output=True)
    assert done.returncode == 3, done.stderr


def test_twenty_thousand_trajectories_are_looked_through(tmp_path: Path) -> None:
    sys.path.insert(0, str(CHECKOUT))
    from benchmarks.world import generate

    generate(tmp_path, 20_000, n_parts=4)
    assert found(tmp_path) == []
    shutil.rmtree(tmp_path)
