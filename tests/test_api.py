"""The public face in Python gives what the command line and the rules give."""

from __future__ import annotations

import filecmp
import inspect
import json
import subprocess
import sys
import warnings
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given
from small_runs import pair, trajkit, write_run
from worlds import World, worlds, write

import trajkit as library
from envs.webshop import Expert, Novice, WebShop
from trajkit.errors import TrajkitError, UsageError
from trajkit.rules import views


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "runs", pair("e"), pair("f", task="u"), pair("p", role="policy", iteration=1, reward=0.5)
    )


def test_every_name_has_a_signature_a_docstring_and_an_example() -> None:
    for name in library.__all__:
        thing = getattr(library, name)
        if name in ("Message",):
            continue
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            for parameter in inspect.signature(thing).parameters.values():
                assert parameter.annotation is not parameter.empty, (name, parameter)
            assert f"trajkit.{name}(" in (inspect.getdoc(thing) or ""), name
    for name, method in vars(library.Runs).items():
        if not name.startswith("_") and name != "close":
            assert f"runs.{name}(" in (inspect.getdoc(method) or ""), name
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = library.opne


def test_importing_it_loads_nothing_that_takes_long() -> None:
    code = "import sys, trajkit; print([m for m in ('polars', 'duckdb', 'torch', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_parameters_hold_for_one_answer(runs: Path) -> None:
    with library.open(runs) as opened:
        assert opened.rule("outcomes")["solved"].sum() == 2
        assert opened.rule("outcomes", success_reward=0.5)["solved"].sum() == 3
        assert opened.rule("outcomes")["solved"].sum() == 2
        assert opened.select("rft", success_reward=0.5).height == opened.select("rft").height + 1
        with pytest.raises(UsageError, match="succes_reward: no such parameter"):
            opened.rule("outcomes", succes_reward=1)


def test_values_of_a_query(runs: Path) -> None:
    with library.open(runs) as opened:
        query = "SELECT count(*) AS n FROM outcomes WHERE role = "
        assert opened.sql(query + "$role", {"role": "expert"})["n"].to_list() == [2]
        assert opened.sql(query + "?", ["policy"])["n"].to_list() == [1]
        assert opened.sql(query + "'expert'")["n"].to_list() == [2]
        with pytest.raises(TrajkitError):
            opened.sql(query + "$role", {"rolle": "expert"})


@given(worlds())
def test_a_scan_is_the_rule(world: World) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, library.open(write(world, Path(folder) / "runs")) as opened:
        for name in ("outcomes", "path_segments", "eef"):
            whole = opened.rule(name)
            scanned = opened.scan(name).collect()
            assert sorted(map(repr, scanned.rows())) == sorted(map(repr, whole.rows()))
            assert scanned.schema == whole.schema
        some = opened.scan("outcomes").filter(pl.col("n_actions") > 1).select("task_id", "n_actions")
        wanted = opened.rule("outcomes").filter(pl.col("n_actions") > 1).select("task_id", "n_actions")
        assert sorted(some.collect().rows()) == sorted(wanted.rows())
        assert opened.scan("outcomes").head(1).collect().height == min(1, opened.rule("outcomes").height)


def test_a_frame_of_ones_own_is_joined(runs: Path) -> None:
    with library.open(runs) as opened:
        for hard in (["t"], ["t", "u"]):
            opened.register("mine", pl.LazyFrame({"task_id": hard}))
            joined = opened.sql("SELECT DISTINCT task_id FROM outcomes JOIN mine USING (task_id) ORDER BY 1")
            assert joined["task_id"].to_list() == hard
        for taken in ("outcomes", "trajectories", "eef", "params", next(iter(views()))):
            with pytest.raises(UsageError, match="has that name"):
                opened.register(taken, pl.DataFrame({"a": [1]}))
        with pytest.raises(UsageError, match="cannot be the name"):
            opened.register("a b", pl.DataFrame({"a": [1]}))


def test_it_writes_shows_and_explains_what_the_command_line_does(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    with library.open(runs) as opened:
        summary = opened.write(one, "rft", per_task=1)
        capsys.readouterr()
        opened.show(task="t")
        shown = capsys.readouterr().out
        opened.explain("t", "rft")
        explained = capsys.readouterr().out
        assert "3 trajectories of 2 tasks, 2 solved" in repr(opened)
        con = duckdb.connect()
        for statement in opened.statements():
            con.execute(statement)
        assert con.sql("FROM eef ORDER BY ALL").pl().equals(opened.rule("eef"))
    assert trajkit("select", "--runs", runs, "--out", other, "--method", "rft", "--set", "per_task=1").code == 0
    assert filecmp.cmp(one, other, shallow=False) and summary.n_rows == 2
    assert shown == trajkit("show", "--runs", runs, "--task", "t").out
    assert explained == trajkit("explain", "--runs", runs, "--task", "t", "--method", "rft").out


def test_from_logs_to_a_report(tmp_path: Path) -> None:
    log, runs = tmp_path / "log.jsonl", tmp_path / "runs"
    turns = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Gone."}]
    log.write_text(json.dumps({"task_id": "a", "messages": turns, "reward": 1.0}) + "\n")
    counts = library.import_logs("openai", log, runs, role="expert", env="walk")
    assert (counts.imported, counts.set_aside.total()) == (1, 0)
    assert library.import_logs("openai", [log], runs, role="expert", env="walk").already == 1
    shop = WebShop(train_tasks=6)
    library.explore(runs, shop, Expert(), role="expert", iteration=0)
    done = library.explore(runs, shop, Novice(), iteration=1, plans=["initial", "skip_length"], m=2)
    assert done["rollouts"] > 6 and done["error"] == 0
    assert library.validate(runs) == []
    assert library.select(runs, tmp_path / "sft.parquet", "eef").n_rows
    assert library.export(tmp_path / "sft.parquet", tmp_path / "sft.jsonl", "trl").written
    assert library.report(runs, tmp_path / "report.html", "eef").tasks == 7


def test_the_old_place_of_tasks_works_and_says_where_they_are() -> None:
    sys.modules.pop("trajkit.env", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from trajkit.env import Env, Message, Policy, Task
    assert any(
        issubclass(one.category, DeprecationWarning) and "from trajkit import" in str(one.message) for one in caught
    )
    assert (Env, Message, Policy, Task) == (library.Env, library.Message, library.Policy, library.Task)


def test_python_m_trajkit() -> None:
    done = subprocess.run([sys.executable, "-m", "trajkit", "--version"], capture_output=True, text=True, check=True)
    assert library.__version__ in done.stdout
