"""LLaMA-Factory's formats: messages with a `loss_weight` each (its v1 engine), or sharegpt conversations.

https://llamafactory.readthedocs.io/en/latest/getting_started/data_preparation.html, llamafactory/v1/utils/types.py
Examples are for v1 (USE_V1=1), as the older engine has no mask per message: it trains on every action, or with
`mask_history: true` on the last one, and so takes the examples of --per-step. Pairs are for the older engine, too, as
v1 has no DPO. A sharegpt conversation has to alternate between what is said to the model (human, observation) and what
it says (gpt, function_call); LLaMA-Factory passes over what does not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trajkit.errors import BadData
from trajkit.exporters._format import Note
from trajkit.exporters._rows import LINE_END, Message, Row, Unfit, calls, single_action, text_of_tools, with_reasoning

TRAINER = "LLaMA-Factory"
INFO = "dataset_info.json"
WEIGHTED = ("example",)
COLUMNS = {"messages": "conversations", "system": "system", "tools": "tools"}
ENTRIES: dict[str, dict[str, Any]] = {  # by the function that makes the rows
    "pair": {
        "formatting": "sharegpt",
        "ranking": True,
        "columns": COLUMNS | {"chosen": "chosen", "rejected": "rejected"},
    },
    "action": {"formatting": "sharegpt", "columns": COLUMNS},
}


def pair(pair: Row, note: Note) -> Row:
    """The pair with the system message and the tools beside the conversation."""
    single_action(pair, TRAINER, "--to ms-swift")
    return _sharegpt(pair, pair["prompt"], note) | {side: _turn(pair[side][0]) for side in ("chosen", "rejected")}


def action(example: Row, note: Note) -> Row:
    """A conversation that ends with the action, with the system message and the tools beside it."""
    *before, last = example["messages"]
    line = _sharegpt(example, before, note)
    note(LINE_END.format(TRAINER))
    return line | {"conversations": [*line["conversations"], _turn(last)]}


def example(example: Row, note: Note) -> Row:
    """v1's messages: parts with a type each, and a loss weight."""
    note("LLaMA-Factory v1 also trains on a trained message's header and on the line end behind it")
    if with_reasoning(example):
        note("LLaMA-Factory v1 writes reasoning in words of its own templates")
    line: Row = {
        "messages": [
            {"role": message["role"], "content": _parts(message), "loss_weight": message["weight"]}
            for message in example["messages"]
        ]
    }
    return line | ({"tools": tools} if (tools := text_of_tools(example)) else {})


def _parts(message: Message) -> list[dict[str, str]]:
    parts = []
    if "reasoning" in message:
        parts.append({"type": "reasoning", "value": message["reasoning"]})
    if message["content"] or "tool_calls" not in message:
        parts.append({"type": "text", "value": message["content"]})
    return parts + [{"type": "tool_call", "value": json.dumps(call, ensure_ascii=False)} for call in calls(message)]


def _sharegpt(row: Row, messages: list[Message], note: Note) -> Row:
    """What comes before the action: a conversation that ends with a message to the model."""
    system = ""
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    turns = [_turn(message) for message in messages]
    for number, turn in enumerate(turns):
        if turn["from"] not in (("human", "observation"), ("gpt", "function_call"))[number % 2]:
            raise Unfit("two messages in a row to the model or from it: LLaMA-Factory wants them to alternate")
    if len(turns) % 2 == 0:
        raise Unfit("a prompt that does not end with a message to the model, as LLaMA-Factory wants it")
    if with_reasoning(row):
        note("LLaMA-Factory has no place for reasoning: the file is without it")
    return {"conversations": turns, "system": system, "tools": text_of_tools(row) or ""}


def beside(out: Path, made: str) -> str | None:
    """Write the folder's dataset_info.json, or say what has to go into the one that is there."""
    if made not in ENTRIES:  # v1 is told the file itself
        return None
    info, name = out.with_name(INFO), out.stem
    entry = {name: {"file_name": out.name} | ENTRIES[made]}
    text = json.dumps(entry, ensure_ascii=False, indent=2)
    try:
        with info.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        try:
            known = json.loads(info.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadData(f"{info}: no JSON ({error}). {out} is written; put this into {INFO}:\n{text}") from error
        if isinstance(known, dict) and known.get(name) == entry[name]:
            return None
        return f"{info} is there already: put this entry into it\n{text}"
    return f"wrote {info}, with the dataset {name}"


def _turn(message: Message) -> dict[str, str]:
    role = {"user": "human", "tool": "observation", "assistant": "gpt"}.get(message["role"])
    if role is None:
        raise Unfit(f"a {message['role']} message within the conversation: LLaMA-Factory takes one at its beginning")
    if "tool_calls" not in message:
        return {"from": role, "value": message["content"]}
    if message["content"]:
        raise Unfit("text beside a tool call: a message of LLaMA-Factory is one of the two (--to ms-swift takes both)")
    called = calls(message)
    text = json.dumps(called[0] if len(called) == 1 else called, ensure_ascii=False)
    return {"from": "function_call", "value": text.replace("<", "\\u003c")}  # so that no <think> is found in it
