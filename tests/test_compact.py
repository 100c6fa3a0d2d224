"""`trajkit compact`: the same rows in fewer files, whatever happens in the middle of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forks import Forks
from small_runs import pair, trajkit, write_run
from store_helpers import everything, small_disk, trajectory
from store_helpers import write_run as write_parts

from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, TrajkitError
from trajkit.exploration import explore
from trajkit.runs import compact as module
from trajkit.runs.compact import compact
from trajkit.runs.digests import SUMS
from trajkit.runs.listing import existing_ids, parts
from trajkit.runs.writer import RunWriter, write_tasks

METHODS = ("eef", "rft", "eto_mixture", "eef_pairs")


def rows(runs: Path, table: str) -> Counter[str]:
    """All rows as they lie in the files, with their columns' types."""
    found: Counter[str] = Counter()
    for file in parts(runs, table):
        read = pq.read_table(file)
        kinds = [str(kind) for kind in read.schema.types]
        found.update(repr(sorted(zip(row, kinds, row.values(), strict=True))) for row in read.to_pylist())
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert and a policy in the web shop, a part for every trajectory."""
    pytest.importorskip("bm25s", reason="the web shop needs the extra webshop")
    runs = tmp_path_factory.mktemp("explored") / "runs"
    shop = ("--runs", runs, "--env", "envs.webshop:WebShop", "--env-arg", "train_tasks=6")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "FLUSH_SECONDS", 0)
        expert = (*shop, "--policy", "envs.webshop:Expert", "--role", "expert", "--iteration", 0)
        policy = (*shop, "--policy", "envs.webshop:Novice", "--plan", "initial", "--plan", "skip_length")
        for command in (expert, (*policy, "--iteration", 1)):
            result = trajkit("explore", *command)
            assert result.code == 0, result.err
    assert len(parts(runs, "messages")) > 30
    return runs


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of ten trajectories, row groups of seven rows."""
    monkeypatch.setattr(module, "PART_TRAJECTORIES", 10)
    monkeypatch.setattr(module, "GROUP_ROWS", 7)


# --- the same ---


def test_rows_and_selections_are_the_same(explored: Path, tmp_path: Path) -> None:
    def chosen(name: str) -> list[bytes]:
        outs = []
        for method in METHODS:
            out = tmp_path / f"{method}-{name}.parquet"
            assert trajkit("select", "--input", tmp_path / "runs", "--out", out, "--method", method).code == 0
            outs.append(out.read_bytes())
        return outs

    runs = shutil.copytree(explored, tmp_path / "runs")
    before, selected = {table: rows(runs, table) for table in ("trajectories", "messages", "tasks")}, chosen("before")
    result = trajkit("compact", runs)
    assert result.code == 0 and result.out == ""
    assert "explore-expert-scripted-expert-i0: 7 parts became 2 (6 trajectories, " in result.err
    assert {table: rows(runs, table) for table in before} == before
    assert [len(parts(runs, table)) for table in before] == [2, 2, 1]
    assert chosen("after") == selected
    assert trajkit("validate", runs).code == 0
    assert not list(runs.rglob(".*"))

    compacted = contents(runs)
    again = trajkit("compact", runs)
    assert again.code == 0 and again.err == "nothing to put together in 2 runs\n"
    assert contents(runs) == compacted


def test_rows_are_in_order_and_parts_as_large_as_asked(explored: Path, tmp_path: Path, small_parts: None) -> None:
    runs = shutil.copytree(explored, tmp_path / "runs")
    summary = compact(runs)
    assert [run.parts_after for run in summary.runs] == [len(list(Path(run.folder).iterdir())) for run in summary.runs]
    sizes = [pq.read_metadata(file).num_rows for file in parts(runs / "explore-policy-novice-i1", "trajectories")]
    assert sorted(sizes)[1:] == [10] * (len(sizes) - 1) and len(sizes) > 3
    for table, keys in (("trajectories", ["trajectory_id"]), ("messages", ["trajectory_id", "seq"])):
        for file in parts(runs, table):
            read = pq.ParquetFile(file)
            in_order = [tuple(row.values()) for row in read.read(columns=keys).to_pylist()]
            assert in_order == sorted(in_order)
            groups = [read.metadata.row_group(at).num_rows for at in range(read.num_row_groups)]
            assert groups[:-1] == [7] * (len(groups) - 1)
    assert rows(runs, "messages") == rows(explored, "messages")


def test_the_result_depends_on_nothing_else(explored: Path, tmp_path: Path) -> None:
    results = []
    several: list[dict[str, Any]] = [{}, {"threads": 1}, {"memory_limit": "80MB"}]
    for number, options in enumerate(several):
        runs = shutil.copytree(explored, tmp_path / str(number))
        compact(runs, **options)
        results.append(contents(runs))
    assert results[0] == results[1] == results[2]


def own_part(run: Path, name: str, numbers: range, **columns: pa.Array) -> None:
    """A part with some trajectories in which these columns are added or changed."""
    with RunWriter(run / "new") as writer:
        for number in numbers:
            writer.add(trajectory(number))
    [part] = (run / "new").iterdir()
    read = pq.read_table(part / "trajectories.parquet")
    for column, values in columns.items():
        at = read.schema.get_field_index(column)
        read = read.append_column(column, values) if at < 0 else read.set_column(at, read.schema.field(at), values)
    pq.write_table(read, part / "trajectories.parquet")
    (part / SUMS).unlink()
    part.rename(run / f"part-0000{name}")
    part.parent.rmdir()


def test_columns_that_nobody_knows_and_all_types_stay(tmp_path: Path) -> None:
    """Parts whose columns differ stay apart; each kind becomes one."""
    kinds: dict[str, tuple[pa.DataType, list[Any]]] = {
        "a": (pa.large_string(), ["\U0001d54f\x00", None]),
        "b": (pa.struct([("x", pa.list_(pa.float32()))]), [{"x": [None, float("nan")]}, None]),
        "g": (pa.uint64(), [2**64 - 1, None]),
        "c": (pa.timestamp("us", "UTC"), [0, 2**52]),
        "d": (pa.large_list(pa.int8()), [[], [-128, None]]),
        "e": (pa.large_binary(), [b"\xff\x00", b""]),
        "f": (pa.date32(), [1, None]),
    }  # fmt: skip
    run = tmp_path / "runs" / "own"
    for number in range(3):
        columns = {name: pa.array(values, kind) for name, (kind, values) in kinds.items()}
        own_part(run, f"00000000000{number}", range(2 * number, 2 * number + 2), **columns)
    for number in range(3, 5):
        own_part(run, f"00000000000{number}", range(2 * number, 2 * number + 2), a=pa.array([1.5, 2.5]))
    before = rows(run, "trajectories"), rows(run, "messages")
    schemas = Counter(str(pq.read_schema(file)) for file in parts(run, "trajectories"))
    summary = compact(tmp_path / "runs")
    assert (summary.runs[0].parts_before, summary.runs[0].parts_after) == (5, 2)
    assert (rows(run, "trajectories"), rows(run, "messages")) == before
    assert Counter(str(pq.read_schema(file)) for file in parts(run, "trajectories")) == dict.fromkeys(schemas, 1)


def test_tasks_too(tmp_path: Path) -> None:
    tasks = [{"task_id": f"t{n}", "env": "e", "split": "train", "meta": None} for n in range(6)]
    for first in range(5):
        write_tasks(tmp_path / "run", tasks[first : first + 2])
    compact(tmp_path)
    [file] = parts(tmp_path, "tasks")
    assert pq.read_table(file).to_pylist() == tasks


# --- twice ---


def test_a_trajectory_that_lies_there_twice(tmp_path: Path) -> None:
    """Equal ones become one, also where a part is too large to be put together; those that differ stay."""
    run = tmp_path / "run"
    own_part(run, "000000000001", range(0, 4))
    own_part(run, "000000000002", range(3, 6))
    own_part(run, "000000000003", range(3, 5), actor=pa.array(["a", None]))
    before = rows(run, "trajectories")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_TRAJECTORIES", 2)
        result = trajkit("compact", tmp_path)
    assert result.code == 0
    assert "2 trajectories lay there more than once, all alike: each is kept once" in result.err
    assert "1 trajectories lay there more than once and differ: all are kept" in result.err
    assert rows(run, "trajectories") == Counter(dict.fromkeys(before, 1))
    ids = Counter(row["trajectory_id"] for row in pq.read_table(parts(run, "messages")[0]).to_pylist())
    different = trajectory(3).trajectory["trajectory_id"]
    assert ids == {id: 4 if id == different else 2 for id in everything(6)}
    assert len(parts(run, "messages")) == 1
    assert trajkit("validate", tmp_path).out.startswith("duplicate_ids")


def test_a_torn_copy_is_no_copy(tmp_path: Path) -> None:
    """Messages belong to what is compared."""
    own_part(tmp_path / "run", "000000000001", range(0, 2))
    own_part(tmp_path / "run", "000000000002", range(0, 2))
    [_, file] = parts(tmp_path, "messages")
    pq.write_table(pq.read_table(file).slice(1), file)
    summary = compact(tmp_path)
    assert (summary.repeated, summary.differing) == (1, 1)
    assert len(rows(tmp_path, "messages")) == 4 and rows(tmp_path, "messages").total() == 5


# --- left alone ---


def test_other_files_are_left_as_they_are(explored: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(explored, tmp_path / "runs")
    policy = runs / "explore-policy-novice-i1"
    part = min(policy.iterdir())
    strange = {
        policy / "rejected.jsonl": b"{}", part / "notes.txt": b"mine", policy / "part-mine" / "x.parquet": b"no matter",
        runs / "own" / "part-0123456789abcdef" / "trajectories-2.parquet": b"", runs / "trajectories.parquet.tmp": b"",
    }  # fmt: skip
    write_run(runs / "mine", pair("e"))
    for path, data in strange.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (policy / "part-fedcba9876543210").symlink_to(runs / "mine" / "a")
    before = {path: path.read_bytes() for path in (*strange, *part.iterdir(), *(runs / "mine").rglob("*.parquet"))}
    result = trajkit("compact", runs, "--json")
    assert result.code == 0, result
    told = json.loads(result.out)
    assert told["other_files"] == 3
    [run] = [run for run in told["runs"] if run["folder"] == str(policy)]
    assert run["left"] == {part.name: "it holds messages.parquet, notes.txt, trajectories.parquet",
                           "part-fedcba9876543210": "it is a link"}  # fmt: skip
    assert run["parts_after"] == 3
    assert {path: path.read_bytes() for path in before} == before
    assert (policy / "part-fedcba9876543210").is_symlink()


def test_a_type_that_might_change_is_left(tmp_path: Path) -> None:
    for number in range(2):
        odd = pa.array(["x", "x"]).dictionary_encode()
        own_part(tmp_path / "run", f"00000000000{number}", range(2 * number, 2 * number + 2), odd=odd)
    before = contents(tmp_path)
    result = trajkit("compact", tmp_path)
    assert "its column odd is dictionary<values=string, indices=int32, ordered=0>" in result.err
    assert contents(tmp_path) == before


def test_a_dry_run_changes_nothing(explored: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(explored, tmp_path / "runs")
    before = contents(runs)
    result = trajkit("compact", runs, "--dry-run")
    assert result.code == 0 and "7 parts would become 2 (6 trajectories, " in result.err
    planned = json.loads(trajkit("compact", runs, "--dry-run", "--json").out)
    assert contents(runs) == before
    done = json.loads(trajkit("compact", runs, "--json").out)
    assert [run | {"bytes_after": None} for run in done["runs"]] == planned["runs"] and not done["dry_run"]
    assert sum(run["bytes_after"] for run in done["runs"]) == sum(
        path.stat().st_size for path in runs.rglob("*.parquet")
    )


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    assert trajkit("compact", tmp_path).err == "there are no parts\n"
    missing = trajkit("compact", tmp_path / "rnus")
    assert missing.code == 2 and "there is no such folder" in missing.err


# --- what is wrong ---


@pytest.mark.parametrize("table", ["trajectories", "messages"])
@pytest.mark.parametrize("how", ["torn", "empty", "damaged", "no key"])
def test_a_file_that_cannot_be_read_stops_it_before_anything_is_touched(tmp_path: Path, how: str, table: str) -> None:
    write_parts(tmp_path / "a", 20, 2)
    write_parts(tmp_path / "b", 20, 2, 20)
    file = parts(tmp_path / "b", table)[3]
    data = file.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    wrong = {"torn": data[:-20], "empty": b"", "damaged": b"PAR1" + b"\x7f" * (footer - 4) + data[footer:]}
    if how == "no key":
        pq.write_table(pq.read_table(file).drop_columns(["trajectory_id"]), file)
    else:
        file.write_bytes(wrong[how])
    before = contents(tmp_path)
    result = trajkit("compact", tmp_path)
    assert result.code == 3 and str(file.parent.parent if how == "damaged" else file) in result.err
    if how == "damaged" and table == "messages":  # found only when it is read; what was read before is put together
        before = {name: data for name, data in before.items() if name.startswith("b")}
    assert contents(tmp_path).items() >= before.items()
    assert not list(tmp_path.rglob(".*"))


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        noise = random.Random(1)
        with RunWriter(disk / "run") as writer:
            for number in range(20):
                writer.add(trajectory(number, text=noise.randbytes(10_000).hex()))
                writer.flush()
        left = os.statvfs(disk)
        (disk / "full").write_bytes(bytes(left.f_bavail * left.f_bsize - 50_000))
        before = contents(disk)
        with pytest.raises(TrajkitError, match="No space left on device"):
            compact(disk)
        assert contents(disk) == before


# --- stopped at any moment ---


class Killed(BaseException):
    """Stands for SIGKILL."""


def seen(runs: Path) -> set[str]:
    """The ids that a reader sees, each once with both of its messages."""
    with DuckDBEngine(runs) as opened:
        ids = [row["trajectory_id"] for row in opened.rows("SELECT trajectory_id FROM trajectories")]
        messages = opened.rows("SELECT trajectory_id FROM messages")
    assert len(ids) == len(set(ids))
    assert Counter(row["trajectory_id"] for row in messages) == dict.fromkeys(ids, 2)
    return set(ids)


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_between_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    write_parts(tmp_path / "whole" / "run", 12, 2)
    moments = 0

    def killed_at(moment: int) -> Path:
        """What is left where the process dies just before its `moment`-th change of the folder."""
        nonlocal moments
        moments = 0

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **more: Any) -> Any:
                nonlocal moments
                if moments == moment:
                    raise Killed
                moments += 1
                return change(*args, **more)

            return step

        runs = shutil.copytree(tmp_path / "whole", tmp_path / "runs" / str(moment))
        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "mkdir", "rmdir", "unlink"):
                patch.setattr(os, name, counted(getattr(os, name)))
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a process that is dead tidies nothing up
            patch.setattr(os, "getpid", lambda: _dead)
            with suppress(Killed):
                compact(runs)
        return runs

    monkeypatch.setattr(module, "PART_TRAJECTORIES", 6)
    finished = contents(killed_at(-1))
    assert len(finished) == 6 and moments > 30
    for moment in range(0, moments, every):
        runs = killed_at(moment)
        assert seen(runs) == everything(12)
        compact(runs)
        assert contents(runs) == finished, moment


def _dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


_dead = _dead_pid()


def compact_small(runs: str) -> None:
    """`compact`, into parts of few trajectories."""
    module.PART_TRAJECTORIES = 100
    compact(runs, threads=1)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, forks: Callable[..., Forks]) -> None:
    write_parts(tmp_path / "whole" / "run", 400, 5)
    one, rng, killed, attempt = forks(compact_small), random.Random(3), 0, 0
    start = time.monotonic()
    one.start(shutil.copytree(tmp_path / "whole", tmp_path / "undisturbed"))
    assert one.end() == 0
    longest, finished = time.monotonic() - start, contents(tmp_path / "undisturbed")
    while attempt < 6 or killed <= 3:
        runs = shutil.copytree(tmp_path / "whole", tmp_path / str(attempt))
        attempt += 1
        for _ in range(2):
            pid = one.start(runs)
            time.sleep(rng.uniform(0, longest))
            in_time = one.killed(pid)
            killed += in_time
            longest *= 1 if in_time else 0.9  # what ends before it is killed is killed earlier next time
            assert existing_ids(runs) == everything(400)
        assert seen(runs) == everything(400)
        one.start(runs)
        assert one.end() == 0
        assert contents(runs) == finished
        assert not list(runs.rglob(".*"))


# --- beside others ---


def test_readers_and_writers_beside_it(tmp_path: Path, forks: Callable[..., Forks]) -> None:
    """An explorer adds parts and reads recordings; nothing is ever missing, and what it writes stays."""
    write_parts(tmp_path / "runs" / "run", 200, 2)
    one, enough, looks, runs_of_it = forks(compact_small), threading.Event(), 0, 0
    first = trajectory(0).trajectory["trajectory_id"]

    def compact_again_and_again() -> None:
        nonlocal runs_of_it
        while not enough.is_set():
            one.start(tmp_path / "runs")
            assert one.end() == 0
            runs_of_it += 1

    with DuckDBEngine(tmp_path / "runs") as recorded, RunWriter(tmp_path / "runs" / "run") as writer:
        thread = threading.Thread(target=compact_again_and_again)
        thread.start()
        number = 200
        while looks < 3 or (runs_of_it < 3 and thread.is_alive()):
            writer.add(trajectory(number))
            writer.flush()
            number += 1
            assert existing_ids(tmp_path / "runs") == everything(number)
            said = recorded.rows("SELECT content FROM messages WHERE trajectory_id = ? ORDER BY seq", [first])
            assert [row["content"] for row in said] == ["look 0", "go"]
            if number % 5 == 0:
                assert seen(tmp_path / "runs") == everything(number)
                looks += 1
        enough.set()
        thread.join()
        assert recorded.sql("SELECT count(*) AS n FROM trajectories")["n"][0] >= 200
    assert runs_of_it >= 3
    compact(tmp_path / "runs")
    assert seen(tmp_path / "runs") == everything(number)
    assert len(parts(tmp_path / "runs", "messages")) < 5


def test_what_went_away_under_a_query_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a query streams, it cannot be asked again: it says so."""
    write_parts(tmp_path / "run", 6, 2)
    with DuckDBEngine(tmp_path) as opened:
        compact(tmp_path)
        with pytest.raises(TrajkitError, match=r"went away while it was read.*Run this again"), opened.errors():
            opened.con.execute("SELECT count(DISTINCT content) FROM messages").fetchall()
        assert opened.rows("SELECT count(DISTINCT content) AS n FROM messages") == [{"n": 7}]


@pytest.mark.slow
def test_two_at_once(tmp_path: Path, forks: Callable[..., Forks], capfd: pytest.CaptureFixture[str]) -> None:
    write_parts(tmp_path / "whole" / "run", 300, 4)
    both = [forks(compact_small), forks(compact_small)]
    ends = []
    for attempt in range(4):
        runs = shutil.copytree(tmp_path / "whole", tmp_path / str(attempt))
        for number, one in enumerate(both):
            time.sleep(0.04 * attempt * number)
            one.start(runs)
        ends += [one.end() for one in both]
        assert seen(runs) == everything(300)
        compact(runs)
        assert seen(runs) == everything(300)
        assert not list(runs.rglob(".*"))
    said = capfd.readouterr().err.splitlines()
    assert 0 in ends and all("nothing is lost" in line for line in said) and len(said) == sum(map(bool, ends))


def test_a_part_whose_rows_lay_twice_already_gets_no_second_name(tmp_path: Path) -> None:
    """As after a kill between the new name and the end of the old ones: the large part stays, they go."""
    write_parts(tmp_path / "run", 20, 2)
    old = shutil.copytree(tmp_path / "run", tmp_path / "old")
    compact(tmp_path / "run")
    finished = contents(tmp_path / "run")
    for part in sorted(old.iterdir())[4:7]:
        shutil.copytree(part, tmp_path / "run" / part.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_TRAJECTORIES", 8)
        summary = compact(tmp_path / "run")
    assert contents(tmp_path / "run") == finished
    assert (summary.repeated, summary.differing) == (6, 0)


def test_a_damaged_file_is_bad_data(tmp_path: Path) -> None:
    write_parts(tmp_path / "run", 4, 2)
    parts(tmp_path, "messages")[0].write_bytes(b"PAR1")
    with pytest.raises(BadData, match="torn"):
        compact(tmp_path)
