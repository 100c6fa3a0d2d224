"""What lies below runs/: nothing is passed over in silence, nothing waits for ever, each file counts once."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import pair, trajkit, write_run

from trajkit.errors import BadData
from trajkit.runs.listing import all_parts

COMMANDS = {
    "select": ("select", "--method", "sft_all", "--out", "{out}", "--runs", "{runs}"),
    "sql": ("sql", "from outcomes", "--runs", "{runs}"),
    "plan": ("plan", "--plan", "initial", "--runs", "{runs}"),
    "validate": ("validate", "{runs}"),
    "compact": ("compact", "{runs}"),
    "import": ("import", "openai", "{log}", "--runs", "{runs}", "--role", "expert"),
}
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


def _no_privileges() -> None:
    """Permissions hold for root too, in what this process becomes."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                os._exit(77)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for number in range(2):
        write_run(tmp_path / "runs" / f"run-{number}", pair(f"e{number}"))
    (tmp_path / "log.jsonl").write_text('{"id": "t", "messages": [{"role": "user", "content": "q"}, '
                                        '{"role": "assistant", "content": "a"}]}\n')  # fmt: skip
    return tmp_path / "runs"


def command(name: str, runs: Path) -> list[str]:
    places = {"runs": runs, "out": runs.parent / "out" / "sft.parquet", "log": runs.parent / "log.jsonl"}
    return [word.format(**places) for word in COMMANDS[name]]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_cannot_be_read_is_named(tmp_path: Path, runs: Path, name: str, what: str) -> None:
    hidden = runs / "run-1" if what == "folder" else next((runs / "run-1").rglob("trajectories*.parquet"))
    (tmp_path / "out").mkdir()
    called = [sys.executable, "-c", "from trajkit.cli import main; main()", *command(name, runs)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    hidden.chmod(0)
    try:
        done = subprocess.run(called, env=env, capture_output=True, text=True, preexec_fn=_no_privileges, check=False)
    finally:
        hidden.chmod(0o755)
    if done.returncode == 77:
        pytest.skip("root keeps its privileges here, and reads everything")
    said = done.stderr + done.stdout
    if what == "file" and name == "compact":  # it reads what lies in parts alone
        assert (done.returncode == 0 and "left as they are" in said) or str(hidden) in said, said
        return
    assert done.returncode in (1, 3) and str(hidden) in said and "Permission denied" in said, said
    assert "Traceback" not in said and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a pipe"])
def test_what_is_no_file_is_refused_and_nothing_waits_for_it(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = "trajectories-2.parquet"
    monkeypatch.chdir(runs)
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        os.symlink(tmp_path / "pipe", name)
    elif kind == "device":
        os.symlink("/dev/zero", name)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for one in ("select", "sql", "validate", "import"):
        result = trajkit(*command(one, runs))
        assert result.code == 3 and name in result.err and "not a file" in result.err, result
    os.unlink(runs / name)
    os.mkfifo(runs / "pipe.parquet")  # of no table
    assert trajkit(*command("validate", runs)).code == 0


def test_loops_are_cut_and_each_file_counts_once(tmp_path: Path, runs: Path) -> None:
    before = all_parts(runs)
    (runs / "again").symlink_to(runs)
    (runs / "run-0" / "up").symlink_to("..")
    (runs / "itself").symlink_to("itself")
    (runs / "a-link").symlink_to(runs / "run-1")
    for file in [file for files in before.values() for file in files]:
        link = Path(file).with_name(f"{Path(file).stem}-again.parquet")
        link.symlink_to(file)
    assert all_parts(runs) == before
    elsewhere = write_run(tmp_path / "elsewhere", pair("other"))
    for name in ("one", "two"):
        (runs / name).symlink_to(elsewhere)
    added = {table: set(files) - set(before[table]) for table, files in all_parts(runs).items()}
    assert {str(file.parent.relative_to(runs)).split("/")[0] for files in added.values() for file in files} == {"one"}
    assert trajkit(*command("validate", runs)).code == 0


def test_a_link_to_nothing_is_named(runs: Path) -> None:
    (runs / "trajectories-3.parquet").symlink_to("nothing")
    result = trajkit(*command("sql", runs))
    assert result.code == 3 and "trajectories-3.parquet" in result.err


def test_a_disk_that_fails_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def failing(folder: str) -> object:
        if str(folder).endswith("run-1"):
            raise OSError(5, "Input/output error")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(BadData, match=r"run-1: cannot be read .Input/output error"):
        all_parts(runs)
