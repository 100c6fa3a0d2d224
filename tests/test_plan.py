"""`trajkit plan`: what explore would run, as rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from small_runs import Row, pair, trajkit, write_run, write_table


def rollout(id: str, at: int | None, task: str = "t", **given: object) -> tuple[list[Row], list[Row]]:
    parent = {} if at is None else {"parent_id": "e", "branch_step": at}
    return pair(id, task, **{"role": "policy", "iteration": 1, "n_steps": 1, **parent, **given})


def planned(runs: Path, *args: object) -> list[tuple[str, str, int, int]]:
    result = trajkit("plan", "--runs", runs, "--format", "csv", *args)
    assert result.code == 0, result
    table = list(csv.DictReader(io.StringIO(result.out)))
    rows = [(row["task_id"], row["parent_id"], int(row["branch_step"]), int(row["sample"])) for row in table]
    assert {row["role"] for row in table} <= {"policy"}
    assert result.err == f"{len(rows):,} rollouts of {len({row[0] for row in rows}):,} tasks\n"
    assert rows == sorted(set(rows)), "a total order, each once"
    return rows


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = write_run(
        tmp_path / "runs",
        pair("e", n_steps=7, reward=0.0),
        pair("x", task="broken", ended="error"),
        pair("h", task="held out", split="test"),
        rollout("p", None),
        rollout("q", 2),
        rollout("r", 4, ended="error"),
        rollout("d", 6, ended="drift"),
        rollout("s", 6, sample=1),
    )
    tasks = [{"task_id": name, "env": None, "split": split, "meta": None} for name, split in
             (("listed", None), ("t", "train"), ("elsewhere", "dev"))]  # fmt: skip
    write_table(tasks, "tasks", folder / "tasks.parquet")
    return folder


def test_initial_plans_every_train_task_once(runs: Path) -> None:
    assert planned(runs, "--plan", "initial") == [(task, "", 0, 0) for task in ("broken", "listed", "t")]


def test_a_task_of_two_splits_is_in_no_plan_and_is_named(runs: Path) -> None:
    write_table(
        [{"task_id": "t", "env": None, "split": "test", "meta": None}], "tasks", runs / "later" / "tasks.parquet"
    )
    result = trajkit("plan", "--runs", runs, "--format", "csv", "--plan", "initial", "--plan", "every_step")
    assert (result.code, result.out.splitlines()[1:]) == (0, ["broken,,0,0,policy", "listed,,0,0,policy"])
    assert result.err.splitlines()[1:] == [
        "1 tasks left out, for two splits or two envs are said of them in the files (`trajkit validate` says where): t"
    ]


def test_skip_length_plans_m_states_below_the_end(runs: Path) -> None:
    steps = {1: [3], 2: [2, 4], 3: [1, 2, 3], 5: [1, 2, 3, 4, 5], 9: [1, 2, 3, 4, 5, 6]}
    for m, wanted in steps.items():
        assert [row[2] for row in planned(runs, "--plan", "skip_length", "--m", m)] == wanted
    assert [row[2] for row in planned(runs, "--plan", "skip_length")] == steps[5]


def test_every_step_and_samples(runs: Path) -> None:
    assert planned(runs, "--plan", "every_step", "--samples", 2) == [
        ("t", "e", step, sample) for step in range(1, 7) for sample in (0, 1)
    ]


def test_what_is_done_is_left_out_but_not_what_ended_in_error(runs: Path) -> None:
    """q made step 2, r at 4 met an error, d's drift at 6 would come again, s was another sample."""
    assert [row[2] for row in planned(runs, "--plan", "every_step", "--iteration", 1)] == [1, 3, 4, 5]
    assert ("t", "", 0, 0) not in planned(runs, "--plan", "initial", "--iteration", 1)
    assert len(planned(runs, "--plan", "every_step", "--iteration", 2)) == 6
    assert [row[2:] for row in planned(runs, "--plan", "every_step", "--iteration", 1, "--samples", 2)] == [
        (step, sample) for step in range(1, 7) for sample in (0, 1) if (step, sample) not in {(2, 0), (6, 0), (6, 1)}
    ]


def test_plans_add_up(runs: Path) -> None:
    both = planned(runs, "--plan", "initial", "--plan", "skip_length", "--plan", "every_step")
    assert both == sorted(planned(runs, "--plan", "initial") + planned(runs, "--plan", "every_step"))


def test_the_table_and_an_empty_plan(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", rollout("p", None))
    result = trajkit("plan", "--runs", runs, "--plan", "initial", "--iteration", 1)
    assert result.code == 0 and result.err == "0 rollouts of 0 tasks\n"
    assert "task_id" in trajkit("plan", "--runs", runs, "--plan", "initial").out
    (tmp_path / "empty").mkdir()
    assert trajkit("plan", "--runs", tmp_path / "empty", "--plan", "initial").err == "0 rollouts of 0 tasks\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--plan", "initail"), "there is no such plan (did you mean initial?)"),
        (("--plan", "done"), "there is no such plan"),
        (("--plan", "eef"), "there is no such plan"),
        ((), "--plan"),
        (("--plan", "initial", "--m", "0"), "from 1 on"),
        (("--plan", "initial", "--samples", "0"), "from 1 on"),
        (("--plan", "initial", "--samples", "x"), "--samples"),
        (("--plan", "initial", "--set", "mm=1"), "no such parameter"),
    ],
)
def test_a_wrong_call_exits_with_2(runs: Path, args: tuple[str, ...], said: str) -> None:
    result = trajkit("plan", "--runs", runs, *args)
    assert result.code == 2 and said in result.err and result.out == "", result
