"""A bit that flips in a part: it is refused, reported, or without effect."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_runs import trajkit

from trajkit.engines.checks import validate
from trajkit.errors import BadData, TrajkitError
from trajkit.runs.compact import compact
from trajkit.runs.digests import SUMS
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter, write_tasks
from trajkit.selection.select import select


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for start in (0, 20):
        with RunWriter(folder / "run") as writer:
            for number in range(start, start + 20):
                messages = [
                    {"role": "user", "content": f"task {number}"},
                    {"role": "assistant", "content": f"answer {number * 7919}"},
                ]
                writer.add(record(task_id=f"t{number}", role="expert", messages=messages, reward=number % 2))
    write_tasks(folder / "run", [{"task_id": f"t{n}", "env": "e", "split": "train", "meta": None} for n in range(40)])
    return folder


def files(runs: Path) -> list[Path]:
    return sorted(path for path in runs.rglob("*") if path.is_file())


def test_sha256sum_reads_what_lies_beside_each_part(runs: Path) -> None:
    parts = {path.parent for path in runs.rglob("*.parquet")}
    assert len(parts) == 3
    for part in parts:
        check = ["sha256sum", "-c", "--strict", SUMS]
        done = subprocess.run(check, cwd=part, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(done.stdout.splitlines()) == len(list(part.glob("*.parquet")))


@pytest.mark.parametrize("n_flips", [pytest.param(200, marks=pytest.mark.slow), 24])
def test_a_flipped_bit_is_refused_or_without_effect(tmp_path: Path, runs: Path, n_flips: int) -> None:
    expected = tmp_path / "expected.parquet"
    select(runs, expected, "sft_pos")
    rng, out, told = random.Random(n_flips), tmp_path / "out.parquet", 0
    parquet = [path for path in files(runs) if path.suffix == ".parquet"]
    assert {path.name for path in parquet} == {"trajectories.parquet", "messages.parquet", "tasks.parquet"}
    for attempt in range(n_flips):
        file = parquet[attempt % len(parquet)]
        whole = file.read_bytes()
        # every second in the footer: it is the smaller part of a big file
        first = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little") if attempt % 2 else 0
        damaged = bytearray(whole)
        damaged[rng.randrange(first, len(whole))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            select(runs, out, "sft_pos")
        except TrajkitError as error:
            assert str(file) in str(error) or f"`trajkit validate {runs}`" in str(error)
            told += 1
        else:
            assert out.read_bytes() == expected.read_bytes(), file
        if attempt % 12 == 0:
            assert str(file) in {problem.where for problem in validate(runs)}
        file.write_bytes(whole)
    assert told == n_flips, "each file holds something of what is chosen"
    assert list(validate(runs)) == []


def test_without_a_digest_the_pages_tell(runs: Path) -> None:
    for sums in runs.rglob(SUMS):
        sums.unlink()
    assert list(validate(runs)) == [], "older parts have none"
    for file in sorted(runs.rglob("*.parquet")):
        whole = file.read_bytes()
        pages = pq.ParquetFile(file).metadata.row_group(0).column(0)
        damaged = bytearray(whole)
        damaged[pages.data_page_offset + pages.total_compressed_size // 2] ^= 4
        file.write_bytes(damaged)
        assert next((p.check, p.where) for p in validate(runs)) == ("torn_file", str(file))
        if "task" not in file.name:
            with pytest.raises(BadData, match="damaged"):
                compact(runs)
        file.write_bytes(whole)
    assert list(validate(runs)) == []


def test_compact_refuses_damage_and_renews_the_digests(runs: Path) -> None:
    file = next(runs.rglob("messages.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    before = {path: path.read_bytes() for path in files(runs)}
    with pytest.raises(BadData, match=r"messages\.parquet: is damaged"):
        compact(runs)
    assert {path: path.read_bytes() for path in files(runs)} == before
    file.write_bytes(whole)
    compact(runs)
    assert len(list(runs.rglob("messages.parquet"))) == 1
    for sums in runs.rglob(SUMS):
        done = subprocess.run(["sha256sum", "-c", SUMS], cwd=sums.parent, capture_output=True, check=False)
        assert done.returncode == 0
    assert list(validate(runs)) == []


def test_a_disk_that_does_not_give_back_what_was_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajkit.runs.compact.Hashed.hexdigest", lambda _: "0" * 64)
    before = {path: path.read_bytes() for path in files(runs)}
    with pytest.raises(TrajkitError, match="does not give back what was written"):
        compact(runs)
    assert {path: path.read_bytes() for path in files(runs)} == before


def test_damaged_and_incomplete_sums(runs: Path) -> None:
    sums = next(runs.rglob(SUMS))
    whole = sums.read_bytes()
    for broken in (whole[:30], b"g" + whole[1:], (b"1" if whole[:1] != b"1" else b"2") + whole[1:]):
        sums.write_bytes(broken)
        assert next(problem.check for problem in validate(runs)) == "torn_file", broken
    sums.write_bytes(whole)
    assert list(validate(runs)) == []
    missing = next(path for path in runs.rglob("messages.parquet"))
    missing.unlink()
    result = trajkit("validate", runs)
    assert result.code == 3 and f"missing_file\t{missing}" in result.out
