"""JSON Lines (or an array) of chats in OpenAI's format, with reward, success and task id beside them.

https://platform.openai.com/docs/api-reference/chat. Flags map the fields; a dotted path goes inside
(`info.reward`). Everything else that a record says is kept in `meta`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from trajkit.errors import BadRecord
from trajkit.importers._format import Options
from trajkit.importers._messages import Json, begun, chat, json_type, keys, listed, truth
from trajkit.importers._outcome import outcome
from trajkit.importers._source import Raw, SourceFile, Window, elements
from trajkit.messages import is_action
from trajkit.runs.records import Record, record, to_json
from trajkit.runs.schema import ENDED

FILES = ("*.jsonl", "*.json")
FIELDS = {
    "messages": "messages",
    "task-id": "task_id",
    "reward": "reward",
    "success": "success",
    "sample": "sample",
    "tools": "tools",
}
_TEXTS = ("env", "split", "actor", "error")


def recognises(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("messages"), list)


def records(file: SourceFile) -> Iterator[Raw]:
    """The records; an array of nothing but messages is one conversation."""
    window = Window(file)
    array = file.span is None and window.peek() == "["
    found = elements(file, window)
    first = next(found, None)
    if first is None:
        return
    if not array or not _is_message(first.value):
        yield first
        yield from found
        return
    messages = [first, *found]
    broken = next((raw for raw in messages if raw.error is not None or not _is_message(raw.value)), None)
    if broken is not None and broken.error is None:
        yield from messages
        return
    text = f"[{','.join(raw.text for raw in messages)}]"
    whole = [raw.value for raw in messages]
    rounded = any(raw.rounded for raw in messages)
    yield Raw(first.line, "0", text, whole, broken and broken.error, rounded)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value and "messages" not in value


def convert(raw: Raw, file: SourceFile, options: Options) -> Record:
    item = raw.value
    if isinstance(item, list) and item and all(map(_is_message, item)):
        item = {"messages": item}  # a conversation with nothing beside it
    if not isinstance(item, dict):
        raise BadRecord(f"it is a JSON {json_type(item)}: an object with `messages` is needed")
    rest = dict(item)
    if options.fields:
        named = options.fields
        found = {name: _take(rest, named.get(name, path), name in named) for name, path in FIELDS.items()}
    else:
        found = {name: rest.pop(path, None) for name, path in FIELDS.items()}
    notes: set[str] = set()
    said_messages = listed(found["messages"])
    if not isinstance(said_messages, list):
        where = options.fields.get("messages", "messages")
        raise BadRecord(
            f"it has no list of messages at `{where}` (--messages-field says where): its keys are {keys(item)}"
        )
    messages, besides = chat(said_messages, notes)
    said = {key: rest.pop(key) for key in _TEXTS if isinstance(rest.get(key), str) and rest[key]}
    ended = rest.pop("ended") if rest.get("ended") in ENDED else None
    if ended is None and "error" in said:
        ended = "error"  # what failed is no outcome, whatever its reward
    env = options.env or said.get("env")
    task_id = found["task-id"]
    if task_id is None:
        task_id = f"{env or 'openai'}/{start_digest(messages)}"
    elif isinstance(task_id, int) and not isinstance(task_id, bool):
        task_id = str(task_id)
    if isinstance(task_id, str) and task_id:
        task_id = begun(options, task_id)
    if besides:
        rest["messages"] = besides
    reward, success = outcome(found["reward"], truth(found["success"]), notes)
    return record(
        task_id=task_id,
        env=env,
        split=options.split or said.get("split"),
        role=options.role,
        actor=options.actor or said.get("actor"),
        iteration=options.iteration,
        sample=0 if found["sample"] is None else found["sample"],
        messages=messages,
        reward=reward,
        success=success,
        ended=ended,
        error=said.get("error"),
        tools=found["tools"] or None,
        meta=rest,
        notes=notes,
    )


def _take(item: Json, path: str, named: bool) -> Any:
    """Take the value at a dotted path out of `item`, whose inner objects are copied, not changed."""
    if path in item:
        return item.pop(path)
    holder = item
    *folders, last = path.split(".")
    for folder in folders:
        inner = holder.get(folder)
        if not isinstance(inner, dict):
            break
        holder[folder] = dict(inner)
        holder = holder[folder]
    else:
        if last in holder:
            return holder.pop(last)
    if named:
        raise BadRecord(f"it has no `{path}`, which a flag names")
    return None


def start_digest(messages: list[Json]) -> str:
    """A digest of what comes before the first action: the same start is the same task."""
    start = []
    for message in messages:
        if is_action(message):
            break
        start.append([message.get("role"), message.get("content")])
    return hashlib.sha256(to_json(start).encode("utf-8", "surrogatepass")).hexdigest()[:16]
