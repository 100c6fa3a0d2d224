"""Small logs as people have them, each with what is right: read whole, or the one record set aside that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from import_helpers import Run, run_import, write_lines

from trajkit.cli import cli
from trajkit.engines.checks import validate
from trajkit.errors import BadData
from trajkit.exporters import export
from trajkit.importers._calls import TWICE
from trajkit.importers._outcome import TEXT, TRUTH
from trajkit.selection.select import select

CASES = Path(__file__).parent / "cases" / "import"
Row = dict[str, Any]

GO = {"role": "user", "content": "go"}
DONE = {"role": "assistant", "content": "done"}


def actions(run: Run, row: Row) -> list[Row]:
    return [m for m in run.of(row) if m["role"] == "assistant" and not m["context"]]


def calls(run: Run, row: Row) -> list[Row]:
    return [call for m in run.of(row) if m["tool_calls"] for call in json.loads(m["tool_calls"])]


def only(run: Run) -> Row:
    [row] = run.trajectories
    assert not run.rejected
    return row


def the_bad_one_is_set_aside(run: Run) -> None:
    assert [row["task_id"] for row in run.trajectories] == ["good"]
    [line] = run.rejected
    assert line["line"] == 1 and "half a surrogate pair" in line["reason"]


def three_different_calls(run: Run) -> None:
    assert len(run.trajectories) == 3 and not run.rejected
    found = {row["sample"]: calls(run, row) for row in run.trajectories}
    for n in range(3):
        [call] = found[n]
        function = {"name": "click", "arguments": json.dumps({"id": n}, separators=(",", ":"))}
        assert call == {"id": "a", "type": "function", "function": function}
    assert len({row["actions_digest"] for row in run.trajectories}) == 3


def old_function_call(run: Run) -> None:
    row = only(run)
    [call] = calls(run, row)
    assert call["function"] == {"name": "w", "arguments": "{}"} and call["type"] == "function"
    [result] = [m for m in run.of(row) if m["role"] == "tool"]
    assert (result["tool_call_id"], result["name"], result["content"]) == (call["id"], "w", "x")


def blocks(run: Run) -> None:
    row = only(run)
    assert [m["role"] for m in run.of(row)] == ["user", "assistant", "tool", "tool", "assistant"]
    asked, call, *results, answer = run.of(row)
    assert (asked["content"], call["content"], call["reasoning"]) == ("weather?", "Looking.", "I look.")
    assert [(m["tool_call_id"], m["content"]) for m in results] == [("t1", "warm"), ("t2", "cold")]
    assert [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls(run, row)] == [
        ("t1", "weather", {"city": "Rome"}), ("t2", "weather", {"city": "Oslo"}),
    ]  # fmt: skip
    assert answer["content"] == "Warm, cold." and row["n_steps"] == 2
    assert json.loads(row["meta"])["messages"] == {"1": {"content": [{"type": "thinking", "signature": "s"}]}}


def greeting(run: Run) -> None:
    row = run.by_task()["hello"]
    assert [(m["role"], m["context"], m["step"]) for m in run.of(row)] == [
        ("assistant", True, 0), ("user", None, 0), ("assistant", None, 0),
    ]  # fmt: skip
    assert row["n_steps"] == 1 and run.by_task()["good"]["n_steps"] == 1


def no_tools(run: Run) -> None:
    assert [row["task_id"] for row in run.trajectories] == ["good"]
    assert [line["line"] for line in run.rejected] == [1, 2, 3, 4]
    assert all("tools" in line["reason"] for line in run.rejected)


def loss_marks(run: Run) -> None:
    for task_id, weights in {"m1": [0, 1], "m2": [0, 1], "m3": [0.5, 1]}.items():
        row = run.by_task()[task_id]
        assert [m["weight"] for m in actions(run, row)] == weights and row["n_steps"] == 2
        assert row["meta"] is None


def no_arguments(run: Run) -> None:
    [call] = calls(run, only(run))
    assert call["function"] == {"name": "ls", "arguments": "{}"}


def twice_encoded(run: Run) -> None:
    [call] = calls(run, only(run))
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    assert run.counts.notes == {TWICE: 1}


def messages_as_text(run: Run) -> None:
    row = only(run)
    assert [m["content"] for m in run.of(row)] == ["go", "x"]
    assert json.loads(row["meta"]) == {"instance_id": "i", "resolved": True}


def rewards(run: Run) -> None:
    found = {row["task_id"]: (row["reward"], row["success"]) for row in run.trajectories}
    assert found == {
        "r0": (1, None), "r1": (None, True), "r2": (0.5, None), "r3": (1, None), "r4": (None, None), "r6": (-3, None),
    }  # fmt: skip
    assert run.counts.notes == {TRUTH: 1, TEXT: 2}
    [line] = run.rejected
    assert line["line"] == 6 and "finite" in line["reason"]


def one_conversation(run: Run) -> None:
    assert [m["content"] for m in run.of(only(run))] == ["go", "x"]


def evaluation(run: Run) -> None:
    row = only(run)
    assert (row["task_id"], row["env"], row["reward"], row["n_steps"]) == ("webshop/3", "webshop", 1, 2)
    said = [m for m in run.of(row) if m["role"] == "assistant"]
    assert [m["context"] for m in said] == [True, None, None]
    assert [m["reasoning"] for m in said] == [None, "hm", None]


RIGHT: dict[str, Callable[[Run], None]] = {
    "meta-surrogate.jsonl": the_bad_one_is_set_aside,
    "meta-latin1.jsonl": the_bad_one_is_set_aside,
    "calls-inspect.jsonl": three_different_calls,
    "calls-string.jsonl": three_different_calls,
    "function-call.jsonl": old_function_call,
    "anthropic-blocks.jsonl": blocks,
    "assistant-first.jsonl": greeting,
    "tools-no-list.jsonl": no_tools,
    "loss-marks.jsonl": loss_marks,
    "no-arguments.jsonl": no_arguments,
    "twice-encoded-arguments.jsonl": twice_encoded,
    "messages-as-text.jsonl": messages_as_text,
    "rewards.jsonl": rewards,
    "bare-list.json": one_conversation,
    "pretty.traj": one_conversation,
    "agentgym-evaluation.json": evaluation,
}


def test_every_case_is_tried() -> None:
    assert {path.name for path in CASES.iterdir()} == RIGHT.keys()


@pytest.mark.parametrize("name", RIGHT)
def test_case(name: str, tmp_path: Path) -> None:
    """What is imported is right, lies in the runs as the tables have it, and every format can export it."""
    runs, out = tmp_path / "runs", tmp_path / "sft.parquet"
    fields = {"fields": {"messages": "history"}} if name == "pretty.traj" else {}
    run = run_import(
        runs, "agentgym" if name.startswith("agentgym") else "openai", CASES / name, role="expert", **fields
    )
    RIGHT[name](run)
    assert run.counts.read == len(run.trajectories) + len(run.rejected)
    assert list(validate(runs)) == []
    select(runs, out, "sft_all")
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == len(run.trajectories)
    for to, suffix in (("openai", "jsonl"), ("axolotl", "jsonl"), ("llamafactory", "jsonl"), ("trl", "jsonl")):
        summary = export(out, tmp_path / f"{to}.{suffix}", to)
        half = sum(m["weight"] not in (0, 1) for row in rows for m in row["messages"])
        assert summary.written == summary.read - (half if to != "llamafactory" else 0)


@pytest.mark.parametrize("name", ["calls-inspect.jsonl", "calls-string.jsonl"])
def test_rft_keeps_calls_that_differ(name: str, tmp_path: Path) -> None:
    run_import(tmp_path / "runs", "openai", CASES / name)
    select(tmp_path / "runs", tmp_path / "rft.parquet", "rft")
    assert pq.read_table(tmp_path / "rft.parquet").num_rows == 3


def test_what_was_read_otherwise_is_said(tmp_path: Path) -> None:
    for name, note in (("rewards.jsonl", TEXT), ("twice-encoded-arguments.jsonl", TWICE)):
        done = CliRunner().invoke(cli, ["import", "openai", str(CASES / name), "--runs", str(tmp_path / name)])
        assert done.exit_code == 0 and note in done.stderr


def of_format(format: str, text: str) -> Row:
    """A record of each format in which `text` stands in a key that goes to meta."""
    messages = [GO, DONE]
    conversations = [{"from": "human", "value": "You are web shopping."}, {"from": "gpt", "value": "x"}]
    task = {"environment": "ic_sql", "task_id": 1, "query": "q", "more": text}
    return {
        "openai": {"messages": messages, "task_id": "t", "info": {"more": [text]}},
        "agentgym": {"conversations": conversations, "item_id": "webshop_1", "more": text},
        "intercode": {"0": task | {"turn_history": {"actions": ["a"], "observations": ["o"]}}},
        "tau-bench": {"task_id": 1, "traj": messages, "reward": 1.0, "info": {"more": text}},
        "mint": {"state": {"history": messages, "more": text}, "task": {"task_name": "a/b", "task_id": 1}},
        "atif": {
            "schema_version": "ATIF-v1.4", "agent": {"name": "a", "more": text},
            "steps": [{"source": "user", "message": "go"}, {"source": "agent", "message": "x"}],
        },
    }[format]  # fmt: skip


FORMATS = ["openai", "agentgym", "intercode", "tau-bench", "mint", "atif"]


@pytest.mark.parametrize("format", FORMATS)
def test_text_that_is_none_costs_its_record_in_every_format(format: str, tmp_path: Path) -> None:
    env = {"env": "shop"} if format == "tau-bench" else {}
    fine, bad = tmp_path / "fine.json", tmp_path / "bad.json"
    fine.write_text(json.dumps(of_format(format, "fine")))
    bad.write_text(json.dumps(of_format(format, "\ud835")))
    with pytest.raises(BadData, match="half a surrogate pair"):
        run_import(tmp_path / "runs", format, bad, **env)
    run = run_import(tmp_path / "runs", format, fine, bad, **env)
    assert len(run.trajectories) == 1
    [line] = run.rejected
    assert line["file"] == str(bad) and "half a surrogate pair" in line["reason"]


@pytest.mark.parametrize("place", ["record", "message", "call", "tools", "error", "actor", "key", "reasoning"])
def test_text_that_is_none_costs_its_record_anywhere(place: str, tmp_path: Path) -> None:
    bad = "a\ud835"
    message = DONE | {
        "message": {"more": bad}, "reasoning": {"reasoning": bad},
        "call": {"tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {bad: 1}}}]},
    }.get(place, {})  # fmt: skip
    more: Row = {
        "record": {"more": {"deep": [bad]}}, "tools": {"tools": [{"name": bad}]}, "error": {"error": bad},
        "actor": {"actor": bad}, "key": {bad: 1},
    }.get(place, {})  # fmt: skip
    good = {"task_id": "good", "messages": [GO, DONE]}
    run = run_import(
        tmp_path,
        "openai",
        write_lines(tmp_path / "a.jsonl", [{"task_id": "b", "messages": [GO, message]} | more, good]),
    )
    assert [row["task_id"] for row in run.trajectories] == ["good"]
    assert [line["line"] for line in run.rejected] == [1]


@pytest.mark.parametrize("format", FORMATS)
def test_env_begins_the_task_ids(format: str, tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(of_format(format, "x")))
    run = run_import(tmp_path / "runs", format, path, env="my/shop")
    [row] = run.trajectories
    assert row["task_id"].startswith("my/shop/") and row["env"] == "my/shop"
    assert not row["task_id"].startswith("my/shop/my/shop")


CALL = {"name": "f", "arguments": '{"a":1}'}


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c", "type": "function", "function": CALL},
        {"id": "c", "function": "f", "arguments": {"a": 1}},
        {"id": "c", "type": "function", "function": json.dumps(CALL)},
        {"id": "c", "name": "f", "args": {"a": 1}, "type": "tool_call"},
        {"id": "c", "type": "tool_use", "name": "f", "input": {"a": 1}},
        {"tool_call_id": "c", "function_name": "f", "arguments": {"a": 1}},
    ],
)
def test_dialects_of_calls(call: Row, tmp_path: Path) -> None:
    """Each becomes the same call, so that they have one digest."""
    record = {"messages": [GO, {"role": "assistant", "content": None, "tool_calls": [call]}], "task_id": "t"}
    run = run_import(tmp_path / "runs", "openai", write_lines(tmp_path / "a.jsonl", [record]))
    assert calls(run, only(run)) == [{"id": "c", "type": "function", "function": CALL}]


@pytest.mark.parametrize("call", [{"id": "c"}, {"function": {}}, {"function": ""}, {"function": 3, "name": None}])
def test_a_call_of_nothing_is_set_aside(call: Row, tmp_path: Path) -> None:
    record = {"messages": [GO, DONE | {"tool_calls": [call]}]}
    good = {"messages": [GO, DONE]}
    run = run_import(tmp_path / "runs", "openai", write_lines(tmp_path / "a.jsonl", [record, good]))
    assert len(run.trajectories) == 1 and "function's name" in run.rejected[0]["reason"]


@pytest.mark.parametrize(
    ("marks", "weight"),
    [
        ({"training": False}, 0), ({"train": True}, 1), ({"loss": 0}, 0), ({"loss_weight": 0.25}, 0.25),
        ({"step_loss_mask": 1}, 1), ({"turn_mask": True}, 0), ({"turn_mask": 0.25}, 0.75), ({"weight": None}, None),
        ({"weight": 0, "training": False}, 0), ({}, None),
    ],
)  # fmt: skip
def test_loss_marks(marks: Row, weight: float | None, tmp_path: Path) -> None:
    record = {"messages": [GO, DONE | marks]}
    run = run_import(tmp_path / "runs", "openai", write_lines(tmp_path / "a.jsonl", [record]))
    assert [m["weight"] for m in actions(run, only(run))] == [weight]
    plain = run_import(tmp_path / "plain", "openai", write_lines(tmp_path / "b.jsonl", [{"messages": [GO, DONE]}]))
    assert only(plain)["trajectory_id"] == only(run)["trajectory_id"]  # a mark is no part of the id


@pytest.mark.parametrize(
    "marks",
    [
        {"weight": -0.1}, {"weight": 1.5}, {"weight": float("nan")}, {"weight": "1"}, {"training": [1]},
        {"weight": 1, "training": False}, {"train": True, "train_detail": [{"begin_offset": 0}]},
    ],
)  # fmt: skip
def test_loss_marks_that_say_nothing_are_set_aside(marks: Row, tmp_path: Path) -> None:
    records = [{"messages": [GO, DONE | marks]}, {"messages": [GO, DONE]}]
    run = run_import(tmp_path / "runs", "openai", write_lines(tmp_path / "a.jsonl", records))
    assert len(run.trajectories) == 1 and "loss mark" in run.rejected[0]["reason"]


def test_marks_weigh_what_is_selected(tmp_path: Path) -> None:
    """The weight is the mark; an action without loss stays in the conversation; an example without any is left out."""
    bad = {"task_id": "none", "reward": 1, "messages": [GO, DONE | {"training": False}]}
    path = write_lines(tmp_path / "a.jsonl", [bad])
    path.write_text((CASES / "loss-marks.jsonl").read_text() + path.read_text())
    run_import(tmp_path / "runs", "openai", path, role="expert")
    out = tmp_path / "sft.parquet"
    summary = select(tmp_path / "runs", out, "sft_all")
    rows = {row["task_id"]: row for row in pq.read_table(out).to_pylist()}
    weights = {task: [m["weight"] for m in row["messages"] if m["role"] == "assistant"] for task, row in rows.items()}
    assert weights == {"m1": [0, 1], "m2": [0, 1], "m3": [0.5, 1]}
    assert {task: row["n_trained_steps"] for task, row in rows.items()} == {"m1": 1, "m2": 1, "m3": 2}
    assert summary.n_without_loss == 1 and "1 more not written" in summary.text()
    kept = {to: export(out, tmp_path / f"{to}.jsonl", to) for to in ("openai", "llamafactory")}
    assert (kept["openai"].written, kept["llamafactory"].written) == (2, 3)
    assert any("between 0 and 1" in reason for reason in kept["openai"].left_out)


@pytest.mark.parametrize("weight", [-0.5, 1.5, float("nan"), float("inf")])
def test_validate_finds_weights_and_tools_in_hand_made_files(weight: float, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run_import(runs, "openai", CASES / "loss-marks.jsonl")
    [messages] = runs.rglob("messages.parquet")
    [trajectories] = runs.rglob("trajectories.parquet")
    (messages.parent / "SHA256SUMS").unlink()  # as where the files are somebody's own
    for path, column, value in ((messages, "weight", weight), (trajectories, "tools", '{"a": 1}')):
        table = pq.read_table(path)
        at = table.schema.get_field_index(column)
        field = table.schema.field(at)
        values = [value, *table.column(column).to_pylist()[1:]]

        pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path)
    found = {problem.problem for problem in validate(runs)}
    assert any("weight is" in problem for problem in found), found
    assert "tools is no list of definitions" in found


def test_an_array_of_messages_is_one_conversation_and_a_line_may_be_one(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [[GO, DONE], [GO, {"role": "assistant", "content": "else"}]])
    assert len(run_import(tmp_path / "lines", "openai", lines).trajectories) == 2
    array = tmp_path / "a.json"
    array.write_text(json.dumps([GO, DONE, {"messages": [GO, DONE]}]))
    run = run_import(tmp_path / "mixed", "openai", array)
    assert len(run.trajectories) == 1 and len(run.rejected) == 2


def test_what_is_exported_to_llamafactory_is_read_again(tmp_path: Path) -> None:
    """Its v1 format has typed parts and a loss weight in every message."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    said = [GO, {"role": "assistant", "content": "x", "reasoning": "hm", "tool_calls": [call]}, DONE | {"weight": 0.5}]
    record = {"task_id": "t", "reward": 1, "messages": said}
    run_import(tmp_path / "a", "openai", write_lines(tmp_path / "a.jsonl", [record]), role="expert")
    select(tmp_path / "a", tmp_path / "a.parquet", "sft_all")
    export(tmp_path / "a.parquet", tmp_path / "v1.jsonl", "llamafactory")
    run = run_import(tmp_path / "b", "openai", tmp_path / "v1.jsonl")
    _, acted, done = run.of(only(run))
    assert (acted["content"], acted["reasoning"], acted["weight"], done["weight"]) == ("x", "hm", 1, 0.5)
    [function] = [call["function"] for call in json.loads(acted["tool_calls"])]
    assert function["name"] == "f" and json.loads(function["arguments"]) == {"a": 1}
