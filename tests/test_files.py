"""Whole files: what a kill leaves behind, and who takes it away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trajkit.runs.atomic import hidden, whole, write_whole

KILLED = """
import sys, time
from pathlib import Path
from trajkit.runs.atomic import whole
with whole(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""

WRITING = """
import sys
from pathlib import Path
from trajkit.runs.atomic import write_whole
for _ in range(50):
    write_whole(Path(sys.argv[1]), sys.argv[2] * 100_000)
"""


def killed_writer(path: Path) -> int:
    """The number of a process that was killed while it wrote `path`."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["sft.parquet", "[a]*?.json", ".hidden"])
def test_the_next_writer_takes_away_what_a_killed_one_left(tmp_path: Path, name: str) -> None:
    path = write_whole(tmp_path / name, "before")
    pid = killed_writer(path)
    assert names(tmp_path) == sorted([name, f".{name}.{socket.gethostname()}.{pid}.tmp"])
    assert path.read_text() == "before"
    write_whole(path, "after")
    assert names(tmp_path) == [name] and path.read_text() == "after"


@pytest.mark.parametrize("folder", [False, True])
def test_what_may_still_be_written_stays(tmp_path: Path, folder: bool) -> None:
    ended = killed_writer(tmp_path / "other")
    host = socket.gethostname()
    stay = [
        f".made.{host}.{os.getppid()}.tmp", f".made.elsewhere.{ended}.tmp", f".made.{host}.what.tmp", ".made.tmp",
        f".made.too.{host}.{ended}.tmp", f"made.{host}.{ended}.tmp", f".other.{host}.{ended}.tmp",
    ]  # fmt: skip
    go = [f".made.{host}.{ended}.tmp", f".made.{host}.{os.getpid()}.tmp"]  # the latter: the one before in a container
    for name in (*stay, *go):
        (tmp_path / name).mkdir() if folder and name != stay[-1] else (tmp_path / name).touch()
    assert hidden(tmp_path / "made").name == go[1]
    assert names(tmp_path) == sorted(stay)


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "file", "before")
    with pytest.raises(ZeroDivisionError), whole(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["file"] and path.read_text() == "before"


def test_two_writers_of_one_file_leave_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    both = [subprocess.Popen([sys.executable, "-c", WRITING, str(path), letter]) for letter in "ab"]
    while any(process.poll() is None for process in both):
        if path.exists():
            assert path.read_text() in ("a" * 100_000, "b" * 100_000)
        time.sleep(0.01)
    assert [process.returncode for process in both] == [0, 0]
    assert names(tmp_path) == ["file"]
