"""Trajectory ids and digests are those of the standard library's JSON, whatever writes them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trajkit.runs.records import actions_digest, record
from trajkit.runs.schema import MESSAGES

texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["\x00\x1f\x7f", '"\\/', "\u2028\u2029", "🦜é"]
)
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [1e16, 1e-5, 1e-4, -0.0, 9999999999999998.0]
)
plain = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts})
calls = st.lists(st.fixed_dictionaries({"id": texts, "function": st.dictionaries(texts, texts | floats)}), min_size=1)
rich = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts},
    optional={
        "reasoning": texts,
        "tool_calls": calls,
        "name": texts,
        "context": st.booleans(),
        "weight": st.none() | st.sampled_from([0, 0.5, 1]),
        "token_ids": st.lists(st.integers(0, 2**31 - 1), max_size=3),
        "logprobs": st.lists(st.floats(-1e20, 0), max_size=3),
    },
)
chats = st.lists(plain, min_size=1, max_size=5) | st.lists(plain | rich, min_size=1, max_size=5)


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@given(messages=chats, task_id=texts.filter(bool), reward=st.none() | floats, branch=st.integers(0, 3))
def test_ids_are_those_of_the_standard_library(messages: Any, task_id: str, reward: Any, branch: int) -> None:
    made = record(
        task_id=task_id, role="policy", messages=messages, reward=reward, branch_step=branch, first_seq=branch
    )
    names = [field.name for field in MESSAGES if field.name != "trajectory_id"]
    rows, step, digest = [], branch, hashlib.md5()
    for position, message in enumerate(messages):
        calls = message.get("tool_calls")
        row = dict.fromkeys(names) | message | {"seq": branch + position, "step": step}
        row |= {"tool_calls": compact(calls) if calls else None, "context": message.get("context") or None}
        row["weight"] = None if row["context"] else row["weight"]
        rows.append(row)
        if message["role"] == "assistant" and not message.get("context"):
            step += 1
            functions = compact([call["function"] for call in calls]) if calls else ""
            text = "\x1f".join((message["content"], message.get("reasoning") or "", functions))
            digest.update(hashlib.md5(text.encode()).hexdigest().encode())
    assert made.trajectory["actions_digest"] == actions_digest(messages)
    assert made.trajectory["n_steps"] == step - branch
    others = ("trajectory_id", "created_at", "meta", "import_id")
    identity = {key: value for key, value in made.trajectory.items() if key not in others}
    identity["actions_digest"] = digest.hexdigest()  # with the calls as they are written, whatever is equal
    told = [[row[name] for name in names if name != "weight"] for row in rows]  # which is no part of an id
    expected = hashlib.sha256(compact([identity, told]).encode()).hexdigest()[:32]
    assert made.trajectory["trajectory_id"] == expected
    assert made.messages == [row | {"trajectory_id": expected} for row in rows]
