"""MINT's results (ALFWorld and its other tasks): a JSON line per task with the conversation as state.history.

https://github.com/xingyaoww/mint-bench. Actions are Python in <execute> or an answer in <solution>;
the in-context example is text inside the first message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trajkit.errors import BadRecord
from trajkit.importers._format import Options
from trajkit.importers._messages import chat, field, without
from trajkit.importers._source import Raw, SourceFile, elements
from trajkit.runs.records import Record, record

FILES = ("*.jsonl", "*.json")

# Both budgets, of steps and of proposed solutions, end an episode that was not solved.
_ENDED = {"task_success": "done", "max_steps": "max_steps", "max_propose_steps": "max_steps"}


def recognises(value: Any) -> bool:
    state = value.get("state") if isinstance(value, dict) else None
    return isinstance(state, dict) and "history" in state and "task" in value


def records(file: SourceFile) -> Iterator[Raw]:
    return elements(file)


def convert(raw: Raw, file: SourceFile, options: Options) -> Record:
    state = field(raw.value, "state", dict, "a line of MINT")
    task = field(raw.value, "task", dict, "a line of MINT")
    history = field(state, "history", list, "`state` of MINT")
    notes: set[str] = set()
    messages, besides = chat(history, notes)
    task_id = task.get("task_id")
    if isinstance(task_id, bool) or not isinstance(task_id, (str, int)):
        raise BadRecord(f"`task.task_id` is {task_id!r}: a text or a number is needed")
    env = options.env or field(task, "task_name", str, "`task` of MINT").partition("/")[0]
    error = state.get("error")
    reason = state.get("terminate_reason")
    meta = without(raw.value, "state", "task")
    meta["state"] = without(state, "history", "success", "error")
    latest = state.get("latest_output")
    if isinstance(latest, dict) and any(m.get("content") == latest.get("content") for m in messages):
        meta["state"].pop("latest_output")  # nothing but the last observation again
    meta["task"] = without(task, "task_id", "prompt") if _repeats(task, messages) else without(task, "task_id")
    if besides:
        meta["messages"] = besides
    return record(
        task_id=f"{env}/{task_id}",
        env=env,
        split=options.split,
        role=options.role,
        actor=options.actor,
        iteration=options.iteration,
        messages=messages,
        success=state.get("success"),
        ended="error" if error is not None else _ENDED.get(reason) if isinstance(reason, str) else None,
        error=None if error is None else str(error),
        meta=meta,
        notes=notes,
    )


def _repeats(task: dict[str, Any], messages: list[dict[str, Any]]) -> bool:
    prompt, first = task.get("prompt"), messages[0].get("content") if messages else None
    return isinstance(prompt, str) and isinstance(first, str) and prompt in first
