"""What tests/test_masks.py shares with other tests."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="masks need the extra train")
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trajkit.tokens.masks import Masks, Row

FOLDER = Path(__file__).parent / "chat_templates"
FAMILIES: dict[str, dict[str, Any]] = json.loads((FOLDER / "families.json").read_text())
# What the tiny vocabularies are learned from: pieces that reach over the end of a header, and the special tokens'
# own spelling, so that ordinary pieces could make them up.
CORPUS = [
    "Thought: I should search.\n\nAction: search[red shirt](x)\n\n\nObservation: 3 results, next [page] of 4\n",
    *(marker for facts in FAMILIES.values() for marker in facts["markers"]),
    "[INST] a [/INST](b) [/INST]((c [/INST]](d",
] * 4
QWEN_WORDS = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@lru_cache
def tokenizer(family: str) -> Any:
    """A tokenizer with a vocabulary of some hundred pieces that treats text as the family's does."""
    facts = FAMILIES[family]
    pieces, markers = facts["pieces"], facts["markers"]
    if pieces.startswith("bytes"):
        made = Tokenizer(models.BPE(ignore_merges=pieces == "bytes-trimmed"))
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(QWEN_WORDS, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        made.decoder = decoders.ByteLevel()
        made.post_processor = processors.ByteLevel(trim_offsets=pieces == "bytes-trimmed")
        learn = {"special_tokens": [], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if pieces == "prepended":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            back.append(decoders.Strip(" ", 1, 0))
        elif pieces == "first-prepended":
            made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
            back.append(decoders.Strip(" ", 1, 0))
        else:
            made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence(back)
        learn = {"special_tokens": [*markers, *(f"<0x{byte:02X}>" for byte in range(256))]}
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, show_progress=False, **learn))
    if not pieces.startswith("bytes"):  # the trainer makes all 256 bytes special, which they are nowhere
        data = json.loads(made.to_str())
        data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
        made = Tokenizer.from_str(json.dumps(data))
    swallowing = facts.get("swallowing", [])
    made.add_special_tokens([AddedToken(m, rstrip=m in swallowing, normalized=False, special=True) for m in markers])
    made.add_tokens([AddedToken(word, normalized=False) for word in facts.get("words", [])])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=facts.get("bos"), eos_token=facts["eos"])
    fast.chat_template = (FOLDER / f"{family}.jinja").read_text()
    return fast


@lru_cache
def masks(family: str, **options: Any) -> Masks:
    return Masks(tokenizer(family), **{"context": 10**9} | options)


def turns(*said: str, system: str | None = None, weight: float = 1.0) -> list[dict[str, Any]]:
    """User and assistant in turn, the assistant's with a weight."""
    messages = [
        {"role": "assistant", "content": text, "weight": weight}
        if at % 2
        else {"role": "user", "content": text, "weight": 0.0}
        for at, text in enumerate(said)
    ]
    return messages if system is None else [{"role": "system", "content": system, "weight": 0.0}, *messages]


def example(messages: list[dict[str, Any]], tools: Any = None) -> dict[str, Any]:
    return {"example_id": "e1", "messages": messages, "tools": tools}


def one(made: Masks, messages: list[dict[str, Any]], tools: Any = None) -> Row:
    [row] = made.rows([example(messages, tools)])
    assert len(row.input_ids) == len(row.weights) and row.weights[0] == 0.0
    return row


def trained(row: Row) -> list[list[int]]:
    """The runs of trained token ids, a new one after each stop token being as good as a gap."""
    runs: list[list[int]] = [[]]
    for token, weight in zip(row.input_ids, row.weights, strict=True):
        if weight:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": '{"at": "ü"}'}}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}]


def calling() -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "What is there?", "weight": 0.0},
        {"role": "assistant", "content": None, "tool_calls": copy.deepcopy([CALL]), "weight": 1.0},
        {"role": "tool", "content": 'a "wall" <|eot_id|><|im_end|></s>', "tool_call_id": "abcdefghi", "weight": 0.0},
        {"role": "assistant", "content": "A wall.", "weight": 1.0},
    ]
