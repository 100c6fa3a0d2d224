"""Unsloth's SFTTrainer, which is TRL's with a preparation of its own: token ids with labels, or prompt and completion.

https://docs.unsloth.ai
Its preparation hands tool definitions on to the chat template as they are, where TRL parses them.
"""

from __future__ import annotations

from trajkit.exporters import trl
from trajkit.exporters._format import Note
from trajkit.exporters._rows import Row, Unfit
from trajkit.exporters._tokens import labels as tokens

__all__ = ["TRAINER", "example", "tokens"]

TRAINER = "Unsloth"


def example(example: Row, note: Note) -> Row:
    """As TRL's, without tools."""
    if example["tools"]:
        raise Unfit("tool definitions: Unsloth's preparation does not read them from a file; --tokenizer FOLDER does")
    return trl.example(example, note)
