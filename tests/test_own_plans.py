"""`--plan FILE.sql`: a plan of one's own runs as a built-in one does, in rounds where it says so, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import pair, trajkit, write_run

from envs.webshop import Expert, Novice, WebShop
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.exploration.explore import Settings, explore
from trajkit.exploration.pending import cost
from trajkit.rules import plans, rules


def shop() -> WebShop:
    return WebShop(products=200, train_tasks=4, test_tasks=0)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One expert trajectory e of 5 actions, with one rollout of the policy from s_0 in iteration 1."""
    return write_run(
        tmp_path / "runs",
        pair("e", n_steps=5, reward=0.0),
        pair("p", role="policy", iteration=1, n_steps=1),
        pair("h", task="held out", split="test", n_steps=3),
    )


def written(tmp_path: Path, sql: str) -> Path:
    path = tmp_path / "mine.sql"
    path.write_text(sql)
    return path


def explored(folder: Path) -> Path:
    """The shop's experts, and the policy from s_0."""
    explore(folder, shop(), Expert(), plans=["initial"], settings=Settings("expert", 0))
    explore(folder, shop(), Novice(), plans=["initial"], settings=Settings("policy", 1))
    return folder


def rollouts(folder: Path) -> list[dict[str, Any]]:
    with DuckDBEngine(folder) as opened:
        return opened.rows(
            "SELECT task_id, parent_id, branch_step, sample, reward, actions_digest FROM trajectories "
            "WHERE role = 'policy' ORDER BY ALL"
        )


@pytest.mark.parametrize("name", plans())
def test_a_copy_plans_what_the_built_in_plans(name: str, runs: Path, tmp_path: Path) -> None:
    copy = written(tmp_path, rules()[name].sql)
    built_in = trajkit("plan", "--runs", runs, "--format", "csv", "--plan", name)
    assert built_in.code == 0
    assert trajkit("plan", "--runs", runs, "--format", "csv", "--plan", copy) == built_in
    both = trajkit("plan", "--runs", runs, "--format", "csv", "--plan", copy, "--plan", name)
    assert both == built_in


def test_rounds_of_ones_own(tmp_path: Path) -> None:
    """A copy of bisection goes round by round to the same rollouts; without that line in its header it stops early."""
    source = rules()["bisection"].sql
    found = {}
    for name, plan in {
        "built-in": "bisection",
        "copy": str(written(tmp_path, source)),
        "once": str(written(tmp_path / "once", source)) if (tmp_path / "once").mkdir() is None else "",
    }.items():
        folder = explored(tmp_path / name)
        if name == "once":
            Path(plan).write_text("\n".join(line for line in source.splitlines() if "Rounds:" not in line))
        explore(folder, shop(), Novice(), plans=["initial", plan], settings=Settings("policy", 1))
        found[name] = rollouts(folder)
    assert found["copy"] == found["built-in"]
    assert len(found["once"]) < len(found["copy"])
    assert [row for row in found["once"] if row not in found["copy"]] == []


def test_a_dry_run_counts_it(tmp_path: Path) -> None:
    folder = explored(tmp_path / "runs")
    own = written(tmp_path, rules()["every_step"].sql)
    counted = [
        cost(folder, shop(), "novice", plans=[name], settings=Settings("policy", 1))
        for name in (str(own), "every_step")
    ]
    assert counted[0] == counted[1] and counted[0].rollouts > 0


GOOD = {"task_id": "'t'", "parent_id": "'e'", "branch_step": "2", "sample": "0", "role": "'policy'"}


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT task_id FROM outcomes", "has no column parent_id, branch_step, sample, role"),
        ({"branch_step": "'two'"}, "wrong type"),
        ({"task_id": "NULL"}, "1 rows of the plan have no task_id"),
        ({"task_id": "'held out'", "parent_id": "'h'"}, "of a task that is not of split train"),
        ({"sample": "-1"}, "sample that does not count from 0"),
        ({"branch_step": "-1"}, "branch_step that does not count from 0"),
        ({"branch_step": "0"}, "name a parent"),
        ({"parent_id": "NULL"}, "name no parent"),
        ({"parent_id": "'nobody'"}, "a parent that is not there"),
        ({"task_id": "'other'"}, "a parent of another task"),
        ({"branch_step": "5"}, "the parent has no action any more"),
        ({"role": "'scorer'"}, "its rows have the role scorer, its header says policy"),
        ({"sample": "samples"}, "is a parameter: read it from params"),
        ("SELECT * FROM nothing_like_it", "nothing_like_it"),
        ("COPY outcomes TO 'x.csv'", "no SELECT"),
        ("SELECT 1; SELECT 2", "2 SQL statements"),
        ("SELECT * FROM read_csv('x.csv')", "--allow-read FILE lets it read a file"),
    ],
    ids=str,
)
def test_what_is_wrong_with_it_is_said(sql: str | dict[str, str], said: str, runs: Path, tmp_path: Path) -> None:
    if isinstance(sql, dict):
        sql = "SELECT " + ", ".join(f"{value} AS {name}" for name, value in (GOOD | sql).items())
    own = written(tmp_path, sql)
    result = trajkit("plan", "--runs", runs, "--plan", own)
    assert result.code == 2 and said in result.err and "mine.sql" in result.err
    before = sorted(runs.rglob("*"))
    with pytest.raises(UsageError, match=r"mine\.sql"):
        explore(runs, shop(), Novice(), plans=[str(own)], settings=Settings("policy", 1))
    assert [path for path in runs.rglob("*.parquet") if path not in before and "messages" in path.name] == []


def test_it_reads_the_runs_and_what_it_is_given_alone(runs: Path, tmp_path: Path) -> None:
    table = tmp_path / "states.csv"
    table.write_text("task_id,parent_id,branch_step\nt,e,3\n")
    own = written(tmp_path, f"SELECT *, 0 AS sample, 'policy' AS role FROM read_csv('{table}', all_varchar = true)")
    assert trajkit("plan", "--runs", runs, "--plan", own).code == 2
    other = trajkit("plan", "--runs", runs, "--plan", own, "--allow-read", tmp_path / "runs" / "nothing")
    assert other.code == 2 and "--allow-read" in other.err
    given = trajkit("plan", "--runs", runs, "--plan", own, "--allow-read", table, "--format", "csv")
    assert (given.code, given.out.splitlines()[1:]) == (0, ["t,e,3,0,policy"])


def test_it_is_asked_once(runs: Path, tmp_path: Path) -> None:
    """What is checked is what is run, also where chance decides."""
    chance = GOOD | {"branch_step": "1 + CAST(floor(random() * 4) AS INTEGER)"}
    columns = ", ".join(f"{value} AS {name}" for name, value in chance.items())
    own = written(tmp_path, f"SELECT {columns} FROM range(20)")
    for _ in range(5):
        assert trajkit("plan", "--runs", runs, "--plan", own, "--format", "csv").out.count("policy") in (1, 2, 3, 4)


def test_a_file_that_cannot_be_read(runs: Path, tmp_path: Path) -> None:
    result = trajkit("plan", "--runs", runs, "--plan", tmp_path / "nowhere.sql")
    assert result.code == 2 and "nowhere.sql" in result.err and "cannot be read" in result.err
    result = trajkit("plan", "--runs", runs, "--plan", "skip_lenght")
    assert result.code == 2 and "skip_length" in result.err and "ends in .sql" in result.err
