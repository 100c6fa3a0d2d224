"""slime's SFT rollout: messages with a `step_loss_mask` of 0 or 1 on the assistant's.

https://github.com/THUDM/slime/blob/main/docs/en/get_started/usage.md, slime/utils/mask_utils.py
"""

from __future__ import annotations

from trajkit.exporters._format import Note
from trajkit.exporters._rows import LINE_END, Row
from trajkit.exporters.trl import message_of

TRAINER = "slime"


def example(example: Row, note: Note) -> Row:
    """The conversation, with tools where there are any."""
    note(LINE_END.format(TRAINER))
    messages = []
    for message in example["messages"]:
        turn = message_of(message)
        if message["role"] == "assistant":
            turn["step_loss_mask"] = int(message["weight"])
        messages.append(turn)
    return {"messages": messages} | ({"tools": example["tools"]} if example["tools"] else {})
