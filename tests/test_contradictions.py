"""Equal task, prompt and actions, another outcome: `validate` warns, `select` counts, `import --replace` mends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import Row, pair, talk, traj, trajkit, write_run

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

    log = tmp_path / "log.jsonl"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}
    said = [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    log.write_text("".join(json.dumps({"task_id": task, "reward": 1, "messages": said}) + "\n" for task in "ab"))
    runs = tmp_path / "runs"
    assert trajkit("import", "openai", log, "--runs", runs).code == 0
    assert trajkit("validate", runs).err == f"no mistakes in {runs}\n"
    [file] = runs.rglob("trajectories.parquet")
    old = 'md5(md5(\'\' || chr(31) || chr(31) || \'[{"name":"f","arguments":"{\\"b\\": 1, \\"a\\": 2}"}]\'))'
    duckdb.sql(
        f"COPY (SELECT * REPLACE (CASE task_id WHEN 'a' THEN {old} ELSE actions_digest END AS actions_digest) "
        f"FROM '{file}') TO '{file}.new' (FORMAT parquet)"
    )
    Path(f"{file}.new").rename(file)
    done = trajkit("validate", runs)
    assert done.code == 0 and done.err == f"        1   old_digests\nno mistakes in {runs}, 1 warnings\n"
    assert "`trajkit compact` renews it" in done.out
