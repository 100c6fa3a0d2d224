"""The chat message: what is an action, and how rows and tool calls are read, in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trajkit.messages import from_row, is_action, read_calls

CHECKOUT = Path(__file__).resolve().parents[1]


def test_an_action_is_the_assistants_and_no_context() -> None:
    assert is_action({"role": "assistant", "content": "look"})
    assert is_action({"role": "assistant", "content": None, "context": None})
    assert not is_action({"role": "assistant", "content": "look", "context": True})
    assert not is_action({"role": "user", "content": "look"})
    assert not is_action({})


def test_null_is_absent_but_for_the_content() -> None:
    calls = [{"function": {"name": "look", "arguments": {}}}]
    row = {"role": "assistant", "content": None, "reasoning": None, "weight": 0.0, "tool_calls": None}
    assert from_row(row) == {"role": "assistant", "content": None, "weight": 0.0}
    made = from_row({"role": "assistant", "tool_calls": '[{"function": {"name": "look", "arguments": {}}}]'})
    assert made == {"role": "assistant", "content": None, "tool_calls": calls}


def test_tool_calls_are_read_as_text_and_as_they_are() -> None:
    calls = [{"id": "1"}]
    assert read_calls(calls) == read_calls('[{"id": "1"}]') == calls
    assert read_calls(None) == read_calls("") == read_calls([]) == []
    with pytest.raises(ValueError):
        read_calls("[")


def test_nobody_else_says_what_an_action_is() -> None:
    said = re.compile(r"""== "assistant" and not \w+(\["context"\]|\.get\("context"\))""")
    sources = (path for part in ("trajkit", "train", "envs") for path in (CHECKOUT / part).rglob("*.py"))
    assert [path.name for path in sources if said.search(path.read_text())] == ["messages.py"]
