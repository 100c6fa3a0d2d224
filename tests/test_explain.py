"""`trajkit explain`: exactly the method's answer is called chosen, everything else has one reason, and it is true."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import METHODS, PAIR_METHODS, RELATIONS, Oracle
from rich.cells import cell_len
from rich.console import Console
from rules_helpers import FIGURE_1, SHARED_STATE, relations
from small_runs import trajkit
from worlds import Row, Traj, World, expert, layouts, params, policy, worlds, write

from trajkit.display.terminal import find as find_shown
from trajkit.display.terminal import picture
from trajkit.display.terminal.trajectory import READS
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.engines.one_task import answer
from trajkit.rules import method as find_method
from trajkit.rules import methods
from trajkit.selection.explain import explain
from trajkit.selection.explain import told as told_of

WHY = {name: f"why_{name}" for name in methods()}
Found = dict[str, list[Row]]


# --- the verdicts ---


@settings(max_examples=settings().max_examples // 2)  # 50 relations for each
@given(worlds(), params, layouts)
def test_the_verdicts_are_the_methods_answers_and_true(world: World, given_params: dict[str, Any], layout: int) -> None:
    found = relations(world, [*WHY.values(), "why_recovery_states"], given_params, layout)
    oracle = Oracle(world, given_params)
    chosen_rows_are_the_answer(oracle, found)
    everything_has_one_reason(oracle, found)
    reasons_are_true(oracle, found)
    recovery_states_are_told_right(oracle, found["why_recovery_states"])


def chosen_rows_are_the_answer(oracle: Oracle, found: Found) -> None:
    for name, why in WHY.items():
        answer = RELATIONS[name](oracle)
        chosen = [row for row in found[why] if row["chosen"]]
        if name in METHODS:
            keys = ("kind", "task_id", "trajectory_id", "expert_id")
            have = Counter((*(row[key] for key in keys), row["step"]) for row in chosen)
            want = Counter((*(row[key] for key in keys), row["from_step"]) for row in answer)
        elif name in PAIR_METHODS:
            have = Counter((r["kind"], r["task_id"], r["step"], r["chosen_id"], r["rejected_id"]) for r in chosen)
            want = Counter((r["level"], r["task_id"], r["from_step"], r["chosen_id"], r["rejected_id"]) for r in answer)
        else:
            have = Counter((r["task_id"], r["trajectory_id"], r["step"]) for r in chosen)
            want = Counter((r["task_id"], r["trajectory_id"], r["step"]) for r in answer)
        if name == "eef_pairs":  # experts may share both states: one pair, told of with each
            have = Counter(set(have))
        assert have == want, name


def everything_has_one_reason(oracle: Oracle, found: Found) -> None:
    everything = {(oracle.task(id), id) for id in oracle.t}
    for name, why in WHY.items():
        rows = found[why]
        assert all(row["reason"] for row in rows), name
        if name == "self_play":  # a row per two rollouts
            keys = [(r["kind"], frozenset((r["trajectory_id"], r["chosen_id"] or r["reason"]))) for r in rows]
            told = {id for r in rows for id in (r["trajectory_id"], r["chosen_id"], *same_reward(r)) if id is not None}
            assert told == set(oracle.t)
        else:
            state = ("kind", "expert_id", "step") if name != "nat" else ("expert_id", "step")
            keys = [(r["task_id"], r["trajectory_id"], *(r[key] for key in state)) for r in rows]  # type: ignore[misc]
            assert {(r["task_id"], r["trajectory_id"]) for r in rows} == everything, name
        assert max(Counter(keys).values(), default=1) == 1, name
    states = [(s["kind"], s["task_id"], s["expert_id"], s["step"]) for s in oracle.important_states()]
    have = {(r["kind"], r["task_id"], r["expert_id"], r["step"], r["trajectory_id"]) for r in found["why_eef"]}
    assert have >= {(*state, id) for state in states for id in oracle.t if oracle.task(id) == state[1]}


def same_reward(row: Row) -> list[str]:
    """The id in `the same reward as ...` and `the same actions as ...`."""
    told = r"^the same reward as (.*): \S+$|^the same actions as (.*), only the reward is another: \S+ < \S+$"
    return [one or other for one, other in re.findall(told, row["reason"], re.DOTALL)]


def reasons_are_true(oracle: Oracle, found: Found) -> None:
    current = oracle.current_iteration()[0]["iteration"]
    for why, rows in found.items():
        for row in rows if why != "why_recovery_states" else ():
            id, reason = row["trajectory_id"], row["reason"]
            if reason.startswith("split "):
                assert not oracle.train(id)
            if (problem := oracle.world_of(oracle.task(id))[2]) is not None:
                assert reason == problem
            if reason.startswith("its actions are the expert's"):
                assert oracle.actions(id) == oracle.actions(row["expert_id"])
            if found_repeated := re.match(r"its action from s_(\d+) is the expert's$", reason):
                step = int(found_repeated[1])
                assert oracle.actions(id)[step] == oracle.actions(row["expert_id"])[step]
            if reason.startswith("not solved"):
                assert oracle.solved(id) is False and oracle.train(id)
            if reason in ("ended in error", "ended in drift"):
                assert oracle.t[id]["ended"] == reason.removeprefix("ended in ")
            if reason == "neither success nor reward":
                assert oracle.solved(id) is None
            if reason == "no action":
                assert oracle.n_actions(id) == 0
            if reason.startswith("scorer"):
                assert oracle.t[id]["role"] == "scorer"
            if "not of the current one" in reason:
                assert oracle.iteration(id) != current
            if "not start from s_0" in reason:
                assert oracle.t[id]["branch_step"] > 0
            for left, sign, right in re.findall(r"(-?[\d.e+-]+) ([<>]) (-?[\d.e+-]+)", reason):
                worse, better = (left, right) if sign == "<" else (right, left)
                assert float(worse) < float(better) or worse == better == "1"  # 1 - 2**-53, told with six digits
    lengths = {
        (s["kind"], s["task_id"], s["expert_id"], s["step"], s["trajectory_id"]): (
            s["n_expert_actions"],
            s["n_actions"],
        )
        for s in oracle.solutions()
    }
    best = {(s["kind"], s["task_id"], s["expert_id"], s["step"]): s for s in oracle.fewest_expert_actions()}
    for row in found["why_eef"]:
        state = (row["kind"], row["task_id"], row["expert_id"], row["step"])
        mine, winner = lengths.get((*state, row["trajectory_id"])), best.get(state)
        assert (mine is not None) == row["reason"].startswith(("the only", "of ", "more ", "as few", "equal "))
        if numbers := re.match(r"more expert actions.*: (\d+) > (\d+)$", row["reason"]):
            assert mine and winner
            assert [*map(int, numbers.groups())] == [mine[0], winner["n_expert_actions"]]
        if numbers := re.match(r"as few expert actions \((\d+)\), but more actions.*: (\d+) > (\d+)$", row["reason"]):
            assert mine and winner
            assert [*map(int, numbers.groups())] == [*mine, winner["n_actions"]]
            assert mine[0] == winner["n_expert_actions"]


def recovery_states_are_told_right(oracle: Oracle, rows: list[Row]) -> None:
    states = {(row["expert_id"], row["step"]): row for row in rows}
    assert len(states) == len(rows)
    assert states.keys() >= {(e, step) for e in oracle.expert_ids() for step in range(oracle.n_actions(e))}
    recovery = {(row["expert_id"], row["step"]): row["first_expert_id"] for row in oracle.expert_recovery_states()}
    assert {key: row["first_expert_id"] for key, row in states.items() if row["is_recovery"]} == recovery
    shared = ", one and the same as that of expert {}"
    for key, row in states.items():
        told = ": recovery state" + (shared.format(recovery[key]) if recovery.get(key, key[0]) != key[0] else "")
        assert row["reason"].endswith(told) == (key in recovery)
    simulated = {(row["expert_id"], row["step"]): row for row in oracle.simulated_states()}
    for key, row in states.items():
        assert row["reason"]
        there = simulated.get(key)
        assert row["solved"] == (there["solved"] if there else None)
        if there and not there["solved"]:
            previous = re.search(r"from s_(\d+)[ ,]", row["reason"])
            assert (int(previous[1]) if previous else None) == there["previous_step"]


@pytest.mark.slow
@given(worlds(), params, st.sampled_from((30, 60, 100)))
def test_whatever_the_world_it_is_shown_and_explained(world: World, given_params: dict[str, Any], width: int) -> None:
    """Every trajectory can be drawn; of one task alone the verdicts are those of the whole folder; all of it fits."""

    def draw(parts: Iterable[Any]) -> None:
        console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
        console.print(*parts, sep="\n")
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(cell_len, text.splitlines())) <= width

    with tempfile.TemporaryDirectory() as name, DuckDBEngine(write(world, Path(name)), given_params) as whole:
        answer(whole, [*READS, *WHY.values()])
        for t in world.trajs:
            for how in ({}, {"observations": True}, {"full": True}):
                draw(picture(whole, t.id, width=width, **how))
        for task in {t.task for t in world.trajs}:
            assert find_shown(whole, None, task)
            for method, why in WHY.items():
                with DuckDBEngine(name, given_params) as runs:
                    explained = explain(runs, task, find_method(method))
                verdicts = whole.rows(f"SELECT * FROM {why} WHERE task_id = ?", [task])
                assert Counter(map(str, verdicts)) == Counter(map(str, explained.verdicts)), method
                draw(told_of(explained))


# --- the command ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's example, with a tie, a drifted branch, one of an older iteration, scorers, and two more tasks."""
    world = FIGURE_1.plus(
        policy("p3k", "b", parent="e", at=6, reward=1.0, sample=1),
        policy("old", "bb", parent="e", at=2, reward=1.0, iteration=0),
        policy("d", "b", parent="e", at=6, ended="drift", reward=None, sample=2),
        policy("from-0", "a", task="other", reward=1.0),
        policy("again", "a", task="other", reward=1.0, sample=1),
        policy("held", "a", task="test-task", reward=1.0, split="test"),
        *(Traj(f"mc{n}", "scorer", "b", parent="e", at=3, reward=n / 4, sample=n) for n in range(5)),
    )
    return write(world, tmp_path_factory.mktemp("explained"))


def told(*args: object) -> str:
    result = trajkit("explain", *args)
    assert result.code == 0, result
    return result.out


def test_eef_in_words(folder: Path) -> None:
    text = told("--runs", folder, "--task", "t")
    assert text.startswith("task t\neef, iteration 1: 13 trajectories, 2 examples\ns_0: e sees 0\n")
    lines = [re.sub(r" +", " ", line).strip() for line in text.splitlines()]
    initial, states, recovery = (lines.index(title) for title in TITLES)
    assert initial < states < recovery
    assert lines[initial + 4 :][:4] == [
        "[x] pl policy from s_2 of 4 solutions the one with the fewest expert actions: 2, then the",
        "fewest actions: 4, then the latest iteration: 1",
        "[ ] old policy from s_2 as few expert actions (2) and actions (4), but an older iteration: 0 <",
        "1",
    ]
    assert "[ ] p3k policy from s_6 more expert actions: 6 > 2" in lines[initial:states]
    assert "[ ] d policy from s_6 ended in drift" in lines[initial:states]
    assert lines[states + 4 :][:7] == [
        "s_0 x fails from here (0 of 1 solved); no state before it was simulated",
        "s_1 . not simulated in iteration 1",
        "s_2 + solved from here: 1 of 1",
        "s_3 . not simulated in iteration 1",
        "s_4 x fails from here (0 of 1 solved), but is solved from s_2 before it: recovery state",
        "s_5 . not simulated in iteration 1",
        "s_6 + solved from here: 2 of 2",
    ]
    below = " ".join(lines[recovery:])
    assert "[x] p3k policy from s_6 of 2 solutions the one with the fewest expert actions from s_4 on: 2" in below
    assert "[ ] p3l policy from s_6 equal to the chosen one, but for a larger trajectory_id" in below
    assert "[ ] old policy from s_2 has no action after s_4 to train on pl policy from s_2" in below


def test_all_experts_that_share_a_recovery_state_are_named(tmp_path: Path) -> None:
    runs = write(SHARED_STATE, tmp_path)
    lines = [re.sub(r" +", " ", line).strip() for line in told("--runs", runs, "--task", "t").splitlines()]
    at = [
        lines.index(title)
        for title in (
            "States of expert e (failed, reward 0, 5 actions): s_3 needs recovery",
            "States of expert f (failed, reward 0, 4 actions): s_3 needs recovery",
            "s_3 of experts e, f, recovery state",
        )
    ]
    assert at == sorted(at)
    assert "one and the same as that of expert e" in " ".join(lines[at[1] : at[2]])
    for id in ("e", "f"):
        result = trajkit("show", id, "--runs", runs)
        words = " ".join(result.out.split())
        assert f"the same state as that of expert {'ef'.replace(id, '')}." in words and "solves too" in words, result


TITLES = (
    "s_0, initial state",
    "States of expert e (failed, reward 0, 8 actions): s_4 needs recovery",
    "s_4 of expert e, recovery state",
)


def test_methods_are_explained_and_fit(folder: Path) -> None:
    with DuckDBEngine(folder) as whole:
        answer(whole, list(WHY.values()))
        for method in ("eef", "rft", "ipr", "self_play", "eef_pairs", "step_rewards"):  # all of them: in the slow test
            with DuckDBEngine(folder) as runs:
                explained = explain(runs, "t", find_method(method))
            verdicts = whole.rows(f"SELECT * FROM why_{method} WHERE task_id = 't'")
            assert Counter(map(str, verdicts)) == Counter(map(str, explained.verdicts)), "not as in the whole folder"
            for width in (40, 100):
                console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
                console.print(*told_of(explained), sep="\n")
                text = console.file.getvalue()  # type: ignore[attr-defined]
                assert max(map(cell_len, text.splitlines())) <= width
                assert ("[x]" in text) == any(row["chosen"] for row in verdicts)
                words = " ".join(text.split())
                for row in verdicts if width == 40 else ():  # in a table other columns come between a reason's lines
                    assert " ".join(row["reason"].split()) in words


def test_a_held_out_task_and_one_where_two_say_the_same(folder: Path) -> None:
    assert "split test is held out" in told("--runs", folder, "--task", "test-task")
    text = told("--runs", folder, "--task", "other", "--method", "rft")
    assert "solved by the same actions as again" in text
    assert "the same reward as again: 1" in told("--runs", folder, "--task", "other", "--method", "self_play")


OWN = {
    "short": "SELECT trajectory_id, 'short' AS kind FROM outcomes CROSS JOIN params "
    "WHERE solved AND n_actions <= longest AND split = 'train' AND role != 'scorer'",
    "better": "SELECT a.trajectory_id AS chosen_id, b.trajectory_id AS rejected_id FROM outcomes AS a "
    "JOIN outcomes AS b USING (task_id) WHERE a.trajectory_id = 'pl' AND b.trajectory_id = 'p0'",
    "worth": "SELECT trajectory_id, 2 AS step, 0.5 AS step_reward FROM outcomes WHERE trajectory_id = 'pl'",
}


@pytest.mark.parametrize("name", OWN)
def test_a_method_of_ones_own(folder: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.sql"
    file.write_text(OWN[name])
    text = told("--runs", folder, "--task", "t", "--method", file, "--set", "longest=4")
    assert "not solved: reward 0" in text and "ended in drift" in text
    said = {"short": "chosen, trained from s_0 on", "better": "paired, from s_0 on", "worth": "value 0.5"}
    assert said[name] in text
    assert ("solved, not chosen" in text) == (name == "short")
    assert {"short": "2 examples", "better": "1 pair\n", "worth": "1 value\n"}[name] in text


def test_wrong_calls(folder: Path, tmp_path: Path) -> None:
    for args, said in (
        (["--runs", folder], "SELECT DISTINCT task_id FROM trajectories"),
        (["--runs", folder, "--task", "othr"], "did you mean other"),
        (["--runs", folder, "--task", "t", "--method", "eeff"], "did you mean eef?"),
        (["--runs", folder, "--task", "t", "--method", tmp_path / "no.sql"], "cannot be read"),
        (["--runs", tmp_path / "gone", "--task", "t"], "no such folder"),
        (["--task", "t"], "--runs"),
    ):
        result = trajkit("explain", *args)
        assert result.code == 2 and result.out == "" and said in result.err, result


def test_no_text_acts_on_the_terminal(tmp_path: Path) -> None:
    evil = "a\x1b[31m [bold]b[/bold] \u202e \r\n:smile:"
    world = World((expert(evil, "ab", task=evil), policy(evil + "2", "b", task=evil, reward=1.0)))
    for method in ("eef", "eto", "rft", "step_rewards"):
        text = told("--runs", write(world, tmp_path), "--task", evil, "--method", method)
        assert all(c.isprintable() or c == "\n" for c in text)
        assert r"task a\x1b[31m [bold]b[/bold] \u202e \r\n:smile:" in text
