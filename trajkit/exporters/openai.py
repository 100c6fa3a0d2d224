"""OpenAI's chat format for supervised fine-tuning: messages with a `weight` of 0 or 1 on the assistant's.

https://platform.openai.com/docs/guides/supervised-fine-tuning
A tool call has an id, its arguments are JSON as text, and its results follow it, each with its id.
"""

from __future__ import annotations

import json
import re

from trajkit.exporters._format import Note
from trajkit.exporters._rows import Message, Row, Unfit, with_reasoning

TRAINER = "OpenAI"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def example(example: Row, note: Note) -> Row:
    """The conversation, with tools where there are any."""
    messages = example["messages"]
    _check_results(messages)
    if with_reasoning(example):
        note("OpenAI's format has no field for reasoning: the file is without it")
    if any(not message["content"] and "tool_calls" not in message for message in messages):
        note("a message that says nothing: OpenAI's checks may refuse the file for it")
    called = [message["tool_calls"] for message in messages if "tool_calls" in message]
    if called and not example["tools"]:
        note("tool calls without tool definitions, which OpenAI asks for")
    line: Row = {"messages": [_turn(message) for message in messages]}
    if example["tools"]:
        line |= {"tools": example["tools"], "parallel_tool_calls": any(len(calls) > 1 for calls in called)}
    return line


def _check_results(messages: list[Message]) -> None:
    """Raise Unfit where a call has no result before the conversation goes on, or a result no call."""
    open_calls: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise Unfit("a tool's result without the id of a call right before it, which OpenAI asks for")
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            raise Unfit("a tool call without its result right after it, which OpenAI asks for")
        ids = [call.get("id") for call in message.get("tool_calls", ())]
        if not all(ids) or len(set(ids)) < len(ids):
            raise Unfit("a tool call without an id of its own, which OpenAI asks for")
        open_calls = set(ids)


def _turn(message: Message) -> Message:
    turn: Message = {"role": message["role"], "content": message["content"]}
    if message["role"] == "tool":
        return turn | {"tool_call_id": message["tool_call_id"]}
    if "name" in message:
        if not _NAME.fullmatch(message["name"]):
            raise Unfit("a speaker's name that is not of letters, digits, _ and -, which OpenAI asks for")
        turn["name"] = message["name"]
    if message["role"] == "assistant":
        turn["weight"] = int(message["weight"])
    if "tool_calls" in message:
        turn["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return turn


def _call(call: Row) -> Row:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": call["function"]["name"], "arguments": text}}
