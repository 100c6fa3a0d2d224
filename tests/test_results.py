"""What `train.results` shows of finished runs, against numbers counted from the Parquet files in plain Python."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import statistics
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small_runs import pair, write_run
from worlds import World, expert, policy, write

from envs.webshop import Expert, Novice, WebShop
from train.results import (
    T_975,
    before_after,
    mean_difference,
    over_seeds,
    paired,
    plot,
    plot_terminal,
    results,
    show,
    table,
)
from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.exploration.explore import Settings, explore

CHECKOUT = Path(__file__).resolve().parents[1]
SLIPS = (0.9, 0.3, 0.0)  # of the scripted policies that stand for theta_0, theta_1, theta_2


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two small finished runs of two iterations: one explores from s_0 and from states, the other from s_0 alone."""
    runs = {}
    for name, plans in (("EEF", ["initial", "skip_length"]), ("RFT x 6", ["initial"])):
        runs[name] = run = tmp_path_factory.mktemp("run")
        env = WebShop(products=200, train_tasks=16, test_tasks=12)
        explore(run / "runs", env, Expert(), plans=["initial"], settings=Settings("expert", 0))
        for iteration, slip in enumerate(SLIPS, start=1):
            theta = Novice(slip=slip)
            if iteration < len(SLIPS):
                explore(run / "runs", env, theta, plans=plans, settings=Settings("policy", iteration), m=2)
            explore(run / "runs", env, theta, plans=["initial"], settings=Settings("policy", iteration, split="test"))
    return runs


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [row for file in run.glob(f"runs/**/{name}*.parquet") for row in pq.read_table(file).to_pylist()]


def shown(part: Any, width: int = 110) -> str:
    """What a pipe gets."""
    console = Console(file=io.StringIO(), width=width, highlight=False, emoji=False)
    console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_results_are_what_one_counts(arms: dict[str, Path]) -> None:
    for run in arms.values():
        made = rows(run, "trajectories")
        actions: dict[str, str] = {}
        for message in rows(run, "messages"):
            if message["role"] == "assistant":
                actions[message["trajectory_id"]] = actions.get(message["trajectory_id"], "") + message["content"]
        found = results(run)
        assert [row["k"] for row in found] == [0, 1, 2]
        for row in found:
            k = row["k"]
            test = [t for t in made if t["split"] == "test" and t["iteration"] == k + 1]
            assert len(test) == row["tasks"] == 12
            assert row["win_rate"] == pytest.approx(sum(t["success"] for t in test) / 12)
            assert row["win_rate_low"] < row["win_rate"] < row["win_rate_high"]
            assert row["reward"] == pytest.approx(statistics.fmean(t["reward"] for t in test))
            for skill, text in (("next", "click[Next"), ("back", "click[Back")):
                tried = [t for t in test if text in actions[t["trajectory_id"]]]
                assert row[f"{skill}_attempted"] == pytest.approx(len(tried) / 12)
                assert row[f"{skill}_solved"] == pytest.approx(sum(t["success"] for t in tried) / 12)
            train = [t for t in made if t["split"] == "train" and t["iteration"] <= k]
            solved = {t["task_id"] for t in train if t["success"]}
            from_s0 = {t["task_id"] for t in train if t["success"] and t["branch_step"] == 0}
            assert (row["train_tasks"], row["train_solved"]) == (16, len(solved))
            assert row["train_solved_by_branches_only"] == len(solved - from_s0)
            simulated = [t["n_steps"] for t in train if t["role"] == "policy"]
            assert (row["policy_rollouts"], row["policy_steps"]) == (len(simulated), sum(simulated))
    assert results(arms["EEF"])[2]["train_solved_by_branches_only"] > 0
    assert results(arms["RFT x 6"])[2]["policy_rollouts"] == 32


def test_a_run_names_its_skills(arms: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(arms["EEF"], run)
    (run / "settings.json").write_text(json.dumps({"loop": {"skills": {"search": r"search\[", "none": "no such"}}}))
    row = results(run)[0]
    assert (row["search_attempted"], row["search_solved"]) == (1.0, row["win_rate"])
    assert (row["none_attempted"], row["none_solved"]) == (0.0, 0.0) and "next_solved" not in row


def test_the_table_is_plain_text_in_a_pipe(arms: dict[str, Path]) -> None:
    text = shown(table(arms))
    assert "\x1b" not in text
    lines = [line.split() for line in text.splitlines() if line.startswith((" EEF", " RFT"))]
    assert len(lines) == 6
    row = results(arms["EEF"])[1]
    expected = f"EEF 1 {row['win_rate']:.3f} [{row['win_rate_low']:.3f}, {row['win_rate_high']:.3f}] "
    expected += f"{row['reward']:.3f} {row['next_solved']:.3f} {row['back_solved']:.3f} {row['train_solved']}/16 "
    assert lines[1] == (expected + str(row["policy_rollouts"])).split()
    named_badly = shown(table({"\x1b[31mred[/] [bold]": arms["EEF"]}))
    assert "\\x1b[31mred[/] [bold]" in named_badly
    assert "\x1b" not in named_badly
    assert " EEF" in shown(table(arms), width=80)


def test_the_picture(arms: dict[str, Path], tmp_path: Path) -> None:
    plot(arms, tmp_path / "p.png")
    head = (tmp_path / "p.png").read_bytes()
    assert head.startswith(b"\x89PNG")
    assert struct.unpack(">II", head[16:24]) == (1560, 480)
    plot({"$_{": arms["EEF"]}, tmp_path / "p.png")  # no formula
    with pytest.raises(TrajkitError, match=r"q\.png: cannot be written"):
        plot(arms, tmp_path / "missing/q.png")
    assert [file.name for file in tmp_path.iterdir()] == ["p.png"]


def test_the_plot_in_the_terminal(arms: dict[str, Path]) -> None:
    text = plot_terminal(arms)
    assert "\x1b" not in text
    for part in ("test win rate by k", "train tasks with a solution by k", "o EEF", "x RFT x 6", "1.00", "16"):
        assert part in text
    plot_terminal({"\x1b[31mother": arms["EEF"]})
    assert plot_terminal(arms) == text  # nothing is left of what was drawn before


# --- before and after ---


def test_one_task_before_and_after(arms: dict[str, Path]) -> None:
    run = arms["EEF"]
    text = shown(before_after(run))
    assert text == shown(before_after(run))
    assert "\x1b" not in text
    assert "theta_0: failed" in text
    assert "theta_2: solved, reward 1" in text
    (task_id,) = {t["task_id"] for t in rows(run, "trajectories") if t["task_id"] + "," in text}
    verdicts = {t["iteration"]: t["success"] for t in rows(run, "trajectories") if t["task_id"] == task_id}
    assert (verdicts[1], verdicts[3]) == (False, True)
    assert shown(before_after(run, task_id)) == text


def test_a_task_with_next_or_back_comes_first_and_texts_are_cleaned(tmp_path: Path) -> None:
    parts = []
    for task, last_action in (("a", "click[Buy \x1b]0;owned\x07 Now]"), ("z", "Thought: on.\nAction: click[Next >]")):
        for iteration in (1, 2):
            given = {"role": "policy", "split": "test", "iteration": iteration, "reward": float(iteration == 2)}
            trajectories, messages = pair(f"{task}{iteration}", task, **given)
            messages[3]["content"] = last_action if iteration == 2 else "Action: [bold]stay[/bold]"
            parts.append((trajectories, messages))
    write_run(tmp_path / "runs", *parts)
    text = shown(before_after(tmp_path))
    assert "Test task z, before and after" in text
    assert "click[Next >]" in text
    assert "Thought" not in text
    assert "[bold]stay[/bold]" in text
    other = shown(before_after(tmp_path, "a"))
    assert "\x1b" not in other
    assert "click[Buy \\x1b]0;owned\\x07 Now]" in other
    assert before_after(tmp_path, "no such task") is None


def run_of(folder: Path, *verdicts: list[float]) -> Path:
    """A run whose theta_k has these rewards on the test tasks."""
    rollouts = (
        policy(f"p{k}-{i}", "a", task=f"t{i}", reward=reward, split="test", iteration=k + 1)
        for k, rewards in enumerate(verdicts)
        for i, reward in enumerate(rewards)
    )
    write(World((expert("e", "ab", reward=1.0), *rollouts)), folder / "runs")
    return folder


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert before_after(run_of(tmp_path / "one theta", [0.0, 1.0])) is None
    assert before_after(run_of(tmp_path / "nothing new", [0.0, 1.0], [0.0, 0.0])) is None
    assert before_after(run_of(tmp_path / "new in between only", [0.0], [1.0], [0.0])) is None


# --- over seeds ---


def test_paired_differences(tmp_path: Path) -> None:
    a = [run_of(tmp_path / f"a{i}", [0.0] * 4, [1.0] * i + [0.0] * (4 - i)) for i in (2, 3, 4)]
    b = [run_of(tmp_path / f"b{i}", [1.0] * 4, [1.0] * n + [0.0] * (4 - n)) for i, n in enumerate((1, 1, 3))]
    found = paired(a, b)  # .25, .5, .25: their standard deviation is .25 / sqrt(3)
    assert found.n == 3
    assert found.mean == pytest.approx(1 / 3)
    assert found.high - found.mean == pytest.approx(4.303 * 0.25 / 3)
    assert found.mean - found.low == pytest.approx(4.303 * 0.25 / 3)
    with pytest.raises(UsageError, match="3 runs cannot be paired with 2"):
        paired(a, b[:2])
    cloned = [run_of(tmp_path / f"c{i}", [1.0, 0.0, 0.0, 0.0]) for i in range(3)]  # the last theta, whatever its k
    assert paired(a, cloned).mean == pytest.approx(0.5)
    with pytest.raises(UsageError, match="at least two"):
        paired(a[:1], b[:1])


def test_several_seeds_are_shown_as_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = [run_of(tmp_path / f"a{i}", [0.0] * 4, [1.0] * i + [0.0] * (4 - i)) for i in (2, 3, 4)]
    b = [run_of(tmp_path / f"b{i}", [0.0] * 4, [1.0] * n + [0.0] * (4 - n)) for i, n in enumerate((1, 1, 3))]
    first, last = over_seeds(a)
    assert (first["k"], first["win_rate"], first["win_rate_low"], first["win_rate_high"]) == (0, 0, 0, 0)
    assert (last["k"], last["win_rate"], last["train_solved"]) == (1, 0.75, 1)
    assert last["win_rate_low"] == pytest.approx(0.75 - 4.303 * 0.25 / math.sqrt(3))
    assert last["win_rate_high"] == 1.0
    show({"A": a, "B": b}, tmp_path / "p.png", tmp_path / "p.csv")
    shown = capsys.readouterr().out
    found = paired(a, b)
    assert f"A less B: +0.333 [{found.low:+.3f}, {found.high:+.3f}] over 3 seeds" in shown
    assert "0.750 [0.129, 1.000]" in shown
    with (tmp_path / "p.csv").open() as file:
        assert [(row["arm"], row["run"], row["k"]) for row in csv.DictReader(file)] == [
            (arm, run, k) for arm in "AB" for run in "012" for k in "01"
        ]
    with pytest.raises(UsageError, match="the same k"):
        over_seeds([a[0], run_of(tmp_path / "unfinished", [0.0])])
    with pytest.raises(UsageError, match="needs runs"):
        over_seeds([])


def test_a_mean_and_its_interval() -> None:
    assert mean_difference([1, 2, 3, 4, 5]) == pytest.approx((5, 3, 1.03712, 4.96288), abs=1e-4)
    assert mean_difference([0.1, 0.1, 0.1])[1:] == pytest.approx((0.1, 0.1, 0.1))
    assert mean_difference([0.0, 1.0] * 50).high == pytest.approx(0.5 + 2.042 * statistics.stdev([0, 1] * 50) / 10)


@pytest.mark.parametrize("freedom", range(1, 31))
def test_the_quantiles_of_t(freedom: int) -> None:
    """Simpson's rule over the density from 0 to the quantile gives the 0.475 that lie there."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    quantile, n = T_975[freedom - 1], 2000
    heights = [scale * (1 + (i * quantile / n) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(n + 1)]
    area = quantile / n / 3 * (heights[0] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]) + heights[-1])
    assert area == pytest.approx(0.475, abs=6e-5 if freedom > 1 else 1e-5)


# --- bad input and the command ---


def test_folders_that_are_no_finished_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder runs/ in it"):
        results(tmp_path)
    for name, world, message in (
        ("no test", World((expert("e", "a"), policy("p", "a"))), "no policy rollout on the test split has an outcome"),
        ("early", World((policy("p", "a", split="test", iteration=0),)), "policy rollouts of iteration 0"),
        ("untrained", World((policy("p", "a", split="test"),)), "nothing that it was trained on"),
        (
            "two",
            World(tuple(policy(actor, "a", split="test", actor=actor) for actor in ("x", "y"))),
            "theta_0 has test rollouts of two actors, x and y",
        ),
    ):
        write(world, tmp_path / name / "runs")
        with pytest.raises(BadData, match=message):
            results(tmp_path / name)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "train.results", *map(str, arguments)]
    return subprocess.run(line, cwd=CHECKOUT, capture_output=True, text=True)


def test_the_command(arms: dict[str, Path], tmp_path: Path) -> None:
    named = [f"{name}={run}" for name, run in arms.items()]
    done = command(*named, "--png", tmp_path / "p.png", "--csv", tmp_path / "p.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for part in ("test win rate (95%)", "simulated", "train tasks with a solution by k", "before and after"):
        assert part in done.stdout
    assert (tmp_path / "p.png").is_file()
    with (tmp_path / "p.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [(row["arm"], row["k"]) for row in written] == [(name, str(k)) for name in arms for k in (0, 1, 2)]
    assert [float(row["win_rate"]) for row in written[:3]] == [row["win_rate"] for row in results(arms["EEF"])]


def test_the_command_refuses(arms: dict[str, Path], tmp_path: Path) -> None:
    run = arms["EEF"]
    for arguments, code, message in (
        ([tmp_path], 2, "there is no folder runs/ in it"),
        ([f"a={run}", f"a={run}"], 2, "the name a is given twice"),
        ([], 2, "Missing argument"),
    ):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
