"""rejected.jsonl loses no line: of imports that end at the same time, one after the other, or killed in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from import_helpers import chat_record, read_runs, run_import, write_lines

from trajkit.errors import TrajkitError
from trajkit.importers import Options, import_files
from trajkit.importers._batches import Reject
from trajkit.importers._rejected import Rejected
from trajkit.importers._source import SourceFile


def raws(runs: Path) -> list[str]:
    return sorted(row["raw"] for row in read_runs(runs).rejected)


def started(*arguments: Path | str, before: str = "") -> subprocess.Popen[str]:
    code = f"import sys; {before}\nfrom trajkit.cli import main; main()"
    command = [sys.executable, "-c", code, "import", "openai", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_imports_that_end_at_the_same_time(tmp_path: Path) -> None:
    processes = []
    for n in range(4):
        file = write_lines(tmp_path / f"{n}.jsonl", [chat_record(n), f"bad {n}", f"worse {n}"])
        processes.append(started(file, "--runs", tmp_path / "runs"))
    for process in processes:
        assert process.communicate()[1] and process.returncode == 0
    assert raws(tmp_path / "runs") == sorted(json.dumps(f"{word} {n}") for n in range(4) for word in ("bad", "worse"))
    (run,) = (tmp_path / "runs").iterdir()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_two_at_work_at_once_whichever_ends_first(tmp_path: Path) -> None:
    """Also in one process, as two threads import."""
    old = Rejected(tmp_path)
    old.add("/0", Reject(1, "0", "old", "r"))
    old.finish("/0")
    old.close()
    first, second = Rejected(tmp_path), Rejected(tmp_path)
    first.add("/1", Reject(1, "0", "first", "r"))
    second.add("/2", Reject(1, "0", "second", "r"))
    second.finish("/2")
    second.close()
    first.add("/1", Reject(2, "1", "first too", "r"))
    first.finish("/1")
    first.close()
    first.discard()
    second.discard()
    lines = [json.loads(line)["raw"] for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert sorted(lines) == ["first", "first too", "old", "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["rejected.jsonl"]


def test_what_a_killed_import_had_set_aside_is_taken_in_by_the_next(tmp_path: Path) -> None:
    write_lines(tmp_path / "0.jsonl", [chat_record(0), "old"])
    run_import(tmp_path / "runs", "openai", tmp_path / "0.jsonl")
    killed = write_lines(tmp_path / "1.jsonl", [chat_record(1), *(f"killed {n}" for n in range(2000)), chat_record(2)])
    # It kills itself when it has taken in all records and goes to write what is left.
    kill = (
        "import os, signal, trajkit.importers._rejected as r\n"
        "def die(self):\n    self._new.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "r.Rejected.close = die"
    )
    process = started(killed, "--runs", tmp_path / "runs", before=kill)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert raws(tmp_path / "runs") == ['"old"']
    (run,) = (tmp_path / "runs").iterdir()
    (leftover,) = run.glob(".rejected-*.tmp")
    with leftover.open("ab") as file:
        file.write(b'{"file": "/x", "torn')  # as where the kill came while it was written
    write_lines(tmp_path / "2.jsonl", [chat_record(3)])
    run_import(tmp_path / "runs", "openai", tmp_path / "2.jsonl")
    all_of_it = sorted(['"old"', *(json.dumps(f"killed {n}") for n in range(2000))])
    assert raws(tmp_path / "runs") == all_of_it
    assert not list(run.glob(".rejected*"))
    run_import(tmp_path / "runs", "openai", killed)  # again: none is there twice
    assert raws(tmp_path / "runs") == all_of_it


def test_an_import_that_fails_in_the_middle_keeps_what_it_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_lines(tmp_path / "1.jsonl", [chat_record(1), "bad 1"])
    two = write_lines(tmp_path / "2.jsonl", [chat_record(2), "bad 2"])
    run_import(tmp_path / "runs", "openai", two)
    real = SourceFile.chunks

    def failing(self: SourceFile) -> object:
        if self.path == str(two):
            raise OSError(5, "Input/output error")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(SourceFile, "chunks", failing)
        with pytest.raises(TrajkitError, match="Input/output error"):
            run_import(tmp_path / "runs", "openai", one, two)
    assert raws(tmp_path / "runs") == ['"bad 1"', '"bad 2"']


def test_strict_leaves_it_as_it_was(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "1.jsonl", [chat_record(1), "bad"])
    run_import(tmp_path / "runs", "openai", file)
    write_lines(file, [chat_record(1), "other"])
    with pytest.raises(TrajkitError):
        import_files("openai", [str(file)], tmp_path / "runs", Options(), strict=True)
    assert raws(tmp_path / "runs") == ['"bad"']
