"""The benchmarks run and write their page. (What they measure is no matter of tests.)"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
BENCHMARKS = CHECKOUT / "benchmarks"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_a_row_says_the_ratio_round_by_round(part: Any) -> None:
    measure = part("measure")
    rows = [measure.Row("a", [2.0, 4.0, 3.0], "the floor", [1.0, 1.0, 2.0], "10 rows"), measure.Row("b", [0.05])]
    assert measure.table(rows).splitlines() == [
        "| what | seconds | compared with | seconds | ratio |  |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 3.00 | the floor | 1.00 | 2.00 (1.50 to 4.00) | 10 rows |",
        "| b | 0.050 |  |  |  |  |",
    ]
    assert measure.table(rows[1:]).splitlines()[0] == "| what | seconds |"


def test_the_page_has_every_part_and_the_command_that_gives_it(part: Any) -> None:
    pytest.importorskip("torch", reason="two of the parts load it")
    bench = part("bench")
    row = {"what": "a", "seconds": [2.0], "other": "b", "other_seconds": [1.0], "note": ""}
    page = bench.page({name: {"size": 7, "rounds": 1, "rows": [row]} for name in bench.PARTS})
    for name, title in bench.PARTS.items():
        assert f"## {title}\n" in page and f"`python benchmarks/{name}.py --size 7 --rounds 1`" in page
    assert page.count("| a | 2.00 | b | 1.00 | 2.00 |") == len(bench.PARTS)


def test_the_scripts_choose_what_the_rules_choose(part: Any, tmp_path: Path) -> None:
    """On the generated world, where every method and plan has something to do."""
    import pyarrow.parquet as pq

    import trajkit
    from trajkit.rules import methods

    published, world = part("published"), part("world")
    world.generate(tmp_path / "runs", 2_000, n_parts=2, every_method=True)
    files = sorted((tmp_path / "runs").glob("*/trajectories.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    runs = trajkit.open(tmp_path / "runs")
    examples = runs.rule("eef")["kind", "task_id", "trajectory_id", "from_step"].rows()
    assert sorted((kind, task, one, step) for kind, task, one, _, step in published.eef(rows)) == sorted(examples)
    pairs = runs.rule("eto")["chosen_id", "rejected_id"].rows()
    assert sorted(published.eto(rows)) == sorted(pairs)
    chosen = runs.rule("rft")["trajectory_id", "from_step"].rows()
    said = [row | {"messages": [{"role": "assistant", "content": row["trajectory_id"]}]} for row in rows]
    assert sorted(published.rft(said)) == sorted(chosen)
    assert not [name for name in methods() if runs.rule(name).is_empty()]
    pandas = pytest.importorskip("pandas", reason="the extra `bench`")
    frame = published.eef_in_pandas(pandas.DataFrame(rows))
    assert sorted(frame.itertuples(index=False, name=None)) == sorted(examples)


@pytest.mark.slow
def test_every_part_of_the_library_runs(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="the extra `bench`")
    pytest.importorskip("datasets", reason="the extra `bench`")
    parts = ("importing", "looking", "rules", "selecting", "otherwise", "parts")
    call = [sys.executable, BENCHMARKS / "bench.py", "--only", *parts, "--scale", "0.002", "--rounds", "1"]
    subprocess.run([*call, "--folder", tmp_path, "--page", tmp_path / "page.md"], cwd=CHECKOUT, check=True)
    page = (tmp_path / "page.md").read_text()
    assert all(f"`python benchmarks/{name}.py" in page for name in parts)
    assert json.loads((tmp_path / "results/rules.json").read_text())["rounds"] == 1
