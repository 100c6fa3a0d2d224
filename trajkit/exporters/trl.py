"""TRL's formats: examples for SFTTrainer, as messages or as token ids, and pairs for DPOTrainer.

https://huggingface.co/docs/trl/dataset_formats#preference, #prompt-completion
A pair is prompt, chosen and rejected as lists of messages. An example is prompt and completion: with
`assistant_only_loss` SFTTrainer trains on the assistant's messages of the completion alone, which therefore begins
with the first trained one. tools is the definitions' JSON as text, which TRL parses.
"""

from __future__ import annotations

from trajkit.exporters._format import Note
from trajkit.exporters._rows import Message, Row, Unfit, text_of_tools
from trajkit.exporters._tokens import labels as tokens

__all__ = ["TRAINER", "example", "message_of", "pair", "tokens"]

TRAINER = "TRL"


def pair(pair: Row, note: Note) -> Row:
    """Everything but weights and token ids."""
    if any(len(pair[side]) > 1 for side in ("chosen", "rejected")):
        note("DPOTrainer takes no masks: what the environment says between a side's actions gets loss, too")
    return _line(pair, {name: pair[name] for name in ("prompt", "chosen", "rejected")})


def example(example: Row, note: Note) -> Row:
    """What is said before the first trained action, and everything from it on."""
    messages = example["messages"]
    first = next(at for at, message in enumerate(messages) if message["weight"])
    if first == 0:
        raise Unfit("a conversation that begins with a trained action: SFTTrainer needs a prompt (--tokenizer FOLDER)")
    if any(message["role"] == "assistant" and not message["weight"] for message in messages[first:]):
        raise Unfit(
            "an assistant's turn to leave out between trained ones: SFTTrainer trains on all that follow the first "
            "trained one; --tokenizer FOLDER writes token ids with the mask"
        )
    note("SFTTrainer must be told assistant_only_loss=True: else it trains on the environment's messages, too")
    note("SFTTrainer's mask is the chat template's generation part, which may hold the line ends around a turn")
    return _line(example, {"prompt": messages[:first], "completion": messages[first:]})


def message_of(message: Message) -> Message:
    """The message as chat templates take it, tool calls' arguments as objects."""
    names = ("role", "content", "tool_calls", "tool_call_id", "name")
    kept: Message = {key: message[key] for key in names if key in message}
    if "reasoning" in message:
        kept["reasoning_content"] = message["reasoning"]  # the name that chat templates know
    return kept


def _line(row: Row, lists: Row) -> Row:
    line: Row = {name: [message_of(message) for message in messages] for name, messages in lists.items()}
    return line | ({"tools": tools} if (tools := text_of_tools(row)) else {})
