"""AgentGym's AgentTraj and evaluation output, ETO's expert data and exploration logs.

https://github.com/WooooDyy/AgentGym and https://github.com/Yifan-Song793/ETO. Both write a
conversation as [{"from": "human" | "gpt", "value": ...}] and differ in what surrounds it, and in
what their reward and success mean; docs/importing.md lists the pitfalls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from trajkit.errors import BadRecord
from trajkit.importers._format import Options
from trajkit.importers._messages import Json, begun, chat, field, greeted, without
from trajkit.importers._outcome import outcome
from trajkit.importers._source import Raw, SourceFile, elements
from trajkit.runs.records import Record, record

FILES = ("*.json", "*.jsonl")

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
# AgentGym's item_id; some of its scripts write the index as a list: webshop_[12].
_ITEM = re.compile(r"(.+)_\[?(\d+)\]?")
# ETO names no environment. Its fixed instructions begin like this.
_INSTRUCTIONS = {
    "You are web shopping.": "webshop",
    "Interact with a household": "alfworld",
    "You are a helpful assistant to do some scientific experiment": "sciworld",
}
_ENDED = {"success": "done", "max_steps": "max_steps"}


def recognises(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("conversations"), list)


def records(file: SourceFile) -> Iterator[Raw]:
    return elements(file)


def convert(raw: Raw, file: SourceFile, options: Options) -> Record:
    item = raw.value
    conversation = field(item, "conversations", list, "a record of AgentGym or ETO")
    notes: set[str] = set()
    besides: dict[str, Json] = {}
    if any(isinstance(turn, dict) and "role" in turn and "from" not in turn for turn in conversation[:1]):
        messages, besides = chat(conversation, notes)  # as AgentGym's evaluation writes it today
        _canned_reply(messages)
    else:
        messages = _messages(conversation)
    if besides:
        item = item | {"messages": besides}
    if isinstance(item.get("meta"), dict):
        return _exploration(item, messages, file, options, notes)
    if "item_id" in item:
        return _agentgym(item, messages, options, notes)
    return _eto(item, messages, options, notes)


def _agentgym(item: Json, messages: list[Json], options: Options, notes: set[str]) -> Record:
    name = field(item, "item_id", str, "a record of AgentGym")
    match = _ITEM.fullmatch(name)
    env = options.env or (match[1] if match else None)
    reward, success = outcome(item.get("reward"), None, notes)
    if success is None:
        success = _solved(match[1] if match else None, reward)
    return record(
        task_id=f"{env}/{match[2]}" if match else begun(options, name),
        env=env,
        split=options.split,
        role=options.role,
        actor=options.actor,
        iteration=options.iteration,
        messages=messages,
        reward=reward,
        success=success,
        meta=without(item, "conversations", "item_id", "reward"),
        notes=notes,
    )


def _solved(env: str | None, reward: Any) -> bool | None:
    # AgentGym writes success = (reward == 1) everywhere, which says nothing more than the reward, and the
    # wrong thing where the reward is not on [0, 1]: ScienceWorld's is a score up to 100 (1 is 1 %), BabyAI's
    # is 1 less the time taken, and above 0 only when the mission was fulfilled.
    if isinstance(reward, bool) or not isinstance(reward, (int, float)):
        return None
    if env == "sciworld":
        return reward >= 100
    if env == "babyai":
        return reward > 0
    return None


def _eto(item: Json, messages: list[Json], options: Options, notes: set[str]) -> Record:
    """ETO's expert data: `id`, or for ALFWorld `game_file`; WebShop's has a reward, the others none."""
    env = options.env or _environment(messages)
    index: Any
    if "game_file" in item:
        index = _game(field(item, "game_file", str, "ETO's ALFWorld data"))
    else:
        index = item.get("id")
        if isinstance(index, bool) or not isinstance(index, (int, str)):
            raise BadRecord("its task has no name: no `item_id` (AgentGym), `id`, `game_file` or `meta` (ETO)")
    _canned_reply(messages)
    reward, success = outcome(item.get("reward"), None, notes)
    return record(
        task_id=f"{env}/{index}",
        env=env,
        split=options.split,
        role=options.role,
        actor=options.actor,
        iteration=options.iteration,
        messages=messages,
        reward=reward,
        success=success,
        meta=without(item, "conversations", "id", "reward"),
        notes=notes,
    )


def _exploration(item: Json, messages: list[Json], file: SourceFile, options: Options, notes: set[str]) -> Record:
    """ETO's exploration log: one file per task, named by the task, with how it went in `meta`."""
    meta = item["meta"]
    env = options.env or _environment(messages)
    steps = field(meta, "steps", int, "`meta` of ETO")
    replies = [message for message in messages if message.get("role") == "assistant"]
    if not 0 <= steps <= len(replies):
        raise BadRecord(f"`meta.steps` is {steps} and it has {len(replies)} replies: which are actions cannot be told")
    for message in replies[: len(replies) - steps]:  # the "OK" and the in-context example
        message["context"] = True
    game = meta.get("error")
    if isinstance(game, str) and "/" in game:  # ALFWorld: ETO keeps the game's file under `error`
        index = _game(game)
    elif file.path == "-":
        raise BadRecord("ETO names an exploration log's task by its file: import the file, not stdin")
    else:
        index = Path(file.name).stem
    reward = meta.get("reward")
    won: bool | None = None
    if env == "alfworld" and reward in (0, 1) and reward is not None:  # the game's own "won", as true or false
        reward, won = float(reward), bool(reward)
    else:
        reward, won = outcome(reward, None, notes)
    reason = meta.get("terminate_reason")
    ended = _ENDED.get(reason) if isinstance(reason, str) else None
    error = None
    if reason == "exceeding maximum input length":
        # ETO writes this whenever its agent raises anything, a dead server too.
        ended, error = "error", f"{reason} (as ETO calls every failure to get a reply)"
    return record(
        task_id=f"{env}/{index}",
        env=env,
        split=options.split,
        role=options.role,
        actor=options.actor,
        iteration=options.iteration,
        messages=messages,
        reward=reward,
        success=won,  # meta.success only means that the episode came to an end
        ended=ended,
        error=error,
        meta=without(item, "conversations"),
        notes=notes,
    )


def _messages(conversation: list[Any]) -> list[Json]:
    messages = []
    for position, turn in enumerate(conversation):
        speaker = field(turn, "from", str, f"message {position} of AgentGym or ETO")
        if speaker not in _ROLES:
            raise BadRecord(f"message {position} is from {speaker!r}: one of {', '.join(_ROLES)} is needed")
        text = field(turn, "value", str, f"message {position} of AgentGym or ETO")
        message = {"role": _ROLES[speaker], "content": text}
        if speaker == "gpt" and "loss" in turn and not turn["loss"]:
            message["context"] = True
        messages.append(message)
    return greeted(messages)


def _canned_reply(messages: list[Json]) -> None:
    # Without loss marks, as in ETO's data: the first reply, to the instruction, is a canned "OK".
    first = next((message for message in messages if message.get("role") == "assistant"), None)
    if first is not None and (first.get("content") or "").strip().rstrip(".").upper() == "OK":
        first["context"] = True


def _environment(messages: list[Json]) -> str:
    first = messages[0]["content"] if messages else ""
    for start, env in _INSTRUCTIONS.items():
        if first.startswith(start):
            return env
    raise BadRecord("its first message does not tell the environment: say which with --env, e.g. --env webshop")


def _game(path: str) -> str:
    """ALFWorld's task and trial folder, which is what MINT's task ids are, too."""
    folders = PurePosixPath(path).parts
    return "/".join(folders[:-1][-2:] if folders[-1].endswith((".tw-pddl", ".json")) else folders[-2:])
