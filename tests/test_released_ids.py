"""Trajectory ids of the first release: importing an old log again changes nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from trajkit.runs.records import actions_digest, record

# Records with the ids and digests that version 0.1.0 gave them.
RELEASED = json.loads((Path(__file__).parent / "released_ids.json").read_text())


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@pytest.mark.parametrize("released", RELEASED, ids=[released["name"] for released in RELEASED])
def test_an_id_is_as_it_was(released: dict[str, Any]) -> None:
    made = record(**released["record"])
    assert made.trajectory["trajectory_id"] == released["trajectory_id"]
    calls = any(message.get("tool_calls") for message in released["record"]["messages"])
    assert calls == (made.trajectory["actions_digest"] != released["actions_digest"])
    assert made.trajectory["actions_digest"] == actions_digest(made.messages)


def test_arguments_as_text_and_as_an_object_are_one_action_of_two_trajectories() -> None:
    by_name = {released["name"]: record(**released["record"]).trajectory for released in RELEASED}
    text, value = by_name["arguments as text"], by_name["arguments as an object"]
    assert text["actions_digest"] == value["actions_digest"] and text["trajectory_id"] != value["trajectory_id"]
    called = '\x1f\x1f[{"arguments":{"n":1.0,"q":"kettle"},"name":"search"}]'
    assert text["actions_digest"] == md5(md5(called) + md5("sorry\x1f\x1f"))
