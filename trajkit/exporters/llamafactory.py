"""LLaMA-Factory's sharegpt format with `ranking: true`: conversations, and one message each as chosen and rejected.

https://llamafactory.readthedocs.io/en/latest/getting_started/data_preparation.html
A conversation has to alternate between what is said to the model (human, observation) and what it says (gpt,
function_call); LLaMA-Factory passes over what does not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trajkit.errors import BadData
from trajkit.exporters import Note
from trajkit.exporters._rows import Message, Row, Unfit, calls, single_action, with_reasoning

TRAINER = "LLaMA-Factory"
INFO = "dataset_info.json"
ENTRY: dict[str, Any] = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations"} | {name: name for name in ("system", "tools", "chosen", "rejected")},
}


def pair(pair: Row, note: Note) -> Row:
    """The pair with the system message and the tools beside the conversation."""
    single_action(pair, TRAINER, "--to ms-swift")
    prompt, system = pair["prompt"], ""
    if prompt and prompt[0]["role"] == "system":
        system, prompt = prompt[0]["content"], prompt[1:]
    turns = [_turn(message) for message in prompt]
    for number, turn in enumerate(turns):
        if turn["from"] not in (("human", "observation"), ("gpt", "function_call"))[number % 2]:
            raise Unfit("two messages in a row to the model or from it: LLaMA-Factory wants them to alternate")
    if len(turns) % 2 == 0:
        raise Unfit("a prompt that does not end with a message to the model, as LLaMA-Factory wants it")
    if with_reasoning(pair):
        note("LLaMA-Factory has no place for reasoning: the file is without it")
    return {
        "conversations": turns,
        "chosen": _turn(pair["chosen"][0]),
        "rejected": _turn(pair["rejected"][0]),
        "system": system,
        "tools": json.dumps(pair["tools"], ensure_ascii=False) if pair["tools"] else "",
    }


def beside(out: Path) -> str | None:
    """Write the folder's dataset_info.json, or say what has to go into the one that is there."""
    info, name = out.with_name(INFO), out.stem
    entry = {name: {"file_name": out.name} | ENTRY}
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
