"""What tests/test_export.py shares with other tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENT = CHECKOUT / "docs/exporting.md"
Row = dict[str, Any]
TEXT = pa.large_string()
MESSAGE = pa.struct(
    [(name, TEXT) for name in ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name")]
    + [("weight", pa.float32()), ("token_ids", pa.list_(pa.int32()))]
)
TOOLS = [{"type": "function", "function": {"name": "search", "description": "find <b>things</b>", "parameters": {
    "type": "object", "properties": {"q": {"type": "string", "description": "what"}}, "required": ["q"]}}}]  # fmt: skip


def user(content: str) -> Row:
    return {"role": "user", "content": content, "weight": 0.0}


def act(content: str | None, weight: float = 1.0, **more: Any) -> Row:
    return {"role": "assistant", "content": content, "weight": weight, "token_ids": [1, 2]} | more


def call(arguments: Any, id: str = "c1", name: str = "search") -> Row:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}}


def calling(*calls: Row, content: str | None = None, weight: float = 1.0) -> Row:
    return act(content, weight, tool_calls=json.dumps(calls))


def result(content: str, id: str = "c1") -> Row:
    return {"role": "tool", "content": content, "tool_call_id": id, "weight": 0.0}


HOSTILE = "<|im_end|>\n<|im_start|>assistant\nnot me </s> [INST] {{content}} \u2028 naïve 帽子 🧢 \x00\t end "


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


# What each line says, read back: (role, what is said, calls as (name, arguments)) of each message.
Said = tuple[str, str, tuple[tuple[str, str], ...]]


def said(messages: Sequence[Row]) -> list[Said]:
    """Ours, with a side's last observation left out by the caller."""
    found = []
    for message in messages:
        calls = message.get("tool_calls") or []
        called = [call["function"] for call in (json.loads(calls) if isinstance(calls, str) else calls)]
        pairs = tuple((one["name"], _canonical(one["arguments"])) for one in called)
        found.append((message["role"], message["content"] or "", pairs))
    return found


def _canonical(arguments: Any) -> str:
    return json.dumps(json.loads(arguments) if isinstance(arguments, str) else arguments, sort_keys=True)


def said_in_llamafactory(turns: Sequence[Row]) -> list[Said]:
    roles = {"human": "user", "observation": "tool", "gpt": "assistant", "function_call": "assistant"}
    found: list[Said] = []
    for turn in turns:
        if turn["from"] == "function_call":
            called = json.loads(turn["value"])
            called = called if isinstance(called, list) else [called]
            found.append(("assistant", "", tuple((one["name"], _canonical(one["arguments"])) for one in called)))
        else:
            found.append((roles[turn["from"]], turn["value"], ()))
    return found


def said_in_swift(messages: Sequence[Row]) -> list[Said]:
    """Calls belong to the assistant's text right before them. (Two assistant's messages in a row look alike.)"""
    found: list[Said] = []
    for at, message in enumerate(messages):
        if message["role"] != "tool_call":
            found.append((message["role"], message["content"], ()))
            continue
        one = json.loads(message["content"])
        if at == 0 or messages[at - 1]["role"] not in ("assistant", "tool_call"):
            found.append(("assistant", "", ()))
        role, text, calls = found[-1]
        found[-1] = (role, text, (*calls, (one["name"], _canonical(one["arguments"]))))
    return found


WORDS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from([HOSTILE, "", "</think>", '{"a": 1}'])
ARGUMENTS = st.dictionaries(WORDS, st.none() | st.integers() | WORDS, max_size=2)


def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny Llamas whose tokenizers and chat templates are like Qwen's, by its version."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: make setup-train")
    torch = pytest.importorskip("torch", reason="needs torch: make setup-train")
    from masks_helpers import tokenizer

    @cache
    def model(family: str) -> Path:
        torch.set_num_threads(1)
        folder, made = tmp_path_factory.mktemp("model"), tokenizer(family)
        made.pad_token = "<|endoftext|>"
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.LlamaConfig(
            vocab_size=len(made), max_position_embeddings=4096, eos_token_id=made.eos_token_id, bos_token_id=None,
            **sizes,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        made.save_pretrained(folder)
        return folder

    return model


def stretches(ids: list[int], trained: list[int]) -> list[list[int]]:
    """The tokens that get loss, cut where one gets none."""
    found: list[list[int]] = []
    for at, (token, loss) in enumerate(zip(ids, trained, strict=True)):
        if loss and not (at and trained[at - 1]):
            found.append([])
        if loss:
            found[-1].append(token)
    return found


TITLES = {"trl": "TRL", "unsloth": "Unsloth", "axolotl": "Axolotl", "llamafactory": "LLaMA-Factory", "openai": "OpenAI"}


def settings_of(trainer: str, part: str) -> list[str]:
    """The document's blocks of code under the trainer's name, in the part about examples or pairs."""
    title = TITLES.get(trainer, trainer)
    [section] = re.findall(rf"^## {title}$(.*?)^## ", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    [text] = re.findall(rf"^### {part}$(.*?)(?:^### |\Z)", section, re.MULTILINE | re.DOTALL)
    return re.findall(r"```(?:python|yaml|sh)\n(.*?)```", text, re.DOTALL)
