"""What a file holds is detected by its content: compression, encoding, layout, and what is no text."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from import_helpers import chat_record, run_import, write_lines

from trajkit.cli.import_ import command
from trajkit.errors import BadData, Exit, UsageError
from trajkit.importers import _content
from trajkit.importers._source import SourceFile, elements

RECORDS = [chat_record(n, note="é🦜" * n) for n in range(3)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data, 1),  # in blocks of 100 KB
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": zstd,
}
ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
LAYOUTS = {
    "lines": LINES,
    "lines with blank ones": b"\n  \n" + LINES.replace(b"\n", b"\r\n\n"),
    "an array on one line": json.dumps(RECORDS).encode(),
    "an array, a record a line": b"[\n" + LINES.strip().replace(b"\n", b",\n") + b"\n]\n",
    "a pretty array": json.dumps(RECORDS, indent=1).encode(),
    "pretty objects in a row": b"\n".join(json.dumps(record, indent=2).encode() for record in RECORDS),
    "objects on one line": LINES.replace(b"\n", b" "),
    "a lost line end": LINES.replace(b"\n", b"", 1),
}


def tasks(folder: Path, name: str, data: bytes) -> list[str]:
    (folder / name).write_bytes(data)
    run = run_import(folder / "runs", "openai", folder / name)
    assert not run.rejected and run.counts.read == len(run.trajectories)
    return sorted(run.by_task())


@pytest.mark.parametrize("name", ["log", "log.json", "log.jsonl", "log.traj", "log.jsonl.gz", "log.txt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_is_detected_whatever_the_name(tmp_path: Path, layout: str, name: str) -> None:
    assert tasks(tmp_path, name, LAYOUTS[layout]) == ["task-0", "task-1", "task-2"]


@pytest.mark.parametrize("name", ["log.jsonl", "log.json.gz", "log.traj"])
def test_one_pretty_object_is_one_record(tmp_path: Path, name: str) -> None:
    assert tasks(tmp_path, name, json.dumps(RECORDS[1], indent=4).encode()) == ["task-1"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("layout", ["lines", "a pretty array"])
def test_other_encodings_are_read(tmp_path: Path, layout: str, encoding: str) -> None:
    text = json.dumps(RECORDS, indent=1, ensure_ascii=False) if layout != "lines" else LINES.decode()
    assert tasks(tmp_path, "log.jsonl", text.encode(encoding)) == ["task-0", "task-1", "task-2"]
    assert tasks(tmp_path, "log2.jsonl", gzip.compress(text.encode(encoding))) == ["task-0", "task-1", "task-2"]


@pytest.mark.parametrize("name", ["log.jsonl", "log.json.zst"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_files_are_read_also_in_several_members_and_twice(
    tmp_path: Path, compression: str, name: str
) -> None:
    compress = COMPRESSIONS[compression]
    half = len(LINES) // 2
    for data in (compress(LINES), compress(LINES[:half]) + compress(LINES[half:]), compress(gzip.compress(LINES))):
        assert tasks(tmp_path, name, data) == ["task-0", "task-1", "task-2"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_cut_or_damaged_compressed_file_gives_what_comes_before(tmp_path: Path, compression: str) -> None:
    records = [chat_record(n, noise=os.urandom(500).hex()) for n in range(500)]
    whole = COMPRESSIONS[compression]("".join(json.dumps(record) + "\n" for record in records).encode())
    at = len(whole) * 4 // 5
    damaged = whole[:at] + b"\xff" * 4000 + whole[at + 4000 :]
    if compression == "zstd":
        damaged = whole + b"\xff" * 4000  # Arrow writes no checksums, so damage within may go unnoticed
    for data, word in [(whole[:-9], "is cut"), (damaged, "is damaged")]:
        file = tmp_path / f"{word}.jsonl"
        file.write_bytes(data)
        run = run_import(tmp_path / word, "openai", file)
        assert len(run.trajectories) > 100
        assert f"the {compression} file {word}" in run.rejected[-1]["reason"]
        assert run.counts.read == len(run.trajectories) + len(run.rejected)


def zipped(folder: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("log.jsonl", LINES)
    return data.getvalue()


def tarred(folder: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("log.jsonl")
        info.size = len(LINES)
        archive.addfile(info, io.BytesIO(LINES))
    return data.getvalue()


def parquet(folder: Path) -> bytes:
    pq.write_table(pa.Table.from_pylist(RECORDS), folder / "table")
    return (folder / "table").read_bytes()


def arrow(folder: Path) -> bytes:
    table = pa.table({"a": [1]})
    with pa.OSFile(str(folder / "table"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    return (folder / "table").read_bytes()


def arrow_stream(folder: Path) -> bytes:
    table = pa.table({"a": [1]})
    with pa.OSFile(str(folder / "table"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    return (folder / "table").read_bytes()


def sqlite(folder: Path) -> bytes:
    with sqlite3.connect(folder / "table") as database:
        database.execute("CREATE TABLE a (b)")
    return (folder / "table").read_bytes()


NO_TEXT: dict[str, Callable[[Path], bytes]] = {
    "a zip archive": zipped,
    "a tar archive": tarred,
    "Parquet": parquet,
    "Arrow": arrow,
    "an Arrow stream": arrow_stream,
    "a SQLite database": sqlite,
    "a PDF": lambda folder: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n" * 300,
    "a pickle": lambda folder: pickle.dumps(RECORDS),
    "binary": lambda folder: bytes(range(256)) * 300,
    "lz4": lambda folder: pa.CompressedOutputStream and _lz4(),
    "an image": lambda folder: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300,
}


def _lz4() -> bytes:
    out = io.BytesIO()
    with pa.CompressedOutputStream(pa.PythonFile(out, mode="w"), "lz4") as stream:
        stream.write(LINES)
        stream.flush()
        return out.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format", ["openai", "intercode"])
@pytest.mark.parametrize("what", NO_TEXT)
def test_what_is_no_text_is_named_once_with_the_way_out(tmp_path: Path, what: str, format: str, packed: bool) -> None:
    (tmp_path / "work").mkdir()
    data = NO_TEXT[what](tmp_path / "work")
    file = tmp_path / "log.jsonl"
    file.write_bytes(gzip.compress(data) if packed else data)
    said: list[str] = []
    result = CliRunner().invoke(command, [format, str(file), "--runs", str(tmp_path / "runs")])
    assert isinstance(result.exception, BadData) and "another format" not in result.output, said
    (line,) = (tmp_path / "runs").rglob("rejected.jsonl")
    (rejected,) = map(json.loads, line.read_text().splitlines())
    assert f"the file is {what}, not text: " in rejected["reason"] and rejected["raw"] == ""
    assert rejected["line"] == 1 and rejected["file"] == str(file)


def test_the_way_out_of_parquet_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "FILE").write_bytes(parquet(tmp_path))
    reason = _content.no_text((tmp_path / "FILE").read_bytes()[:512])
    assert reason is not None
    monkeypatch.chdir(tmp_path)
    code = "import duckdb; " + reason.split("`")[1]
    subprocess.run([sys.executable, "-c", code], check=True)
    assert run_import(tmp_path / "runs", "openai", tmp_path / "FILE.jsonl").counts.imported == 3


def test_among_good_files_one_that_is_no_text_costs_itself(tmp_path: Path) -> None:
    write_lines(tmp_path / "1.jsonl", [chat_record(1)])
    (tmp_path / "2.jsonl").write_bytes(zipped(tmp_path))
    run = run_import(tmp_path / "runs", "openai", tmp_path)
    assert (run.counts.files, run.counts.read, run.counts.imported, len(run.rejected)) == (2, 2, 1, 1)


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n  ", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0), b"\xff\xfe"])
@pytest.mark.parametrize("format", ["openai", "intercode"])
def test_an_empty_file_has_no_records(tmp_path: Path, data: bytes, format: str) -> None:
    (tmp_path / "log.jsonl").write_bytes(data)
    result = CliRunner().invoke(command, [format, str(tmp_path / "log.jsonl"), "--runs", str(tmp_path / "runs")])
    if format == "openai":
        assert result.exit_code == 0 and "no records in it" in result.stderr and not list(tmp_path.rglob("*reject*"))
    else:  # a log is one object
        assert isinstance(result.exception, BadData) or result.exit_code == 0


def test_text_that_is_no_json_is_one_record(tmp_path: Path) -> None:
    for text in ("<html>\n" + "<p>x</p>\n" * 500, "id,messages\n" + "1,x\n" * 500, "a: 1\n" * 500):
        (tmp_path / "log.jsonl").write_text(text)
        with pytest.raises(BadData, match="the file is neither JSON nor JSON Lines"):
            run_import(tmp_path / "runs", "openai", tmp_path / "log.jsonl")
        (line,) = (tmp_path / "runs").rglob("rejected.jsonl")
        (rejected,) = map(json.loads, line.read_text().splitlines())
        assert rejected["raw"] == text


def test_lines_among_noise_are_read(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"INFO starting\n" + LINES + b"bye\n")
    run = run_import(tmp_path / "runs", "openai", tmp_path / "log.jsonl")
    assert len(run.trajectories) == 3 and [r["line"] for r in run.rejected] == [1, 5]
    (tmp_path / "log.jsonl").write_bytes(LINES.split(b"\n")[0][:40] + b"\n" + LINES)
    run = run_import(tmp_path / "runs", "openai", tmp_path / "log.jsonl")
    assert run.counts.already == 3 and [r["line"] for r in run.rejected] == [1]


def test_another_format_is_asked_for_once_and_only_where_a_record_is_not_of_this_one(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(command, [*arguments, "--runs", str(tmp_path / "runs")])
        return result.stderr

    for n in range(30):
        write_lines(tmp_path / f"{n}.jsonl", [chat_record(n)])
    text = said("mint", str(tmp_path))
    assert text.count("another format") == 1 and text.count("It looks like openai") == 1 and "29 more files" in text
    (tmp_path / "own").mkdir()
    write_lines(tmp_path / "own" / "1.jsonl", [chat_record(1, sample=-1)])
    assert "another format" not in said("openai", str(tmp_path / "own"))


def advice(tmp_path: Path, records: list[Any], *flags: str) -> list[str]:
    file = write_lines(tmp_path / "log.jsonl", records)
    result = CliRunner().invoke(command, ["openai", str(file), "--runs", str(tmp_path / "runs"), *flags])
    assert result.exit_code == 0
    return [line for line in result.stderr.splitlines() if "Their keys" in line]


def test_what_would_read_an_outcome_and_an_id_is_said(tmp_path: Path) -> None:
    records = [
        {"messages": chat_record(n)["messages"], "instance_id": f"i{n}", "info": {"score": n / 9, "resolved": n > 3}}
        for n in range(9)
    ]
    outcome, task = advice(tmp_path, records)
    assert outcome.startswith(
        "9 of 9 records have no outcome, neither `reward` nor `success`. Their keys: `instance_id`,"
    )
    assert "perhaps --success-field info.resolved or --reward-field info.score" in outcome
    assert (
        task.startswith("9 of 9 records have no task id at `task_id`") and "perhaps --task-id-field instance_id" in task
    )
    assert not advice(tmp_path, records, "--reward-field", "info.score", "--task-id-field", "instance_id")
    assert not advice(tmp_path, [chat_record(n, reward=None if n < 4 else 1) for n in range(9)])


def test_devices_pipes_and_sockets_below_a_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    write_lines(folder / "1.jsonl", [chat_record(1)])
    os.mkfifo(folder / "2.jsonl")
    with pytest.raises(BadData, match=r"2\.jsonl: it is a pipe, not a file\. Nothing was imported"):
        run_import(tmp_path / "runs", "openai", folder)
    (folder / "2.jsonl").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "2.jsonl"))
        with pytest.raises(BadData, match=r"2\.jsonl: it is a socket"):
            run_import(tmp_path / "runs", "openai", folder)
    (folder / "2.jsonl").unlink()
    (folder / "2.jsonl").symlink_to("/dev/zero")
    with pytest.raises(BadData, match=r"2\.jsonl: it is a device"):
        run_import(tmp_path / "runs", "openai", folder)
    for path in ("/dev/null", "/dev/zero"):
        with pytest.raises(UsageError, match="it is a device, not a file"):
            run_import(tmp_path / "runs", "openai", path)
    assert not (tmp_path / "runs").exists()


def test_a_pipe_that_is_named_is_read(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "log.jsonl", [chat_record(n) for n in range(4)])
    trajkit = f"{sys.executable} -c 'from trajkit.cli import main; main()'"
    subprocess.run(["bash", "-c", f"{trajkit} import openai <(cat {file}) --runs {tmp_path / 'runs'}"], check=True)
    assert run_import(tmp_path / "runs", "openai", file).counts.already == 4


def test_links_are_followed_loops_are_cut_and_each_file_counts_once(tmp_path: Path) -> None:
    logs, elsewhere = tmp_path / "logs", tmp_path / "elsewhere"
    logs.mkdir()
    elsewhere.mkdir()
    write_lines(logs / "1.jsonl", [chat_record(1), "bad"])
    write_lines(elsewhere / "2.jsonl", [chat_record(2)])
    (logs / "again.jsonl").symlink_to(logs / "1.jsonl")
    (logs / "loop").symlink_to(logs)
    (logs / "there").symlink_to(elsewhere)
    (logs / "there too").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(logs)
    run = run_import(tmp_path / "runs", "openai", logs, logs / "1.jsonl", elsewhere)
    assert (run.counts.files, run.counts.read, run.counts.imported, run.counts.duplicates) == (2, 3, 2, 0)
    assert len(run.rejected) == 1


def test_what_cannot_be_read_is_named_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "1.jsonl", [chat_record(1)])
    (tmp_path / "2.jsonl").symlink_to(tmp_path / "none")
    (tmp_path / "3.jsonl").symlink_to(tmp_path / "3.jsonl")
    with pytest.raises(BadData, match=r"2\.jsonl: cannot be read \(No such.*3\.jsonl: cannot be read \(Too many"):
        run_import(tmp_path / "runs", "openai", tmp_path)
    with pytest.raises(BadData, match=r"2\.jsonl: cannot be read"):
        run_import(tmp_path / "runs", "openai", tmp_path / "2.jsonl")
    for name in ("2.jsonl", "3.jsonl"):
        (tmp_path / name).unlink()
    real_open, real_scan = os.open, os.scandir

    def refuse(what: Any) -> Callable[..., Any]:
        def opening(path: Any, *arguments: Any, **options: Any) -> Any:
            if Path(os.fsdecode(path)).name in ("1.jsonl", "secret"):
                raise PermissionError(13, "Permission denied", os.fsdecode(path))
            return what(path, *arguments, **options)

        return opening

    with monkeypatch.context() as patch:  # the tests may run as root, who may read all
        patch.setattr(os, "open", refuse(real_open))
        with pytest.raises(BadData, match=r"1\.jsonl: cannot be read \(Permission denied\)"):
            run_import(tmp_path / "runs", "openai", tmp_path)
    (tmp_path / "secret").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse(real_scan))
        with pytest.raises(BadData, match=r"secret: cannot be read \(Permission denied\)"):
            run_import(tmp_path / "runs", "openai", tmp_path)
    assert not (tmp_path / "runs").exists() and BadData.exit_code == Exit.BAD_DATA


@given(
    data=st.binary(max_size=400), begin=st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"(\xb5/\xfd"])
)
def test_whatever_bytes_a_file_holds_reading_ends(data: bytes, begin: bytes) -> None:
    class Bytes(SourceFile):
        def _read(self, file: Any, n: int = 7) -> bytes:
            return super()._read(file, 7)

    class Stdin:
        buffer = io.BytesIO(begin + data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", Stdin)
        file = Bytes("-")
        found = list(elements(file))
    assert len(found) <= len(data) + 10
    if file.torn:
        assert any(raw.error and file.torn in raw.error for raw in found)
