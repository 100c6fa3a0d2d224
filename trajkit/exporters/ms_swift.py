"""ms-swift's RLHF format: messages and rejected_messages, whole conversations with a `loss` per assistant's message.

https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
A tool call is a message of its own (role tool_call, its content the JSON of name and arguments).
"""

from __future__ import annotations

import json
from typing import Any

from trajkit.exporters import Note
from trajkit.exporters._rows import Message, Row, Unfit, calls, with_reasoning

TRAINER = "ms-swift"


def pair(pair: Row, note: Note) -> Row:
    """Both conversations from their beginning; loss is true on the sides' actions and false on all before them."""
    if any(message["role"] == "system" for message in pair["prompt"][1:]):
        raise Unfit("a system message that is not the first: ms-swift takes one at the beginning")
    if with_reasoning(pair):
        note("ms-swift has no field for reasoning: the file is without it")
    prompt = [turn for message in pair["prompt"] for turn in _turns(message)]
    line: dict[str, Any] = {}
    for prefix, side in (("", "chosen"), ("rejected_", "rejected")):
        line[f"{prefix}messages"] = [*prompt, *(turn for message in pair[side] for turn in _turns(message))]
        if pair["tools"]:
            line[f"{prefix}tools"] = json.dumps(pair["tools"], ensure_ascii=False)
    return line


def _turns(message: Message) -> list[Message]:
    if message["role"] != "assistant":
        return [{"role": message["role"], "content": message["content"]}]
    said = [("assistant", message["content"])] if message["content"] or "tool_calls" not in message else []
    said += [("tool_call", json.dumps(call, ensure_ascii=False)) for call in calls(message)]
    return [{"role": role, "content": content, "loss": bool(message["weight"])} for role, content in said]
