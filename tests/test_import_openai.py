"""openai: any conversation survives exactly, whatever field it lies in; what is no trajectory is set aside."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_helpers import Run, chat_record, run_import, write_lines

from trajkit.errors import BadData


def import_lines(tmp_path: Path, *records: Any, **options: Any) -> Run:
    return run_import(tmp_path / "runs", "openai", write_lines(tmp_path / "log.jsonl", list(records)), **options)


# Any text that UTF-8 can hold, with what trips tools up made likely.
texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["", " ", "\n", "\r\n", "\x00", "\u2028", "\x1b[31m", "</s>", '"\\', "\ufeff", "a\tb", "🦜"]
)
arguments = st.dictionaries(texts, st.integers() | st.floats(allow_nan=False) | texts, max_size=3).map(json.dumps)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": texts,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": texts, "arguments": arguments}),
        }
    ),
    min_size=1,
    max_size=2,
)
assistant = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts}, optional={"reasoning": texts, "tool_calls": calls}
) | st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none(), "tool_calls": calls})
other = st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": texts}, optional={"name": texts})
tool = st.fixed_dictionaries(
    {"role": st.just("tool"), "content": texts, "tool_call_id": texts}, optional={"name": texts}
)
chats = st.lists(assistant | other | tool, min_size=1, max_size=6)
items = st.fixed_dictionaries(
    {"messages": chats, "task_id": texts.filter(bool)},
    optional={
        "reward": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
        "success": st.none() | st.booleans(),
        "extra": st.integers() | texts,
        "tools": st.lists(st.fixed_dictionaries({"name": texts}, optional={"x": texts}), min_size=1, max_size=2),
    },
)


@given(items=st.lists(items, min_size=1, max_size=4, unique_by=lambda item: item["task_id"]), zipped=st.booleans())
def test_round_trip(items: list[dict[str, Any]], zipped: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write_lines(Path(folder, "log.jsonl.gz" if zipped else "log.jsonl"), items)
        run = run_import(Path(folder, "runs"), "openai", file)
        tasks = run.by_task()
        assert not run.rejected and sorted(tasks) == sorted(item["task_id"] for item in items)
        for item in items:
            row = tasks[item["task_id"]]
            for message, source in zip(run.of(row), item["messages"], strict=True):
                for key in ("role", "content", "reasoning", "tool_call_id", "name"):
                    assert message[key] == source.get(key)
                assert json.loads(message["tool_calls"] or "null") == source.get("tool_calls")
            roles = [m["role"] for m in item["messages"]]
            greetings = next((at for at, role in enumerate(roles) if role != "assistant"), len(roles))
            assert row["n_steps"] == roles[greetings:].count("assistant")
            assert row["reward"] == item.get("reward") and row["success"] == item.get("success")
            assert json.loads(row["tools"] or "null") == item.get("tools")
            assert json.loads(row["meta"] or "{}") == ({"extra": item["extra"]} if "extra" in item else {})


def test_flags_map_fields_also_inside_objects(tmp_path: Path) -> None:
    record = {
        "chat": {"turns": chat_record()["messages"]},
        "info": {"reward": -50, "solved": 1, "id": 7, "kept": [1, 2**70, 0.1]},
        "a.b": "dots in a name",
    }
    fields = {"messages": "chat.turns", "reward": "info.reward", "success": "info.solved", "task-id": "info.id"}
    (row,) = import_lines(tmp_path, record, fields=fields).trajectories
    assert (row["task_id"], row["reward"], row["success"]) == ("7", -50.0, True)
    assert json.loads(row["meta"]) == {"chat": {}, "info": {"kept": [1, 2**70, 0.1]}, "a.b": "dots in a name"}


def test_a_flag_that_names_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"it has no `info\.score`"):
        import_lines(tmp_path, chat_record(), fields={"reward": "info.score"})
    with pytest.raises(BadData, match=r"no list of messages at `messages`.*`conversation`"):
        import_lines(tmp_path, {"conversation": []})


@pytest.mark.parametrize("reward", [-50, 1e9, 0, -0.0, 1e-300, None])
def test_any_finite_reward_is_fine(tmp_path: Path, reward: Any) -> None:
    row = import_lines(tmp_path, chat_record(reward=reward)).trajectories[0]
    assert row["reward"] == reward
    assert reward is None or math.copysign(1, row["reward"]) == math.copysign(1, reward)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (chat_record(reward=math.nan), "reward is nan"),
        (chat_record(reward=math.inf), "reward is inf"),
        (chat_record(reward="one"), "reward is 'one'"),
        (chat_record(reward=True, success=False), "its reward and its success contradict each other"),
        (chat_record(reward=10**400), "reward is too large"),
        (chat_record(success="yes"), "success is 'yes'"),
        (chat_record(task_id=""), "task_id is ''"),
        (chat_record(task_id=[1]), "task_id is [1]"),
        (chat_record(sample=-1), "sample is -1"),
        (chat_record(extra=math.nan), "not representable as JSON"),
        (chat_record(messages=[]), "it has no messages"),
        (chat_record(messages=["hi"]), "message 0 is a JSON string"),
        (chat_record(messages=[{"role": "robot", "content": ""}]), "message 0 has role 'robot'"),
        (chat_record(messages=[{"role": "user"}]), "message 0 (user) has neither"),
        (chat_record(messages=[{"role": "user", "content": {"a": 1}}]), "message 0 has content of type dict"),
        (chat_record(messages=[{"role": "user", "content": "\ud83d"}]), "half a surrogate pair"),
        (
            chat_record(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            "message 0 has a content part of type 'image_url'",
        ),
        (
            chat_record(messages=[{"role": "assistant", "content": None, "function_call": {"arguments": "{}"}}]),
            "message 0 has a tool call without a function's name",
        ),
        (
            chat_record(messages=[{"role": "assistant", "content": "", "tool_calls": "oops"}]),
            "message 0 has tool_calls that are no JSON",
        ),
        (
            chat_record(messages=[{"role": "assistant", "content": "", "token_ids": ["a"]}]),
            "message 0 has token_ids that are no list of numbers",
        ),
        (
            chat_record(messages=[{"role": "assistant", "content": "", "token_ids": [2**31]}]),
            "message 0 has token_ids that are no list of numbers, or too large",
        ),
        (
            chat_record(messages=[{"role": "assistant", "content": "", "token_ids": [True, 2]}]),
            "message 0 has token_ids that are no list of numbers",
        ),
        (
            chat_record(messages=[{"role": "assistant", "content": "", "token_ids": {}}]),
            "message 0 has token_ids that are no list of numbers",
        ),
        (
            chat_record(messages=[{"role": "assistant", "content": "", "logprobs": [-0.5, -(2**60)]}]),
            "message 0 has logprobs that are no list of numbers, or too large",
        ),
        ([1, 2], "it is a JSON array"),
        ("text", "it is a JSON string"),
        (None, "it is a JSON null"),
    ],
)
def test_what_is_no_trajectory_is_set_aside_with_all_of_it(tmp_path: Path, record: Any, reason: str) -> None:
    run = import_lines(tmp_path, chat_record(1), record, chat_record(2))
    assert [row["task_id"] for row in run.trajectories] == ["task-1", "task-2"]
    (rejected,) = run.rejected
    assert rejected["reason"].startswith(reason) or reason in rejected["reason"]
    assert rejected["line"] == 2 and rejected["file"] == str(tmp_path / "log.jsonl")
    assert rejected["raw"] == json.dumps(record)


def test_what_chat_messages_may_hold(tmp_path: Path) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "example", "weight": 0},
        {
            "role": "assistant",
            "content": "answer",
            "weight": 1,
            "reasoning_content": "why",
            "refusal": None,
            "audio": {},
        },
        {"role": "assistant", "content": "", "annotations": [1], "token_ids": [1, 2], "logprobs": [-0.5, -1]},
    ]
    run = import_lines(tmp_path, chat_record(messages=messages))
    (row,) = run.trajectories
    system, user, example, answer, blank = run.of(row)
    assert (system["role"], user["content"]) == ("system", "one two")
    assert (example["weight"], example["step"], example["context"]) == (0, 0, None)
    assert (answer["weight"], answer["step"], answer["context"], answer["reasoning"]) == (1, 1, None, "why")
    assert (blank["content"], blank["step"], blank["token_ids"], blank["logprobs"]) == ("", 2, [1, 2], [-0.5, -1.0])
    assert row["n_steps"] == 3  # a blank action is an action, and so is an untrained one
    assert json.loads(row["meta"]) == {"messages": {"4": {"annotations": [1]}}}


def test_without_an_assistant_message_it_is_kept(tmp_path: Path) -> None:
    (row,) = import_lines(tmp_path, chat_record(messages=[{"role": "user", "content": "?"}])).trajectories
    assert row["n_steps"] == 0


def test_a_missing_task_id_is_derived_from_what_comes_before_the_first_action(tmp_path: Path) -> None:
    records = [chat_record(0), chat_record(0), chat_record(1)]
    records[1]["messages"] = [*records[1]["messages"][:1], {"role": "assistant", "content": "another answer"}]
    for record in records:
        del record["task_id"]
    run = import_lines(tmp_path, *records)
    tasks = [row["task_id"] for row in run.trajectories]
    assert tasks[0] == tasks[1] != tasks[2] and tasks[0].startswith("openai/")


def test_a_record_may_say_where_it_comes_from_and_flags_say_it_louder(tmp_path: Path) -> None:
    said = chat_record(env="shop", split="test", actor="gpt", error="server died", sample=3)
    row = import_lines(tmp_path, said).trajectories[0]
    assert [row[k] for k in ("env", "split", "actor", "error", "ended", "sample")] == [
        "shop", "test", "gpt", "server died", "error", 3,
    ]  # fmt: skip
    (tmp_path / "b").mkdir()
    row = import_lines(tmp_path / "b", said, env="e", split="dev", actor="a", iteration=2).trajectories[0]
    assert [row[k] for k in ("env", "split", "actor", "iteration", "task_id")] == ["e", "dev", "a", 2, "e/task-0"]


def test_a_hundred_megabytes_in_one_message(tmp_path: Path) -> None:
    huge = 'naïve \\ "quote"\n' * (100 * 2**20 // 16)
    messages = [{"role": "user", "content": huge}, {"role": "assistant", "content": "ok"}]
    run = import_lines(tmp_path, chat_record(1), chat_record(2, messages=messages), chat_record(3))
    assert run.counts.imported == 3
    assert run.of(run.by_task()["task-2"])[0]["content"] == huge
