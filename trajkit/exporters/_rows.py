"""A row as the formats get it: messages as in OpenAI's chat format, with what has to be read from JSON read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

Message = dict[str, Any]
Row = dict[str, Any]

# What several trainers do otherwise than train/.
LINE_END = "{} also trains on what the chat template writes behind a trained turn's stop token (a line end)"

_SIDES = ("chosen", "rejected")
_LISTS = ("messages", "prompt", *_SIDES)


class Unfit(ValueError):
    """A format cannot hold a row: the reason, and what to do instead."""


def row(values: Row) -> Row:
    """A row of the Parquet file with its JSON parsed.

    tools is a list, or None where there are none. A message has only the keys that it has a value for, but always
    role, content (None only beside tool_calls) and weight, from 0 to 1. Examples and sides of a pair end with
    their last trained message: what the environment said after it is context for nothing.
    Raises ValueError with what is wrong: JSON that is none, a list without a trained message, a weight that is not
    from 0 to 1 or not on the assistant's message.
    """
    parsed = dict(values)
    parsed["tools"] = _json(values["tools"], "tools") or None
    for name in _LISTS:
        if name in values:
            parsed[name] = [_message(message, name) for message in values[name] or []]
            check_weights(parsed[name], name)
    for name in ("messages", *_SIDES):
        if name in parsed:
            trained = [at for at, message in enumerate(parsed[name]) if message["weight"]]
            if not trained:
                raise ValueError(f"{name}: it has no action (every weight is 0)")
            parsed[name] = parsed[name][: trained[-1] + 1]
    return parsed


def check_weights(messages: list[Message], name: str) -> None:
    """Raise ValueError for a weight that no trainer could take."""
    for message in messages:
        weight = message.get("weight") or 0
        if not 0 <= weight <= 1:
            raise ValueError(f"{name}: a loss weight of {weight:g}; other trainers take 0 to 1")
        if weight and message["role"] != "assistant":
            raise ValueError(f"{name}: a loss weight on a message that is not the assistant's")


def check_on_or_off(row: Row, trainer: str) -> None:
    """Raise Unfit for a loss weight between 0 and 1, which a trainer whose masks are on or off cannot have."""
    if any(message.get("weight") not in (None, 0, 1) for name in _LISTS for message in row.get(name, ())):
        raise Unfit(
            f"a loss weight between 0 and 1, which {trainer} cannot give in this form "
            "(--to llamafactory and --to datasets keep it, and train/ trains with it)"
        )


def check_text(row: Row) -> None:
    """Raise Unfit for text that is none, which only what was JSON can hold."""
    parsed = [row["tools"], *(one.get("tool_calls") for name in _LISTS for one in row.get(name, ()))]
    try:
        for value in filter(None, parsed):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Unfit("half a surrogate pair in a tool call: that is no text, and no trainer could read it") from error


def actions(example: Row) -> Iterator[Row]:
    """The example once for each trained message, up to it, with no other message trained on."""
    messages = example["messages"]
    for at, message in enumerate(messages):
        if message["weight"]:
            before = [one | {"weight": 0.0} for one in messages[:at]]
            yield example | {"messages": [*before, message]}


def calls(message: Message) -> list[dict[str, Any]]:
    """The message's tool calls as {"name": ..., "arguments": {...}}. Raises Unfit where arguments are no object."""
    found = []
    for call in message.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        if not isinstance(arguments, dict):
            raise Unfit("a tool call whose arguments are no JSON object, which the format asks for (--to trl keeps it)")
        found.append({"name": call["function"]["name"], "arguments": arguments})
    return found


def with_reasoning(row: Row) -> bool:
    """Whether a message of the pair or example has reasoning apart from its content."""
    return any("reasoning" in message for name in _LISTS for message in row.get(name, ()))


def text_of_tools(row: Row) -> str | None:
    """The tool definitions as JSON; None where there are none.

    As nested objects, a table of them would give every tool every other tool's keys.
    """
    return json.dumps(row["tools"], ensure_ascii=False) if row["tools"] else None


def single_action(pair: Row, trainer: str, instead: str) -> None:
    """Raise Unfit for a pair with a side of more than one message; `instead` is the format that takes those."""
    if any(len(pair[side]) > 1 for side in _SIDES):
        raise Unfit(
            f"a side of several actions: {trainer} takes one message a side. `trajkit select --method eto_step` makes "
            f"pairs of single actions; {instead} takes these as they are"
        )


def _message(values: Message, name: str) -> Message:
    message = {key: value for key, value in values.items() if value is not None}
    if calls := _json(message.pop("tool_calls", None), f"{name}: tool_calls"):
        message["tool_calls"] = [_call(call, name) for call in calls]
        message.setdefault("content", None)
    else:
        message.setdefault("content", "")
    message.setdefault("weight", 0.0)
    return message


def _call(call: Any, name: str) -> dict[str, Any]:
    """The call with its arguments as the object that they are the JSON of (or as they are where they are none)."""
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict) or "name" not in function:
        raise ValueError(f"{name}: a tool call without a function's name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError):  # what the model wrote is no JSON: it stays text
            arguments = json.loads(arguments, parse_constant=_no_number)
    return {**call, "function": {**function, "arguments": arguments}}


def _json(text: str | None, what: str) -> list[Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"{what}: no JSON ({error})") from error
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{what}: a list is needed")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
