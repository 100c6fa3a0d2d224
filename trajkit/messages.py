"""The chat message, in OpenAI's format: one for importers, tables, environments, policies, masks and displays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict


class Message(TypedDict, total=False):
    """A chat message. Every key but `role` may be absent; a key that is None reads as absent.

    Attributes:
        role: system, user, assistant or tool.
        content: What is said. None: nothing, as beside tool calls.
        reasoning: What the assistant thought before it.
        tool_calls: The assistant's calls: a list of {"id", "type", "function": {"name", "arguments"}}.
        tool_call_id: Of a tool's message: the call that it answers.
        name: Of a tool's message: the tool's name.
        context: True: it was there before the rollout began; it is no action, whoever says it.
        weight: How much loss it gets, of what its source said. None: nothing was said.
        token_ids: The ids that the policy sampled, as a list of int.
        logprobs: Their log-probabilities, natural, as long as `token_ids`.
    """

    role: str
    content: str | None
    reasoning: str | None
    tool_calls: Any
    tool_call_id: str | None
    name: str | None
    context: bool | None
    weight: float | None
    token_ids: list[int] | None
    logprobs: list[float] | None


def is_action(message: Mapping[str, Any]) -> bool:
    """Whether the message is an action: the assistant's, and no context."""
    return message.get("role") == "assistant" and not message.get("context")


def from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A message from a row of the table `messages` or of a file of `select`: what is null is absent, but `content`."""
    made = {key: value for key, value in row.items() if value is not None}
    made.setdefault("content", None)
    if "tool_calls" in made:
        made["tool_calls"] = read_calls(made["tool_calls"])
    return made


def read_calls(tool_calls: Any) -> Any:
    """Tool calls as the tables have them (JSON text) or as they are: a list. None and "": an empty one.

    Raises ValueError for text that is no JSON.
    """
    if isinstance(tool_calls, str):
        return json.loads(tool_calls) if tool_calls else []
    return tool_calls or []
