"""ms-swift's formats: messages with a `loss` per assistant's message; pairs have rejected_messages beside them.

https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
A tool call is a message of its own (role tool_call, its content the JSON of name and arguments).
"""

from __future__ import annotations

import json

from trajkit.exporters._format import Note
from trajkit.exporters._rows import LINE_END, Message, Row, Unfit, calls, text_of_tools, with_reasoning

TRAINER = "ms-swift"


def pair(pair: Row, note: Note) -> Row:
    """Both conversations from their beginning; loss is true on the sides' actions and false on all before them."""
    _check(pair, pair["prompt"], note)
    line: Row = {}
    for prefix, side in (("", "chosen"), ("rejected_", "rejected")):
        line |= _conversation(pair, pair["prompt"] + pair[side], prefix)
    return line


def example(example: Row, note: Note) -> Row:
    """The conversation; loss is true on what is trained on."""
    _check(example, example["messages"], note)
    note(LINE_END.format(TRAINER))
    return _conversation(example, example["messages"])


def _check(row: Row, messages: list[Message], note: Note) -> None:
    if any(message["role"] == "system" for message in messages[1:]):
        raise Unfit("a system message that is not the first: ms-swift takes one at the beginning")
    if with_reasoning(row):
        note("ms-swift has no field for reasoning: the file is without it")


def _conversation(row: Row, messages: list[Message], prefix: str = "") -> Row:
    line: Row = {f"{prefix}messages": [turn for message in messages for turn in _turns(message)]}
    return line | ({f"{prefix}tools": tools} if (tools := text_of_tools(row)) else {})


def _turns(message: Message) -> list[Message]:
    if message["role"] != "assistant":
        return [{"role": message["role"], "content": message["content"]}]
    said = [("assistant", message["content"])] if message["content"] or "tool_calls" not in message else []
    said += [("tool_call", json.dumps(call, ensure_ascii=False)) for call in calls(message)]
    return [{"role": role, "content": content, "loss": bool(message["weight"])} for role, content in said]
