"""verl's MultiTurnSFTDataset: a Parquet file of messages, or of token ids with a loss mask for a class of one's own.

https://verl.readthedocs.io, verl/utils/dataset/multiturn_sft_dataset.py
verl has no loss mask of its own per message: it trains on every message of the assistant. It reads the messages as
Parquet has them, where a tool call would get every other call's arguments.
"""

from __future__ import annotations

from typing import Any

from trajkit.exporters._format import Note
from trajkit.exporters._rows import LINE_END, Row, Unfit
from trajkit.exporters.trl import message_of

TRAINER = "verl"
FILES = (".parquet",)
INSTEAD = "--tokenizer FOLDER writes token ids with the mask (docs/exporting.md)"


def example(example: Row, note: Note) -> Row:
    """The conversation of an example whose every turn is trained on."""
    messages = example["messages"]
    if any(message["role"] == "assistant" and not message["weight"] for message in messages):
        raise Unfit(f"an assistant's turn that is not trained on: verl trains on all of them; {INSTEAD}")
    if example["tools"] or any("tool_calls" in message for message in messages):
        raise Unfit(f"tools or tool calls, which verl's Parquet files cannot hold as they are; {INSTEAD}")
    note(LINE_END.format(TRAINER))
    return {"messages": [message_of(message) for message in messages]}


def tokens(row: Any) -> Row:
    """input_ids and, as verl has it, loss_mask: 1 on the tokens to be said."""
    return {"input_ids": row.input_ids, "loss_mask": [int(weight > 0) for weight in row.weights]}


def schema() -> Any:
    """The columns of a file of messages."""
    import pyarrow as pa

    message = pa.struct([(name, pa.string()) for name in ("role", "content", "name", "reasoning_content")])
    return pa.schema([("messages", pa.list_(message))])
