"""`trajkit sql`: its formats, hostile text, its script for plain DuckDB, and what is a mistake."""

# ruff: noqa: E501 (the tables of cases have a line per case)

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import Row, pair, talk, traj, trajkit, write_run

from trajkit.engines.duckdb import DuckDBEngine
from trajkit.rules import views
from trajkit.runs.schema import TABLES

CHECKOUT = Path(__file__).resolve().parents[1]
HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m [bold red]no[/] 'single' \"double\", comma \u202e \x00 end"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert, a rollout of it, one more of another task with hostile text, and a trajectory that lies twice."""
    folder = tmp_path_factory.mktemp("sql") / "runs"
    rows = talk("h")
    rows[0]["content"] = HOSTILE
    rollout = pair("p", role="policy", iteration=1, parent_id="e", branch_step=1, n_steps=1)
    write_run(folder, pair("e"), rollout, ([traj("h", task="u", tools='{"a": "' + "x" * 300 + '"}')], rows))
    write_run(folder / "copy", pair("e"))
    write_run(folder / "more" / "it's [here]", pair("m", task="v", reward=0.0))
    extra = folder / "more" / "it's [here]" / "a" / "trajectories.parquet"
    pq.write_table(pq.read_table(extra).append_column('my "own"', pa.array([1.5])), extra)
    return folder


def test_without_a_query_it_lists_the_views(runs: Path) -> None:
    result = trajkit("sql", "--runs", runs, "--format", "csv")
    listed = {row["name"]: row["meaning"] for row in csv.DictReader(io.StringIO(result.out))}
    assert set(listed) == {*TABLES, *views()}
    assert all(listed.values())
    assert "first_recovery_state" in trajkit("sql", "--runs", runs).out


@pytest.mark.parametrize("table", TABLES)
def test_describe_says_what_each_column_means(runs: Path, table: str) -> None:
    result = trajkit("sql", f"DESCRIBE {table};", "--runs", runs, "--format", "csv")
    told = {row["column_name"]: (row["column_type"], row["meaning"]) for row in csv.DictReader(io.StringIO(result.out))}
    assert {field.name: (field.type, field.doc) for field in TABLES[table]}.items() <= told.items()


def test_describe_of_what_is_not_there_is_an_error(runs: Path) -> None:
    result = trajkit("sql", "describe trajectorys", "--runs", runs)
    assert result.code == 2 and "trajectorys" in result.err


def test_every_format_gives_the_text_unchanged_but_a_table(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    query = "SELECT content AS c, list(content) AS l FROM messages WHERE trajectory_id = 'h' AND seq = 0 GROUP BY 1"
    assert json.loads(trajkit("sql", query, "--runs", runs, "--format", "json").out)["c"] == HOSTILE
    out = trajkit("sql", query, "--runs", runs, "--format", "csv").out
    assert list(csv.reader(io.StringIO(out, newline="")))[1][0] == HOSTILE
    file = tmp_path / "answer.parquet"
    assert trajkit("sql", query, "--runs", runs, "--format", "parquet", "--out", file).code == 0
    assert pl.read_parquet(file)["c"].to_list() == [HOSTILE]
    shown = trajkit("sql", query, "--runs", runs).out
    assert all(c.isprintable() or c == "\n" for c in shown), "something that a terminal may act on"
    assert "[bold red]no[/] 'single'" in shown


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_out_appears_whole_or_not_at_all(runs: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "answer"
    result = trajkit("sql", "FROM outcomes ORDER BY trajectory_id", "--runs", runs, "--format", form, "--out", out)
    assert (result.code, result.out) == (0, "")
    read = {"csv": pl.read_csv, "json": pl.read_ndjson, "parquet": pl.read_parquet}[form]
    assert read(out)["trajectory_id"].to_list() == ["e", "h", "m", "p"]  # type: ignore[operator]
    before = out.read_bytes()
    query = "SELECT CASE WHEN seq > 1 THEN error('stop') ELSE content END FROM messages"
    assert trajkit("sql", query, "--runs", runs, "--format", form, "--out", out).code != 0
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_table_shows_its_first_rows_and_says_so(runs: Path) -> None:
    out = trajkit("sql", "FROM range(1000)", "--runs", runs).out
    assert "│ 49" in out and "│ 50" not in out and "the first 50 rows" in out
    assert trajkit("sql", "FROM range(1000)", "--runs", runs, "--format", "csv").out.count("\n") == 1001


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS a;",
        "SELECT 1 AS a -- one",
        "SELECT 1 AS a; -- one; really\n",
        "/* one */ SELECT 1 AS a /* ; */",
        "WITH x AS (SELECT 1 AS a) FROM x",
        "VALUES (1)",
    ],
)
@pytest.mark.parametrize("form", ["table", "csv"])
def test_semicolons_and_comments(runs: Path, query: str, form: str) -> None:
    result = trajkit("sql", query, "--runs", runs, "--format", form)
    assert result.code == 0 and "1" in result.out, result


def test_types_that_are_rare(runs: Path) -> None:
    query = "SELECT INTERVAL 1 DAY AS i, 1::HUGEINT AS h, {'a': [1]} AS s, MAP {'k': 1} AS m, uuid() AS u, NULL AS n"
    for form in ("table", "csv", "json"):
        result = trajkit("sql", query, "--runs", runs, "--format", form)
        assert result.code == 0, result


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELEC 1", "syntax error"),
        ("FROM trajectorys", "trajectorys"),
        ("SELECT rewards FROM outcomes", "rewards"),
        ("SELECT 1; SELECT 2", "2 SQL statements"),
        (";", "0 SQL statements"),
        ("DROP TABLE nothing", "nothing"),
    ],
)
@pytest.mark.parametrize("form", ["table", "csv"])
def test_a_wrong_query_exits_with_2(runs: Path, query: str, said: str, form: str) -> None:
    result = trajkit("sql", query, "--runs", runs, "--format", form)
    assert result.code == 2 and result.out == "" and said in result.err, result


def test_wrong_calls_exit_with_2(runs: Path, tmp_path: Path) -> None:
    for args, said in (
        (("--format", "xml"), "xml"),
        (("--out", tmp_path / "a.txt"), "--format"),
        (("--format", "csv", "--out", tmp_path), "--out"),
        (("--format", "csv", "--out", tmp_path / "no" / "a.csv"), "--out"),
        (("--set", "nope=1"), "no such parameter"),
    ):
        result = trajkit("sql", "FROM outcomes", "--runs", runs, *args)
        assert result.code == 2 and said in result.err, result
    assert trajkit("sql", "FROM outcomes").code == 2
    assert trajkit("sql", "FROM outcomes", "--runs", tmp_path / "gone").code == 2
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_a_query_does_touches_the_runs(runs: Path) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("*.parquet")}
    for query in ("DROP VIEW trajectories", "DELETE FROM trajectories", "CREATE TABLE t AS FROM trajectories"):
        trajkit("sql", query, "--runs", runs)
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before
    assert trajkit("sql", "FROM trajectories", "--runs", runs).code == 0


def test_the_set_parameters_are_used(runs: Path) -> None:
    query = "SELECT count(*) AS n FROM outcomes WHERE solved"
    assert trajkit("sql", query, "--runs", runs, "--format", "csv").out == "n\n3\n"
    assert trajkit("sql", query, "--runs", runs, "--format", "csv", "--set", "success_reward=0").out == "n\n4\n"


# --- a script for plain DuckDB ---

PLAIN = """
import sys, duckdb
con = duckdb.connect()
con.execute(open(sys.argv[1]).read())
for name in sys.argv[3:]:
    con.execute(f"COPY (SELECT * FROM {name} ORDER BY ALL) TO '{sys.argv[2]}/{name}.parquet'")
"""


def test_plain_duckdb_sees_the_same_rows(runs: Path, tmp_path: Path) -> None:
    """In another process and another working directory, with what lies twice and with columns that nobody knows."""
    result = trajkit("sql", "--runs", runs, "--init", "--set", "m=2")
    assert result.code == 0 and result.err == ""
    script = tmp_path / "views.sql"
    script.write_text(result.out)
    names = [*TABLES, *views()]
    subprocess.run([sys.executable, "-c", PLAIN, script, tmp_path, *names], check=True, cwd="/")
    with DuckDBEngine(runs, {"m": 2}) as opened:
        assert 'my "own"' in opened.rule("trajectories").columns
        found = {name: opened.rule(name) for name in names}
    for name, rows in found.items():
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(rows), name
    assert {"outcomes", "branch_points", "skip_length", "solutions", "eef", "step_rewards"} <= {
        name for name in names if found[name].height
    }


def test_plain_duckdb_sees_what_comes_later(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("e"))
    script = trajkit("sql", "--runs", runs, "--init").out
    write_run(runs / "later", pair("f"))
    con = duckdb.connect()
    con.execute(script)
    assert con.execute("SELECT count(*) FROM outcomes").fetchone() == (2,)


# --- pipes ---


def test_a_pipe_that_closes_early_is_no_error(runs: Path) -> None:
    command = f"{sys.executable} -c 'from trajkit.cli import main; main()' sql 'FROM range(1000000)' --format csv"
    done = subprocess.run(
        ["bash", "-c", f"{command} --runs '{runs}' | head -n 2; echo ${{PIPESTATUS[0]}}"],
        cwd=CHECKOUT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["range", "0", "0"]
    assert done.stderr == ""


def test_no_message_row_is_lost_in_the_formats(runs: Path) -> None:
    def lines(form: str) -> list[Row]:
        out = trajkit("sql", "FROM messages ORDER BY ALL", "--runs", runs, "--format", form).out
        return [json.loads(line) for line in out.splitlines()] if form == "json" else list(csv.DictReader(io.StringIO(out, newline="")))  # fmt: skip

    assert [row["content"] for row in lines("json")] == [row["content"] for row in lines("csv")]
    assert len(lines("json")) == 5 + 3 + 5 + 5
