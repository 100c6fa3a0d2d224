"""What an import advises: which keys records have, and which flag would read an outcome or a task id from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_LOOKED_AT = 20  # records of a file
_KEYS = 200
_SHOWN = 12
_DEPTH = 3
_VERDICT = re.compile(r"success|succeeded|resolved|solved|correct|passed|is_?pass|\bwon\b|verdict", re.IGNORECASE)
_REWARD = re.compile(r"reward|score|return|accuracy|grade|\bacc\b", re.IGNORECASE)
_ID = re.compile(r"(^|[._-])(id|uid|uuid|task|idx|index)$|(task|instance|problem|question|item|sample)[._-]?id", re.I)


@dataclass
class Keys:
    """Of records that became trajectories: how many have no outcome, how many no task id, and which keys they have.

    `kinds` maps a dotted path to number, boolean or string.
    """

    n: int = 0
    no_outcome: int = 0
    no_id: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    _looked_at: int = 0

    def look(self, value: Mapping[str, Any], fields: Mapping[str, str], no_outcome: bool) -> None:
        """Count one record, whose fields are read as `fields` says."""
        no_id = _at(value, fields["task-id"]) is None
        self.n += 1
        self.no_outcome += no_outcome
        self.no_id += no_id
        if (no_outcome or no_id) and self._looked_at < _LOOKED_AT:
            self._looked_at += 1
            passed_over = {fields["messages"], fields["tools"]}
            for path, kind in _scalars(value, "", _DEPTH):
                if path not in passed_over and len(self.kinds) < _KEYS:
                    self.kinds.setdefault(path, kind)

    def add(self, other: Keys) -> None:
        self.n += other.n
        self.no_outcome += other.no_outcome
        self.no_id += other.no_id
        for path, kind in other.kinds.items():
            if len(self.kinds) < _KEYS:
                self.kinds.setdefault(path, kind)

    def advice(self, fields: Mapping[str, str]) -> Iterator[str]:
        """A line for the user where most records have no outcome, and where most have no task id."""
        if 2 * self.no_outcome > self.n:
            verdicts = [path for path, kind in self.kinds.items() if _VERDICT.search(path) and kind != "string"]
            rewards = [path for path in self.kinds if _REWARD.search(path) and path not in verdicts]
            flags = [f"--success-field {path}" for path in verdicts[:2]] + [
                f"--reward-field {path}" for path in rewards[:2]
            ]
            yield (
                f"{self.no_outcome:,} of {self.n:,} records have no outcome, neither `{fields['reward']}` nor "
                f"`{fields['success']}`. {self._keys()} --reward-field or --success-field says where an outcome is"
                f"{_such_as(flags)}."
            )
        if 2 * self.no_id > self.n:
            ids = [path for path, kind in self.kinds.items() if _ID.search(path) and kind != "boolean"]
            yield (
                f"{self.no_id:,} of {self.n:,} records have no task id at `{fields['task-id']}`: those that begin with "
                f"the same words are one task. {self._keys()} --task-id-field says where the id is"
                f"{_such_as([f'--task-id-field {path}' for path in ids[:2]])}."
            )

    def _keys(self) -> str:
        if not self.kinds:
            return "They have no other keys with a value."
        shown = ", ".join(f"`{path}`" for path in list(self.kinds)[:_SHOWN])
        return f"Their keys: {shown}{', ...' if len(self.kinds) > _SHOWN else ''}."


def _such_as(flags: list[str]) -> str:
    return f", perhaps {' or '.join(flags)}" if flags else ""


def _at(value: Mapping[str, Any], path: str) -> Any:
    if path in value:
        return value[path]
    found: Any = value
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _scalars(value: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    for key, found in value.items():
        path = f"{prefix}{key}"
        if len(path) > 80:
            continue
        if isinstance(found, dict):
            if depth > 1:
                yield from _scalars(found, f"{path}.", depth - 1)
        elif isinstance(found, bool):
            yield path, "boolean"
        elif isinstance(found, (int, float)):
            yield path, "number"
        elif isinstance(found, str):
            yield path, "string"
