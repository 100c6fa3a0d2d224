"""Chat messages in OpenAI's format, as logs write them, made ready for `trajkit.records`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from trajkit.errors import BadRecord

Json = dict[str, Any]

_KNOWN = {"role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "context", "token_ids", "logprobs"}
_AS_IS = frozenset(("system", "user", "assistant", "tool"))


def field(value: Any, key: str, kind: type, of: str) -> Any:
    """`value[key]`, which must be a `kind`. Raises BadRecord naming what `of` should have held."""
    if not isinstance(value, dict):
        raise BadRecord(f"it is a JSON {json_type(value)}: {of} is an object")
    if key not in value:
        raise BadRecord(f"it has no `{key}`: {of} has one. Its keys: {keys(value)}")
    found = value[key]
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise BadRecord(f"`{key}` is a JSON {json_type(found)}: {of} has {_NAMES[kind]}")
    return found


def keys(value: Mapping[str, Any]) -> str:
    """An object's first keys, for an error message."""
    shown = ", ".join(f"`{key[:40]}`" for key in list(value)[:10])
    return (shown or "none") + (", ..." if len(value) > 10 else "")


def truth(value: Any) -> Any:
    """A verdict: 0 and 1 are read as false and true, the rest is left to `records.record`."""
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else value


def chat(messages: list[Any]) -> tuple[list[Json], dict[str, Json]]:
    """Messages for `records.record`, and by position what they said besides, for `meta`.

    Content in parts is joined when all of them are text; an image or a sound raises BadRecord, as
    the tables hold text. `reasoning_content` is read as `reasoning`, role developer as system. An
    assistant message of weight 0 (OpenAI's "do not train on it") becomes context.
    """
    with suppress(KeyError, TypeError):
        contents, roles = [message["content"] for message in messages], [message["role"] for message in messages]
        if {*map(len, messages)} == {2} and {*map(type, contents)} == {str} and _AS_IS.issuperset(roles):
            return messages, {}
    rows: list[Json] = []
    rest: dict[str, Json] = {}
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRecord(f"message {position} is a JSON {json_type(message)}: an object is needed")
        if message.get("function_call"):
            raise BadRecord(f"message {position} has the old function_call: tool_calls is needed")
        row: Json = {}
        besides: Json = {}
        for key, value in message.items():
            if value is None:
                continue
            if key in _KNOWN:
                row[key] = value
            elif key == "reasoning_content" and not message.get("reasoning"):
                row["reasoning"] = value
            elif key == "weight" and value in (0, 1) and message.get("role") == "assistant":
                if value == 0:
                    row["context"] = True
            elif value not in ("", [], {}):
                besides[key] = value
        role = row.get("role")
        if role == "developer":
            row["role"] = "system"
        if isinstance(row.get("content"), list):
            row["content"] = joined(row["content"], position)
        if "tool_calls" in row:
            row["tool_calls"] = tool_calls(row["tool_calls"], position)
        if besides:
            rest[str(position)] = besides
        rows.append(row)
    return rows, rest


def joined(parts: list[Any], position: int) -> str:
    """Content in parts as one text. Raises BadRecord for a part that is no text."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else json_type(part)
            raise BadRecord(f"message {position} has a content part of type {kind!r}: only text can be read")
        texts.append(text)
    return "".join(texts)


def tool_calls(calls: Any, position: int) -> list[Json]:
    """Tool calls as a list of objects; a list written as JSON is read."""
    if isinstance(calls, str):
        try:
            calls = json.loads(calls)
        except (ValueError, RecursionError):
            raise BadRecord(f"message {position} has tool_calls that are no JSON") from None
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRecord(f"message {position} has tool_calls that are no list of objects")
    return calls


def without(value: Mapping[str, Any], *keys: str) -> Json:
    """What a record says besides `keys`: for `meta`, so that nothing is lost."""
    return {key: found for key, found in value.items() if key not in keys}


def json_type(value: Any) -> str:
    """What JSON calls a value's type."""
    return _NAMES.get(type(value), "null").split()[-1]


_NAMES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}
