"""Spark answers what DuckDB answers: every table, rule, plan and method, on a real standalone cluster.

`make test-spark` runs them; the translation alone, without Java, is in test_translate.py.
"""

from __future__ import annotations

import datetime
import decimal
import filecmp
import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small_runs import pair, talk, traj, write_run, write_table
from worlds import World, expert, policy, worlds, write

pytest.importorskip("pyspark", reason="needs pyspark: pip install 'trajkit[spark]'")
pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java 17"),
]

from spark_cluster import Cluster  # noqa: E402

import trajkit  # noqa: E402
from trajkit.engines.duckdb import DuckDBEngine  # noqa: E402
from trajkit.engines.spark.runs import SparkEngine  # noqa: E402
from trajkit.errors import BadData, UsageError  # noqa: E402
from trajkit.rules import rules, views  # noqa: E402
from trajkit.runs.schema import TABLES  # noqa: E402
from trajkit.selection.assemble import tables  # noqa: E402
from trajkit.selection.select import choose, select  # noqa: E402

RELATIONS = [*TABLES, *views()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    from pyspark.sql import SparkSession

    started = Cluster(tmp_path_factory.mktemp("cluster"))
    before = {name: os.environ.get(name) for name in started.environment}
    os.environ.update(started.environment)
    yield started
    if session := SparkSession.getActiveSession():
        session.stop()
    started.close()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def together(drawn: Sequence[World]) -> World:
    """Many worlds as one: ids and tasks of each with its number before them."""

    def one(number: int, world: World) -> World:
        trajs = tuple(
            replace(t, id=f"{number}{t.id}", parent=t.parent and f"{number}{t.parent}", task=f"{number}{t.task}")
            for t in world.trajs
        )
        return World(trajs, tuple({**row, "task_id": f"{number}{row['task_id']}"} for row in world.tasks))

    return reduce(
        lambda a, b: World(a.trajs + b.trajs, a.tasks + b.tasks), (one(n, world) for n, world in enumerate(drawn))
    )


def plain(value: Any) -> Any:
    """A value of an answer, without the two engines' types of whole numbers; not a number equals itself."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return "nan" if value != value else value
    if isinstance(value, dict):
        return tuple(plain(item) for item in value.items())
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    return value


def rounded(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(float(f"{value:.12g}") if isinstance(value, float) else value for value in row)


def differing(ours: DuckDBEngine, theirs: SparkEngine, names: Sequence[str]) -> list[str]:
    """Which relations' answers differ, in their columns, their rows, or the order of these."""
    found = []
    for name in names:
        one, other = ours.rule(name), theirs.rule(name)
        rows = [[plain(row) for row in frame.rows()] for frame in (one, other)]
        if name == "win_rate":  # the standard deviation's last digits: the engines add up in other orders
            rows = [list(map(rounded, found)) for found in rows]
        if one.columns != other.columns or rows[0] != rows[1]:
            found.append(name)
    return found


MANY = st.lists(worlds(), min_size=25, max_size=25).filter(lambda drawn: sum(len(world.trajs) for world in drawn) > 150)


@given(drawn=MANY, layout=st.integers(1, 2**16))
@settings(max_examples=1, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None)
def test_every_relation_has_the_same_rows_on_random_worlds(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, drawn: list[World], layout: int
) -> None:
    folder = write(together(drawn), tmp_path_factory.mktemp("worlds"), layout)
    with DuckDBEngine(folder) as ours, SparkEngine(folder, master=cluster.master) as theirs:
        assert differing(ours, theirs, RELATIONS) == []


def test_every_rule_has_the_same_rows_on_a_generated_100k(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    importlib.import_module("world").generate(tmp_path / "runs", 100_000, every_method=True)
    with DuckDBEngine(tmp_path / "runs") as ours, SparkEngine(tmp_path / "runs", master=cluster.master) as theirs:
        assert ours.rows("SELECT count(*) AS n FROM trajectories")[0]["n"] > 99_000
        for name in RELATIONS:
            if name in ("messages", "win_rate"):  # 1.4 million rows in this process; its last digits differ
                continue
            one, other = ours.rule(name), theirs.rule(name)
            assert one.columns == other.columns, name
            assert one.equals(other.cast(dict(one.schema))), name


SHOP = World(
    tuple(
        t
        for n in range(12)
        for task in (f"task {n}",)
        for t in (
            expert(f"e{n}", "abrTU" * 2, task=task, reward=float(n % 3 == 0)),
            *(policy(f"p{n}-{i}", "ab"[: 1 + i % 2], task=task, parent=f"e{n}" if i else None, at=2 * i,
                     reward=float((n + i) % 2)) for i in range(4)),
            replace(policy(f"s{n}", "a", task=task, parent=f"e{n}", at=3, reward=0.5), role="scorer"),
        )
    )
)  # fmt: skip


@pytest.mark.parametrize("method", ["eef", "nat", "eto_step", "step_rewards"])  # one of each that is written
def test_select_writes_the_same_file(cluster: Cluster, tmp_path: Path, method: str) -> None:
    runs = write(SHOP, tmp_path / "runs")
    one, other = tmp_path / "duckdb.parquet", tmp_path / "spark.parquet"
    summary = select(runs, one, method)
    assert summary.n_rows
    assert select(runs, other, method, engine="spark", master=cluster.master) == summary
    assert filecmp.cmp(one, other, shallow=False)


OWN = """
-- The solved rollouts that are the shortest of their task, for Spark as for DuckDB.
WITH ranked AS (
    SELECT o.trajectory_id, o.solved
    FROM outcomes AS o WHERE o.role = 'policy' AND o.split = 'train'
    QUALIFY row_number() OVER (PARTITION BY o.task_id ORDER BY o.solved DESC, o.n_actions, o.trajectory_id) = 1
)
SELECT trajectory_id, 'own' AS kind, p.my_suffix AS suffix FROM ranked CROSS JOIN params AS p WHERE solved
"""


def test_a_users_own_method(cluster: Cluster, tmp_path: Path) -> None:
    runs, own = write(SHOP, tmp_path / "runs"), tmp_path / "mine.sql"
    own.write_text(OWN)
    one, other = tmp_path / "duckdb.parquet", tmp_path / "spark.parquet"
    summary = select(runs, one, str(own), {"my_suffix": "Briefly."})
    assert summary.n_rows == 12
    spark: Any = {"engine": "spark", "master": cluster.master}
    with pytest.raises(UsageError, match="--trust"):
        select(runs, other, str(own), {"my_suffix": "Briefly."}, **spark)
    assert not other.exists()
    assert select(runs, other, str(own), {"my_suffix": "Briefly."}, trust=True, **spark) == summary
    assert filecmp.cmp(one, other, shallow=False)

    own.write_text("SELECT trajectory_id, no_such_function(task_id) AS kind FROM outcomes")
    with pytest.raises(UsageError, match=r"(?i)mine\.sql: Spark: .*no_such_function"):
        select(runs, other, str(own), trust=True, **spark)
    own.write_text("SELECT trajectory_id FROM outcomes WHERE role = 'scorer'")
    with pytest.raises(UsageError, match="12 rows of its answer name a trajectory of the scorer"):
        select(runs, other, str(own), trust=True, **spark)


def test_bad_input_is_refused_with_its_place(cluster: Cluster, tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", pair("a"), ([traj("b", n_steps=3)], talk("b", 2)))
    with pytest.raises(BadData, match="n_steps is 3 but its messages hold 2 actions") as refused:
        select(runs, None, "sft_all", engine="spark", master=cluster.master)
    with pytest.raises(BadData) as wanted:
        select(runs, None, "sft_all")
    assert str(refused.value) == str(wanted.value)

    write_table([traj("a")], "trajectories", tmp_path / "lacking" / "trajectories.parquet", without=["role"])
    with pytest.raises(BadData, match="the column role of trajectories is missing"):
        trajkit.open(tmp_path / "lacking", engine="spark", master=cluster.master)
    torn = tmp_path / "torn" / "trajectories.parquet"
    torn.parent.mkdir()
    torn.write_bytes(b"PAR1 and no more")
    with pytest.raises(BadData, match="Restore that file"):
        trajkit.open(torn.parent, engine="spark", master=cluster.master)
    with pytest.raises(UsageError, match="there is no such folder"):
        trajkit.open(tmp_path / "nowhere", engine="spark", master=cluster.master)
    with pytest.raises(UsageError, match="--memory-limit and --threads are DuckDB's"):
        select(runs, None, engine="spark", master=cluster.master, threads=2)
    with pytest.raises(UsageError, match="--master is a Spark cluster's"):
        select(runs, None, master=cluster.master)


def test_urls_of_sparks_file_systems_are_read(cluster: Cluster, tmp_path: Path) -> None:
    folder = write(SHOP, tmp_path / "a folder [of] {runs}, 100%", layout=3)
    (folder / ".part-1.tmp").mkdir()
    (folder / ".part-1.tmp" / "trajectories.parquet").write_bytes(b"unfinished")
    with DuckDBEngine(folder) as ours, SparkEngine(f"file://{folder}", master=cluster.master) as theirs:
        assert differing(ours, theirs, ["trajectories", "messages", "eef"]) == []


def test_the_commands_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    runs = write(SHOP, tmp_path / "runs")

    def run(*args: str) -> str:
        call = [sys.executable, "-c", "from trajkit.cli import main; main()", *args, "--runs", str(runs)]
        done = subprocess.run(call, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    spark = ("--engine", "spark", "--master", cluster.master)
    query = ("sql", "from first_recovery_state order by all", "--format", "csv")
    assert run(*query, *spark) == run(*query)
    plan = ("plan", "--plan", "skip_length", "--iteration", "2", "--format", "csv")
    assert run(*plan, *spark) == run(*plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"], "Spark left something behind"


def test_where_spark_runs_here_its_python_is_this_one(tmp_path: Path) -> None:
    """Whichever Python comes first in PATH: without an activated environment one that has no pyarrow."""
    runs, one, other = write(SHOP, tmp_path / "runs"), tmp_path / "duckdb.parquet", tmp_path / "spark.parquet"
    select(runs, one)
    java = shutil.which("java")
    assert java is not None
    env = {name: value for name, value in os.environ.items() if name not in ("PYSPARK_PYTHON", "SPARK_CONF_DIR")}
    env["PATH"] = os.pathsep.join([str(Path(java).parent), "/usr/bin", "/bin"])
    call = [sys.executable, "-c", "from trajkit.cli import main; main()", "select", "--input", runs, "--out", other]
    done = subprocess.run([*call, "--engine=spark", "--master=local[2]"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert filecmp.cmp(one, other, shallow=False)


def test_a_worker_that_is_killed_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The last test: it takes one of the two workers, with what it kept of the answers, away for good."""
    runs = write(SHOP, tmp_path / "runs", layout=5)
    with DuckDBEngine(runs) as ours, SparkEngine(runs, master=cluster.master) as theirs:
        found = []
        for folder in (ours, theirs):
            summary = choose(folder, rules()["eef"])
            if folder is theirs:
                assert theirs.spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() == 3  # the driver, and
                cluster.kill(0)  # an executor on each worker: the next queries miss what one kept of the answers
            found.append((summary, list(tables(folder, "eef", "examples", Counter()))))
        assert found[0] == found[1]
