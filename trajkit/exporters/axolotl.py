"""Axolotl's `type: chat_template`: messages with a `training` each, and for pairs one message each as the two sides.

https://docs.axolotl.ai/docs/dataset-formats/conversation.html, https://docs.axolotl.ai/docs/rlhf.html
Of a pair's longer side Axolotl would take the last message alone, and it gives pairs' tools not to the chat template.
"""

from __future__ import annotations

import json

from trajkit.exporters._format import Note
from trajkit.exporters._rows import Message, Row, Unfit, calls, single_action, text_of_tools, with_reasoning
from trajkit.exporters.trl import message_of

TRAINER = "Axolotl"
WHOLE = "--to trl with Axolotl's passthrough.default (docs/exporting.md)"


def pair(pair: Row, note: Note) -> Row:
    """The pair's prompt as messages, and its two actions."""
    single_action(pair, TRAINER, WHOLE)
    if pair["tools"]:
        raise Unfit(f"tool definitions: Axolotl's chat_template.default does not show them to the model; {WHOLE} does")
    messages: list[Message] = [message_of(message) for message in pair["prompt"]]
    return {"messages": messages, "chosen": message_of(pair["chosen"][0]), "rejected": message_of(pair["rejected"][0])}


def example(example: Row, note: Note) -> Row:
    """Every message with whether it is trained on, the arguments of tool calls as JSON (Axolotl parses them)."""
    if any(
        message["weight"] and not message["content"] and "tool_calls" not in message for message in example["messages"]
    ):
        note("an action that says nothing: Axolotl gives it no loss, train/ trains it to stop there")
    if with_reasoning(example):
        note("Axolotl gives no loss to what the chat template writes before an action's reasoning (<think>)")
    line: Row = {"messages": [_told(message) for message in example["messages"]]}
    return line | ({"tools": tools} if (tools := text_of_tools(example)) else {})


def _told(message: Message) -> Message:
    told = message_of(message) | {"training": bool(message["weight"])}
    if "tool_calls" in message:
        told["tool_calls"] = [
            call | {"function": call["function"] | {"arguments": json.dumps(plain["arguments"], ensure_ascii=False)}}
            for call, plain in zip(message["tool_calls"], calls(message), strict=True)
        ]
    return told
