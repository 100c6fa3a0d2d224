"""Tool calls in every dialect, as OpenAI's chat format has them.

That is {"id", "type": "function", "function": {"name", "arguments"}}, the arguments being JSON as text. Read are also
Inspect's ({"function": "name", "arguments": {...}}), a function that is JSON as text, calls without a `function`
({"name", "arguments"}, LangChain's `args`, Anthropic's `input`) and the old `function_call`. A call that is in
OpenAI's form already stays as it is, to the letter, so that an old log keeps its ids.
"""

from __future__ import annotations

import json
from typing import Any

from trajkit.errors import BadRecord
from trajkit.runs.records import to_json

Json = dict[str, Any]

TWICE = "have a tool call whose arguments were encoded twice; they were decoded once more"
_ARGUMENTS = ("arguments", "args", "input", "parameters")


def tool_calls(calls: Any, position: int, notes: set[str]) -> tuple[list[Json], list[Json]]:
    """A message's calls, and what those that were rewritten said besides, for `meta`; a list as JSON text is read.

    `notes` gets what the user should know of how they were read. Raises BadRecord for what is no list of calls.
    """
    if isinstance(calls, str):
        calls = _decoded(calls)
        if calls is None:
            raise BadRecord(f"message {position} has tool_calls that are no JSON")
    if isinstance(calls, list):
        calls = [_decoded(call) if isinstance(call, str) else call for call in calls]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRecord(f"message {position} has tool_calls that are no list of objects")
    made, besides = [], []
    for number, call in enumerate(calls):
        one, more = _read(call, f"call_{position}_{number}", position, notes)
        made.append(one)
        if more:
            besides.append({"id": one.get("id"), **more})
    return made, besides


def made(id: Any, name: str, arguments: Any, notes: set[str]) -> Json:
    """A call in OpenAI's form; `arguments` are an object, or JSON as text, or None for no arguments."""
    arguments = _arguments(arguments, notes)
    text = arguments if isinstance(arguments, str) else to_json(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}}


def _read(call: Json, new_id: str, position: int, notes: set[str]) -> tuple[Json, Json]:
    function = call.get("function")
    if isinstance(function, str) and isinstance(inner := _decoded(function), dict):
        of, given = inner, "function"
    elif isinstance(function, str):
        of, given = call | {"name": function}, "function"
    elif isinstance(function, dict):
        of, given = function, ""
    else:
        of, given = call, "name" if "name" in call else "function_name"
    name = of.get("name", of.get("function_name"))
    if not isinstance(name, str) or (given and not name):
        raise BadRecord(f"message {position} has a tool call without a function's name")
    key = next((key for key in _ARGUMENTS if of.get(key) is not None), "arguments")
    if not given and key == "arguments":
        arguments = _arguments(of.get(key), notes)
        if "arguments" in of and arguments is of["arguments"]:
            return call, {}
        return call | {"function": of | {"arguments": arguments}}, {}
    id_key = "id" if call.get("id") else "tool_call_id"
    one = made(call.get(id_key) or new_id, name, of.get(key), notes)
    known = {"type", "function", "name", "function_name", key, id_key}
    return one, {name: value for name, value in call.items() if name not in known and value not in (None, "", [], {})}


def _arguments(arguments: Any, notes: set[str]) -> Any:
    """Arguments as they are, but {} for none and decoded once more where that gives an object."""
    if arguments is None:
        return "{}"
    if isinstance(arguments, str):
        text = arguments.strip()
        if text in ("", "null"):
            return "{}"
        if text[0] == '"' and isinstance(inner := _decoded(text), str) and isinstance(_decoded(inner), dict):
            notes.add(TWICE)
            return inner
    return arguments


def _decoded(text: str) -> Any:
    """What the text is the JSON of; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
