"""`--out` of every command that writes a file: where it may lie, what its name says, what is there already."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
from small_runs import Result, pair, trajkit, write_run

from trajkit.cli import cli
from trajkit.errors import UsageError

Write = Callable[..., Result]

# command: its arguments, the suffix that it writes, and one that it does not
COMMANDS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "select": (("select", "--input", "runs", "--method", "sft_all"), ".parquet", ".jsonl"),
    "report": (("report", "--runs", "runs"), ".html", ".pdf"),
    "export": (("export", "sft.parquet", "--to", "trl"), ".jsonl", ".parquet"),
    "sql": (("sql", "SELECT 1 AS one", "--runs", "runs", "--format", "csv"), ".csv", ".json"),
}
BEGINS: dict[str, Any] = {"select": b"PAR1", "report": b"<!doctype html>", "export": b'{"', "sql": b"one\n"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    runs = write_run(folder / "runs", pair("e"))
    done = trajkit("select", "--input", runs, "--method", "sft_all", "--out", folder / "sft.parquet")
    assert done.code == 0, done.err
    return folder


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    return str(request.param)


def write(command: str, out: object, *more: str) -> Result:
    return trajkit(*COMMANDS[command][0], "--out", out, *more)


def test_a_link_is_followed_and_the_file_keeps_its_permissions(command: str, tmp_path: Path) -> None:
    suffix = COMMANDS[command][1]
    (tmp_path / "kept").mkdir()
    target, link = tmp_path / "kept" / f"target{suffix}", tmp_path / f"link{suffix}"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(Path("kept") / target.name)
    done = write(command, link)
    assert done.code == 0, done.err
    assert link.is_symlink() and target.read_bytes().startswith(BEGINS[command])
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [target.name]
    dangling = tmp_path / f"dangling{suffix}"
    dangling.symlink_to(Path("kept") / f"new{suffix}")
    assert write(command, dangling).code == 0 and dangling.is_symlink()
    assert (tmp_path / "kept" / f"new{suffix}").read_bytes() == target.read_bytes()


def seen(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_mtime_ns


def test_what_is_no_regular_file_is_refused(command: str, tmp_path: Path) -> None:
    suffix = COMMANDS[command][1]
    places = {name: tmp_path / f"{name}{suffix}" for name in ("fifo", "socket", "folder", "device", "loop")}
    os.mkfifo(places["fifo"])
    places["folder"].mkdir()
    places["device"].symlink_to("/dev/null")
    places["loop"].symlink_to(places["loop"].name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(places["socket"]))
        before = {path: seen(path) for path in places.values()}
        for name, place in places.items():
            done = write(command, place)
            assert (done.code, done.out) == (2, ""), name
            assert str(place) in done.err and "--out" in done.err
    assert {path: seen(path) for path in tmp_path.iterdir()} == before


def test_another_suffix_than_what_is_written_is_refused(command: str, tmp_path: Path) -> None:
    _, suffix, other = COMMANDS[command]
    for wrong in (other, ".pdf", f"{suffix}.gz"):
        done = write(command, tmp_path / f"out{wrong}")
        assert (done.code, done.out) == (2, "") and f"end the name in {suffix}" in done.err
    assert not list(tmp_path.iterdir())


def test_a_dash_is_stdout(command: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / f"out{COMMANDS[command][1]}"
    assert write(command, file).code == 0
    args = [sys.executable, "-c", "from trajkit.cli import main; main()", *COMMANDS[command][0], "--out", "-"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(args, cwd=folder, env=env, capture_output=True, check=True)
    if command == "report":  # it says when it was made
        assert done.stdout.startswith(b"<!doctype html>") and done.stdout.rstrip().endswith(b"</html>")
    else:
        assert done.stdout == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert not (folder / "-").exists()


def test_a_dash_on_a_terminal_is_refused(command: str, folder: Path) -> None:
    with pytest.raises(UsageError, match="stdout is a terminal"), mock.patch.object(sys, "stdout", Terminal()):
        cli.main([*COMMANDS[command][0], "--out", "-"], standalone_mode=False)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "sql"], indirect=True)
def test_a_dash_leaves_no_place_for_the_summary_as_json(command: str) -> None:
    done = write(command, "-", "--json")
    assert (done.code, done.out) == (2, "") and "--json" in done.err


def test_more_than_one_file_is_no_stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for to, said in (("llamafactory", "more than one file"), ("datasets", "a folder")):
        done = trajkit("export", "sft.parquet", "--to", to, "--out", "-")
        assert (done.code, done.out) == (2, "") and said in done.err
    assert not (folder / "-").exists()


def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, folder: Path) -> None:
    before = os.umask(0o027)
    try:
        done = trajkit("select", "--input", folder / "runs", "--method", "sft_all", "--out", tmp_path / "a.parquet")
    finally:
        os.umask(before)
    assert done.code == 0 and stat.S_IMODE((tmp_path / "a.parquet").stat().st_mode) == 0o640
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 1
