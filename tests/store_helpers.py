"""What tests/test_store.py shares with other tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trajkit.runs.listing import existing_ids
from trajkit.runs.records import Record, record
from trajkit.runs.writer import RunWriter


def trajectory(number: int, text: str = "look") -> Record:
    said = [{"role": "user", "content": f"{text} {number}"}, {"role": "assistant", "content": "go"}]
    return record(task_id=f"task-{number}", role="expert", messages=said, reward=1.0)


def write_run(run: Path | str, n: int, per_part: int = 5, first: int = 0) -> None:
    """What an importer or explore does: pass over what is there, a part every few trajectories."""
    run = Path(run)
    with RunWriter(run, existing_ids(run.parent)) as writer:
        for number in range(first, first + n):
            writer.add(trajectory(number))
            if number % per_part == per_part - 1:
                writer.flush()


def everything(n: int) -> set[str]:
    return {trajectory(number).trajectory["trajectory_id"] for number in range(n)}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, where root may mount one."""
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
