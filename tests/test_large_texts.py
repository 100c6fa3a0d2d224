"""Texts that are more than DuckDB sorts in memory: the same rows, the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import OutOfMemory
from trajkit.rules import method, rules
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter
from trajkit.selection.large_texts import SHORT, flat, in_order
from trajkit.selection.select import choose, select

MEGABYTE = 2**20
KEYS = "excerpt_number, seq"


def _runs(folder: Path, n: int, turns: int, size: int) -> Path:
    """`n` solved expert trajectories of `turns` messages of `size` characters each."""
    rng = random.Random(size)
    letters = rng.randbytes(size + 50_000).hex()
    with RunWriter(folder / "run") as writer:
        for number in range(n):
            messages = [{"role": "user", "content": f"task {number}"}]
            for turn in range(turns):
                at = rng.randrange(50_000)
                text = letters[at : at + size]
                messages.append({"role": "user" if turn % 2 else "assistant", "content": text})
            writer.add(record(task_id=f"t{number:04}", role="expert", messages=messages, reward=1.0))
    return folder


def _message(rng: random.Random, role: str) -> dict[str, object]:
    """A message of which any part may be long, short, empty or missing."""
    sizes = (0, 1, 40, SHORT - 1, SHORT, 5 * SHORT)

    def text() -> str:
        return "".join(rng.choice('aé" \n雪🙂') for _ in range(rng.choice(sizes)))

    message: dict[str, object] = {"role": role, "content": text()}
    if role == "assistant":
        if rng.random() < 0.4:
            message["reasoning"] = text()
        if rng.random() < 0.4:
            call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"text": text()}}}
            message |= {"tool_calls": [call], "content": rng.choice((None, text()))}
        if rng.random() < 0.4:
            n = rng.choice(sizes)
            message |= {"token_ids": [rng.randrange(2**31) for _ in range(n)], "logprobs": [-0.5] * n}
    return message


@pytest.mark.parametrize("seed", range(4))
def test_rows_whose_texts_lie_apart_are_the_rows_of_the_sort(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with RunWriter(tmp_path / "run") as writer:
        for number in range(rng.randrange(1, 60)):
            roles = [
                "user",
                *(rng.choice(("assistant", "user", "tool")) for _ in range(rng.randrange(12))),
                "assistant",
            ]
            messages = [_message(rng, role) for role in roles]
            writer.add(record(task_id=f"t{number}", role="expert", messages=messages, reward=1.0))
    query = rules()["selected_messages"].sql
    with DuckDBEngine(tmp_path) as runs:
        choose(runs, method("sft_all"))
        sorted_whole = flat(pa.Table.from_batches(runs.batches(f"{query}\nORDER BY {KEYS}", 50)))
        apart = pa.Table.from_batches(in_order(runs, query, KEYS, 50))
        left = list(Path(runs.temporary).glob("texts-*"))
    assert apart.select(sorted_whole.column_names).equals(sorted_whole)
    assert not left


@pytest.mark.parametrize(("size", "limit"), [(20_000, 300), (MEGABYTE, 500)])
def test_select_writes_the_same_bytes_where_the_texts_are_more_than_a_sort_holds(
    tmp_path: Path, size: int, limit: int
) -> None:
    runs = _runs(tmp_path / "runs", limit * MEGABYTE // (8 * size), 8, size)
    with DuckDBEngine(runs, memory_limit=f"{limit}MB") as folder:
        choose(folder, method("sft_all"))
        with pytest.raises(OutOfMemory):
            list(folder.batches(rules()["selected_messages"].sql + f"\nORDER BY {KEYS}", 2048))
    select(runs, tmp_path / "small.parquet", "sft_all", memory_limit=f"{limit}MB")
    select(runs, tmp_path / "large.parquet", "sft_all", memory_limit="4GB")
    assert (tmp_path / "small.parquet").read_bytes() == (tmp_path / "large.parquet").read_bytes()


def test_long_tool_definitions_are_in_no_sort(tmp_path: Path) -> None:
    """10,000 trajectories share ten definitions of 20 kB: 200 MB in a sort."""
    with RunWriter(tmp_path / "runs" / "run") as writer:
        for number in range(10_000):
            tools = [{"type": "function", "function": {"name": f"f{number % 10}", "description": "x" * 20_000}}]
            messages = [{"role": "user", "content": str(number)}, {"role": "assistant", "content": "go"}]
            writer.add(record(task_id=f"t{number}", role="expert", messages=messages, reward=1.0, tools=tools))
    select(tmp_path / "runs", tmp_path / "small.parquet", "sft_all", memory_limit="100MB")
    select(tmp_path / "runs", tmp_path / "large.parquet", "sft_all", memory_limit="4GB")
    assert (tmp_path / "small.parquet").read_bytes() == (tmp_path / "large.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [600, 2000])
def test_select_of_messages_of_a_megabyte_stays_near_the_memory_limit(tmp_path: Path, megabytes: int) -> None:
    runs = _runs(tmp_path / "runs", megabytes // 10, 10, MEGABYTE)
    code = (
        "import resource, sys; from trajkit.selection.select import select\n"
        "select(sys.argv[1], sys.argv[2], 'sft_all', memory_limit='1GB')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(runs), str(tmp_path / "sft.parquet")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 2 * 2**20, f"{peak} kB"
