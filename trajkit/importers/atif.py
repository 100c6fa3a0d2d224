"""Harbor's Agent Trajectory Interchange Format (ATIF) 1.x, with the reward from the trial's result.json.

https://harborframework.com/docs/trajectory-format. A trial's folder holds result.json and
agent/trajectory.json, or steps/<step>/agent/trajectory.json where the task has several steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from trajkit.errors import BadRecord
from trajkit.importers._calls import made
from trajkit.importers._format import Options
from trajkit.importers._messages import Json, field, greeted, joined, without
from trajkit.importers._outcome import outcome
from trajkit.importers._source import Raw, SourceFile, elements
from trajkit.importers.openai import start_digest
from trajkit.runs.records import Record, record

FILES = ("trajectory.json",)
FIELDS = {"reward": "reward"}

_ROLES = {"system": "system", "user": "user", "agent": "assistant"}
_MAPPED = ("step_id", "source", "message", "reasoning_content", "tool_calls", "observation", "is_copied_context")


def recognises(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("schema_version", "")).startswith("ATIF-")


def records(file: SourceFile) -> Iterator[Raw]:
    return elements(file)


def convert(raw: Raw, file: SourceFile, options: Options) -> Record:
    trajectory = raw.value
    version = field(trajectory, "schema_version", str, "a trajectory in ATIF")
    if not version.startswith("ATIF-v1."):
        raise BadRecord(f"`schema_version` is {version!r}: ATIF-v1.x can be read")
    agent = field(trajectory, "agent", dict, "a trajectory in ATIF")
    messages: list[Json] = []
    besides: list[Json] = []
    notes: set[str] = set()
    for step in field(trajectory, "steps", list, "a trajectory in ATIF"):
        _step(step, messages, besides, notes)
    messages = greeted(messages)
    result, part = _trial(file)
    name, env = result.get("task_name"), options.env or result.get("source")
    env = env if isinstance(env, str) and env else None
    if isinstance(name, str) and name:
        # A step of a task has its own start, and so is a task.
        task_id = "/".join(word for word in (env, name, part.get("step_name")) if isinstance(word, str) and word)
    else:
        task_id = f"{env or 'atif'}/{start_digest(messages)}"
    meta = without(trajectory, "steps", "agent")
    meta["agent"] = without(agent, "tool_definitions")
    if besides:
        meta["steps"] = besides
    if result:
        keep = ("trial_name", "task_checksum", "verifier_result", "exception_info", "step_results", "finished_at")
        meta["trial"] = {key: result[key] for key in keep if result.get(key) is not None}
    reward, error = _outcome(result, part, options.fields.get("reward", FIELDS["reward"]))
    reward, success = outcome(reward, None, notes)
    ended = "error" if error else "done" if (reward, success) != (None, None) else None
    if trajectory.get("continued_trajectory_ref"):
        # What earned the reward lies in another file: without that this is no outcome.
        reward, success, ended = None, None, ended if error else None
    model = agent.get("model_name")
    return record(
        task_id=task_id,
        env=env,
        split=options.split,
        role=options.role,
        actor=options.actor or (model if isinstance(model, str) else field(agent, "name", str, "`agent` of ATIF")),
        iteration=options.iteration,
        messages=messages,
        reward=reward,
        success=success,
        ended=ended,
        error=error,
        tools=agent.get("tool_definitions") or None,
        created_at=_time(result.get("started_at")),
        meta=meta,
        notes=notes,
    )


def _step(step: Any, messages: list[Json], besides: list[Json], notes: set[str]) -> None:
    """Append one step's messages, and to `besides` what it says that has no column."""
    source = field(step, "source", str, "a step of ATIF")
    position = step.get("step_id", len(messages))
    if source not in _ROLES:
        raise BadRecord(f"step {position} has source {source!r}: one of {', '.join(_ROLES)} is needed")
    message: Json = {"role": _ROLES[source], "content": _content(step.get("message"), position)}
    metrics = step.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    kept = {key: value for key, value in step.items() if key not in _MAPPED and key != "metrics" and value is not None}
    # Metrics of several calls are sums: their tokens are no single message's.
    single = step.get("llm_call_count") in (None, 1)
    dropped = ("prompt_token_ids", *(("completion_token_ids", "logprobs") if single else ()))
    if measured := {key: value for key, value in without(metrics, *dropped).items() if value is not None}:
        kept["metrics"] = measured
    if source == "agent":
        message["reasoning"] = step.get("reasoning_content")
        if step.get("tool_calls"):
            message["tool_calls"], extra = _calls(step["tool_calls"], position, notes)
            if extra:
                kept["tool_calls"] = extra
        if single:
            message["token_ids"], message["logprobs"] = metrics.get("completion_token_ids"), metrics.get("logprobs")
        # No model wrote a deterministic step (llm_call_count 0), and a copied one was counted before.
        if step.get("is_copied_context") or step.get("llm_call_count") == 0:
            message["context"] = True
    if message["content"] is None and not message.get("tool_calls"):
        message["content"] = ""
    messages.append(message)
    observation = step.get("observation")
    if observation is not None:
        extra = []
        for result in field(observation, "results", list, "`observation` of ATIF"):
            if not isinstance(result, dict):
                raise BadRecord(f"step {position} has an observation result that is no object")
            call, content = result.get("source_call_id"), _content(result.get("content"), position)
            row: Json = {"role": "user" if call is None else "tool", "content": content or ""}
            if call is not None:
                row["tool_call_id"] = call
            messages.append(row)
            if rest := {k: v for k, v in without(result, "source_call_id", "content").items() if v is not None}:
                extra.append({"source_call_id": call, **rest})
        if extra:
            kept["observation"] = extra
    if kept:
        besides.append({"step_id": step.get("step_id"), **kept})


def _calls(calls: Any, position: Any, notes: set[str]) -> tuple[list[Json], list[Json]]:
    if not isinstance(calls, list):
        raise BadRecord(f"step {position} has tool_calls that are no list")
    rows, extra = [], []
    for call in calls:
        name = field(call, "function_name", str, "a tool call of ATIF")
        arguments = call.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = field(call, "arguments", dict, "a tool call of ATIF")
        rows.append(made(call.get("tool_call_id"), name, arguments, notes))
        if call.get("extra"):
            extra.append({"tool_call_id": call.get("tool_call_id"), "extra": call["extra"]})
    return rows, extra


def _content(content: Any, position: Any) -> Any:
    return joined(content, position) if isinstance(content, list) else content


def _trial(file: SourceFile) -> tuple[Json, Json]:
    """The trial's result.json, beside the trajectory or above it, and the part of it that this trajectory is of.

    A job's result.json, further up, is passed over. Both are empty where there is none.
    """
    if file.path == "-":
        return {}, {}
    folder = Path(file.path).absolute().parent
    for parent in (folder, *folder.parents)[:4]:
        path = parent / "result.json"
        if path.is_file():
            result = _read(path, path.stat().st_mtime_ns)
            if result.keys() & {"trial_name", "task_name", "verifier_result"}:
                return result, _part(result, folder.relative_to(parent).parts)
    return {}, {}


def _part(result: Json, folders: tuple[str, ...]) -> Json:
    """The whole trial, or the step whose folder the trajectory is in: steps/<step>/agent."""
    if folders[:1] != ("steps",) or len(folders) < 2:
        return result
    steps = result.get("step_results")
    named = [step for step in steps or [] if isinstance(step, dict) and step.get("step_name") == folders[1]]
    return named[0] if named else {"step_name": folders[1]}


@lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> Json:
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadRecord(f"the trial's {path} cannot be read: {error}") from None
    if not isinstance(result, dict):
        raise BadRecord(f"the trial's {path} is no object")
    return result


def _outcome(result: Json, part: Json, name: str) -> tuple[Any, str | None]:
    """The reward called `name`, and the exception that ended the trial or the step."""
    exception = part.get("exception_info") or result.get("exception_info")
    error = None
    if exception is not None:
        said = exception if isinstance(exception, dict) else {}
        error = f"{said.get('exception_type', 'error')}: {said.get('exception_message', exception)}"
    verifier = part.get("verifier_result")
    rewards = verifier.get("rewards") if isinstance(verifier, dict) else None
    if not rewards:
        return None, error
    if not isinstance(rewards, dict):
        raise BadRecord("`verifier_result.rewards` is no object")
    if name in rewards:
        return rewards[name], error
    if len(rewards) == 1:
        return next(iter(rewards.values())), error
    names = ", ".join(sorted(rewards))
    raise BadRecord(f"the trial has the rewards {names} and none is called {name!r}: say which with --reward-field")


def _time(said: Any) -> datetime | None:
    """UTC without saying so, as created_at has it."""
    try:
        time = datetime.fromisoformat(said)
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (TypeError, ValueError, OverflowError):
        return None
