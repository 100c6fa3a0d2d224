"""tau-bench's results: an array of trials with native tool calls.

https://github.com/sierra-research/tau-bench. A file does not name its domain (airline, retail); it
is read from the heading of the policy in the system prompt, unless `--env` says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trajkit.errors import BadRecord
from trajkit.importers._format import Options
from trajkit.importers._messages import Json, chat, field, without
from trajkit.importers._outcome import outcome
from trajkit.importers._source import Raw, SourceFile, elements
from trajkit.runs.records import Record, record

FILES = ("*.json",)

_POLICY = re.compile(r"\s*# (\w+) agent policy\b", re.IGNORECASE)


def recognises(value: Any) -> bool:
    return isinstance(value, dict) and {"traj", "task_id", "reward"} <= value.keys()


def records(file: SourceFile) -> Iterator[Raw]:
    return elements(file)


def convert(raw: Raw, file: SourceFile, options: Options) -> Record:
    trial = raw.value
    index = field(trial, "task_id", int, "a trial of tau-bench")
    notes: set[str] = set()
    messages, besides = chat(field(trial, "traj", list, "a trial of tau-bench"), notes)
    reward, success = outcome(trial.get("reward"), None, notes)
    info = trial.get("info")
    info = info if isinstance(info, dict) else {}
    error = info.get("error")
    if error is not None and not messages:
        raise BadRecord(f"the run crashed before its first message: {error}")
    env = options.env or f"tau_bench/{_domain(messages)}"
    meta = without(trial, "task_id", "traj", "reward", "trial")
    if besides:
        meta["messages"] = besides
    return record(
        task_id=f"{env}/{index}",
        env=env,
        split=options.split,
        role=options.role,
        actor=options.actor,
        iteration=options.iteration,
        sample=trial.get("trial", 0),
        messages=messages,
        reward=reward,
        success=success,
        ended=_ended(info),
        error=None if error is None else str(error),
        meta=meta,
        notes=notes,
    )


def _ended(info: Json) -> str | None:
    # tau-bench reckons the reward when the user or the agent ends the conversation. No reckoning: the
    # step limit ended it. A crash is written as reward 0.0 with the error.
    if info.get("error") is not None:
        return "error"
    if "reward_info" not in info:
        return None
    return "max_steps" if info["reward_info"] is None else "done"


def _domain(messages: list[Json]) -> str:
    first = messages[0].get("content") if messages else None
    policy = _POLICY.match(first) if isinstance(first, str) else None
    if policy is None:
        raise BadRecord("its first message does not tell the domain: say it, e.g. --env tau_bench/retail")
    return policy[1].lower()
