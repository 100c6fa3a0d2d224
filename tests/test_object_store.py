"""runs/ in an object store: a real S3 server on loopback (moto's), read and written through the same commands."""

from __future__ import annotations

import random
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSystem, LocalFileSystem, copy_files
from small_runs import Result, Row, pair, trajkit, write_run

import trajkit as library
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import TrajkitError
from trajkit.runs import object_store
from trajkit.runs.atomic import whole
from trajkit.runs.listing import existing_ids, parts
from trajkit.runs.object_store import Reader, Unreachable, Url, locate
from trajkit.runs.writer import write_part

pytest.importorskip("moto.server", reason="the S3 server is moto's: pip install -e '.[dev]'")

SHOP = ("--env", "envs.webshop:WebShop", "--env-arg", "train_tasks=12")
NOVICE = ("--policy", "envs.webshop:Novice", "--plan", "initial", "--plan", "skip_length", "--iteration", 1)
EXPERT = ("--policy", "envs.webshop:Expert", "--role", "expert", "--iteration", 0)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A store with the bucket `lake`, and the environment that says where it is."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        FileSystem.from_uri("s3://lake?allow_bucket_creation=true")[0].create_dir("lake")
        object_store._filesystem.cache_clear()
        yield f"http://{host}:{port}"
    object_store._filesystem.cache_clear()
    moto.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop's runs, on this machine."""
    runs = tmp_path_factory.mktemp("shop") / "runs"
    for policy in (EXPERT, NOVICE):
        assert trajkit("explore", "--runs", runs, *SHOP, *policy).code == 0
    return runs


@pytest.fixture(scope="module")
def runs(server: str, local: Path) -> str:
    """The same runs in the store."""
    return put(local, "s3://lake/runs")


def put(folder: Path, url: str) -> str:
    """Copy a folder into the store."""
    copy_files(
        str(folder), Url(url).key, source_filesystem=LocalFileSystem(), destination_filesystem=Url(url).filesystem
    )
    return url


def refused(*args: object, code: int) -> str:
    result = trajkit(*args)
    assert (result.code, result.out) == (code, ""), result
    assert "Traceback" not in result.err
    return result.err


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["eef", "eto"])
def test_select_writes_the_same_bytes_into_the_store(method: str, local: Path, runs: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here.parquet", Url(f"s3://lake/out/{method}.parquet")
    one = trajkit("select", "--input", local, "--out", here, "--method", method)
    other = trajkit("select", "--input", f"{runs}/", "--out", there, "--method", method)
    assert (one.code, other.code) == (0, 0), other
    assert other.err == one.err.replace(str(here), str(there))
    assert there.open().read() == here.read_bytes()
    assert trajkit("select", "--input", runs, "--out", here, "--method", method).code == 0
    assert there.open().read() == here.read_bytes()


def test_every_reading_command_says_the_same(local: Path, runs: str, tmp_path: Path) -> None:
    with library.open(runs) as opened:
        task = opened.sql("SELECT task_id FROM first_recovery_state ORDER BY 1 LIMIT 1")["task_id"][0]

    def both(*args: object) -> Result:
        here, there = (trajkit(*(place if arg == "RUNS" else arg for arg in args)) for place in (local, runs))
        assert there == Result(here.code, here.out.replace(str(local), runs), here.err.replace(str(local), runs))
        assert (here.code, bool(here.out or here.err)) == (0, True), here
        return there

    both("plan", "--runs", "RUNS", "--plan", "skip_length", "--m", 2, "--format", "csv")
    both("show", "--runs", "RUNS", "--task", task)
    both("explain", "--runs", "RUNS", "--task", task)
    both("validate", "RUNS")
    report = trajkit("report", "--runs", runs, "--out", "s3://lake/out/report.html")
    assert report.code == 0 and "12 tasks" in report.err
    assert b"lake/runs" in Url("s3://lake/out/report.html").open().read()
    answer = Url("s3://lake/out/answer.csv")
    assert trajkit("sql", "select 1 as one", "--runs", runs, "--out", answer).code == 0
    assert answer.open().read() == b"one\n1\n"
    assert "read_parquet('s3://lake/runs/**/messages*.parquet'" in trajkit("sql", "--runs", runs, "--init").out


def test_a_single_file_and_odd_names(runs: str, local: Path, tmp_path: Path) -> None:
    odd = put(local, "s3://lake/o dd/a#b?c=[d]%20'e/*")
    assert len(existing_ids(odd)) == len(existing_ids(local))
    with DuckDBEngine(odd) as opened, DuckDBEngine(local) as here:
        assert opened.rule("eef").equals(here.rule("eef"))
    file = parts(runs, "trajectories")[0]
    with DuckDBEngine(str(file)) as opened:
        assert opened.files["trajectories"] == [file]


def test_threads_share_a_reader() -> None:
    """DuckDB's threads read one file at once, each seeking first."""
    content = random.Random(0).randbytes(100_000)
    reader = Reader(Url("s3://lake/shared"), pa.BufferReader(content))

    def wrong(seed: int) -> int:
        found = 0
        for at in random.Random(seed).choices(range(90_000), k=20_000):
            reader.seek(at)
            found += reader.read(9) != content[at : at + 9]
        return found

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(wrong, range(8))) == 0
    finally:
        sys.setswitchinterval(interval)


def test_what_lies_below_a_hidden_name_is_passed_over(server: str, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", pair("a"))
    write_run(tmp_path / "runs" / ".hidden" / "run", pair("b"))
    assert existing_ids(put(tmp_path / "runs", "s3://lake/hidden/.runs")) == {"a"}


def test_a_part_whose_trajectories_are_not_there_yet(server: str, tmp_path: Path) -> None:
    run = locate("s3://lake/unfinished/run")
    part = write_part(run, tables("a"))
    with whole(run / "part-0123456789abcdef/messages.parquet") as file:
        pq.write_table(pq.read_table((part / "messages.parquet").open()), file)
    with DuckDBEngine("s3://lake/unfinished") as opened:
        assert opened.rows("SELECT count(*) AS n FROM messages") == [{"n": len(pair("a")[1])}]
    assert trajkit("validate", "s3://lake/unfinished").code == 0


def test_a_part_that_goes_away(server: str, tmp_path: Path) -> None:
    """Its rows are in another one then, as after a compacted copy was put there."""
    run = locate("s3://lake/gone/run")
    old = write_part(run, tables("a", text=random.Random(0).randbytes(9_000_000).hex()))  # more than is read at once
    with DuckDBEngine("s3://lake/gone") as opened:
        new = write_part(run, tables("a", "b"))
        for name in ("trajectories", "messages"):
            (old / f"{name}.parquet").unlink()
        assert opened.rows("SELECT max(length(content)) < 100 AS short, count(*) AS n FROM messages") == [
            {"short": True, "n": 2 * len(pair("a")[1])}
        ]
        assert {file.parent for file in opened.files["trajectories"]} == {new}


def tables(*ids: str, text: str | None = None) -> dict[str, list[Row]]:
    """The rows of a part."""
    made = [pair(id) for id in ids]
    messages = [row | ({"content": text} if text else {}) for _, rows in made for row in rows]
    return {"trajectories": [row for rows, _ in made for row in rows], "messages": messages}


# --- what is wrong -----------------------------------------------------------------------------


def test_a_torn_object(local: Path, server: str, tmp_path: Path) -> None:
    torn = put(local, "s3://lake/torn")
    file = parts(torn, "messages")[0]
    assert isinstance(file, Url)
    content = file.open().read()
    with whole(file) as new:
        new.write(content[: len(content) // 2])
    told = refused("select", "--input", torn, "--out", tmp_path / "sft.parquet", code=3)
    assert f"{file}: is torn, or no Parquet file" in told
    assert not (tmp_path / "sft.parquet").exists()
    result = trajkit("validate", torn)
    assert result.code == 3 and f"torn_file\t{file}" in result.out
    with whole(file) as new:  # the footer is whole, the pages are not
        new.write(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    result = trajkit("validate", torn)
    assert result.code == 3 and f"torn_file\t{file}\t\tis damaged" in result.out


def test_a_mistake_is_named_by_object_and_row(server: str, tmp_path: Path) -> None:
    rows, messages = pair("a")
    write_run(tmp_path / "runs" / "run", ([rows[0] | {"n_steps": 7}], messages))
    here = trajkit("validate", tmp_path / "runs")
    there = trajkit("validate", put(tmp_path / "runs", "s3://lake/mistakes"))
    assert there.code == 3 and "s3://lake/mistakes/run/a/trajectories.parquet (row 0)" in there.out
    assert there.out == here.out.replace(str(tmp_path / "runs"), "s3://lake/mistakes")


def test_where_nothing_is(runs: str, tmp_path: Path) -> None:
    out = tmp_path / "sft.parquet"
    assert "s3://lake/rusn: there is no such bucket, or nothing in it below that name. --runs" in refused(
        "validate", "s3://lake/rusn", code=2
    )
    assert "s3://laek/runs: there is no such bucket" in refused("sql", "--runs", "s3://laek/runs", code=2)
    assert "there is no bucket s3://laek" in refused("select", "--input", runs, "--out", "s3://laek/x", code=2)
    assert "lies inside the runs" in refused("select", "--input", runs, "--out", f"{runs}/x", code=2)
    assert "s3:// and gs://" in refused("select", "--input", "hdfs://lake/runs", "--out", out, code=2)
    explored = refused("explore", "--runs", "s3://laek/runs", *SHOP, *EXPERT, code=1)
    assert "s3://laek/runs" in explored and "Bucket 'laek' not found" in explored


def test_commands_that_need_a_file_here_say_so(runs: str, tmp_path: Path) -> None:
    for args in (
        ("compact", runs),
        ("export", "s3://lake/out/eef.parquet", "--to", "trl", "--out", tmp_path / "out.jsonl"),
        ("export", tmp_path / "sft.parquet", "--to", "trl", "--out", "s3://lake/out.jsonl"),
        ("show", "s3://lake/out/eef.parquet"),
    ):
        told = refused(*args, code=2)
        assert "that is not on this machine. Copy it" in told and "s3://lake/" in told


def test_wrong_credentials(runs: str, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def checks_keys(after: str) -> None:
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset-auth", after.encode(), headers)).close()

    with DuckDBEngine(runs) as opened:
        checks_keys("0")
        try:
            with pytest.raises(TrajkitError, match=r"s3://lake/runs.*AWS_ACCESS_KEY_ID"):
                opened.rows("SELECT * FROM read_csv('s3://lake/runs/x.csv')")
            told = refused("select", "--input", runs, "--out", tmp_path / "sft.parquet", code=1)
            assert "s3://lake/runs: cannot be read" in told and "AWS_ACCESS_KEY_ID" in told
            with (
                pytest.raises(Unreachable, match=r"s3://lake/x: cannot be written.*AWS_ACCESS_KEY_ID"),
                whole(Url("s3://lake/x")) as file,
            ):
                file.write(b"x")
            with pytest.raises(Unreachable, match="cannot be read"):
                existing_ids(runs)
        finally:
            checks_keys("inf")
        assert opened.rows("SELECT count(*) > 0 AS some FROM trajectories") == [{"some": True}]


def test_without_fsspec(runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.implementations.arrow", None)
    assert "pip install 'trajkit[s3]'" in refused("sql", "--runs", runs, code=2)


# --- writing -----------------------------------------------------------------------------------


def test_exploring_into_the_store(local: Path, server: str, tmp_path: Path) -> None:
    url = "s3://lake/explored"
    for policy in (EXPERT, NOVICE):
        assert trajkit("explore", "--runs", url, *SHOP, *policy).code == 0
    assert ": 0 rollouts" in trajkit("explore", "--runs", url, *SHOP, *NOVICE).err
    assert existing_ids(url) == existing_ids(local)
    for runs, out in ((local, "here"), (url, "there")):
        assert trajkit("select", "--input", runs, "--out", tmp_path / out).code == 0
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_importing_into_the_store(server: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    said = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
    good = f'{{"task_id": "t", "reward": 1, "messages": {said}}}'
    bad = '{"task_id": "u", "messages": 3}'
    log.write_text(f"{good}\n{bad}\n")
    run = Url("s3://lake/imported/import-openai-policy")

    def rejected() -> list[Url]:
        return [run / name for name in run.below() if name.startswith("rejected")]

    first = trajkit("import", "openai", log, "--runs", "s3://lake/imported")
    (object,) = rejected()
    assert first.code == 0 and f"1 set aside in {object}" in first.err
    once = object.open().read()
    assert b"no list of messages" in once
    again = trajkit("import", "openai", log, "--runs", "s3://lake/imported")
    assert "1 were there already" in again.err and rejected() == [object] and object.open().read() == once
    # Another import ended at the same time: both read the same old object, and neither has the other's lines.
    other = tmp_path / "other.jsonl"
    other.write_bytes(b'{"file":"/b","line":1,"record":"0","reason":"r","raw":""}\n' + once)
    (run / "rejected-0123456789abcdef.jsonl").upload(other)
    log.write_text(f"{good}\n")
    assert trajkit("import", "openai", log, "--runs", "s3://lake/imported").code == 0
    (object,) = rejected()
    assert object.open().read() == other.read_bytes().splitlines(True)[0]
    assert len(existing_ids("s3://lake/imported")) == 1


def test_a_part_that_was_begun_is_finished(server: str) -> None:
    run = locate("s3://lake/begun/run")
    part = write_part(run, tables("a"))
    (part / "trajectories.parquet").unlink()  # as where the writer was killed after the messages
    assert existing_ids("s3://lake/begun") == set()
    assert write_part(run, tables("a")) == part
    assert existing_ids("s3://lake/begun") == {"a"}


def test_a_file_that_was_not_finished_leaves_the_old_one(server: str) -> None:
    url = Url("s3://lake/whole.txt")
    with whole(url) as file:
        file.write(b"old")
    with pytest.raises(ZeroDivisionError), whole(url) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert url.open().read() == b"old"


def test_urls() -> None:
    url = locate("s3://lake/runs/")
    assert isinstance(url, Url) and isinstance(locate("runs/s3://x"), Path) and isinstance(locate("c:/x"), Path)
    assert str(url) == "s3://lake/runs" and url == Url("s3://lake/runs") and url != Path("s3://lake/runs")
    assert (url.name, str(url.parent), str(url.bucket)) == ("runs", "s3://lake", "s3://lake")
    assert str(url.bucket.parent) == "s3://lake" and str(url / "a") == "s3://lake/runs/a"
    assert (url / "a").is_relative_to(url) and not Url("s3://lake/runs2").is_relative_to(url)
