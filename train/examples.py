"""Reading what `trajkit select` wrote, with pyarrow alone: polars and duckdb need not be installed where one trains."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Message = dict[str, Any]


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The examples of a Parquet file in their order, a row group in memory at a time.

    Each is a dict with the file's columns. `messages` is a list of chat messages in OpenAI's format, ready for
    a chat template: keys that a message does not have are left out, tool_calls are parsed, and `weight` is the
    loss weight of the whole message (1.0: train on it, 0.0: context); `token_ids`, where there are any, are what the
    model sampled for it. `tools` is parsed too; None: no tools.
    Raises ValueError for a file that `trajkit select` has not written, or that holds pairs.
    """
    try:
        opened = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: no Parquet file ({error})") from error
    with opened as file:
        if b"trajkit.method" not in (file.metadata.metadata or {}):
            raise ValueError(f"{path}: not written by `trajkit select` (no trajkit.method in its footer)")
        names = set(file.schema_arrow.names)
        if {"chosen", "rejected"} <= names:
            raise ValueError(
                f"{path}: it holds pairs (prompt, chosen, rejected), and examples with messages are wanted"
            )
        if not {"example_id", "messages", "tools"} <= names:
            raise ValueError(
                f"{path}: it has no column {', '.join(sorted({'example_id', 'messages', 'tools'} - names))}"
            )
        for group in range(file.num_row_groups):
            for example in file.read_row_group(group).to_pylist():
                example["tools"] = None if example["tools"] is None else json.loads(example["tools"])
                example["messages"] = [_chat(message) for message in example["messages"]]
                yield example


def fingerprint(path: str | os.PathLike[str]) -> str:
    """The digest of the file: equal for equal examples, since `select` writes the same bytes for the same input."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chat(message: Message) -> Message:
    chat = {key: value for key, value in message.items() if value is not None}
    chat.setdefault("content", None)
    if "tool_calls" in chat:
        chat["tool_calls"] = json.loads(chat["tool_calls"])
    return chat
