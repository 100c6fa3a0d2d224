"""What a writer leaves behind when it is killed, out of room, or not alone."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from forks import Forks
from store_helpers import everything, small_disk, trajectory, write_run

from trajkit.errors import TrajkitError
from trajkit.runs import writer as store
from trajkit.runs.listing import existing_ids, parts
from trajkit.runs.writer import RunWriter, write_part, write_tasks

CHECKOUT = Path(__file__).resolve().parents[1]


def seen(runs: Path) -> tuple[list[str], list[str]]:
    """The ids that anybody's glob sees, of trajectories and then of messages."""

    def ids(table: str) -> list[str]:
        files = duckdb.sql(f"SELECT file FROM glob('{runs}/**/{table}*.parquet')").fetchall()
        if not files:
            return []
        return [row[0] for row in duckdb.sql(f"SELECT trajectory_id FROM '{runs}/**/{table}*.parquet'").fetchall()]

    return ids("trajectories"), ids("messages")


def assert_whole(runs: Path) -> list[str]:
    trajectories, messages = seen(runs)
    assert set(trajectories) <= set(messages), "a trajectory is there without its messages"
    assert len(trajectories) == len(set(trajectories))
    assert len(messages) == 2 * len(set(messages)), "a trajectory is there with some of its messages"
    return trajectories


# --- killed ---


def test_a_writer_killed_at_any_moment_leaves_whole_parts_and_can_be_run_again(
    tmp_path: Path, forks: Callable[..., Forks]
) -> None:
    rng, writer, killed, attempt, longest = random.Random(7), forks(write_run), 0, 0, 0.045
    while attempt < 25 or killed <= 10:
        runs = tmp_path / str(attempt)
        attempt += 1
        pid = writer.start(runs / "run", 45, 3)
        time.sleep(rng.uniform(0, longest))
        in_time = writer.killed(pid)
        killed += in_time
        longest *= 1 if in_time else 0.9  # what ends before it is killed is killed earlier next time
        before = {path: path.read_bytes() for path in parts(runs, "trajectories")}
        assert_whole(runs)
        write_run(runs / "run", 45, 3)
        assert set(assert_whole(runs)) == everything(45)
        assert all(path.read_bytes() == data for path, data in before.items()), "an old part was touched"
        assert not list(runs.rglob(".*")), "a leftover is still there"
        assert len(parts(runs, "trajectories")) == 15 == len(parts(runs, "messages"))


@pytest.mark.parametrize("moment", range(4))
def test_a_writer_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """The moments that a kill at random hardly ever meets."""

    class Killed(BaseException):
        pass

    done = 0

    def rename(old: Path, new: Path) -> None:
        nonlocal done
        if done == moment:
            raise Killed
        done += 1
        replace(old, new)

    replace = os.replace
    write_run(tmp_path / "run", 5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename)
        patch.setattr(os, "getpid", lambda: _dead_pid())
        if moment < 3:
            with pytest.raises(Killed):
                write_run(tmp_path / "run", 5, first=5)
    whole = assert_whole(tmp_path)
    assert set(whole) in (everything(5), everything(10))
    assert len(parts(tmp_path, "trajectories")) == 1, "readers of trajkit look into no hidden folder"
    write_run(tmp_path / "run", 10)
    assert set(assert_whole(tmp_path)) == everything(10)
    assert not list(tmp_path.rglob(".*"))


def _dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_reader_never_sees_a_trajectory_before_its_messages(tmp_path: Path, forks: Callable[..., Forks]) -> None:
    writer = forks(write_run)
    writer.start(tmp_path / "run", 300, 2)
    ended = threading.Event()
    waiting = threading.Thread(target=lambda: (writer.end(), ended.set()))
    waiting.start()
    looks = 0
    while not ended.is_set():
        try:
            trajectories, messages = seen(tmp_path)  # in this order
        except duckdb.IOException as error:  # a hidden folder got its name between the glob and the read
            assert ".part-" in str(error)
            continue
        assert set(trajectories) <= set(messages)
        looks += 0 < len(trajectories) < 300
    waiting.join()
    assert looks > 2
    assert set(assert_whole(tmp_path)) == everything(300)


# --- leftovers ---


@pytest.mark.parametrize("whose", ["dead", "alive", "elsewhere", "no writer's"])
def test_a_leftover_goes_only_when_its_writer_is_gone(tmp_path: Path, whose: str) -> None:
    host = "some.other-host" if whose == "elsewhere" else socket.gethostname()
    pid = {"dead": _dead_pid(), "alive": os.getppid(), "elsewhere": _dead_pid()}.get(whose, "what")
    leftover = tmp_path / "run" / f".part-0123456789abcdef.{host}.{pid}.tmp"
    leftover.mkdir(parents=True)
    (leftover / "messages.tmp").write_bytes(b"PAR1 half of it")
    write_run(tmp_path / "run", 5)
    assert leftover.exists() == (whose != "dead")
    assert existing_ids(tmp_path) == everything(5)


@pytest.mark.parametrize("name", [".part-.tmp", ".part-x.tmp", ".part-a.b.tmp", ".part-a.b.c.d.tmp"])
def test_a_strange_hidden_name_stops_no_writer(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    write_run(tmp_path / "run", 5)
    assert (tmp_path / "run" / name).exists()


def test_a_killed_writer_whose_pid_is_ours_now_is_no_hindrance(tmp_path: Path) -> None:
    """In a container every process may have the pid of the one before."""
    write_run(tmp_path / "other", 5)
    [part] = (tmp_path / "other").iterdir()
    shutil.rmtree(tmp_path / "other")
    hidden = tmp_path / "run" / f".{part.name}-0a1b2c3d.{socket.gethostname()}.{os.getpid()}.tmp"
    hidden.mkdir(parents=True)
    (hidden / "messages.tmp").write_bytes(b"half")
    write_run(tmp_path / "run", 5)
    assert existing_ids(tmp_path) == everything(5)
    assert not hidden.exists()


# --- two at once ---


@pytest.mark.parametrize("content", ["same", "overlapping", "different"])
def test_two_writers_at_once(tmp_path: Path, forks: Callable[..., Forks], content: str) -> None:
    first = {"same": 0, "overlapping": 50, "different": 100}[content]
    both = [forks(write_run), forks(write_run)]
    both[0].start(tmp_path / "run", 100, 5)
    both[1].start(tmp_path / "run", 100, 5, first)
    assert [one.end() for one in both] == [0, 0]
    assert set(assert_whole(tmp_path)) == everything(100 + first)
    assert not list(tmp_path.rglob(".*"))


def test_the_same_part_from_two_threads(tmp_path: Path) -> None:
    rows = [trajectory(number) for number in range(200)]
    tables = {"trajectories": [r.trajectory for r in rows], "messages": [m for r in rows for m in r.messages]}
    failures: list[BaseException] = []
    gate = threading.Barrier(4)

    def work() -> None:
        try:
            gate.wait()
            write_part(tmp_path, tables)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(assert_whole(tmp_path)) == everything(200)


# --- no room, no right ---


def test_a_full_disk_is_said_and_leaves_the_old_parts(tmp_path: Path) -> None:
    noise = random.Random(1)
    with small_disk(tmp_path / "disk", "512k") as disk:
        write_run(disk / "run", 5)
        old = {path: path.read_bytes() for path in disk.rglob("*.parquet")}
        with pytest.raises(TrajkitError) as stop, RunWriter(disk / "run") as writer:
            for number in range(100):
                writer.add(trajectory(number, text=noise.randbytes(10_000).hex()))
        assert "No space left on device" in str(stop.value)
        assert str(disk / "run" / "part-") in str(stop.value)
        assert {path: path.read_bytes() for path in disk.rglob("*.parquet")} == old
        assert not list(disk.rglob(".*"))
        write_run(disk / "run", 10)  # there is room for this
        assert set(assert_whole(disk)) == everything(10)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TrajkitError, match="file/run: no run can be written there"):
        RunWriter(tmp_path / "file" / "run")


def test_a_folder_of_somebody_else_is_named(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    folder = tmp_path / "theirs"
    folder.mkdir()
    code = (
        "import os, sys; sys.path[:0] = sys.argv[1:3]\nimport pyarrow.parquet, test_store, pathlib\nos.setuid(65534)\n"
        "try: test_store.RunWriter(pathlib.Path(sys.argv[3]))\nexcept test_store.TrajkitError as e: print(e)"
    )
    command = [sys.executable, "-c", code, str(CHECKOUT), str(CHECKOUT / "tests"), str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    assert "theirs/run: no run can be written there (Permission denied)" in done.stdout


def test_parts_have_the_usual_permissions(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 5)
    umask = os.umask(0)
    os.umask(umask)
    for path in (tmp_path / "run").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask


# --- reading ---


def test_writing_the_same_twice_changes_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 10)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*.parquet")}
    write_run(tmp_path / "run", 10)
    with RunWriter(tmp_path / "run") as writer:  # even without knowing
        for number in range(5):
            assert writer.add(trajectory(number))
            assert not writer.add(trajectory(number))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*.parquet")} == before


@pytest.mark.parametrize("behind", [False, True])
def test_batches_make_the_same_parts_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    monkeypatch.setattr(store, "PART_TRAJECTORIES", 4)
    monkeypatch.setattr(store, "PART_BYTES", 1000)
    rng = random.Random(3)
    for attempt in range(4):
        rows = [trajectory(rng.randrange(25), "x" * rng.choice([1, 900])) for _ in range(30)]
        known = {row.trajectory["trajectory_id"] for row in rng.sample(rows, 5)}
        one, several = tmp_path / f"one-{attempt}", tmp_path / f"several-{attempt}"
        with RunWriter(one, known) as writer:
            taken = [writer.add(row) for row in rows]
        with RunWriter(several, known, behind=behind) as writer:
            cuts = [0, *sorted(rng.sample(range(30), 3)), 30]
            new = [writer.extend(store.batch(rows[a:b])) for a, b in itertools.pairwise(cuts)]
        assert taken == [one for some in new for one in some]
        files = [
            {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.parquet")} for run in (one, several)
        ]
        assert files[0] == files[1] and len(files[0]) > 4


def test_an_exception_drops_only_the_part_that_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunWriter(tmp_path / "run") as writer:
        writer.add(trajectory(0))
        writer.flush()
        writer.add(trajectory(1))
        raise KeyboardInterrupt
    assert set(assert_whole(tmp_path)) == everything(1)


def test_the_same_tasks_are_written_once(tmp_path: Path) -> None:
    write_tasks(tmp_path / "run", [{"task_id": "t", "env": "e", "split": "train", "meta": None}])
    write_tasks(tmp_path / "run", [{"task_id": "t", "env": "e", "split": "train", "meta": None}])
    assert len(parts(tmp_path, "tasks")) == 1
    write_tasks(tmp_path / "run", [])
    assert len(parts(tmp_path, "tasks")) == 1


def test_a_torn_part_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 5)
    [part] = parts(tmp_path, "trajectories")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(TrajkitError) as stop:
        existing_ids(tmp_path)
    assert str(part) in str(stop.value)


def test_parts_are_found_wherever_they_lie(tmp_path: Path) -> None:
    names = ["trajectories.parquet", "a/trajectories-3.parquet", "a/b/c/trajectories_x.parquet", "messages.parquet"]
    for name in (*names, ".hidden/trajectories.parquet", "trajectories.tmp", "my_trajectories.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {str(path.relative_to(tmp_path)) for path in parts(tmp_path, "trajectories")} == set(names[:3])
    assert parts(tmp_path / "a" / "trajectories-3.parquet", "trajectories") == [tmp_path / "a/trajectories-3.parquet"]
    assert parts(tmp_path / "nothing", "trajectories") == []
