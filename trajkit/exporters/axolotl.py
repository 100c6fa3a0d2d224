"""Axolotl's `type: chat_template.default` of `rl: dpo`: messages, and one message each as chosen and rejected.

https://docs.axolotl.ai/docs/rlhf.html
Of a longer side Axolotl would take the last message alone, and it gives no tools to the chat template.
"""

from __future__ import annotations

from trajkit.exporters import Note
from trajkit.exporters._rows import Message, Row, Unfit, single_action
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
