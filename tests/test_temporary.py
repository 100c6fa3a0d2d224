"""Temporary folders: gone with their process, or, where it was killed, with the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import pair, trajkit, write_run

from trajkit.runs import temporary
from trajkit.runs.temporary import TemporaryFolder

HOLDING = """
import os, sys
from trajkit.runs.temporary import TemporaryFolder
folder = TemporaryFolder()
open(folder.name + "/spilled", "w").close()
if "fork" in sys.argv and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print(folder.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


def holding(*args: str) -> tuple[subprocess.Popen[str], Path]:
    """A process with a temporary folder, which lives until its stdin is closed."""
    command = [sys.executable, "-c", HOLDING, *args]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def test_what_a_killed_process_left_goes_with_the_next_run_and_what_a_living_one_has_stays(
    tmp_path: Path, top: Path
) -> None:
    living, its = holding()
    dead, left = holding()
    kill(dead)
    foreign = [top / "trajkit-bench", top / "other"]
    for folder in foreign:
        folder.mkdir()
    (top / f"{temporary.PREFIX}file").touch()
    (top / f"{temporary.PREFIX}link").symlink_to(foreign[1])
    assert left.is_dir() and its.is_dir() and left.parent == top
    assert trajkit("sql", "from outcomes", "--runs", write_run(tmp_path / "runs", pair("e"))).code == 0
    assert not left.exists(), "that process is dead"
    assert (its / "spilled").exists(), "that process lives"
    stay = {its.name, *(path.name for path in foreign), f"{temporary.PREFIX}file", f"{temporary.PREFIX}link"}
    assert {path.name for path in top.iterdir()} == stay and foreign[1].is_dir()
    kill(living)
    TemporaryFolder().cleanup()
    assert not its.exists()


def test_a_fork_that_lives_on_keeps_the_folder_and_does_not_remove_it(top: Path) -> None:
    with TemporaryFolder() as folder:
        if (child := os.fork()) == 0:
            folder.cleanup()
            os._exit(0)
        os.waitpid(child, 0)
        assert Path(folder.name).is_dir()
    assert list(top.iterdir()) == []
    process, its = holding("fork")
    process.send_signal(signal.SIGKILL)
    process.wait()
    TemporaryFolder().cleanup()
    assert its.is_dir(), "its fork may still write there"
    assert process.stdin and process.stdout
    process.stdin.close()
    assert process.stdout.read() == ""  # the fork has ended
    TemporaryFolder().cleanup()
    assert not its.exists()


def test_two_in_one_process_and_where_nothing_can_be_locked(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryFolder() as one, TemporaryFolder() as other:
        assert {path.name for path in top.iterdir()} == {Path(one.name).name, Path(other.name).name}

        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        with monkeypatch.context() as patch:
            patch.setattr("fcntl.flock", refuse)
            with TemporaryFolder() as third:
                assert len(list(top.iterdir())) == 3 and Path(third.name).is_dir()
    assert list(top.iterdir()) == []


def test_one_that_is_taken_for_abandoned_before_it_is_locked(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making and locking it another process may look: then another one is made."""
    make = tempfile.mkdtemp
    taken: list[str] = []

    def and_somebody_looks(**options: object) -> str:
        name = make(**options)  # type: ignore[call-overload]
        if not taken:
            taken.append(name)
            temporary._remove_abandoned(top)
        return str(name)

    monkeypatch.setattr(tempfile, "mkdtemp", and_somebody_looks)
    with TemporaryFolder() as folder:
        assert [folder.name] != taken and Path(folder.name).is_dir() and not Path(taken[0]).exists()
