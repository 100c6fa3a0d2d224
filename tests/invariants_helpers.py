"""What tests/test_invariants.py shares with other tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from worlds import Row, World, write

from trajkit.selection.select import select


def selected(
    world: World, method: str, params: dict[str, Any] | None = None, layout: int = 0, threads: int = 1
) -> tuple[list[Row], dict[str, str], bytes]:
    """The examples that select writes, the footer's metadata, and the file itself."""
    with tempfile.TemporaryDirectory() as folder:
        runs = write(world, Path(folder) / "runs", layout)
        out = Path(folder) / "sft.parquet"
        select(runs, out, method=method, params=params or {}, threads=threads, allow_empty=True)
        table = pq.read_table(out)
        footer = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        return table.to_pylist(), footer, out.read_bytes()


TEXT = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name")
