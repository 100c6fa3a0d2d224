"""InterCode's logs (SQL and Bash): multi-turn, single-turn, plan & solve, and played by a human.

https://github.com/princeton-nlp/intercode. All of one dataset's logs agree on the task ids, so that
an expert's log and a policy's meet. The reward is InterCode's own metric, the largest reward of an
episode; the environment gives no other verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from trajkit.errors import BadRecord
from trajkit.importers._format import Options
from trajkit.importers._messages import Json, field, json_type, without
from trajkit.importers._outcome import outcome
from trajkit.importers._source import Raw, SourceFile, Window, elements, members
from trajkit.runs.records import Record, record

FILES = ("*.json",)


def recognises(value: Any) -> bool:
    if isinstance(value, dict) and "query" not in value:  # a whole log
        tasks = value.get("logs", value)
        value = next(iter(tasks.values()), None) if isinstance(tasks, dict) else None
    return isinstance(value, dict) and "query" in value and ("turn_history" in value or "trajectory" in value)


def records(file: SourceFile) -> Iterator[Raw]:
    """The tasks of a log: {task: {...}}, or {"meta": {...}, "logs": {task: {...}}} of plan & solve."""
    window = Window(file)
    if window.peek() != "{":  # another format's file: let `convert` say so
        yield from elements(file, window)
        return
    experiment: Json | None = None
    begun = False
    for raw in members(window, inner="logs"):
        if raw.key == "meta" and isinstance(raw.value, dict) and not recognises(raw.value) and not begun:
            experiment = raw.exact().value
            continue
        begun = True
        if experiment is not None:
            raw = raw.exact()
        if experiment is not None and isinstance(raw.value, dict):
            raw = raw._replace(value={**raw.value, "experiment": experiment})
        yield raw


def convert(raw: Raw, file: SourceFile, options: Options) -> Record:
    task = raw.value
    environment = field(task, "environment", str, "a task in InterCode's log")
    query = field(task, "query", str, "a task in InterCode's log")
    if "turn_history" in task:
        index, turns, reward, ended, meta = _agent(task)
    elif "trajectory" in task:
        index, turns, reward, ended, meta = _human(task)
    else:
        raise BadRecord("it has neither `turn_history` nor `trajectory`: a task in InterCode's log has one of them")
    notes: set[str] = set()
    reward, success = outcome(reward, None, notes)
    messages: list[Json] = [{"role": "user", "content": query}]
    for action, observation in turns:
        messages.append({"role": "assistant", "content": action})
        if observation is not None:
            messages.append({"role": "user", "content": observation})
    env = options.env or f"intercode_{environment.removeprefix('ic_')}"
    # Bash has several file systems, each with tasks 0, 1, ... SQL has only Spider, which the human log does not name.
    dataset = task.get("dataset")
    part = f"{PurePosixPath(dataset).stem}/" if isinstance(dataset, str) and environment != "ic_sql" else ""
    return record(
        task_id=f"{env}/{part}{index}",
        env=env,
        split=options.split,
        role=options.role,
        actor=options.actor,
        iteration=options.iteration,
        messages=messages,
        reward=reward,
        success=success,
        ended=ended,
        meta=meta,
        notes=notes,
    )


Parts = tuple[int, list[tuple[str, str | None]], Any, str | None, Json]


def _agent(task: Json) -> Parts:
    index = field(task, "task_id", int, "a task in InterCode's log")
    history = field(task, "turn_history", dict, "a task in InterCode's log")
    actions = _texts(history, "actions")
    observations: list[str | None] = [*_texts(history, "observations")]
    if len(observations) == len(actions) - 1:  # it ended before the last one was answered
        observations.append(None)
    if len(observations) != len(actions):
        raise BadRecord(
            f"it has {len(actions)} actions and {len(observations)} observations: which belong together cannot be told"
        )
    summary = task.get("summary")
    summary = summary if isinstance(summary, dict) else {}
    reward, limit = summary.get("max_reward"), summary.get("turns_max")
    ended = None
    if isinstance(limit, int):
        solved = outcome(reward, None, set()) in ((1, None), (None, True))
        ended = "max_steps" if len(actions) >= limit and not solved else "done"
    meta = without(task, "environment", "task_id", "query", "turn_history")
    # `steps` is plan & solve's plan, one line per action.
    for key, value in history.items():
        if key not in ("actions", "observations"):
            meta["plan" if key == "steps" else key] = value
    return index, list(zip(actions, observations, strict=True)), reward, ended, meta


def _human(task: Json) -> Parts:
    index = field(task, "query_idx", int, "a task in InterCode's human log")
    turns: list[tuple[str, str | None]] = []
    for turn in field(task, "trajectory", list, "a task in InterCode's human log"):
        action = field(turn, "action", str, "a turn in InterCode's human log")
        turns.append((action, field(turn, "observation", str, "a turn in InterCode's human log")))
    meta = without(task, "environment", "query_idx", "query", "trajectory", "reward")
    return index, turns, task.get("reward"), None, meta


def _texts(history: Json, key: str) -> list[str]:
    texts: list[str] = field(history, key, list, "turn_history in InterCode's log")
    for turn, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRecord(f"`{key}` of turn {turn} is a JSON {json_type(text)}: text is needed")
    return texts
