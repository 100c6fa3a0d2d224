"""Whole iterations of the preference methods on a small shop: ETO, IPR with its scorer, a second method, NAT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch: make setup-train")
pytest.importorskip("transformers", reason="needs transformers: make setup-train")

from loop_helpers import counted, small
from safetensors.torch import load_file

from train.loop import MANIFEST, loop
from train.results import results
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.selection.dataset import kind, read

PAIRS = (
    "explore.env_args.train_tasks=14", "train.steps=10", "clone_train.steps=60",
    "pair_train.steps=6", "pair_train.lr=1e-3",
)  # fmt: skip


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cloned") / "run"
    loop(folder, small(*PAIRS, "loop.iterations=1"))
    return folder


def lines(theta: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (theta / "metrics.jsonl").read_text().splitlines()]


def test_eto_prefers_by_the_reward_and_refers_to_the_policy_that_explored(cloned: Path, tmp_path: Path) -> None:
    run = tmp_path / "eto"
    loop(run, small(*PAIRS, "loop.method=eto", "loop.iterations=3"), begin=cloned)
    for k in (1, 2):
        theta = run / f"theta-{k}"
        assert kind(theta / "pairs.parquet") == "pairs" and not (theta / "sft.parquet").exists()
        pairs = list(read(theta / "pairs.parquet"))
        with DuckDBEngine(run / "runs", {"iteration": k}) as runs:
            assert len(pairs) == runs.rows("SELECT count(*) AS n FROM eto")[0]["n"] > 0
        told = lines(theta)
        assert len(told) == 6 and {"margin", "accuracy", "dpo_loss"} <= told[0].keys()
        # The reference is theta-(k-1), from which it starts: nothing is preferred yet.
        assert told[0]["margin"] == pytest.approx(0, abs=1e-5) and told[0]["dpo_loss"] == pytest.approx(
            0.6931, abs=1e-3
        )
        assert (theta / "reference.safetensors").exists()
    assert [row["k"] for row in results(run)] == [0, 1, 2]
    found = counted(run)
    assert found["policy", "theta-1", "train", 2, False] == 14  # the second iteration's negatives are theta-1's


def test_ipr_scores_with_theta_0_and_trains_on_both_levels(cloned: Path, tmp_path: Path) -> None:
    run = tmp_path / "ipr"
    given = ("loop.method=ipr", "loop.select.n=2", "loop.select.tau=0.0", "explore.temperatures=[0.0]")
    sft = ("pair_train.sft_weight=1.0", "pair_train.sft_level=trajectory")
    settings = small(*PAIRS, *given, *sft)
    assert settings.plans == ("initial", "every_step")
    loop(run, settings, begin=cloned)
    with DuckDBEngine(run / "runs", {"iteration": 1, "n": 2}) as runs:
        scored = runs.rows("SELECT actor, count(*) AS n FROM trajectories WHERE role = 'scorer' GROUP BY ALL")
        assert [row["actor"] for row in scored] == ["theta-0"]
        planned = "SELECT * FROM score_expert UNION ALL SELECT * FROM score_policy"
        assert scored[0]["n"] == runs.rows(f"SELECT count(*) AS n FROM ({planned})")[0]["n"] > 14
        assert runs.rows(f"FROM ({planned}) ANTI JOIN done USING (task_id, parent_id, branch_step, sample, role)") == []
        levels = runs.rows("SELECT level, count(*) AS n FROM ipr GROUP BY ALL ORDER BY ALL")
    assert [row["level"] for row in levels] == ["step", "trajectory"]
    assert sum(row["n"] for row in levels) == len(list(read(run / "theta-1/pairs.parquet")))
    assert json.loads((run / "theta-0/scored.json").read_text())["rollouts"] == scored[0]["n"]
    assert all("sft_loss" in line for line in lines(run / "theta-1"))
    before = (run / MANIFEST).read_bytes()
    (run / MANIFEST).unlink()
    loop(run, settings)  # nothing is scored or trained twice
    assert json.loads(before)["results"] == json.loads((run / MANIFEST).read_text())["results"]


def test_a_second_method_goes_on_from_the_first_ones_model(cloned: Path, tmp_path: Path) -> None:
    run = tmp_path / "both"
    loop(run, small(*PAIRS, "loop.method=eef", "loop.then=eto"), begin=cloned)
    theta = run / "theta-1"
    assert kind(theta / "first/sft.parquet") == "examples" and kind(theta / "pairs.parquet") == "pairs"
    assert len(lines(theta / "first")) == 10 and len(lines(theta)) == 6
    one, other = (load_file(folder / "model/model.safetensors") for folder in (theta / "first", theta))
    assert any(not one[name].equal(other[name]) for name in one)
    assert lines(theta)[0]["margin"] == pytest.approx(0, abs=1e-5)  # the reference is the first one's model


def test_nat_is_asked_as_it_was_trained_and_recorded_as_the_environment_asked(tmp_path: Path) -> None:
    run = tmp_path / "nat"
    loop(run, small(*PAIRS, "loop.clone=nat", "loop.iterations=1", "loop.select.right_prompt='do well'"))
    kinds = {example["kind"]: example for example in read(run / "theta-0/sft.parquet")}
    assert kinds["positive"]["messages"][0]["content"].endswith("\n\ndo well")
    assert "incorrectly" in kinds["negative"]["messages"][0]["content"]
    with DuckDBEngine(run / "runs") as runs:
        rows = runs.rows("SELECT content FROM messages WHERE role = 'user'")
    assert rows and not any("do well" in row["content"] for row in rows)


def test_values_train_no_policy(cloned: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="values of actions"):
        loop(tmp_path / "values", small(*PAIRS, "loop.method=step_rewards"), begin=cloned)
