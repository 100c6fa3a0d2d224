"""Reading what `trajkit select` wrote, with pyarrow alone: polars and duckdb need not be installed where one trains."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajkit.console import clean
from trajkit.errors import BadData, UsageError
from trajkit.messages import from_row
from trajkit.runs.object_store import here

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Message = dict[str, Any]
# Each kind of file: its rows' id, the lists of messages in a row, and what else a reader needs.
KINDS = {
    "examples": ("example_id", "messages", "tools"),
    "pairs": ("pair_id", "prompt", "chosen", "rejected", "tools"),
    "values": ("example_id", "messages", "tools"),
}
LISTS = {"messages", "prompt", "chosen", "rejected"}
BATCH_ROWS = 128  # as Python's objects rows are many times larger than in the file


@dataclass(frozen=True)
class Selected:
    """A file that `trajkit select` wrote.

    kind: examples, pairs or values. method: the rule that chose them. told: the footer's trajkit.* entries without
    that prefix (method, kind, params, version, input, ...).
    """

    path: Path
    kind: str
    method: str
    told: dict[str, str]
    parquet: pq.ParquetFile

    def rows(self, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows in order as the file has them, with these columns (None: all), a row group in memory at a time."""
        import pyarrow as pa

        if missing := sorted(set(columns or KINDS[self.kind]) - set(self.parquet.schema_arrow.names)):
            raise BadData(f"{self.path}: it has no column {', '.join(missing)}, which a file of {self.kind} has.")
        for number in range(self.parquet.num_row_groups):
            try:
                group = self.parquet.read_row_group(number, columns=None if columns is None else list(columns))
            except (OSError, pa.ArrowException) as error:
                raise BadData(
                    f"{self.path}: row group {number} cannot be read ({error}); the file is damaged."
                ) from error
            for batch in group.to_batches(max_chunksize=BATCH_ROWS):
                yield from batch.to_pylist()


def selected(path: str | os.PathLike[str]) -> Selected:
    """Open a file that `trajkit select` wrote.

    Raises UsageError where there is no such file, BadData for one that is torn or that `select` has not written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = here(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file. `trajkit select --out {path}` writes one.")
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise BadData(f"{path}: no whole Parquet file ({error}). `trajkit select` writes one again.") from error
    footer = {key.decode(errors="replace"): value.decode(errors="replace")
              for key, value in (file.metadata.metadata or {}).items()}  # fmt: skip
    told = {key.removeprefix("trajkit."): value for key, value in footer.items() if key.startswith("trajkit.")}
    if "method" not in told:
        raise BadData(f"{path}: not written by `trajkit select` (no trajkit.method in its footer).")
    kind = told.get("kind", "examples")
    if kind not in KINDS:
        raise BadData(f"{path}: it holds {clean(kind)!r}; known are {', '.join(KINDS)}.")
    return Selected(path, kind, told["method"], told, file)


def kind(path: str | os.PathLike[str]) -> str:
    """What a file holds: examples, pairs or values, as its footer says; examples where it does not say."""
    return selected(path).kind


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The examples (pairs, values) of a file in their order.

    Each is a dict with the file's columns. `messages` (of pairs: `prompt`, `chosen`, `rejected`) is a list of chat
    messages in OpenAI's format, ready for a chat template: keys that a message does not have are left out, tool_calls
    are parsed, and `weight` is the loss weight of the whole message (1.0: train on it, 0.0: context); `token_ids`,
    where there are any, are what the model sampled for it; `value`, in a file of values, is what is to be predicted
    after it. `tools` is parsed too; None: no tools.
    Raises as `selected` does, and BadData for a file that lacks a column.
    """
    file = selected(path)
    for example in file.rows():
        example["tools"] = None if example["tools"] is None else json.loads(example["tools"])
        for column in LISTS & example.keys():
            example[column] = [from_row(message) for message in example[column]]
        yield example


def fingerprint(path: str | os.PathLike[str]) -> str:
    """The digest of the file: equal for equal examples, since `select` writes the same bytes for the same input."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
