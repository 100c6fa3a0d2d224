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
# Each kind of data, and the columns that training reads.
KINDS = {
    "examples": {"example_id", "messages", "tools"},
    "pairs": {"pair_id", "level", "prompt", "chosen", "rejected", "tools"},
    "values": {"example_id", "messages", "tools"},
}


def kind(path: str | os.PathLike[str]) -> str:
    """What a file holds: examples, pairs or values, as its footer says; examples where it does not say.

    Raises ValueError for a file that `trajkit select` has not written.
    """
    with _open(path) as file:
        return _kind(path, file)


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The examples (pairs, values) of a Parquet file in their order, a row group in memory at a time.

    Each is a dict with the file's columns. `messages` (of pairs: `prompt`, `chosen`, `rejected`) is a list of chat
    messages in OpenAI's format, ready for a chat template: keys that a message does not have are left out, tool_calls
    are parsed, and `weight` is the loss weight of the whole message (1.0: train on it, 0.0: context); `token_ids`,
    where there are any, are what the model sampled for it; `value`, in a file of values, is what is to be predicted
    after it. `tools` is parsed too; None: no tools.
    Raises ValueError for a file that `trajkit select` has not written, or that lacks a column.
    """
    with _open(path) as file:
        wanted = KINDS[_kind(path, file)]
        if missing := wanted - set(file.schema_arrow.names):
            raise ValueError(f"{path}: it has no column {', '.join(sorted(missing))}")
        for group in range(file.num_row_groups):
            for example in file.read_row_group(group).to_pylist():
                example["tools"] = None if example["tools"] is None else json.loads(example["tools"])
                for column in wanted & {"messages", "prompt", "chosen", "rejected"}:
                    example[column] = [chat(message) for message in example[column]]
                yield example


def _open(path: str | os.PathLike[str]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: no Parquet file ({error})") from error


def _kind(path: str | os.PathLike[str], file: pq.ParquetFile) -> str:
    told = file.metadata.metadata or {}
    if b"trajkit.method" not in told:
        raise ValueError(f"{path}: not written by `trajkit select` (no trajkit.method in its footer)")
    found: str = told.get(b"trajkit.kind", b"examples").decode(errors="replace")
    if found not in KINDS:
        raise ValueError(f"{path}: it holds {found!r}, and training knows {', '.join(KINDS)}")
    return found


def fingerprint(path: str | os.PathLike[str]) -> str:
    """The digest of the file: equal for equal examples, since `select` writes the same bytes for the same input."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chat(message: Message) -> Message:
    """A message as a chat template takes it, from a row of a file or of the table `messages`."""
    made = {key: value for key, value in message.items() if value is not None}
    made.setdefault("content", None)
    if "tool_calls" in made:
        made["tool_calls"] = json.loads(made["tool_calls"])
    return made
