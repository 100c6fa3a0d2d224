"""Equal task, prompt and actions, another outcome: `validate` warns, `select` counts, `import --replace` mends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import Row, pair, talk, traj, trajkit, write_run

from trajkit.engines.duckdb import DuckDBEngine

Pair = tuple[list[Row], list[Row]]


def told_alike(id: str, like: str = "e", **given: Any) -> Pair:
    """A trajectory that says what `like` says."""
    row = traj(id, **given)
    messages = talk(like, row["n_steps"], row["branch_step"])
    return [row], [message | {"trajectory_id": id} for message in messages]


def warned(runs: Path) -> set[str]:
    done = trajkit("validate", runs, "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert found["n_warnings"] == len(found["warnings"])
    chosen = json.loads(trajkit("select", "--input", runs, "--method", "sft_all", "--dry-run", "--json").out)
    assert chosen["n_contradictions"] == len(found["warnings"])
    return {warning["trajectory_id"] for warning in found["warnings"]}


OTHERS = {
    "another reward": ({"reward": 0.0}, True),
    "another verdict": ({"success": False}, True),
    "the same outcome": ({"meta": "{}"}, False),
    "another task": ({"reward": 0.0, "task_id": "u"}, False),
    "another role": ({"reward": 0.0, "role": "policy"}, False),
    "another iteration": ({"reward": 0.0, "iteration": 1}, False),
    "iteration and sample not said": ({"reward": 0.0, "iteration": None, "sample": None}, True),
    "another sample": ({"reward": 0.0, "sample": 1}, False),
    "no outcome": ({"reward": None}, False),
    "an error": ({"reward": 0.0, "ended": "error"}, False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_outcome_of_the_same_actions(tmp_path: Path, name: str) -> None:
    given, contradicts = OTHERS[name]
    runs = write_run(tmp_path / "runs", pair("e"), told_alike("f", **{"task": given.pop("task_id", "t"), **given}))
    assert warned(runs) == ({"e", "f"} if contradicts else set())


def test_other_words_are_another_trajectory(tmp_path: Path) -> None:
    for number, contradicts in ((0, False), (1, False), (2, True), (3, False), (4, True)):  # observations may differ
        other, messages = told_alike("f", reward=0.0)
        messages[number] |= {"content": "other words"}
        runs = write_run(tmp_path / f"runs{number}", pair("e"), (other, messages))
        assert warned(runs) == ({"e", "f"} if contradicts else set()), number


def test_what_is_told(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"), told_alike("f", reward=0.0))
    done = trajkit("validate", runs)
    assert done.code == 0 and len(done.out.splitlines()) == 2
    assert "random environment" in done.out and "--replace" in done.out
    assert done.err == f"        2   contradictions\nno mistakes in {runs}, 2 warnings\n"
    told = trajkit("select", "--input", runs, "--method", "sft_all", "--dry-run").err
    assert "2 trajectories say and do the same as another one, and came to another outcome" in told


def test_digests_of_an_earlier_version_beside_others(tmp_path: Path) -> None:
    import duckdb

    file = tmp_path / "log.jsonl"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}
    said = [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    file.write_text("".join(json.dumps({"task_id": task, "reward": 1, "messages": said}) + "\n" for task in "ab"))
    runs = tmp_path / "runs"
    assert trajkit("import", "openai", file, "--runs", runs).code == 0
    assert trajkit("validate", runs).err == f"no mistakes in {runs}\n"
    [file] = runs.rglob("trajectories.parquet")
    old = 'md5(md5(\'\' || chr(31) || chr(31) || \'[{"name":"f","arguments":"{\\"b\\": 1, \\"a\\": 2}"}]\'))'
    duckdb.sql(
        f"COPY (SELECT * REPLACE (CASE task_id WHEN 'a' THEN {old} ELSE actions_digest END AS actions_digest) "
        f"FROM '{file}') TO '{file}.new' (FORMAT parquet)"
    )
    Path(f"{file}.new").rename(file)
    (file.parent / "SHA256SUMS").unlink(missing_ok=True)
    done = trajkit("validate", runs)
    assert done.code == 0 and done.err == f"        1   old_digests\nno mistakes in {runs}, 1 warnings\n"
    assert "`trajkit compact` renews it" in done.out
    assert "of 1 trajectories with tool calls is of an earlier version" in trajkit("compact", runs, "--dry-run").err
    assert "of 1 trajectories with tool calls was renewed" in trajkit("compact", runs).err
    with DuckDBEngine(runs) as opened:
        assert opened.rows("SELECT count(DISTINCT actions_digest) AS n, count(*) AS rows FROM trajectories") == [
            {"n": 1, "rows": 2}
        ]
    assert trajkit("validate", runs).err == f"no mistakes in {runs}\n"
    after = files(runs)
    assert "renewed" not in trajkit("compact", runs).err and files(runs) == after


# --- import --replace ---

SAID = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "x"}]
FIRST: Row = {"task_id": "p", "sample": 0, "reward": 1, "messages": SAID}


def log(file: Path, *records: Row) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def brought(runs: Path, *args: object) -> Any:
    done = trajkit("import", "openai", *args, "--runs", runs, "--json")
    assert done.code == 0, done
    return json.loads(done.out)


def rows(runs: Path) -> list[Row]:
    with DuckDBEngine(runs) as opened:
        return opened.rows(
            "SELECT trajectory_id, reward, success, ended, error, meta, import_id FROM trajectories "
            "ORDER BY trajectory_id"
        )


def test_a_corrected_record_takes_the_place_of_the_wrong_one(tmp_path: Path) -> None:
    runs, wrong = tmp_path / "runs", log(tmp_path / "wrong.jsonl", FIRST)
    other = {**FIRST, "task_id": "q"}
    brought(runs, wrong)
    brought(runs, log(tmp_path / "other.jsonl", other))
    before = rows(runs)
    right = log(tmp_path / "right.jsonl", {**FIRST, "reward": 0, "error": "503", "note": "mended"})
    [alone] = rows_of(tmp_path / "alone", right)
    assert brought(runs, right, "--replace")["replaced"] == 1
    [changed] = [row for row in rows(runs) if row not in before]
    kept = next(row for row in before if row["reward"] == 1 and row["trajectory_id"] == changed["trajectory_id"])
    assert changed == {**alone, "trajectory_id": kept["trajectory_id"], "import_id": alone["trajectory_id"]}
    assert changed["error"] == "503" and changed["ended"] == "error" and "mended" in changed["meta"]
    assert len(rows(runs)) == 2
    after = files(runs)
    for again in (right, wrong):  # neither is new
        for flags in ((), ("--replace",)):
            told = brought(runs, again, *flags)
            assert (told["imported"], told["replaced"], told["already"]) == (0, 0, 1)
    assert files(runs) == after
    assert trajkit("validate", runs).code == 0


def rows_of(runs: Path, file: Path) -> list[Row]:
    brought(runs, file)
    return rows(runs)


def files(runs: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}


def test_the_later_of_one_file_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    file = log(tmp_path / "log.jsonl", FIRST, {**FIRST, "reward": 0.5}, {**FIRST, "reward": 0})
    assert len(rows_of(tmp_path / "kept", file)) == 3  # without --replace all are kept
    runs = tmp_path / "runs"
    told = brought(runs, file, "--replace")
    assert (told["imported"], told["replaced"]) == (1, 1)
    [row] = rows(runs)
    assert row["reward"] == 0 and row["import_id"] is not None
    brought(runs, file, "--replace")
    assert rows(runs) == [row]


def test_of_several_none_is_touched(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    before = rows_of(runs, log(tmp_path / "log.jsonl", FIRST, {**FIRST, "reward": 0.5}))
    right = log(tmp_path / "right.jsonl", {**FIRST, "reward": 0})
    done = trajkit("import", "openai", right, "--runs", runs, "--replace")
    assert done.code == 0 and "1 records fit several trajectories, of which none was touched" in done.err
    assert all(row["trajectory_id"] in done.err for row in before) and rows(runs) == before


def test_a_call_written_otherwise_is_the_same_record(tmp_path: Path) -> None:
    def told(arguments: Any, reward: float) -> Row:
        call = {"id": str(reward), "type": "function", "function": {"name": "f", "arguments": arguments}}
        said = [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        return {"task_id": "t", "reward": reward, "messages": said}

    runs = tmp_path / "runs"
    brought(runs, log(tmp_path / "a.jsonl", told({"b": 1, "a": 2}, 1)))
    assert brought(runs, log(tmp_path / "b.jsonl", told('{"a": 2, "b": 1}', 0)), "--replace")["replaced"] == 1
    assert brought(runs, log(tmp_path / "c.jsonl", told('{"a": 2, "b": 2}', 0)), "--replace")["imported"] == 1
    assert [row["reward"] for row in rows(runs)] == [0, 0]


def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """At every moment at which a file gets its name, before and after."""
    right = log(tmp_path / "right.jsonl", {**FIRST, "reward": 0})
    seen = set()
    for at in range(1, 12):
        runs = tmp_path / f"runs{at}"
        brought(runs, log(tmp_path / "wrong.jsonl", FIRST))
        command = [sys.executable, "-c", KILLED, str(at), "import", "openai", right, "--runs", runs, "--replace"]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, env=env, capture_output=True, check=False)
        [row] = rows(runs)
        seen.add((row["reward"], row["import_id"] is not None))
        assert trajkit("validate", runs).code == 0
        if done.returncode == 0:
            break
        assert done.returncode == -9
    assert done.returncode == 0 and seen == {(1.0, False), (0.0, True)}


KILLED = """
import os, sys
left = int(sys.argv.pop(1))

def watch(event, args):
    global left
    if event == "os.rename":
        left -= 1
        if not left:
            os.kill(os.getpid(), 9)

sys.addaudithook(watch)
sys.argv[0] = "trajkit"
from trajkit.cli import main
main()
"""
