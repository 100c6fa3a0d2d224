"""What a file of somebody else's SQL may do, and what text from trajectories does where it is shown."""

from __future__ import annotations

import base64
import gzip
import re
from pathlib import Path

import polars as pl
import pytest
from small_runs import pair, trajkit, write_run

import trajkit as library
from trajkit.console import STEERING
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.rules import method, methods, rules

SECRET = "hunter2"
ONE = "SELECT trajectory_id FROM outcomes WHERE role = 'expert' AND split = 'train'"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_run(folder, pair("e"))
    (tmp_path / "secret.csv").write_text(f"trajectory_id,word\ne,{SECRET}\n")
    return folder


def _select(runs: Path, sql: str, *args: object) -> tuple[int, str]:
    file = runs.parent / "mine.sql"
    file.write_text(sql)
    ended = trajkit("select", "--input", runs, "--method", file, "--out", runs.parent / "sft.parquet", *args)
    assert "Traceback" not in ended.err
    return ended.code, ended.err


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{folder}/made.csv'",
        "COPY outcomes TO '{runs}/made.parquet'",
        "ATTACH '{runs}/made.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "CREATE TABLE x AS SELECT 1",
        "DROP TABLE made.outcomes",
        "CALL pragma_version()",
        "EXPORT DATABASE '{folder}/made'",
        "SELECT 1; SELECT 2",
        "",
        "WITH x AS (INSERT INTO made.outcomes SELECT * FROM outcomes RETURNING *) SELECT trajectory_id FROM x",
        "WITH x AS (DELETE FROM made.outcomes RETURNING *) SELECT trajectory_id FROM x",
        "WITH x AS (COPY (SELECT 1) TO '{runs}/made.csv') SELECT trajectory_id FROM outcomes",
        "SELECT trajectory_id FROM (SELECT * FROM read_csv('{folder}/secret.csv'))",
        "SELECT trajectory_id FROM outcomes WHERE EXISTS (FROM read_text('{folder}/secret.csv'))",
        "SELECT trajectory_id, (SELECT content FROM read_text('{folder}/secret.csv')) AS kind FROM outcomes",
        "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT size FROM read_blob('/etc/hostname')) SELECT a FROM x",
        "SELECT file AS trajectory_id FROM glob('/etc/*')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT name AS trajectory_id FROM duckdb_secrets()",
        "SELECT trajectory_id FROM '{folder}/secret.csv'",
        'SELECT trajectory_id FROM "{folder}/secret.csv"',
        "SELECT trajectory_id FROM '{runs}/../secret.csv'",
        "SELECT trajectory_id FROM sys",  # a variable of this program
        "SELECT 1) AS answer; COPY (SELECT 1) TO '{folder}/made.csv'; SELECT * FROM (SELECT 1",
    ],
)
def test_a_method_reads_the_runs_and_does_nothing_else(runs: Path, sql: str) -> None:
    before = {path: path.read_bytes() for path in runs.parent.rglob("*") if path.is_file()}
    code, err = _select(runs, sql.format(folder=runs.parent, runs=runs))
    assert code == 2, err
    assert SECRET not in err
    after = {path: path.read_bytes() for path in runs.parent.rglob("*") if path.is_file() and path.name != "mine.sql"}
    assert after == before


def test_copy_and_attach_are_refused_though_the_folder_may_be_read(runs: Path) -> None:
    """`allowed_directories` alone lets DuckDB write there: that a method is one SELECT is what holds it."""
    with DuckDBEngine(runs, allow_read=()) as confined:
        confined.rows(f"COPY (SELECT 1) TO '{runs}/made.csv'")
        for setting in ("enable_external_access = true", "lock_configuration = false", "allowed_paths = ['/']"):
            with pytest.raises(Exception, match=r"locked|Cannot change|cannot be changed"):
                confined.rows(f"SET {setting}")
    (runs / "made.csv").unlink()
    for sql in (f"COPY (SELECT 1) TO '{runs}/made.csv'", f"ATTACH '{runs}/made.duckdb'"):
        assert _select(runs, sql)[0] == 2
    assert not list(runs.glob("made.*"))


def test_a_file_is_read_where_it_is_allowed(runs: Path) -> None:
    secret = runs.parent / "secret.csv"
    other = runs.parent / "other.csv"
    other.write_text("trajectory_id\ne\n")
    for source in (f"read_csv('{secret}')", f"'{secret}'"):
        sql = f"SELECT o.trajectory_id FROM outcomes AS o SEMI JOIN {source} AS s ON o.trajectory_id = s.trajectory_id"
        code, err = _select(runs, sql)
        assert code == 2 and "--allow-read" in err
        assert _select(runs, sql, "--allow-read", secret)[0] == 0
        code, err = _select(runs, sql, "--allow-read", other)
        assert code == 2 and "--allow-read" in err
    code, err = _select(runs, ONE, "--allow-read", runs.parent / "missing.csv")
    assert code == 2 and "missing.csv" in err


def test_an_allowed_file_may_be_a_link(runs: Path) -> None:
    link = runs.parent / "link.csv"
    link.symlink_to(runs.parent / "secret.csv")
    sql = f"SELECT o.trajectory_id FROM outcomes AS o SEMI JOIN '{link}' AS s ON o.trajectory_id = s.trajectory_id"
    assert _select(runs, sql, "--allow-read", link)[0] == 0


def test_runs_may_lie_behind_links(runs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (runs / "far").mkdir()
    for file in runs.glob("*.parquet"):
        file.rename(elsewhere / file.name)
        (runs / "far" / file.name).symlink_to(elsewhere / file.name)
    (runs / "folder").symlink_to(elsewhere, target_is_directory=True)
    link = tmp_path / "link"
    link.symlink_to(runs, target_is_directory=True)
    assert _select(link, ONE)[0] == 0
    assert pl.read_parquet(tmp_path / "sft.parquet").height == 1


def test_every_command_that_takes_a_method_holds_it_to_the_runs(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.sql"
    commands = (
        ("select", "--input", runs, "--out", tmp_path / "sft.parquet"),
        ("explain", "--runs", runs, "--task", "t"),
        ("report", "--runs", runs, "--out", tmp_path / "report.html"),
    )
    for command in commands:
        for source in (f"'{tmp_path}/secret.csv'", f"read_csv('{tmp_path}/secret.csv')"):
            file.write_text(f"SELECT trajectory_id, word AS kind FROM {source}")
            ended = trajkit(*command, "--method", file)
            assert ended.code == 2, (command, ended)
            assert SECRET not in ended.out + ended.err
    file.write_text(f"SELECT trajectory_id FROM '{tmp_path}/secret.csv'")
    with library.open(runs) as opened:
        with pytest.raises(UsageError):
            opened.select(str(file))
        assert opened.select(str(file), allow_read=[tmp_path / "secret.csv"]).height == 1
        assert opened.sql(f"FROM '{tmp_path}/secret.csv'").height == 1  # what its user may do is the user's


def test_the_rules_of_trajkit_pass_what_a_users_own_must(tmp_path: Path) -> None:
    """Each built-in method, saved as a file of the user's, is taken."""
    for name in methods():
        file = tmp_path / f"my_{name}.sql"
        file.write_text(rules()[name].sql)
        assert method(str(file)).sql.strip()


def test_a_file_of_sql_needs_trust_on_spark(runs: Path) -> None:
    code, err = _select(runs, ONE, "--engine", "spark")
    assert code == 2 and "--trust" in err


# ESC and OSC, a bell, backspaces, C1 controls, and what turns the order of a text round.
HOSTILE = "a\x1b]0;title\x07b\x1b[31mc\x9b2Jd\b\b\u202egnp.exe\u2066x\u2069\u200f\u061c<b>"


def _steering(text: str) -> list[str]:
    return re.findall(STEERING.replace("\\x08", "\\x08"), text) + re.findall("[\x08]", text)


def test_no_text_of_a_trajectory_steers_what_shows_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    given = {"env": HOSTILE, "error": HOSTILE}
    rows = [
        pair(f"e{HOSTILE}", HOSTILE, **given),
        pair(f"p{HOSTILE}", HOSTILE, role="policy", reward=0.0, **given),
        pair(f"x{HOSTILE}", HOSTILE, role="policy", n_steps=1, parent_id=f"e{HOSTILE}", branch_step=1, **given),
    ]
    for _, messages in rows:
        for message in messages:
            message |= {"content": HOSTILE, "name": HOSTILE, "reasoning": HOSTILE}
    write_run(runs, *rows)
    commands: list[tuple[object, ...]] = [
        ("explain", "--runs", runs, "--task", HOSTILE),
        ("explain", "--runs", runs, "--task", HOSTILE, "--method", "eto"),
        ("explain", "--runs", runs, "--task", HOSTILE + "x"),
        ("show", "--runs", runs, "--task", HOSTILE),
        ("show", "--runs", runs, "--task", HOSTILE, "--full"),
        ("show", f"e{HOSTILE}", "--runs", runs),
        ("sql", "FROM messages", "--runs", runs),
        ("sql", f'FROM "{HOSTILE}"', "--runs", runs),
        ("validate", runs),
        ("select", "--input", runs, "--out", tmp_path / "sft.parquet", "--method", "sft_pos"),
        ("select", "--input", runs, "--out", tmp_path / "x.parquet", "--method", HOSTILE),
        ("select", "--input", runs, f"--{HOSTILE}"),
        ("select", "--input", runs, "--threads", HOSTILE),
        ("select", "--input", runs, "--set", HOSTILE, "--dry-run"),
        (HOSTILE,),
        ("report", "--runs", runs, "--out", tmp_path / "report.html"),
        ("show", tmp_path / "sft.parquet"),
    ]
    for command in commands:
        ended = trajkit(*command)
        assert not _steering(ended.out), (command, ended.out)
        assert not _steering(ended.err), (command, ended.err)
    assert trajkit(*commands[-2]).code == 0, trajkit(*commands[-2])
    page = (tmp_path / "report.html").read_text()
    assert not _steering(page)
    packed = [gzip.decompress(base64.b64decode(part)).decode() for part in re.findall(r"H4sI[A-Za-z0-9+/=]+", page)]
    assert any("gnp.exe" in part for part in packed)
    for part in packed:
        assert not _steering(part)
        assert not re.search(r"(?<!\\)(\\\\)*\\u00[01]", part), (
            "a control that JSON escapes is one again when it is read"
        )
