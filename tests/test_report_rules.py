"""The rules in sql/report: equal to their plain-Python versions on drawn worlds, and spelled out on small ones."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from oracle import Oracle
from rules_helpers import relations
from small_runs import trajkit
from worlds import Row, Traj, World, expert, layouts, params, policy, worlds, write

from trajkit.engines.duckdb import DuckDBEngine

PATTERNS = ("go b", "^go a$", "(?i)GO", "click", r"\[next", "because", "OK|nothing")


# --- the rules in plain Python ---


def rollouts(oracle: Oracle) -> dict[tuple[Any, ...], dict[str, list[str]]]:
    """The rollouts from s_0 with an outcome, by (split, role, actor, iteration) and task."""
    groups: dict[tuple[Any, ...], dict[str, list[str]]] = {}
    for id, row in oracle.t.items():
        counts = oracle.solved(id) is not None and oracle.split(id) is not None  # else two splits or envs are said
        if row["role"] != "scorer" and row["branch_step"] == 0 and counts:
            group = (oracle.split(id), row["role"], row["actor"], oracle.iteration(id))
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
        reward = statistics.fmean(means) if means else None
        around: Row = {"reward": reward, "reward_low": None, "reward_high": None}
        if len(means) > 1:
            margin = statistics.NormalDist().inv_cdf(0.975) * statistics.stdev(means) / math.sqrt(len(means))
            around |= {"reward_low": reward - margin, "reward_high": reward + margin}
        rows.append({**keys(group), **counts, **rates, **around})
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


def efficiency(oracle: Oracle) -> list[Row]:
    rows = []
    for made in win_rate(oracle):
        if made["role"] == "policy":
            before = [row for row in coverage(oracle) if row["iteration"] < made["iteration"]]
            n = max((row["n_policy_rollouts"] for row in before), default=0)
            names = ("split", "actor", "iteration", "tasks", "win_rate", "win_rate_low", "win_rate_high")
            per_task = n / before[0]["tasks"] if before else 0.0
            rows.append({**{key: made[key] for key in names}, "n_policy_rollouts": n, "rollouts_per_task": per_task})
    return rows


def tenth(oracle: Oracle, expert: str, step: int) -> int:
    return next(tenth for tenth in range(11) if 10 * step <= tenth * oracle.n_actions(expert))


def branch_outcomes(oracle: Oracle) -> list[Row]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for point in oracle.branch_points():
        expert = point["expert_id"]
        group = (point["iteration"], oracle.solved(expert), tenth(oracle, expert, point["step"]))
        groups.setdefault(group, []).append(point)
    rows = []
    for group, points in groups.items():
        row = dict(zip(("iteration", "expert_solved", "tenth"), group, strict=True)) | {"n_states": len(points)}
        row |= {name: sum(p[name] for p in points) for name in ("n_rollouts", "n_solved", "n_no_outcome")}
        rows.append({**row, "solved_share": row["n_solved"] / row["n_rollouts"] if row["n_rollouts"] else None})
    return rows


def recovery_positions(oracle: Oracle) -> list[Row]:
    solved = {row["expert_id"] for row in oracle.solutions() if row["kind"] == "recovery"}
    rows: dict[int, Row] = {}
    for state in oracle.first_recovery_state():
        bin = tenth(oracle, state["expert_id"], state["step"])
        row = rows.setdefault(bin, {"tenth": bin, "n_states": 0, "n_with_solution": 0})
        row["n_states"] += 1
        row["n_with_solution"] += state["expert_id"] in solved
    return list(rows.values())


def outcome(oracle: Oracle, id: str) -> str:
    return {True: "solved", False: "failed", None: "no outcome"}[oracle.solved(id)]


def trajectory_lengths(oracle: Oracle) -> list[Row]:
    lengths = sorted(oracle.n_actions(id) for id in oracle.t)
    rows: dict[tuple[Any, ...], Row] = {}
    for id, row in oracle.t.items():
        width = next(width for width in range(1, 100) if 20 * width > lengths[math.ceil(0.99 * len(lengths)) - 1])
        start = min(oracle.n_actions(id) // width, 20) * width
        group = {"role": row["role"], "outcome": outcome(oracle, id), "from_actions": start}
        group |= {"to_actions": None if start == 20 * width else start + width - 1}
        rows.setdefault(tuple(group.values()), {**group, "n_trajectories": 0})["n_trajectories"] += 1
    return list(rows.values())


def text_lengths(oracle: Oracle) -> list[Row]:
    edges = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072]
    rows: dict[tuple[Any, ...], Row] = {}
    for id, row in oracle.t.items():
        texts = [m[key] or "" for m in oracle.conversation(id) for key in ("content", "reasoning", "tool_calls")]
        tokens = [m["token_ids"] for m in oracle.own[id] if m.get("token_ids") is not None]
        for unit, n in (("characters", len("".join(texts))), ("sampled tokens", sum(map(len, tokens)))):
            if unit == "characters" or tokens:
                start, end = next((a, b - 1) for a, b in pairwise(edges) if a <= n < b)
                group = {"unit": unit, "role": row["role"], "outcome": outcome(oracle, id)}
                group |= {"from_length": start, "to_length": end}
                rows.setdefault(tuple(group.values()), {**group, "n_trajectories": 0})["n_trajectories"] += 1
    return list(rows.values())


def exploration_cost(oracle: Oracle) -> list[Row]:
    groups: dict[tuple[int, str], list[str]] = {}
    for id, row in oracle.t.items():
        groups.setdefault((oracle.iteration(id), row["role"]), []).append(id)
    rows = []
    for (iteration, role), ids in groups.items():
        made = [oracle.t[id] for id in ids]
        furthest: dict[str, int] = {}
        for row in made:
            furthest[row["parent_id"]] = max(furthest.get(row["parent_id"], 0), row["branch_step"])
        tokens = [len(m["token_ids"]) for id in ids for m in oracle.own[id] if m.get("token_ids") is not None]
        row = {"iteration": iteration, "role": role, "n_trajectories": len(ids)}
        row |= {f"n_{end}": sum(t["ended"] == end for t in made) for end in ("error", "drift")}
        row |= {"n_steps": sum(t["n_steps"] for t in made), "n_replayed_steps": sum(t["branch_step"] for t in made)}
        row |= {"n_replayed_steps_once": sum(furthest.values())}
        rows.append({**row, "n_sampled_tokens": sum(tokens) if tokens else None})
    return rows


def trajectory_counts(oracle: Oracle) -> list[Row]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for id, row in oracle.t.items():
        groups.setdefault((row["role"], row["actor"], oracle.iteration(id), oracle.split(id)), []).append(id)
    rows = []
    for group, ids in groups.items():
        branches = sum(oracle.t[id]["branch_step"] > 0 for id in ids)
        row = dict(zip(("role", "actor", "iteration", "split"), group, strict=True))
        row |= {"n_tasks": len({oracle.task(id) for id in ids}), "n_from_s0": len(ids) - branches}
        row |= {"n_branches": branches}
        ends = [outcome(oracle, id) for id in ids]
        rows.append(row | {f"n_{end.replace(' ', '_')}": ends.count(end) for end in ("solved", "failed", "no outcome")})
    return rows


REPORTS: dict[str, Callable[[Oracle], list[Row]]] = {
    "win_rate": win_rate,
    "skill": skill,
    "coverage": coverage,
    "efficiency": efficiency,
    "branch_outcomes": branch_outcomes,
    "recovery_positions": recovery_positions,
    "trajectory_lengths": trajectory_lengths,
    "text_lengths": text_lengths,
    "exploration_cost": exploration_cost,
    "trajectory_counts": trajectory_counts,
}


def in_order(rows: list[Row]) -> list[Row]:
    """Rows by all but their fractions, so that these can be compared nearly."""
    return sorted(rows, key=lambda row: [str(value) for value in row.values() if not isinstance(value, float)])


def same(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for have, want in zip(in_order(found), in_order(expected), strict=True):
        assert list(have) == list(want)  # the columns, in their order
        nearly = {name: pytest.approx(v, rel=1e-9, abs=1e-12) for name, v in want.items() if isinstance(v, float)}
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
    event(
        f"recovery: {'some' if any(row['n_with_solution'] for row in found['recovery_positions']) else 'none'} solved"
    )
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
            policy("d", "a", **{**one, "split": None}, task="u"),
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


def test_the_rewards_interval() -> None:
    """Of the tasks' means: 0 and 1 of two tasks, and none of a single task."""
    (row,) = ask(tasks_of(0.0, 1.0), "win_rate")
    assert (row["reward_low"], row["reward_high"]) == pytest.approx((0.5 - 1.96 * 0.5, 0.5 + 1.96 * 0.5), abs=1e-4)
    (row,) = ask(tasks_of(0.3), "win_rate")
    assert (row["reward"], row["reward_low"], row["reward_high"]) == (0.3, None, None)


def test_efficiency_counts_what_was_made_before() -> None:
    world = World(
        (
            expert("e", "aaaa"),
            policy("p", "a"),
            policy("b", "a", parent="e", at=2, reward=1.0),
            policy("q", "a", task="u"),
            policy("lost", "a", task="u", ended="error"),
            policy("better", "a", iteration=2, reward=1.0, actor="theta-1"),
            policy("at test", "a", task="v", split="test", iteration=2, reward=1.0, actor="theta-1"),
        )
    )
    rows = {(row["split"], row["iteration"]): row for row in ask(world, "efficiency")}
    assert {key: (row["n_policy_rollouts"], row["rollouts_per_task"]) for key, row in rows.items()} == {
        ("train", 1): (0, 0.0),
        ("train", 2): (3, 1.5),
        ("test", 2): (3, 1.5),
    }


def test_where_branches_solve_and_where_recovery_is_needed() -> None:
    """The paper's example: an expert of eight actions, solved from s_l and s_3l only, l = 2."""
    world = World(
        (
            expert("e", "aaaaaaaa"),
            policy("p0", "bb"),
            policy("p2", "bb", parent="e", at=2, reward=1.0),
            policy("p4", "bb", parent="e", at=4),
            policy("p4 again", "bb", parent="e", at=4, sample=1, ended="drift"),
            policy("p6", "b", parent="e", at=6, reward=1.0),
        )
    )
    columns = ("expert_solved", "tenth", "n_states", "n_rollouts", "n_solved", "n_no_outcome", "solved_share")
    rows = sorted(ask(world, "branch_outcomes"), key=lambda row: row["tenth"])
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (False, 0, 1, 1, 0, 0, 0.0),
        (False, 3, 1, 1, 1, 0, 1.0),  # after 2 of 8 actions: 25%
        (False, 5, 1, 1, 0, 1, 0.0),
        (False, 8, 1, 1, 1, 0, 1.0),
    ]
    assert ask(world, "recovery_positions") == [{"tenth": 5, "n_states": 1, "n_with_solution": 1}]
    assert ask(world.without("p6"), "recovery_positions") == [{"tenth": 5, "n_states": 1, "n_with_solution": 0}]


def test_a_few_long_trajectories_share_the_last_bin() -> None:
    short = [expert(f"e{i}", "a" * (i % 40), task=f"t{i}") for i in range(200)]
    rows = ask(World((*short, expert("long", "a" * 300), expert("longer", "a" * 400))), "trajectory_lengths")
    bins = {(row["from_actions"], row["to_actions"]): row["n_trajectories"] for row in rows}
    assert bins == {(start, start + 1): 10 for start in range(0, 40, 2)} | {(40, None): 2}


def test_tokens_are_counted_where_they_were_kept(tmp_path: Path) -> None:
    branch = policy("b", "bb", parent="e", at=1, reward=1.0)
    world = World((expert("e", "aaa"), policy("p", "ab"), branch, policy("other", "a", task="u")))
    for message in world.messages:
        sampled = message["role"] == "assistant" and message["trajectory_id"] in ("p", "b")
        message["token_ids"] = [7] * (3 + message["step"]) if sampled else None
    write(world, tmp_path)
    with DuckDBEngine(tmp_path) as runs:
        for name in ("text_lengths", "exploration_cost"):
            same(runs.rows(f"FROM {name}"), REPORTS[name](Oracle(world)))
        tokens = runs.rows("FROM text_lengths WHERE unit = 'sampled tokens' ORDER BY from_length, outcome")
        assert [(row["outcome"], row["from_length"], row["n_trajectories"]) for row in tokens] == [
            ("failed", 6, 1),  # 3 + 4 of p
            ("solved", 8, 1),  # 4 + 5 of b, the expert's own not counted
        ]
        costs = runs.rows(
            "SELECT role, n_steps, n_replayed_steps, n_sampled_tokens FROM exploration_cost ORDER BY role"
        )
        assert [tuple(row.values()) for row in costs] == [("expert", 3, 0, None), ("policy", 5, 1, 16)]


def test_replays_are_counted_with_and_without_snapshots() -> None:
    world = World(
        (
            expert("e", "aaaaaa"),
            expert("f", "aa", task="u"),
            *(policy(f"b{at}", "b", parent="e", at=at) for at in (2, 4)),
            policy("lost", "", parent="f", at=1, ended="drift", reward=None, task="u"),
        )
    )
    costs = {row["role"]: row for row in ask(world, "exploration_cost")}
    names = ("n_trajectories", "n_error", "n_drift", "n_steps", "n_replayed_steps", "n_replayed_steps_once")
    assert tuple(costs["policy"][name] for name in names) == (3, 0, 1, 2, 7, 5)
    assert tuple(costs["expert"][name] for name in names) == (2, 0, 0, 8, 0, 0)


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
