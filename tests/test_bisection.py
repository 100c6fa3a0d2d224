"""The plan bisection: each round equals its plain-Python version, and the rounds find the turn in about log2(n)."""

from __future__ import annotations

import math
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from oracle import Oracle
from rules_helpers import relations
from worlds import Row, World, expert, layouts, params, policy, worlds

from envs.webshop import Expert, Novice, WebShop
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.exploration.explore import Settings, explore


def next_state(n: int, expert_solved: bool | None, known: dict[int, bool], m: int) -> int | None:
    """The one state to simulate next along an expert's n actions. None: nothing is left to find out."""
    known = {step: solved for step, solved in known.items() if step < n}
    if 0 not in known:
        return None
    steps = sorted(known)
    verdicts: dict[int, bool | None] = {**known, n: False if expert_solved is False else None}
    line = [*steps, n]
    turns = [(a, b) for a, b in pairwise(line) if verdicts[a] is True and verdicts[b] is False]
    if turns:
        a, b = turns[0]
    elif len(known) > m:
        return None
    else:
        a, b = max(pairwise(line), key=lambda gap: (gap[1] - gap[0], -gap[0]), default=(0, 0))
    return (a + b) // 2 if b - a > 1 else None


def bisection(oracle: Oracle) -> list[Row]:
    current = oracle.current_iteration()[0]["iteration"]
    points = [p for p in oracle.branch_points() if p["iteration"] == current and p["solved"] is not None]
    states = []
    for e in oracle.expert_ids():
        known = {
            p["step"]: p["solved"]
            for p in points
            if p["expert_id"] == e and p["n_rollouts"] + p["n_no_outcome"] >= oracle.p["samples"]
        }
        step = next_state(oracle.n_actions(e), oracle.solved(e), known, oracle.p["m"])
        if step is not None:
            states.append((oracle.task(e), e, step))
    return oracle._plan(states)


@given(worlds(), params, layouts)
def test_a_round_equals_its_oracle(world: World, params: dict[str, Any], layout: int) -> None:
    expected = bisection(Oracle(world, params))
    found = relations(world, ["bisection"], params, layout)["bisection"]
    event(f"{'some' if expected else 'no'} rows")
    key = ("task_id", "parent_id", "branch_step", "sample")
    assert sorted(tuple(row[k] for k in key) for row in found) == sorted(tuple(row[k] for k in key) for row in expected)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.booleans())
def test_the_turn_is_found_in_log2_rounds(n_and_turn: tuple[int, int], solved: bool) -> None:
    """Policy solves from every state before the turn and from none after it: the classic case of a search by halves."""
    n, turn = n_and_turn
    known, rounds = {0: True}, 0
    while (step := next_state(n, solved and turn == n, known, 5)) is not None:
        assert step not in known
        known[step], rounds = step < turn, rounds + 1
    bound = math.ceil(math.log2(n)) if n > 1 else 0
    if not (solved and turn == n):
        assert rounds <= bound
        assert max(s for s, ok in known.items() if ok) == turn - 1
        assert turn == n or known[turn] is False


def test_small_worlds() -> None:
    def ask(*more: Any, **given: Any) -> list[int]:
        world = World((expert("e", "aaaaaaaa"), *more))
        return [row["branch_step"] for row in relations(world, ["bisection"], given)["bisection"]]

    start = policy("p0", "b", reward=1.0)
    assert ask() == []  # s_0 comes first, and it is for `initial`
    assert ask(start) == [4]
    assert ask(start, policy("p4", "b", parent="e", at=4)) == [2]
    assert ask(start, policy("p4", "b", parent="e", at=4, reward=1.0)) == [6]
    neighbours = (policy("p4", "b", parent="e", at=4), policy("p3", "b", parent="e", at=3, reward=1.0))
    assert ask(start, *neighbours) == []
    assert ask(policy("p0", "b")) == [4]  # the policy fails from s_0: some state further on may suit it
    assert ask(policy("p0", "b"), policy("p4", "b", parent="e", at=4)) == [2]
    assert ask(policy("p0", "b"), policy("p4", "b", parent="e", at=4), m=1) == []
    assert ask(policy("p0", "b"), policy("p4", "b", parent="e", at=4, reward=1.0)) == [6]
    assert ask(start, samples=2) == []  # not all of s_0's samples are there yet


def test_explore_goes_on_round_after_round() -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = WebShop(products=200, train_tasks=16, test_tasks=4)
        explore(folder, env, Expert(), plans=["initial"], settings=Settings("expert", 0))
        plans, settings = ["initial", "bisection"], Settings("policy", 1)
        counts = explore(folder, env, Novice(), plans=plans, settings=settings)
        with DuckDBEngine(folder, {"iteration": 1}) as runs:
            assert runs.rows("FROM bisection ANTI JOIN done USING (task_id, parent_id, branch_step, sample)") == []
            exact = runs.rows("SELECT step - previous_step AS n, count(*) AS c FROM first_recovery_state GROUP BY 1")
            assert {row["n"] for row in exact} == {1}
        again = explore(folder, env, Novice(), plans=plans, settings=settings)
        assert (again["rollouts"], again["error"]) == (0, 0)
        assert counts["rollouts"] > 16 + 16
        assert Path(folder, "explore-policy-novice-i1").is_dir()
