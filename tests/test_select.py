"""`trajkit select` as its user meets it: what it writes, what it refuses, and what it leaves alone."""

# ruff: noqa: E501 (the tables of cases have a line per case)

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from small_runs import Row, pair, talk, traj, trajkit, write_run, write_table
from store_helpers import small_disk

import trajkit as library
from trajkit.errors import BadData, UsageError
from trajkit.rules import methods
from trajkit.selection.select import NothingChosen, select

CHECKOUT = Path(__file__).resolve().parents[1]
NAN = float("nan")

Pair = tuple[list[Row], list[Row]]


def policy(id: str, **given: Any) -> Pair:
    return pair(id, **{"role": "policy", "iteration": 1, **given})


def changed(id: str, number: int, _traj: Row | None = None, **change: Any) -> Pair:
    """A trajectory one of whose messages is changed."""
    rows = talk(id)
    rows[number] |= change
    return [traj(id) | (_traj or {})], rows


def chosen(runs: Path, *args: object) -> list[Row]:
    """The rows that select writes."""
    out = runs.with_name("sft.parquet")
    result = trajkit("select", "--input", runs, "--out", out, *args)
    assert result.code == 0, result
    assert result.out == "", "stdout is data"
    return pq.read_table(out).to_pylist()


def refused(runs: Path, *args: object, code: int = 3) -> str:
    """What select says; it must leave an old output as it is, and nothing beside it."""
    out = runs.with_name("old.parquet")
    out.write_bytes(b"what was there before")
    result = trajkit("select", "--input", runs, "--out", out, *args)
    assert result.code == code, result
    assert out.read_bytes() == b"what was there before"
    assert [path.name for path in runs.parent.iterdir() if path.name.startswith(".")] == []
    if code == 3:
        dry = trajkit("select", "--input", runs, *args, "--dry-run")
        assert (dry.code, dry.err) == (code, result.err), "a dry run finds the same"
    assert result.out == "" and "Traceback" not in result.err
    return result.err


# --- what is written ---

COLUMNS = [
    "example_id", "task_id", "env", "method", "kind", "trajectory_id", "expert_id", "from_step", "n_steps",
    "n_trained_steps", "n_expert_steps", "reward", "iteration", "tools", "messages",
]  # fmt: skip
MESSAGE = ["role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "weight", "token_ids"]


def test_the_file_has_the_documented_schema_and_footer(tmp_path: Path) -> None:
    """Also when there is nothing in it."""
    for runs, n in (
        (write_run(tmp_path / "runs", pair("e")), 1),
        (write_run(tmp_path / "no", policy("p", reward=0)), 0),
    ):
        out = tmp_path / "sft.parquet"
        assert (
            trajkit("select", "--input", runs, "--out", out, "--set", "success_reward=0.5", "--allow-empty").code == 0
        )
        file = pq.ParquetFile(out)
        assert file.metadata.num_rows == n
        frame = pl.read_parquet(out)
        assert frame.columns == COLUMNS
        own = {"weight": pl.Float32, "token_ids": pl.List(pl.Int32)}
        assert frame.schema["messages"] == pl.List(pl.Struct({name: own.get(name, pl.String) for name in MESSAGE}))
        whole = {"from_step", "n_steps", "n_trained_steps", "n_expert_steps", "iteration"}
        for name in COLUMNS[:-1]:
            wanted = pl.Int32 if name in whole else pl.Float64 if name == "reward" else pl.String
            assert frame.schema[name] == wanted, name
        footer = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
        assert footer["trajkit.method"] == "eef"
        assert footer["trajkit.version"] == library.__version__
        assert json.loads(footer["trajkit.params"])["success_reward"] == 0.5
        assert footer["trajkit.input_fingerprint"]


EXACT = [
    "",
    " \n\r\n\t trailing  ",
    "a\x00b\x1b[2J\x7f",
    "\U0001f600 é e\u0301 \u202e \ufeff \u2028",
    'it\'s "quoted" \\n `tick` \'\'\' """',
    "[bold]no markup[/bold] {{ jinja }} <|im_start|>",
    "; DROP TABLE trajectories; --",
]


def test_texts_come_out_exactly_as_they_went_in(tmp_path: Path) -> None:
    pairs = []
    for number, text in enumerate(EXACT):
        rows = talk(str(number))
        rows[0] |= {"role": "system", "content": text}
        rows[1] |= {"content": text, "reasoning": text, "name": text}
        rows[2] |= {"role": "tool", "content": text, "tool_call_id": text, "name": text}
        calls = json.dumps([{"id": "1", "function": {"name": "f", "arguments": json.dumps({"x": text})}}])
        rows[3] |= {"content": None, "tool_calls": calls}
        pairs.append(([traj(str(number), task=text or "empty", tools=json.dumps([text]))], rows))
    written = {row["trajectory_id"]: row for row in chosen(write_run(tmp_path / "runs", *pairs))}
    for number, ([row], rows) in enumerate(pairs):
        example = written[str(number)]
        assert example["task_id"] == row["task_id"] and example["tools"] == row["tools"]
        assert [{key: message[key] for key in MESSAGE[:-2]} for message in example["messages"]] == [
            {key: message[key] for key in MESSAGE[:-2]} for message in rows
        ]


def test_weights_are_one_on_the_trained_actions_and_zero_on_all_else(tmp_path: Path) -> None:
    """Context is no action; what lies before the recovery state is not trained."""
    rows = talk("e", 4)
    rows = [
        {**rows[0], "role": "system"},
        {**rows[1], "seq": 1, "context": True, "content": "an in-context example"},
        {**rows[0], "seq": 2},
        *({**row, "seq": row["seq"] + 2} for row in rows[1:]),
    ]
    shifted = [{**row, "seq": row["seq"] + 2} for row in talk("p2", 2, 2)]
    runs = write_run(
        tmp_path / "runs",
        ([traj("e", n_steps=4, reward=0.0)], rows),
        policy("p0", n_steps=5),
        policy("p1", n_steps=4, reward=0.0, parent_id="e", branch_step=1),
        ([traj("p2", role="policy", iteration=1, parent_id="e", branch_step=2)], shifted),
    )
    runs_p1 = pq.read_table(runs / "a/messages.parquet").to_pylist()
    for row in runs_p1:
        row["seq"] += 2 * (row["trajectory_id"] == "p1")
    write_table(runs_p1, "messages", runs / "a" / "messages.parquet")
    assert trajkit("validate", runs).out == ""
    initial, recovery = sorted(chosen(runs), key=lambda row: row["kind"])
    assert initial["trajectory_id"] == "p0"
    assert all(m["weight"] == (m["role"] == "assistant") for m in initial["messages"])
    assert (recovery["trajectory_id"], recovery["from_step"], recovery["n_expert_steps"]) == ("p2", 1, 1)
    assert [(m["role"], m["weight"]) for m in recovery["messages"]] == [
        ("system", 0), ("assistant", 0), ("user", 0), ("assistant", 0), ("user", 0), ("assistant", 1),
        ("user", 0), ("assistant", 1), ("user", 0), ("assistant", 1), ("user", 0),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 generated trajectories."""
    sys.path.insert(0, str(CHECKOUT))
    from benchmarks.world import generate

    folder = tmp_path_factory.mktemp("world") / "runs"
    generate(folder, 20_000, n_parts=4)
    return folder


def test_the_same_bytes_whatever_the_threads_and_the_memory(world: Path, tmp_path: Path) -> None:
    found = set()
    for number, flags in enumerate(
        ((), ("--threads", 1, "--memory-limit", "200MB"), ("--threads", 2, "--memory-limit", "300MB"))
    ):
        out = tmp_path / f"{number}.parquet"
        assert trajkit("select", "--input", world, "--out", out, *flags).code == 0
        found.add(out.read_bytes())
    assert len(found) == 1
    ids = pq.read_table(out, columns=["example_id"])["example_id"].to_pylist()
    assert ids == sorted(ids) and len(set(ids)) == len(ids) > 1000


def test_the_summary_is_true(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft.parquet"
    told = trajkit("select", "--input", world, "--out", out).err
    rows = pq.read_table(out).to_pylist()
    table = [row for part in world.rglob("trajectories.parquet") for row in pq.read_table(part).to_pylist()]
    weights = [sum(m["weight"] for m in row["messages"]) for row in rows]
    assert weights == [row["n_trained_steps"] for row in rows]
    lines = told.splitlines()
    solved = {row["task_id"] for row in table if row["success"]}
    assert lines[1] == (
        f"{len({row['task_id'] for row in table}):,} train tasks, {len(solved):,} solved by some trajectory, "
        f"{len({row['task_id'] for row in rows}):,} with an example"
    )
    assert lines[2] == f"{len(rows):,} examples"
    for line, kind in zip(lines[3:5], ("initial", "recovery"), strict=True):
        mine = [row for row in rows if row["kind"] == kind]
        trained, experts = (sum(row[f"n_{what}_steps"] for row in mine) for what in ("trained", "expert"))
        assert line.split() == f"{kind} {len(mine):,} {trained:,} actions to train on, {experts:,} of them an expert's".split()  # fmt: skip
    used = {row["trajectory_id"] for row in rows}
    left = Counter("solved" if row["success"] else "not solved" for row in table if row["trajectory_id"] not in used)
    assert f"left out of {len(table):,} trajectories" in told
    assert f"{left['not solved']:>9,}   not solved\n" in told
    assert f"{left['solved']:>9,}   solved, not chosen\n" in told
    assert lines[-1] == f"wrote {out}"


def test_left_out_counts_every_reason(tmp_path: Path) -> None:
    """Each trajectory is chosen or counted once."""
    runs = write_run(
        tmp_path / "runs", pair("e"), pair("f", reward=0), pair("t", "u", split="test"), policy("s", role="scorer"),
        policy("x", ended="error"), policy("d", ended="drift"), policy("n", reward=None), policy("z", n_steps=0),
        policy("w"),
    )  # fmt: skip
    told = trajkit("select", "--runs", runs, "--dry-run").err
    head, _, left = told.partition("left out of 9 trajectories\n")
    counts = {line.split(None, 1)[1]: int(line.split()[0]) for line in left.splitlines()}
    assert counts == {
        "split test is held out": 1, "scorer rollouts are never trained on": 1, "ended in error": 1, "ended in drift": 1,
        "neither success nor reward": 1, "no action": 1, "not solved": 1, "solved, not chosen": 1,
    }  # fmt: skip
    assert "1 train tasks, 1 solved by some trajectory, 1 with an example" in head


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    before = sorted(tmp_path.rglob("*"))
    result = trajkit("select", "--input", runs, "--dry-run", "--out", tmp_path / "sft.parquet")
    assert result.code == 0 and "1 examples" in result.err and "wrote" not in result.err
    assert trajkit("select", "--input", runs, "--dry-run").err == result.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_message_of_100_mb(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("a"), changed("e", 0, content="long " * 20_000_000), pair("f"))
    rows = chosen(runs, "--method", "sft_all", "--memory-limit", "1GB")
    assert sorted(len(row["messages"][0]["content"]) for row in rows)[-1] == 100_000_000
    assert len(rows) == 3


# --- what is refused, and what is not ---

# Name: what is beside the sound "e", the method, and what select says (the file, the row, the id, what is wrong).
REFUSED: dict[str, tuple[list[Pair], str, str]] = {
    "nan": ([pair("x", reward=NAN)], "eef", "trajectories.parquet (row 1): bad_rewards: trajectory x: reward is nan"),
    "inf": ([policy("x", reward=float("inf"))], "rft", "(row 1): bad_rewards: trajectory x: reward is inf"),
    "role": ([pair("x", role="oracle")], "sft_all", "(row 1): bad_values: trajectory x: role is oracle"),
    "no role": ([pair("x", role=None)], "sft_all", "(row 1): bad_values: trajectory x: role is null"),
    "ended": ([pair("x", ended="crash")], "eef", "(row 1): bad_values: trajectory x: ended is crash"),
    "no task": ([([traj("x", None)], talk("x"))], "eef", "(row 1): bad_values: trajectory x: task_id is null"),
    "no id": ([([traj(None)], [])], "eef", "(row 1): bad_values: trajectory_id is null"),
    "n_steps": ([([traj("x", n_steps=9)], talk("x"))], "eef", "(row 1): n_steps_mismatch: trajectory x: n_steps is 9"),
    "parent": (
        [policy("x", parent_id="gone", branch_step=1)],
        "eef",
        "(row 1): bad_parents: trajectory x: its parent gone is in no file",
    ),
    "cycle": (
        [policy("x", parent_id="y", branch_step=1), policy("y", parent_id="x", branch_step=1)],
        "eef",
        "(row 1): parent_cycles: trajectory x: its parents lead back to itself (2 such trajectories)",
    ),
    "beyond": ([policy("x", parent_id="e", branch_step=3)], "eef", "(row 1): bad_parents: trajectory x: branch_step is 3"),
    "gap": ([changed("x", 4, seq=9)], "sft_all", "messages.parquet (row 5): seq_gaps: trajectory x: its 5 messages"),
    "repeat": ([changed("x", 4, seq=3)], "sft_all", "messages.parquet (row 5): seq_gaps: trajectory x: a seq occurs twice"),
    "no seq": ([changed("x", 4, seq=None)], "sft_all", "messages.parquet (row 9): bad_messages: trajectory x: message ?: seq is"),
    "no step": ([changed("x", 4, step=None)], "sft_all", "messages.parquet (row 9): bad_messages: trajectory x: message 4: step is"),
    "step": ([changed("x", 2, step=0)], "sft_all", "messages.parquet (row 7): step_gaps: trajectory x: message 2 has step 0"),
    "robot": ([changed("x", 2, role="robot")], "sft_all", "messages.parquet (row 7): bad_messages: trajectory x: message 2: role"),
    "no text": ([changed("x", 2, content=None)], "sft_all", "messages.parquet (row 7): bad_messages: trajectory x: message 2: nei"),
    "calls": ([changed("x", 1, tool_calls="[{")], "sft_all", "messages.parquet (row 6): bad_messages: trajectory x: message 1: tool"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_that_matters_is_refused(tmp_path: Path, name: str) -> None:
    beside, method, said = REFUSED[name]
    runs = write_run(tmp_path / "runs", pair("e"), *beside)
    told = refused(runs, "--method", method)
    assert f"{runs}/a/" in told and said in told, told
    assert f"`trajkit validate {runs}` lists all" in told
    if name in ("nan", "gap"):
        with pytest.raises(BadData), library.open(runs) as opened:
            opened.select(method)


def test_duplicates_that_differ_are_refused_with_both_places(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    write_run(runs / "again", changed("e", 1, content="other"))
    assert "a/trajectories.parquet (row 0) and " in refused(runs)
    write_run(runs / "again", pair("e"))
    assert len(chosen(runs)) == 1


# Name: what is beside the sound "e", the method, and how many examples there are.
HARMLESS: dict[str, tuple[list[Pair], str, int]] = {
    "test split": ([pair("x", "u", split="test", reward=NAN)], "eef", 1),
    "test split's parent": ([policy("x", task="u", split="test", parent_id="gone", branch_step=1)], "eef", 1),
    "scorer": ([policy("x", role="scorer", n_steps=3, reward=NAN, parent_id="gone")], "eef", 1),
    "error": ([([traj("x", ended="error", reward=NAN, n_steps=9)], talk("x"))], "eef", 1),
    "drift": ([policy("x", ended="drift", parent_id="gone", branch_step=2)], "eef", 1),
    "rft asks for no branch": ([policy("x", parent_id="gone", branch_step=1)], "rft", 1),
    "best_of_n asks for no branch": ([policy("x", parent_id="gone", branch_step=1)], "best_of_n", 1),
    "sft_all asks for no reward": ([pair("x", reward=NAN)], "sft_all", 2),
    "a gap that is not chosen": ([changed("x", 4, {"reward": 0.0}, seq=9)], "eef", 1),
    "a message that is not chosen": ([changed("x", 2, {"reward": 0.0}, role="robot")], "eef", 1),
    "messages of nobody": ([([], talk("x"))], "eef", 1),
    "meta": ([pair("x", task="u", meta="{")], "eef", 2),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_mistake_that_does_not_matter_is_let_be(tmp_path: Path, name: str) -> None:
    beside, method, n = HARMLESS[name]
    runs = write_run(tmp_path / "runs", pair("e"), *beside)
    assert len(chosen(runs, "--method", method)) == n
    assert trajkit("validate", runs).code == 3


# --- where to write ---


@pytest.mark.parametrize("where", ["inside", "a folder", "no folder", "the runs"])
def test_a_wrong_out_is_a_usage_error(tmp_path: Path, where: str) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    (tmp_path / "link").symlink_to(runs)
    out, said = {
        "inside": (tmp_path / "link" / "a" / "sft.parquet", "inside the runs"),
        "a folder": (tmp_path, "that is a folder"),
        "no folder": (tmp_path / "x" / "y" / "sft.parquet", f"mkdir -p {tmp_path}/x/y"),
        "the runs": (runs, "that is a folder"),
    }[where]
    before = sorted(tmp_path.rglob("*"))
    result = trajkit("select", "--input", runs, "--out", out)
    assert result.code == 2 and said in result.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        runs, theirs = write_run(Path(folder) / "runs", pair("e")), Path(folder) / "theirs"
        theirs.mkdir(mode=0o755)
        code = (
            "import os, duckdb, polars, pyarrow.parquet, trajkit.selection.select, trajkit.display.terminal, trajkit.cli.select\n"
            "from trajkit.rules import rules; rules(); os.setuid(65534); trajkit.cli.main()"
        )
        command = [sys.executable, "-c", code, "select", "--input", runs, "--out", theirs / "sft.parquet"]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert f"the folder {theirs} cannot be written to" in done.stderr
        assert list(theirs.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path) -> None:
    noise = random.Random(1)
    pairs = [changed(f"e{number}", 0, content=noise.randbytes(50_000).hex()) for number in range(30)]
    runs = write_run(tmp_path / "runs", *pairs)
    with small_disk(tmp_path / "disk", "512k") as disk:
        out = disk / "sft.parquet"
        out.write_bytes(b"what was there before")
        result = trajkit("select", "--input", runs, "--out", out, "--method", "sft_all")
        assert result.code == 1
        assert (
            f"{out}: cannot be written (No space left on device)" in result.err and "name another place" in result.err
        )
        assert out.read_bytes() == b"what was there before"
        assert list(disk.iterdir()) == [out]


# --- methods of one's own ---

OWN: dict[str, tuple[str, int | str]] = {
    "plain": ("SELECT trajectory_id FROM outcomes WHERE role = 'expert'", 2),
    "a semicolon": ("SELECT trajectory_id FROM outcomes WHERE role = 'expert';\n", 2),
    "a comment at the end": ("SELECT trajectory_id FROM outcomes WHERE role = 'expert' -- the experts", 2),
    "both": ("SELECT trajectory_id FROM outcomes WHERE role = 'expert' AND 'é' != ';'; -- the experts\n", 2),
    "a comment at the start": ("-- mine: experts; not others\nSELECT trajectory_id FROM experts AS e JOIN outcomes AS o ON e.expert_id = o.trajectory_id", 2),
    "built-in rules": ("WITH s AS (SELECT * FROM solutions) SELECT DISTINCT trajectory_id, step AS from_step, kind, expert_id FROM s", 1),
    "its own parameter": ("SELECT trajectory_id FROM outcomes, params WHERE reward >= params.least AND role = 'expert'", 1),
    "another method": ("SELECT * FROM eef UNION ALL SELECT 'twice' AS kind, task_id, trajectory_id, expert_id, from_step FROM sft_pos", 2),
    "lower case": ("from eef", 1),
    "a query of several rules after a semicolon": ("SELECT trajectory_id FROM experts AS e JOIN outcomes AS o ON e.expert_id = o.trajectory_id; /* end; */ -- end", 2),
    "nothing": ("SELECT trajectory_id FROM outcomes WHERE false", 0),
    "a syntax error": ("SELEC trajectory_id", "syntax error at or near"),
    "an unknown table": ("SELECT trajectory_id FROM trajectorys", "trajectorys"),
    "an unknown column": ("SELECT trajectory_id FROM outcomes WHERE rewards > 1", "rewards"),
    "no trajectory_id": ("SELECT task_id FROM outcomes", "has no column trajectory_id (it has task_id)"),
    "unknown ids": ("SELECT 'nobody' AS trajectory_id", "1 rows of its answer name a trajectory that is not there"),
    "null ids": ("SELECT NULL AS trajectory_id", "1 rows of its answer name a trajectory that is not there"),
    "too late a from_step": ("SELECT 'e' AS trajectory_id, 2 AS from_step", "at which there is no action to train on"),
    "too early a from_step": ("SELECT 'e' AS trajectory_id, -1 AS from_step", "at which there is no action to train on"),
    "no number": ("SELECT 'e' AS trajectory_id, 'x' AS from_step", "from_step"),
    "repeated rows": ("SELECT 'e' AS trajectory_id UNION ALL SELECT 'e'", "1 rows of its answer repeat another row"),
    "test split": ("SELECT trajectory_id FROM outcomes WHERE trajectory_id = 't'", "not of split train"),
    "scorer": ("SELECT trajectory_id FROM outcomes WHERE role = 'scorer'", "of the scorer"),
    "broken": ("SELECT trajectory_id FROM outcomes WHERE ended = 'error'", "ended in error or drift"),
    "two statements": ("SELECT 1; SELECT trajectory_id FROM outcomes", "one SELECT"),
    "empty": ("", "one SELECT"),
    "a comment alone": ("-- to do", "one SELECT"),
    "no SELECT": ("DROP TABLE trajectories", "SELECT"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_method_of_ones_own(tmp_path: Path, name: str) -> None:
    sql, wanted = OWN[name]
    runs = write_run(
        tmp_path / "runs", pair("e"), pair("f", reward=0.5), pair("t", "u", split="test", role="policy"),
        policy("s", role="scorer", reward=0), policy("x", ended="error", reward=None),
    )  # fmt: skip
    mine = tmp_path / "mine.sql"
    mine.write_text(sql)
    flags = ("--method", mine, "--set", "least=0.75") if name == "its own parameter" else ("--method", mine)
    if isinstance(wanted, int):
        rows = chosen(runs, *flags, "--allow-empty")
        assert len(rows) == wanted
        assert {row["method"] for row in rows} <= {"mine"}
        return
    told = refused(runs, *flags, code=2)
    assert str(mine) in told and wanted in told, told


def test_a_method_that_cannot_be_read(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    assert "gone.sql: cannot be read" in refused(runs, "--method", tmp_path / "gone.sql", code=2)
    (tmp_path / "bytes.sql").write_bytes(b"\xff\xfe")
    assert "bytes.sql: cannot be read" in refused(runs, "--method", tmp_path / "bytes.sql", code=2)


# --- wrong calls ---

CALLS: dict[str, tuple[tuple[object, ...], str]] = {
    "unknown method": (("--method", "eeff"), "there is no such method (did you mean eef?)"),
    "unknown parameter": (("--set", "solved_rat=1"), "there is no such parameter (did you mean solved_rate?)"),
    "no value": (("--set", "solved_rate"), "it is written --set key=value"),
    "no name": (("--set", "=1"), "it is written --set key=value"),
    "a word for a number": (("--set", "solved_rate=half"), "a number"),
    "a fraction": (("--set", "m=2.5"), "a whole number"),
    "out of range": (("--set", "solved_rate=0"), "it must be over 0 and at most 1"),
    "nan": (("--set", "success_reward=nan"), "it must be a finite number"),
    "null where a number is needed": (("--set", "success_reward=null"), "success_reward"),
    "too large": (("--set", "m=99999999999"), "m=99999999999"),
    "negative iteration": (("--iteration", "-1"), "from 0 on"),
    "a word for the iteration": (("--iteration", "x"), "--iteration"),
    "no threads": (("--threads", "0"), "--threads"),
    "no such flag": (("--methd", "eef"), "--method"),
    "memory": (("--memory-limit", "lots"), "--memory-limit lots"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_exits_with_2_and_names_the_way_out(tmp_path: Path, name: str) -> None:
    args, said = CALLS[name]
    runs = write_run(tmp_path / "runs", pair("e"))
    told = refused(runs, *args, code=2)
    assert said in told, told


def test_other_wrong_calls(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    (tmp_path / "empty").mkdir()
    for args, said in (
        ((), "--runs"),
        (("--input", runs), "--out FILE says where to write"),
        (("--input", tmp_path / "gone", "--dry-run"), "there is no such folder"),
        (("--input", tmp_path / "empty", "--dry-run"), "it holds no trajectories"),
    ):
        result = trajkit("select", *args)
        assert result.code == 2 and said in result.err, result


def test_a_rule_that_finds_only_one_role_says_which_it_reads(tmp_path: Path) -> None:
    experts = write_run(tmp_path / "experts", pair("e"))
    said = trajkit("select", "--input", experts, "--dry-run", "--method", "eef").err
    assert "no trajectory has the role policy, and eef reads those: `import` says whose actions they are with" in said
    assert (
        "no trajectory has the role"
        not in trajkit("select", "--input", experts, "--dry-run", "--method", "sft_all").err
    )
    both = write_run(tmp_path / "both", pair("e"), policy("p"))
    for method in ("eef", "rft", "eto", "self_play", "step_rewards"):
        assert (
            "no trajectory has the role" not in trajkit("select", "--input", both, "--dry-run", "--method", method).err
        )
    own = tmp_path / "own.sql"
    own.write_text("SELECT trajectory_id FROM outcomes WHERE role != 'scorer' AND role NOT IN ('policy')")
    assert "no trajectory has the role" not in trajkit("select", "--input", experts, "--dry-run", "--method", own).err
    mine = write_run(tmp_path / "mine", policy("p"))
    assert (
        "no trajectory has the role expert, and nat"
        in trajkit("select", "--input", mine, "--dry-run", "--method", "nat").err
    )


def test_an_iteration_that_nobody_made_gives_no_recovery(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"), policy("p"))
    assert [row["kind"] for row in chosen(runs, "--iteration", "7")] == ["initial"]


# --- from Python ---


def test_python_gives_what_select_writes(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"), pair("f", task="u"), policy("p"))
    out = tmp_path / "sft.parquet"
    for method in ("eef", "sft_all", "rft"):
        assert trajkit("select", "--input", runs, "--out", out, "--method", method).code == 0
        with library.open(runs) as opened:
            assert opened.select(method).equals(pl.read_parquet(out)), method
            assert opened.select(method).equals(pl.read_parquet(out)), "a second time"


@pytest.mark.parametrize("first", ["SHOW TABLES", "SELECT * FROM path_segments", "SELECT * FROM eto_step"])
def test_rules_answer_the_same_after_a_selection(tmp_path: Path, first: str) -> None:
    runs = write_run(tmp_path / "runs", pair("e"), pair("f", task="u"), policy("p"))
    names = ("path_segments", "eef", "expert_actions", "outcomes")
    with library.open(runs) as opened:
        opened.sql(first)
        before = [opened.rule(name) for name in names]
        opened.select("eef")
        after = [opened.rule(name) for name in names]
        assert all(one.equals(other) and one.height for one, other in zip(before, after, strict=True))


def test_a_selection_answers_nothing_for_views_that_nobody_asks(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"), pair("f", task="u"), policy("p"))
    shared = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'shared'"
    for method in methods():
        with library.open(runs) as opened:
            opened.select(method)
            assert opened.sql(shared).is_empty(), method
    with library.open(runs) as opened:
        opened.rule("path_segments")
        assert sorted(opened.sql(shared)["table_name"]) == ["outcomes", "path_segments", "task_worlds"]


def test_python_rules_and_queries_are_frames(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"), policy("p", reward=0.5))
    with library.open(runs, success_reward=0.5) as opened:
        assert opened.rule("outcomes")["solved"].to_list() == [True, True]
        assert opened.rule("trajectories").height == 2
        assert opened.sql("SELECT role, count(*) AS n FROM trajectories GROUP BY 1 ORDER BY 1").rows() == [
            ("expert", 1), ("policy", 1)
        ]  # fmt: skip
        assert opened.select("best_of_n")["trajectory_id"].to_list() == ["e"]
        assert opened.rule("outcomes").height == 2, "after a selection too"
        for wrong in ("outcome", "selected", "no"):
            with pytest.raises(UsageError, match="no such rule"):
                opened.rule(wrong)
        with pytest.raises(UsageError):
            opened.sql("SELEC")
    with pytest.raises(UsageError, match="successreward: no such parameter"):
        library.open(runs, successreward=1)
    with pytest.raises(UsageError, match="no such folder"):
        library.open(tmp_path / "gone")


# --- nothing chosen ---


def test_what_chooses_nothing_leaves_the_old_output_alone(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e", reward=0.0))
    told = refused(runs, "--method", "sft_pos")
    assert "left out of 1 trajectories\n          1   not solved\n" in told and "--allow-empty" in told
    assert (
        json.loads(trajkit("select", "--input", runs, "--method", "sft_pos", "--dry-run", "--json").out)["n_rows"] == 0
    )
    assert trajkit("select", "--input", runs, "--method", "sft_pos", "--dry-run").code == 3
    out = tmp_path / "old.parquet"
    told_as_json = trajkit("select", "--input", runs, "--method", "sft_pos", "--out", out, "--json")
    assert told_as_json.code == 3 and json.loads(told_as_json.out)["out"] is None
    with pytest.raises(NothingChosen) as nothing:
        select(runs, out, "sft_pos")
    assert nothing.value.summary.n_rows == 0 and out.read_bytes() == b"what was there before"
    assert chosen(runs, "--method", "sft_pos", "--allow-empty") == []


# --- what a method of one's own answers and reads ---


def own(tmp_path: Path, sql: str) -> Path:
    (tmp_path / "mine.sql").write_text(sql)
    return tmp_path / "mine.sql"


def test_columns_that_mean_nothing_are_named(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"), policy("p", reward=0.0))
    mine = own(tmp_path, 'SELECT expert_id AS trajectory_id, task_id, 1 AS from_stepp, 2 AS "z\x1bz" FROM experts')
    told = trajkit("select", "--input", runs, "--method", mine, "--dry-run")
    assert told.code == 0
    assert "columns of mine that mean nothing to select: from_stepp (did you mean from_step?); z\\x1bz\n" in told.err
    for method in methods():
        assert "mean nothing" not in trajkit("select", "--input", runs, "--method", method, "--dry-run").err
    as_pairs = own(tmp_path, "SELECT 'e' AS chosen_id, 'p' AS rejected_id, 'e' AS trajectory_id, 1 AS rejected_rewrad")
    told = trajkit("select", "--input", runs, "--method", as_pairs, "--dry-run")
    assert (
        "to select: trajectory_id (did you mean rejected_id?); rejected_rewrad (did you mean rejected_reward?)\n"
        in told.err
    )


@pytest.mark.parametrize(
    ("sql", "used"),
    [
        ("SELECT trajectory_id FROM outcomes", {"success_reward"}),
        ("SELECT trajectory_id FROM trajectories", set()),
        ("WITH m AS (SELECT trajectory_id FROM trajectories) SELECT m.trajectory_id FROM m", set()),
        ("WITH tau AS (FROM trajectories), n AS (FROM tau CROSS JOIN params) SELECT n.trajectory_id FROM n", set()),
        ("SELECT trajectory_id, reward AS tau, iteration FROM trajectories WHERE tau > 0", set()),
        ("SELECT t.trajectory_id FROM trajectories AS t CROSS JOIN params AS p WHERE t.iteration < p.tau", {"tau"}),
        ("SELECT trajectory_id FROM trajectories CROSS JOIN params WHERE reward > tau + params.m", {"tau", "m"}),
        ("SELECT trajectory_id FROM trajectories, Params AS p WHERE P.TAU > 0", {"tau"}),
        ("SELECT trajectory_id FROM trajectories WHERE reward > (SELECT tau FROM params)", {"tau"}),
        ("SELECT t.trajectory_id FROM trajectories t, params q WHERE EXISTS (SELECT 1 WHERE t.reward > q.tau)", {"tau"}),
        ("WITH params AS (SELECT 1 AS tau) SELECT trajectory_id FROM trajectories, params WHERE reward > tau", set()),
        ("SELECT trajectory_id FROM trajectories WHERE actor != 'tau' -- CROSS JOIN params", set()),
        ("SELECT trajectory_id FROM trajectories CROSS JOIN params AS p WHERE reward >= p.mine", {"mine"}),
    ],
)  # fmt: skip
def test_the_parameters_that_are_read_are_listed(tmp_path: Path, sql: str, used: set[str]) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    summary = select(runs, None, str(own(tmp_path, sql)), {"mine": "0", "tau": 0.0, "m": 1})
    assert set(summary.params) == used


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("reward >= tau", "tau is a parameter: read it from params (CROSS JOIN params)"),
        ("t.reward >= mine", "mine is a parameter: read it from params (CROSS JOIN params)"),
        ("reward >= least", "`--set least=VALUE` makes it one"),
    ],
)
def test_a_parameter_that_is_not_read_from_params(tmp_path: Path, where: str, said: str) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    mine = own(tmp_path, f"SELECT trajectory_id FROM trajectories AS t WHERE {where}")
    assert said in refused(runs, "--method", mine, "--set", "mine=1", code=2)
