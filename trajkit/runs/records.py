"""From a conversation to rows of the two tables: numbering, digest, id, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, compress, repeat
from typing import Any, NamedTuple

import orjson

from trajkit.errors import BadRecord
from trajkit.messages import is_action, read_calls
from trajkit.runs.canonical import canonical_calls
from trajkit.runs.schema import ENDED, MESSAGE_ROLES, MESSAGES, ROLES

Row = dict[str, Any]
Columns = dict[str, Sequence[Any]]
Actions = Callable[[Callable[[Any], str]], Iterable[str]]  # given how calls are written

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_INT32 = range(-(2**31), 2**31)
_TEXTS = ("reasoning", "tool_call_id", "name")
_LISTS = {"token_ids": "i", "logprobs": "f"}
_COLUMNS = tuple(field.name for field in MESSAGES if field.name != "trajectory_id")
_PLAIN = {"seq", "step", "role", "content"}  # the first of them; the others of a message that is no more are null
# What an id is derived from: the columns of the first edition, so that an old log keeps its ids.
_OF_ID = tuple(name for name in _COLUMNS if name != "weight")
_NULLS = orjson.Fragment(",".join(["null"] * (len(_OF_ID) - len(_PLAIN))))
_MESSAGE_ROLES = frozenset(MESSAGE_ROLES)
_SURROGATE = "it holds half a surrogate pair, which no UTF-8 text can hold"


class Record(NamedTuple):
    """One trajectory with its own messages, ready for `trajkit.runs.writer.RunWriter`.

    `columns` are the messages' by name, all as long as there are messages; one that is not there is null
    throughout, and trajectory_id is not among them. `size` is about how many bytes it takes, by which parts are cut.
    `notes` say what was read otherwise than it is written, as an import tells its user ("have ...").
    """

    trajectory: Row
    columns: Columns
    size: int
    notes: frozenset[str] = frozenset()

    @property
    def messages(self) -> list[Row]:
        """The messages as rows."""
        rows = zip(*_all_columns(self.columns, _COLUMNS), strict=False)
        trajectory_id = self.trajectory["trajectory_id"]
        return [dict(zip(_COLUMNS, row, strict=True), trajectory_id=trajectory_id) for row in rows]


def to_json(value: Any) -> str:
    """Compact JSON that keeps key order and every character; refuses NaN and infinity."""
    try:
        return _ENCODE(value)
    except (TypeError, ValueError) as error:
        raise BadRecord(f"not representable as JSON: {error}") from None
    except RecursionError:
        raise BadRecord("it is nested too deeply") from None


def actions_digest(messages: Iterable[Mapping[str, Any]]) -> str:
    """The digest of the actions among `messages` (rows or chat messages), 32 hex characters.

    What counts is content, reasoning, and each tool call's name and arguments, as `canonical_calls` writes them.
    `sql/concepts/action_sequences.sql` computes the same.
    """
    return _digest(_action_texts(messages, _canonical))


def _action_texts(messages: Iterable[Mapping[str, Any]], told: Callable[[Any], str]) -> Iterator[str]:
    """Each action's text, in which `told` writes the tool calls."""
    for message in messages:
        if message["role"] != "assistant" or message.get("context"):
            continue
        calls = message.get("tool_calls")
        functions = told(calls) if calls else ""
        yield "\x1f".join((message.get("content") or "", message.get("reasoning") or "", functions))


def _canonical(calls: Any) -> str:
    return canonical_calls(calls if isinstance(calls, str) else to_json(calls))


def _first_edition(calls: Any) -> str:
    """The calls as trajectory ids have them for ever, whatever `actions_digest` has."""
    calls = read_calls(calls)
    return to_json([c["function"] for c in calls if isinstance(c, dict) and "function" in c])


def _digest(texts: Iterable[str]) -> str:
    md5 = hashlib.md5
    try:
        each = [md5(text.encode(), usedforsecurity=False).hexdigest() for text in texts]
    except UnicodeEncodeError:
        raise BadRecord(_SURROGATE) from None
    return md5("".join(each).encode(), usedforsecurity=False).hexdigest()


def record(
    *,
    task_id: str,
    role: str,
    messages: Iterable[Mapping[str, Any]],
    env: str | None = None,
    split: str | None = None,
    actor: str | None = None,
    iteration: int = 0,
    sample: int = 0,
    parent_id: str | None = None,
    branch_step: int = 0,
    first_seq: int = 0,
    reward: float | None = None,
    success: bool | None = None,
    ended: str | None = None,
    error: str | None = None,
    tools: Any = None,
    seed: int | None = None,
    created_at: Any = None,
    meta: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> Record:
    """Number a conversation's steps and derive n_steps, actions_digest and trajectory_id.

    `messages` are the trajectory's own chat messages in OpenAI's format (role, content, and where
    they have them reasoning, tool_calls, tool_call_id, name, context, weight, token_ids, logprobs);
    tool_calls is a list or its JSON, and weight counts on actions alone. For a branch, `branch_step` is
    the parent's state it starts from and `first_seq` the number of the parent's messages before that state.

    Raises BadRecord where a value has the wrong type or meaning: a reward that is text, NaN or
    infinite, an unknown role, a message with neither content nor tool calls, tools that are no list of definitions; and
    for text anywhere that UTF-8 cannot hold.
    """
    if not isinstance(task_id, str) or not task_id:
        raise BadRecord(f"task_id is {task_id!r}: a non-empty string is needed")
    if role not in ROLES:
        raise BadRecord(f"role is {role!r}: one of {', '.join(ROLES)} is needed")
    if ended is not None and ended not in ENDED:
        raise BadRecord(f"ended is {ended!r}: one of {', '.join(ENDED)} is needed")
    if success is not None and not isinstance(success, bool):
        raise BadRecord(f"success is {success!r}: true, false or null is needed")
    columns, n_steps, actions = _columns(messages, branch_step, first_seq)
    digest = _digest(actions(_first_edition))
    identity: Row = {
        "task_id": task_id,
        "env": env,
        "split": split,
        "role": role,
        "actor": actor,
        "iteration": _integer("iteration", iteration),
        "sample": _integer("sample", sample),
        "parent_id": parent_id,
        "branch_step": _integer("branch_step", branch_step),
        "n_steps": n_steps,
        "reward": _reward(reward),
        "success": success,
        "ended": ended,
        "error": error,
        "actions_digest": digest,
        "tools": _tools(tools),
        "seed": seed,
    }
    # Provenance: two records that differ only here are the same trajectory.
    provenance: Row = {"created_at": created_at, "meta": to_json(meta) if meta else None, "import_id": None}
    if meta and not provenance["meta"].isascii():
        _utf8(provenance["meta"])
    trajectory_id = hashlib.sha256(_identity_json(identity, columns)).hexdigest()[:32]
    if "tool_calls" in columns:
        identity["actions_digest"] = _digest(actions(_canonical))
    size = _size(columns) + len(provenance["meta"] or "")
    return Record({"trajectory_id": trajectory_id, **identity, **provenance}, columns, size, frozenset(notes))


def _identity_json(identity: Row, columns: Columns) -> bytes:
    """What the id is a digest of, as `to_json` writes it. orjson writes it alike but for some floats and what neither
    can write."""
    reward = identity["reward"]
    if "logprobs" not in columns and (not reward or 1e-4 <= abs(reward) < 1e16):
        if columns.keys() == _PLAIN:
            told = zip(*columns.values(), repeat(_NULLS), strict=False)
        else:
            told = zip(*_all_columns(columns, _OF_ID), strict=False)
        with suppress(TypeError):
            return orjson.dumps([identity, list(told)], option=_OPTIONS)
    return _utf8(to_json([identity, list(zip(*_all_columns(columns, _OF_ID), strict=False))]))


def _size(columns: Columns) -> int:
    if columns.keys() == _PLAIN:
        return 64 * len(columns["content"]) + sum(map(len, columns["content"]))
    size = 64 * len(columns["seq"])
    for name in ("content", "reasoning", "tool_calls"):
        size += sum(len(text) for text in columns.get(name, ()) if text)
    for name in _LISTS:
        size += 4 * sum(len(values) for values in columns.get(name, ()) if values)
    return size


def _all_columns(columns: Columns, names: Iterable[str]) -> list[Iterable[Any]]:
    return [columns.get(name) or repeat(None) for name in names]


def _columns(messages: Iterable[Mapping[str, Any]], step: int, seq: int) -> tuple[Columns, int, Actions]:
    """The messages' columns, the number of actions among them, and what gives these as `_digest` takes them."""
    messages = list(messages)
    with suppress(KeyError, TypeError):  # what is wrong is told below
        roles, contents = [message["role"] for message in messages], [message["content"] for message in messages]
        if {*map(len, messages)} == {2} and {*map(type, contents)} == {str} and _MESSAGE_ROLES.issuperset(roles):
            actions = [role == "assistant" for role in roles]
            *steps, after = accumulate(actions, initial=step)
            columns = {"seq": range(seq, seq + len(roles)), "step": steps, "role": roles, "content": contents}
            return columns, after - step, lambda told: (f"{content}\x1f\x1f" for content in compress(contents, actions))
    rows = _rows(messages, step, seq)
    columns = {name: [row[name] for row in rows] for name in _COLUMNS}
    used = {name: values for name, values in columns.items() if name in _PLAIN or values.count(None) < len(rows)}
    return used, sum(map(is_action, rows)), partial(_action_texts, rows)


def _rows(messages: Iterable[Mapping[str, Any]], step: int, seq: int) -> list[Row]:
    rows: list[Row] = []
    for position, message in enumerate(messages):
        role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
        if role not in MESSAGE_ROLES:
            raise BadRecord(f"message {position} has role {role!r}: one of {', '.join(MESSAGE_ROLES)} is needed")
        if content is not None and not isinstance(content, str):
            raise BadRecord(f"message {position} has content of type {type(content).__name__}: text is needed")
        if isinstance(calls, str) and not _is_json(calls):
            raise BadRecord(f"message {position} has tool_calls that are no JSON")
        if content is None and not calls:
            raise BadRecord(f"message {position} ({role}) has neither content nor tool_calls")
        row: Row = {
            "seq": seq + position,
            "step": step,
            "role": role,
            "content": content,
            "reasoning": None,
            "tool_calls": None if not calls else calls if isinstance(calls, str) else to_json(calls),
            "tool_call_id": None,
            "name": None,
            "context": True if message.get("context") else None,
            "weight": None,
            "token_ids": None,
            "logprobs": None,
        }
        if len(message) > 2:  # most messages are a role and a content
            for key in _TEXTS:
                row[key] = _text(message, key, position)
            for key, code in _LISTS.items():
                row[key] = _list(message, key, code, position)
            if is_action(row):
                row["weight"] = _weight(message.get("weight"), position)
        rows.append(row)
        step += is_action(row)
    if not rows:
        raise BadRecord("it has no messages")
    return rows


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _text(message: Mapping[str, Any], key: str, position: int) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRecord(f"message {position} has {key} of type {type(value).__name__}: text is needed")
    return value


def _list(message: Mapping[str, Any], key: str, code: str, position: int) -> Any:
    values = message.get(key)
    if values is not None:
        try:
            array(code, values)
            types = {*map(type, values)}
            whole = int in types and code == "f" and max(map(abs, values)) > 2**24
            if isinstance(values, (dict, str)) or bool in types or whole:  # which Arrow refuses
                raise TypeError
        except (TypeError, OverflowError):
            raise BadRecord(f"message {position} has {key} that are no list of numbers, or too large ones") from None
    return values


def _tools(tools: Any) -> str | None:
    """Tool definitions as JSON; text stays as it is. Raises BadRecord where they are no list of definitions."""
    text = tools if isinstance(tools, str) else None
    if text is not None:
        try:
            tools = json.loads(text)
        except (ValueError, RecursionError):
            raise BadRecord("its tools are text that is no JSON") from None
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(map(_is_definition, tools)):
        raise BadRecord("its tools are no list of definitions: each is an object with the function's name")
    return to_json(tools) if text is None else text


def _is_definition(tool: Any) -> bool:
    """Whether it is OpenAI's {"type", "function": {"name", ...}}, {"name", ...}, or a tool of another type."""
    if not isinstance(tool, dict):
        return False
    function, kind = tool.get("function", tool), tool.get("type")
    named = isinstance(function, dict) and isinstance(function.get("name"), str)
    return named or (isinstance(kind, str) and kind != "function")


def _weight(value: Any, position: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise BadRecord(f"message {position} has a loss weight of {value!r}: a number from 0 to 1 is needed")
    return float(value)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in _INT32 or value < 0:
        raise BadRecord(f"{name} is {value!r}: a whole number from 0 on is needed")
    return value


def _reward(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRecord(f"reward is {value!r}: a number or null is needed")
    try:
        number = float(value)
    except OverflowError:
        raise BadRecord("reward is too large for a double") from None
    if not math.isfinite(number):
        raise BadRecord(f"reward is {value!r}: a finite number or null is needed")
    return number


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRecord(_SURROGATE) from None
