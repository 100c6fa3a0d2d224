"""Chat messages in OpenAI's format, as logs write them, made ready for `trajkit.runs.records`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from trajkit.errors import BadRecord
from trajkit.importers._calls import tool_calls

if TYPE_CHECKING:
    from trajkit.importers._format import Options

Json = dict[str, Any]

_KNOWN = {"role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "context", "token_ids", "logprobs"}
_TEXT_PARTS = ("text", "input_text", "output_text")
# By which logs and training data say how much loss a message gets; of `turn_mask`, 1 is none.
LOSS_MARKS = ("weight", "training", "train", "loss", "loss_weight", "step_loss_mask", "turn_mask")
_AS_IS = frozenset(("system", "user", "assistant", "tool"))


def field(value: Any, key: str, kind: type, of: str) -> Any:
    """`value[key]`, which must be a `kind`. Raises BadRecord naming what `of` should have held."""
    if not isinstance(value, dict):
        raise BadRecord(f"it is a JSON {json_type(value)}: {of} is an object")
    if key not in value:
        raise BadRecord(f"it has no `{key}`: {of} has one. Its keys: {keys(value)}")
    found = listed(value[key]) if kind is list else value[key]
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


def chat(messages: list[Any], notes: set[str]) -> tuple[list[Json], dict[str, Json]]:
    """Messages for `records.record`, and by position what they said besides, for `meta`.

    Read are OpenAI's messages, the old function_call and role function, and Anthropic's blocks: a message of tool
    results becomes a message each. Content in parts is joined when all of them are text; an image or a sound raises
    BadRecord, as the tables hold text. `reasoning_content` is read as `reasoning`, role developer as system. A mark
    that says how much loss an assistant's message gets (LOSS_MARKS) becomes its `weight`. What the assistant says
    before anybody else is context. `notes` gets what the user should know of how they were read.
    """
    with suppress(KeyError, TypeError):
        contents, roles = [message["content"] for message in messages], [message["role"] for message in messages]
        if {*map(len, messages)} == {2} and {*map(type, contents)} == {str} and _AS_IS.issuperset(roles):
            return greeted(messages), {}
    rows: list[Json] = []
    rest: dict[str, Json] = {}
    last_call = None  # the id of the old function_call that the next function message answers
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRecord(f"message {position} is a JSON {json_type(message)}: an object is needed")
        results, row, besides = _read(message, position, notes)
        if message.get("role") == "function":
            row["role"] = "tool"
            if last_call is not None and "tool_call_id" not in row:
                row["tool_call_id"] = last_call
        if message.get("function_call") and row.get("tool_calls"):
            last_call = row["tool_calls"][0].get("id")
        if besides:
            rest[str(len(rows))] = besides
        rows += results
        if row:
            rows.append(row)
    return greeted(rows), rest


def _read(message: Json, position: int, notes: set[str]) -> tuple[list[Json], Json, Json]:
    """The tool results in a message, each as a message, then itself (empty: it held nothing else), and what is left."""
    row: Json = {}
    besides: Json = {}
    assistant = message.get("role") == "assistant"
    for key, value in message.items():
        if value is None:
            continue
        if key in _KNOWN:
            row[key] = value
        elif key in ("reasoning_content", "thinking") and isinstance(value, str) and "reasoning" not in row:
            if not message.get("reasoning"):
                row["reasoning"] = value
            elif value:
                besides[key] = value
        elif key == "function_call" and assistant and not message.get("tool_calls"):
            row["tool_calls"] = [value]
        elif key in LOSS_MARKS and assistant:
            continue
        elif key in ("train_detail", "training_detail") and assistant:
            raise BadRecord(f"message {position} has loss marks on parts of it (`{key}`), which cannot be kept")
        elif key == "function" and message.get("role") == "tool" and isinstance(value, str):
            row.setdefault("name", value)  # Inspect's
        elif value not in ("", [], {}):
            besides[key] = value
    if row.get("role") == "developer":
        row["role"] = "system"
    results: list[Json] = []
    if isinstance(row.get("content"), list):
        results = _parts(row, besides, position, notes)
        if not row:
            return results, row, besides
    if "tool_calls" in row:
        if message.get("function_call") and not message.get("tool_calls") and isinstance(message["function_call"], str):
            row["tool_calls"] = [message["function_call"]]
        row["tool_calls"], more = tool_calls(row["tool_calls"], position, notes)
        if more:
            besides["tool_calls"] = more
    if assistant and (weight := _loss_mark(message, position)) is not None:
        row["weight"] = weight
    return results, row, besides


def _parts(row: Json, besides: Json, position: int, notes: set[str]) -> list[Json]:
    """Put content in parts into `row`: text, reasoning and calls. Returns the tool results among them as messages."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Any] = []
    results: list[Json] = []
    kept: list[Json] = []
    for part in row["content"]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("tool_use", "tool_call") and row.get("role") == "assistant":
            calls.append(part["value"] if isinstance(part.get("value"), str) else part)  # LLaMA-Factory's are JSON
            continue
        if kind == "tool_result" and row.get("role") in ("user", "tool"):
            said = part.get("content")
            text = joined(said, position) if isinstance(said, list) else said
            if text is not None and not isinstance(text, str):
                raise BadRecord(
                    f"message {position} has a tool result that is a JSON {json_type(text)}: text is needed"
                )
            results.append({"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": text or ""})
            more = without(part, "type", "content", "tool_use_id")
        elif kind in ("thinking", "reasoning") and isinstance(thought := _thought(part, kind), str):
            thoughts.append(thought)
            more = without(part, "type", kind, "text", "value")
        elif kind == "redacted_thinking":
            more = without(part, "type")
        else:
            texts.append(joined([part], position))
            more = without(part, "type", "text", "value")
        if more := {key: value for key, value in more.items() if value not in (None, False, "", [], {})}:
            kept.append({"type": kind, **more})
    if kept:
        besides["content"] = kept
    if calls:
        if row.get("tool_calls"):
            raise BadRecord(f"message {position} has tool calls both in `content` and in `tool_calls`")
        row["tool_calls"] = calls
    if thoughts and not row.get("reasoning"):
        row["reasoning"] = "\n".join(thoughts)
    if results and not texts:
        row.clear()
    elif texts or not calls:
        row["content"] = "".join(texts)
    else:
        row["content"] = None
    return results


def _thought(part: Json, kind: str) -> Any:
    """The text of a part of reasoning, whoever wrote it."""
    return next((part[key] for key in (kind, "text", "value") if part.get(key) is not None), None)


def _loss_mark(message: Json, position: int) -> float | None:
    """How much loss the message's own marks give it, from 0 to 1; None where it has none."""
    found: set[float] = set()
    for key in LOSS_MARKS:
        value = message.get(key)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise BadRecord(f"message {position} has a loss mark `{key}` of {str(value)[:40]!r}: 0 to 1 is needed")
        found.add(1.0 - value if key == "turn_mask" else float(value))
    if len(found) > 1:
        raise BadRecord(f"message {position} has loss marks that contradict each other")
    return found.pop() if found else None


def greeted(messages: list[Json]) -> list[Json]:
    """The messages, of which those that the assistant says before anybody else are context: nobody asked for them."""
    rows = list(messages)
    for at, message in enumerate(rows):
        if message.get("role") != "assistant":
            break
        rows[at] = message | {"context": True}
    return rows if rows and rows[0].get("context") else messages


def joined(parts: list[Any], position: int) -> str:
    """Content in parts as one text. Raises BadRecord for a part that is no text."""
    texts = []
    for part in parts:
        text = (
            part.get("text", part.get("value")) if isinstance(part, dict) and part.get("type") in _TEXT_PARTS else None
        )
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else json_type(part)
            raise BadRecord(f"message {position} has a content part of type {kind!r}: only text can be read")
        texts.append(text)
    return "".join(texts)


def listed(value: Any) -> Any:
    """A list that is written as JSON text, as large data sets store their messages; anything else as it is."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            if isinstance(found := json.loads(value), list):
                return found
    return value


def begun(options: Options, task_id: str) -> str:
    """The task id, begun with the name that `--env` gives the environment."""
    env = options.env
    return task_id if env is None or f"{task_id}/".startswith(f"{env}/") else f"{env}/{task_id}"


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
