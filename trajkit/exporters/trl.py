"""TRL's conversational preference format, for DPOTrainer: prompt, chosen, rejected as lists of messages, and tools.

https://huggingface.co/docs/trl/dataset_formats#preference
tools is the definitions' JSON as text, which DPOTrainer parses: as nested objects, a table of them would give every
tool every other tool's keys.
"""

from __future__ import annotations

import json

from trajkit.exporters import Note
from trajkit.exporters._rows import Message, Row

TRAINER = "TRL"


def pair(pair: Row, note: Note) -> Row:
    """Everything but weights and token ids."""
    if any(len(pair[side]) > 1 for side in ("chosen", "rejected")):
        note("DPOTrainer takes no masks: what the environment says between a side's actions gets loss, too")
    line = {name: [message_of(message) for message in pair[name]] for name in ("prompt", "chosen", "rejected")}
    return line | ({"tools": json.dumps(pair["tools"], ensure_ascii=False)} if pair["tools"] else {})


def message_of(message: Message) -> Message:
    """The message as chat templates take it, tool calls' arguments as objects."""
    names = ("role", "content", "tool_calls", "tool_call_id", "name")
    kept: Message = {key: message[key] for key in names if key in message}
    if "reasoning" in message:
        kept["reasoning_content"] = message["reasoning"]  # the name that chat templates know
    return kept
