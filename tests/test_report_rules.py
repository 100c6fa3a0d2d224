"""The rules in sql/report: equal to their plain-Python versions on drawn worlds, and spelled out on small ones."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from oracle import Oracle
from small_runs import trajkit
from test_rules import relations
from worlds import Row, Traj, World, expert, layouts, params, policy, worlds, write

PATTERNS = ("go b", "^go a$", "(?i)GO", "click", r"\[next", "because", "OK|nothing")


# --- the rules in plain Python ---


def rollouts(oracle: Oracle) -> dict[tuple[Any, ...], dict[str, list[str]]]:
    """The rollouts from s_0 with an outcome, by (split, role, actor, iteration) and task."""
    groups: dict[tuple[Any, ...], dict[str, list[str]]] = {}
    for id, row in oracle.t.items():
        if row["role"] != "scorer" and row["branch_step"] == 0 and oracle.solved(id) is not None:
            group = (row["split"] or "train", row["role"], row["actor"], oracle.iteration(id))
            groups.setdefault(group, {}).setdefault(row["task_id"], []).append(id)
    return groups


def keys(group: tuple[Any, ...]) -> Row:
    return dict(zip(("split", "role", "actor", "iteration"), group, strict=True))


def wilson(rate: float, n: int) -> tuple[float, float]:
    """The two rates that lie z standard errors, their own, away from `rate`: the roots of a quadratic equation."""
    c = statistics.NormalDist().inv_cdf(0.975) ** 2 / n
    root = math.sqrt(c * c + 4 * c * rate * (1 - rate))
    return (2 * rate + c - root) / (2 + 2 * c), (2 * rate + c + root) / (2 + 2 * c)


def win_rate(oracle: Oracle) -> list[Row]:
    rows = []
    for group, tasks in rollouts(oracle).items():
        shares = [sum(bool(oracle.solved(id)) for id in ids) / len(ids) for ids in tasks.values()]
        rewards = [[r for id in ids if (r := oracle.t[id]["reward"]) is not None] for ids in tasks.values()]
        means = [statistics.fmean(known) for known in rewards if known]
        rate = statistics.fmean(shares)
        low, high = wilson(rate, len(tasks))
        counts = {"tasks": len(tasks), "n_rollouts": sum(map(len, tasks.values()))}
        counts["n_solved"] = sum(bool(oracle.solved(id)) for ids in tasks.values() for id in ids)
        rates = {"win_rate": rate, "win_rate_low": low, "win_rate_high": high}
        rows.append({**keys(group), **counts, **rates, "reward": statistics.fmean(means) if means else None})
    return rows


def skill(oracle: Oracle) -> list[Row]:
    def tried(id: str) -> bool:
        actions = [m for m in oracle.own[id] if m["role"] == "assistant" and not m["context"]]
        texts = ["\n".join(part for part in (m["content"], m["tool_calls"]) if part is not None) for m in actions]
        return any(re.search(oracle.p["action_pattern"], text) for text in texts)

    rows = []
    for group, tasks in rollouts(oracle).items():
        attempted = statistics.fmean(any(map(tried, ids)) for ids in tasks.values())
        solved_with = statistics.fmean(any(tried(id) and oracle.solved(id) for id in ids) for ids in tasks.values())
        rows.append({**keys(group), "tasks": len(tasks), "attempted": attempted, "solved_with": solved_with})
    return rows


def coverage(oracle: Oracle) -> list[Row]:
    rows = []
    all_tasks = {row["task_id"] for row in oracle.initial()}
    for iteration in {oracle.iteration(id) for id in oracle.trained("expert", "policy")}:
        so_far = [id for id in oracle.trained("expert", "policy") if oracle.iteration(id) <= iteration]
        solved = {oracle.task(id) for id in so_far if oracle.solved(id)}
        from_s0 = {oracle.task(id) for id in so_far if oracle.solved(id) and oracle.t[id]["branch_step"] == 0}
        simulated = [
            oracle.t[id] for id in so_far if oracle.t[id]["role"] == "policy" and oracle.solved(id) is not None
        ]
        row = {"iteration": iteration, "tasks": len(all_tasks), "solved": len(solved), "solved_from_s0": len(from_s0)}
        row |= {"solved_by_branches_only": len(solved - from_s0), "n_policy_rollouts": len(simulated)}
        rows.append({**row, "n_policy_steps": sum(made["n_steps"] for made in simulated)})
    return rows


REPORTS = {"win_rate": win_rate, "skill": skill, "coverage": coverage}


def in_order(rows: list[Row]) -> list[Row]:
    """Rows by what names them, so that their numbers can be compared nearly."""
    return sorted(rows, key=lambda row: [str(row.get(key)) for key in ("split", "role", "actor", "iteration")])


def same(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for have, want in zip(in_order(found), in_order(expected), strict=True):
        assert list(have) == list(want)  # the columns, in their order
        nearly = {name: pytest.approx(v, rel=1e-12, abs=1e-12) for name, v in want.items() if isinstance(v, float)}
        assert have == want | nearly


def ask(world: World, name: str, **params: Any) -> list[Row]:
    """One report's rows, the same by the oracle and by the engine."""
    expected = REPORTS[name](Oracle(world, params))
    same(relations(world, [name], params)[name], expected)
    return in_order(expected)


@given(worlds(), params, st.sampled_from(PATTERNS), layouts)
def test_every_report_equals_its_oracle(world: World, params: dict[str, Any], pattern: str, layout: int) -> None:
    oracle = Oracle(world, {**params, "action_pattern": pattern})
    found = relations(world, list(REPORTS), {**params, "action_pattern": pattern}, layout)
    for name, report in REPORTS.items():
        expected = report(oracle)
        event(f"{name}: {'some' if expected else 'no'} rows")
        same(found[name], expected)
    event(f"skill: {'some' if any(row['attempted'] for row in found['skill']) else 'no'} attempt")
    event(f"only by branches: {'some' if any(row['solved_by_branches_only'] for row in found['coverage']) else 'none'}")


# --- spelled out ---


def tasks_of(*rewards: float, **given: Any) -> World:
    """One rollout of each of several tasks."""
    return World(tuple(policy(f"p{i}", "a", task=f"t{i}", reward=reward, **given) for i, reward in enumerate(rewards)))


@pytest.mark.parametrize(
    ("solved", "low", "high"),  # of ten tasks; the intervals as tables of Wilson's have them
    [(0, 0.0, 0.2775), (1, 0.0179, 0.4042), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)],
)
def test_wilsons_interval(solved: int, low: float, high: float) -> None:
    (row,) = ask(tasks_of(*[1.0] * solved, *[0.0] * (10 - solved)), "win_rate")
    assert (row["tasks"], row["n_solved"], row["win_rate"]) == (10, solved, solved / 10)
    assert (row["win_rate_low"], row["win_rate_high"]) == pytest.approx((low, high), abs=5e-5)


def test_a_task_counts_once_however_many_rollouts_it_has() -> None:
    world = World(
        (
            *(policy(f"p{i}", "a", reward=float(i == 0), sample=i) for i in range(4)),
            policy("q", "a", task="u", reward=0.5),
        )
    )
    (row,) = ask(world, "win_rate")
    assert (row["tasks"], row["n_rollouts"], row["n_solved"], row["win_rate"], row["reward"]) == (2, 5, 1, 0.125, 0.375)


def test_what_counts_for_no_report() -> None:
    world = World(
        (
            expert("e", "b"),
            policy("p", "b"),
            policy("error", "b", task="u", ended="error", reward=1.0),
            policy("unknown", "b", task="v", reward=None),
            policy("branch", "b", parent="e", at=1, reward=1.0),
            Traj("scorer", "scorer", "b", reward=1.0),
        )
    )
    assert [(row["role"], row["tasks"], row["n_solved"]) for row in ask(world, "win_rate")] == [
        ("expert", 1, 0),
        ("policy", 1, 0),
    ]
    assert {row["attempted"] for row in ask(world, "skill", action_pattern="go b")} == {1.0}
    assert [(row["solved"], row["n_policy_rollouts"]) for row in ask(world, "coverage")] == [(0, 0), (1, 2)]


def test_actors_splits_and_iterations_are_apart() -> None:
    one = {"actor": "theta-0", "split": "test"}
    world = World(
        (
            policy("a", "a", reward=1.0, **one),
            policy("b", "a", **{**one, "actor": "theta-1"}),
            policy("c", "a", **{**one, "actor": None}),
            policy("d", "a", **{**one, "split": None}),
            policy("e", "a", **one, iteration=2),
        )
    )
    assert len(ask(world, "win_rate")) == len(ask(world, "skill", action_pattern="go a")) == 5


def test_a_skill_is_solved_with_only_where_the_same_rollout_does_both() -> None:
    world = World(
        (
            policy("tried", "b"),
            policy("solved", "a", sample=1, reward=1.0),
            policy("both", "ab", task="u", reward=1.0),
            policy("neither", "a", task="v"),
            policy("a call", "T", task="w", reward=1.0),
        )
    )
    (row,) = ask(world, "skill", action_pattern="go b")
    assert (row["tasks"], row["attempted"], row["solved_with"]) == (4, 0.5, 0.25)
    (row,) = ask(world, "skill", action_pattern="click")
    assert (row["attempted"], row["solved_with"]) == (0.25, 0.25)


def test_coverage_grows() -> None:
    world = World(
        (
            expert("e", "aa", task="t", reward=1.0),
            expert("f", "aaaa", task="u"),
            policy("p1", "b", task="u", parent="f", at=2, reward=1.0),
            policy("p2", "b", task="v"),
            policy("p3", "bb", task="u", iteration=3, reward=1.0),
            Traj("held out", "policy", "a", task="w", reward=1.0, iteration=1, split="test"),
        ),
        tasks=({"task_id": "x", "env": None, "split": None, "meta": None},),
    )
    names = ("iteration", "tasks", "solved", "solved_from_s0", "solved_by_branches_only")
    assert [tuple(row[name] for name in names) for row in ask(world, "coverage")] == [
        (0, 4, 1, 1, 0),
        (1, 4, 2, 1, 1),
        (3, 4, 2, 2, 0),
    ]
    assert [(row["n_policy_rollouts"], row["n_policy_steps"]) for row in ask(world, "coverage")] == [
        (0, 0),
        (2, 2),
        (3, 4),
    ]


# --- on the command line ---


def test_reports_are_views(tmp_path: Path) -> None:
    write(tasks_of(1.0, 0.0), tmp_path)
    shown = trajkit("sql", "--runs", tmp_path, "--format", "csv", "SELECT tasks, win_rate FROM win_rate")
    assert (shown.code, shown.out) == (0, "tasks,win_rate\n2,0.5\n")
    query = "SELECT attempted, solved_with FROM skill"
    assert trajkit("sql", "--runs", tmp_path, "--format", "csv", query).out.splitlines()[1] == "0.0,0.0"
    one = trajkit("sql", "--runs", tmp_path, "--format", "csv", "--set", "action_pattern=^go (a|b)$", query)
    assert one.out.splitlines()[1] == "1.0,0.5"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "it must be a regular expression that RE2 can read"), ("(?=x)", "RE2"), ("", "a text is needed")],
)
def test_a_pattern_that_is_none(tmp_path: Path, pattern: str, message: str) -> None:
    write(tasks_of(1.0), tmp_path)
    wrong = trajkit("sql", "--runs", tmp_path, "--set", f"action_pattern={pattern}", "FROM skill")
    assert wrong.code == 2
    assert f"--set action_pattern={pattern}: " in wrong.err
    assert message in wrong.err
