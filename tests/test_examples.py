"""Reading a written dataset back where polars and duckdb are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trajkit.errors import BadData
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter
from trajkit.selection.select import select

CALLS = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "ü"}'}}]


def test_messages_come_back_ready_for_a_chat_template(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Find it."},
        {"role": "assistant", "content": "an example", "context": True},
        {"role": "assistant", "content": None, "tool_calls": CALLS, "reasoning": "hm"},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
    ]
    with RunWriter(tmp_path / "runs") as writer:
        writer.add(record(task_id="t", role="expert", messages=messages, success=True, tools=[{"name": "look"}]))
    select(tmp_path / "runs", tmp_path / "sft.parquet", "sft_pos")
    code = (
        "import sys; sys.modules['polars'] = sys.modules['duckdb'] = None\n"
        "from trajkit.selection.dataset import read\n"
        f"[example] = read({str(tmp_path / 'sft.parquet')!r})\n"
        "print([m['weight'] for m in example['messages']], example['messages'][2], example['tools'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assistant = {"role": "assistant", "reasoning": "hm", "tool_calls": CALLS, "weight": 1.0, "content": None}
    assert out == f"[0.0, 0.0, 1.0, 0.0] {assistant} {[{'name': 'look'}]}"


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    from trajkit.selection.dataset import read

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(BadData, match="not written by"):
        next(read(tmp_path / "other.parquet"))
