"""Whatever JSON of a format's shape a file holds: each record is imported, a duplicate or set aside; no traceback."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_helpers import Row, read_runs

from trajkit.errors import BadData
from trajkit.importers import Counts, Options, formats, import_files


def call(arguments: Any = '{"city": "Rome"}') -> Row:
    return {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CHAT = [
    {"role": "system", "content": "You help."},
    {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
    {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call()], "weight": 1},
    {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "warm"},
    {"role": "assistant", "content": "It is warm.", "token_ids": [1, 2], "logprobs": [-0.5, -0.25], "context": False},
    {"role": "user", "content": "thanks"},
]
BLOCKS = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I look."},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "warm"}]},
    {"role": "assistant", "content": "ok", "function_call": None},
]
OLD = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
    {"role": "function", "name": "weather", "content": "warm"},
    {"role": "assistant", "content": "ok", "training": True},
]
STEP = {
    "step_id": 2,
    "source": "agent",
    "timestamp": "2026-01-02T10:00:00Z",
    "message": "I look.",
    "reasoning_content": "hm",
    "tool_calls": [{"tool_call_id": "c1", "function_name": "weather", "arguments": {"city": "Rome"}}],
    "observation": {"results": [{"source_call_id": "c1", "content": [{"type": "text", "text": "warm"}]}]},
    "metrics": {"prompt_tokens": 3, "logprobs": [-0.5], "completion_token_ids": [1]},
    "llm_call_count": 1,
}
HISTORY = {"actions": ["SHOW", "SELECT"], "observations": ["a", "b"], "rewards": [0, 1], "valid_action": [True, True]}
SHAPES: dict[str, list[Row]] = {
    "openai": [
        {"messages": CHAT, "task_id": "t", "reward": 0.5, "success": None, "tools": TOOLS, "sample": 2, "env": "e"},
        {"messages": BLOCKS, "task_id": 7, "reward": "1", "meta": {"a": [1, {"b": None}]}, "split": "train"},
        {"messages": OLD, "success": True, "error": "e", "ended": "done", "actor": "a", "note": "é"},
        {"messages": json.dumps(CHAT), "task_id": "u", "reward": True},
    ],
    "tau-bench": [
        {
            "task_id": 1,
            "traj": [{"role": "system", "content": "# Airline Agent Policy\n"}, *CHAT[1:]],
            "reward": 1.0,
            "trial": 2,
            "info": {"reward_info": {"reward": 1.0, "info": {"r_actions": 1.0}}, "user_cost": 0.5, "error": None},
        },
    ],
    "mint": [
        {
            "state": {
                "history": CHAT,
                "success": True,
                "error": None,
                "terminate_reason": "task_success",
                "latest_output": {"observation": "x", "content": "thanks", "success": True},
                "token_counter": {"prompt_tokens": 3},
            },
            "task": {"task_id": "a/b", "task_name": "alfworld/pick", "prompt": "You help.", "metadata": {}},
        },
    ],
    "agentgym": [
        {
            "conversations": [
                {"from": "human", "value": "You are web shopping."},
                {"from": "gpt", "value": "OK", "loss": False},
                {"from": "human", "value": "page"},
                {"from": "gpt", "value": "click[x]", "loss": True},
            ],
            "item_id": "webshop_12",
            "reward": 1.0,
            "success": 1,
        },
        {
            "conversations": [
                {"from": "human", "value": "You are web shopping."},
                {"from": "gpt", "value": "OK"},
                {"from": "human", "value": "page"},
                {"from": "gpt", "value": "click[x]"},
            ],
            "meta": {"steps": 1, "reward": 0.5, "terminate_reason": "success", "error": None, "success": True},
        },
        {
            "conversations": [
                {"from": "human", "value": "Interact with a household"},
                {"from": "gpt", "value": "OK."},
                {"from": "human", "value": "room"},
                {"from": "gpt", "value": "look"},
            ],
            "game_file": "json_2.1.1/train/pick-1/trial_T1/game.tw-pddl",
            "id": "a_1",
            "reward": None,
        },
        {
            "item_id": "webshop_3",
            "reward": 1.0,
            "success": 1,
            "conversations": [
                {"role": "user", "content": "You are web shopping.", "reasoning_content": None},
                {"role": "assistant", "content": "Ok.", "reasoning_content": None},
                {"role": "user", "content": "a page"},
                {"role": "assistant", "content": "click[Buy Now]", "reasoning_content": "hm"},
            ],
        },
    ],
    "intercode": [
        {
            "environment": "ic_sql",
            "dataset": "./data/test/spider.json",
            "task_id": 3,
            "query": "how many?",
            "turn_history": HISTORY,
            "summary": {"max_reward": 1.0, "max_reward_idx": 1, "turns_taken": 2, "turns_max": 10},
            "hardness": "easy",
        },
        {
            "environment": "ic_sql",
            "query_idx": 4,
            "query": "how many?",
            "trajectory": [{"action": "SHOW", "observation": "a", "reward": 0.0}],
            "reward": 0.5,
        },
    ],
    "atif": [
        {
            "schema_version": "ATIF-v1.5",
            "session_id": "s",
            "agent": {"name": "terminus", "version": "2", "model_name": "m", "tool_definitions": TOOLS},
            "steps": [
                {"step_id": 1, "source": "user", "message": "weather?"},
                STEP,
                {"step_id": 3, "source": "agent", "message": "ok", "is_copied_context": True, "extra": {"a": 1}},
            ],
            "final_metrics": {"total_steps": 3},
            "notes": "n",
        },
    ],
}


class Twice(dict[str, Any]):
    """An object whose keys come twice, with another value before."""


class Deep(str):
    """Nested brackets, as they are written."""


def deep(n: int, open: str) -> Deep:
    return Deep("[" * n + "1" + "]" * n if open == "[" else '{"a": ' * n + "1" + "}" * n)


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, 1, -1, 2**31, -(2**63), 2**63, 2**64, 10**30, 10**400, -(10**4000), 0.0, -0.0, 1e-320, 1e308, 0.1]
    ),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from(
        ["", " ", "\x00", "\x1b[31m", "\ud800", "a\udfff", "\u202e", "é🦜", "x" * 5000, "[]", "{}", "null"]
    ),
    st.sampled_from(["1", "NaN", "user", "assistant", "tool", "[1", '{"a": 1}', '[{"role": "user"}]', "2026-01-02"]),
    st.sampled_from([[], {}, [[]], [{}], [None], {"": None}, [1, "a"], {"a": {"b": []}}, {"type": "text"}]),
    st.sampled_from([[True], [math.nan], [10**30], ["\ud800"], {"\ud800": 1}, {"type": "image_url", "image_url": {}}]),
    st.builds(deep, st.sampled_from([30, 900, 1500, 20_000]), st.sampled_from("[{")),
    st.sampled_from([CHAT, CHAT[2], BLOCKS[1], TOOLS, call({"a": 1}), call(None), STEP, HISTORY]),
    st.recursive(st.none() | st.text(max_size=4), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x)),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a record: its holder and the key or index."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            found += places(value[key])
    return found


@st.composite
def records(draw: st.DrawFn, format: str) -> Any:
    """A record of the format's shape with up to three places that are something else, missing, or there twice."""
    value: Any = deepcopy(draw(st.sampled_from(SHAPES[format])))
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from(places(value) or [([value], 0)]))
        how = draw(st.sampled_from(["odd", "odd", "odd", "missing", "more", "text"]))
        if how == "odd":
            holder[key] = deepcopy(draw(odd))
        elif how == "missing":
            del holder[key]
        elif how == "text":
            holder[key] = dumps(holder[key])
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(["extra", "name", "context", "weight", "reward", "\udc80", "id"]))] = deepcopy(
                draw(odd)
            )
        else:
            holder.insert(key, deepcopy(draw(odd)))
    return Twice(value) if isinstance(value, dict) and draw(st.integers(0, 9)) == 0 else value


def dumps(value: Any) -> str:
    """JSON with NaN, half surrogate pairs, keys that come twice, and what is nested deeply."""
    if isinstance(value, Deep):
        return str(value)
    if isinstance(value, dict):
        twice = [f"{json.dumps(key)}: 0" for key in value] if isinstance(value, Twice) else []
        return "{" + ", ".join([*twice, *(f"{json.dumps(key)}: {dumps(one)}" for key, one in value.items())]) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)


def check(format: str, file: Path, runs: Path, options: Options) -> Counts:
    """Import, and see that nothing is lost and nothing is silent. All set aside is bad data, the rest is no error."""
    try:
        counts = import_files(format, [str(file)], runs, options)
    except BadData as error:
        assert "nothing could be imported: all" in str(error)
        counts = None
    found = read_runs(runs)
    for row in found.rejected:
        assert row["file"] == str(file) and row["line"] >= 1 and row["reason"] and isinstance(row["raw"], str)
    if counts is None:
        assert found.rejected and not found.trajectories
        return Counts(read=len(found.rejected), set_aside=Counter(x=len(found.rejected)))
    assert counts.imported == len(found.trajectories) and counts.already == 0
    assert sum(counts.set_aside.values()) == len(found.rejected)
    assert counts.read == counts.imported + counts.duplicates + len(found.rejected)
    for row in found.trajectories:
        assert row["task_id"] and found.of(row)
        assert row["reward"] is None or math.isfinite(row["reward"])
        for text in (row["meta"], row["tools"], *(message["tool_calls"] for message in found.of(row))):
            assert text is None or json.loads(text) is not None
    return counts


@pytest.mark.parametrize("layout", ["lines", "array"])
@pytest.mark.parametrize("format", sorted(formats()))
@given(data=st.data())
def test_every_record_is_imported_a_duplicate_or_set_aside(format: str, layout: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(records(format), min_size=1, max_size=6))
    texts = [dumps(value) for value in values]
    options = Options(env=data.draw(st.sampled_from([None, "e"])), actor=data.draw(st.sampled_from([None, "a"])))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "12.json")
        if format == "intercode" and layout == "array":
            file.write_text("{" + ",\n".join(f'"{n}": {text}' for n, text in enumerate(texts)) + "}")
        else:
            file.write_text("\n".join(texts) if layout == "lines" else "[" + ",\n".join(texts) + "]")
        counts = check(format, file, Path(folder, "runs"), options)
        if layout == "lines" and format != "intercode" and len(texts) > 1:
            assert counts.read == len(texts)


@pytest.mark.parametrize("format", sorted(formats()))
def test_the_shapes_are_read(format: str, tmp_path: Path) -> None:
    """Else the test above would only look at what is refused at once."""
    good = 0
    for number, shape in enumerate(SHAPES[format]):
        (tmp_path / str(number)).mkdir()
        file = tmp_path / str(number) / "12.json"
        file.write_text(json.dumps({"1": shape} if format == "intercode" else [shape]))
        good += check(format, file, tmp_path / str(number) / "runs", Options()).imported
    assert good >= 1


def test_every_real_log_in_every_format(shared_data: Path, tmp_path: Path) -> None:
    files = sorted(path for path in (shared_data / "logs").rglob("*") if path.is_file())
    assert len(files) > 30
    for number, file in enumerate(files):
        for format in formats():
            check(format, file, tmp_path / f"{number}-{format}", Options())
