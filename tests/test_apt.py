"""The plan apt: each round equals its plain-Python version, and exploring with it ends at the budget."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from explore_helpers import SMALL, Plain, rows
from hypothesis import event, given
from hypothesis import strategies as st
from oracle import Oracle
from rules_helpers import difference, relations
from worlds import Row, Traj, World, expert, layouts, params, policy, worlds

from envs.webshop import Expert, Novice, TinyExpert, TinyShop, WebShop
from envs.webshop.tiny import CheapExpert
from trajkit.exploration.env import Env, Message, Policy
from trajkit.exploration.explore import Settings, explore
from trajkit.exploration.pending import Counts

Arm = tuple[str | None, int]  # the parent (None: s_0) and the step of a state

# --- the relation ------------------------------------------------------------------------------


def apt(oracle: Oracle) -> list[Row]:
    rows = {arm: row for e in oracle.expert_ids() for arm, row in next_rollout(oracle, e).items()}
    return list(rows.values())


def next_rollout(o: Oracle, e: str) -> dict[tuple[Any, ...], Row]:
    """The one rollout, by what identifies it, that this expert's tree asks for next. Empty: none is left."""
    current, n = o.current_iteration()[0]["iteration"], o.n_actions(e)
    start = {r: o.t[r]["branch_step"] for r in o.trained("policy") if o.task(r) == o.task(e)}
    made = [r for r in start if o.iteration(r) == current and o.t[r]["ended"] != "error"]
    on_line = [r for r in made if o.path(r)[: start[r]] == o.path(e)[: start[r]]]
    tree = set(on_line)
    while more := {r for r in made if start[r] and o.path(r)[start[r] - 1][0] in tree} - tree:
        tree |= more
    if n == 0 or len(tree) >= o.p["budget"]:
        return {}
    skip = max(1, n // (o.p["m"] + 1))
    steps = {0, *(k * skip for k in range(1, o.p["m"] + 1)), *(start[r] for r in on_line)}
    pulls: dict[Arm, list[str]] = {(e if i else None, i): [r for r in on_line if start[r] == i] for i in steps if i < n}
    for b in tree:
        half = start[b] + o.t[b]["n_steps"] // 2
        if o.solved(b) is False and o.t[b]["n_steps"] >= 2:
            pulls[b, half] = [r for r in tree if start[r] == half and o.path(r)[half - 1][0] == b]

    def order(arm: Arm) -> tuple[Any, ...]:
        verdicts = [v for r in pulls[arm] if (v := o.solved(r)) is not None]
        share = sum(verdicts) / len(verdicts) if verdicts else 0.0
        index = math.sqrt(len(verdicts)) * abs(share - o.p["solved_rate"])
        kind = 1 if verdicts else 2 if pulls[arm] else 0
        return kind, index, len(pulls[arm]), arm[0] not in (None, e), arm[1], arm[0] or ""

    parent, step = min(pulls, key=order)
    sample = max((o.t[r]["sample"] or 0 for r in pulls[parent, step]), default=-1) + 1
    row = {"task_id": o.task(e), "parent_id": parent, "branch_step": step, "sample": sample, "role": "policy"}
    return {tuple(row.values()): row}


@st.composite
def trees(draw: Callable[[st.SearchStrategy[Any]], Any]) -> World:
    """A task with an expert or two, the policy's rollouts from their states, from s_0 and from its own rollouts."""
    world = World(
        tuple(expert(f"e{k}", draw(st.sampled_from(("a", "ab", "aaab")))) for k in range(draw(st.integers(1, 2))))
    )
    for number in range(draw(st.integers(3, 12))):
        parent = draw(st.sampled_from([None, *(t.id for t in world.trajs)]))
        at = draw(st.integers(0, world.length(parent))) if parent else 0
        ends = draw(
            st.sampled_from(({"reward": 1.0}, {"reward": 0.0}, {"reward": 0.0}, {"ended": "drift"}, {"ended": "error"}))
        )
        actions, sample = draw(st.sampled_from(("b", "bb", "abab", "bbb"))), draw(st.integers(0, 2))
        iteration = draw(st.sampled_from((1, 1, 1, 1, 0)))
        rollout = policy(f"p{number}", actions, parent=parent, at=at, sample=sample, iteration=iteration, **ends)
        world = world.plus(rollout)
    return world


@given(worlds() | trees() | trees() | trees(), params, layouts, st.integers(1, 20))
def test_a_round_equals_its_oracle(world: World, params: dict[str, Any], layout: int, budget: int) -> None:
    params = {**params, "budget": budget}
    expected = apt(Oracle(world, params))
    found = relations(world, ["apt"], params, layout)["apt"]
    experts = {t.id for t in world.trajs if t.role == "expert"}
    kinds = {
        "s_0" if not row["branch_step"] else "expert" if row["parent_id"] in experts else "branch" for row in found
    }
    event(f"arms: {' '.join(sorted(kinds)) or 'none'}")
    event(f"samples: {'some' if any(row['sample'] for row in found) else 'none'} after the first")
    assert difference("apt", found, expected) is None


def ask(*trajs: Traj, **given: Any) -> list[tuple[str | None, int, int]]:
    """What is asked for next, the same by the oracle and by the engine."""
    world = World((expert("e", "aaaaaaaa"), *trajs))
    found, given = relations(world, ["apt"], given)["apt"], {"budget": 10, **given}
    assert difference("apt", found, apt(Oracle(world, given))) is None
    return sorted((row["parent_id"], row["branch_step"], row["sample"]) for row in found)


def on_line(*solved: bool) -> list[Traj]:
    """One rollout from s_0, s_2, s_4, s_6 (M = 3): each with one action."""
    return [
        policy(f"p{2 * k}", "b", parent="e" if k else None, at=2 * k, reward=float(ok)) for k, ok in enumerate(solved)
    ]


def test_every_state_of_the_line_once_then_the_undecided() -> None:
    assert ask(m=3) == [(None, 0, 0)]
    assert ask(*on_line(True), m=3) == [("e", 2, 0)]
    assert ask(*on_line(True, False, True), m=3) == [("e", 6, 0)]
    line = on_line(True, True, False, False)
    assert ask(*line, m=3) == [(None, 0, 1)], "all are as near to the threshold: the fewest actions"
    tie = policy("q", "b", parent="e", at=4, sample=1, reward=1.0)
    assert ask(*line, tie, m=3) == [("e", 4, 2)], "one of two is right at the threshold"
    assert ask(*line, tie, m=3, solved_rate=1.0) == [(None, 0, 1)], "sqrt(2) * 0.5 against 0 where all were solved"
    twice = [policy(f"s{k}", "b", sample=k, reward=1.0) for k in range(2)]
    four = [policy(f"t{k}", "b", parent="e", at=4, sample=k, reward=float(k > 0)) for k in range(4)]
    assert ask(*twice, *four, m=1) == [("e", 4, 4)], "sqrt(4) * 0.25 against sqrt(2) * 0.5"
    assert ask(*line, policy("q", "b", sample=7, reward=1.0), m=3) == [("e", 2, 1)]
    assert ask(*line, policy("q", "b", sample=7, reward=0.0), m=3) == [(None, 0, 8)], "the next free number"


def test_a_failed_rollout_is_explored_further_from_halfway() -> None:
    line = on_line(True, True, False, True)
    failed = policy("f", "bbbbb", parent="e", at=4, sample=1)
    assert ask(*line, failed, m=3) == [("f", 6, 0)]
    again = policy("g", "bbb", parent="f", at=6)
    assert ask(*line, failed, again, m=3) == [("g", 7, 0)], "to any depth"
    one = policy("g", "b", parent="f", at=6)
    assert ask(*line, failed, one, m=3) == [(None, 0, 1)], "a rollout of one action has no state halfway"
    solved = policy("f", "bbbbb", parent="e", at=4, sample=1, reward=1.0)
    assert ask(*line, solved, m=3) == [("e", 4, 2)]
    assert ask(*line, policy("f", "bbbbb", parent="e", at=4, iteration=0), m=3, iteration=1) == [(None, 0, 1)]


def test_ties() -> None:
    start = [policy("p", "b"), policy("q", "bbb", sample=1), policy("half", "b", parent="q", at=1)]
    middle = policy("r", "b", parent="e", at=4)
    assert ask(*start, middle, m=1) == [("e", 4, 1)], "s_4 and q's s_1 failed once each: the expert's own state"
    two = [policy(id, "bbb", parent="e", at=4, sample=k) for k, id in enumerate(("b", "a"))]
    assert ask(policy("p", "b"), *two, m=1) == [("a", 5, 0)], "the smallest id"
    longer = policy("a", "bbbbbb", parent="e", at=4, sample=1)
    assert ask(policy("p", "b"), two[0], longer, m=1) == [("b", 5, 0)], "the fewest actions up to the state"


def test_the_budget_errors_and_drift() -> None:
    line = on_line(True, True, False, True)
    assert ask(*line, m=3, budget=4) == []
    assert ask(*line, m=3, budget=5) == [(None, 0, 1)]
    branch = [policy("f", "bbbbb", parent="e", at=4, sample=1), policy("g", "b", parent="f", at=6)]
    assert ask(*line, *branch, m=3, budget=6) == [], "the tree's branches count"
    error = policy("x", "b", sample=1, ended="error")
    assert ask(*line, error, m=3, budget=5) == [(None, 0, 1)], "an error is no pull, and tried again"
    drift = policy("x", "b", sample=1, ended="drift")
    assert ask(*line, drift, m=3, budget=5) == [], "drift counts, so that it ends"
    assert ask(*line, drift, m=3, budget=6) == [("e", 2, 1)]
    only_drift = policy("p0", "b", ended="drift")
    assert ask(*line[1:], only_drift, m=3) == [("e", 2, 1)], "a state that only drifts comes last"


def test_two_experts_of_one_task_share_s_0() -> None:
    other = expert("f", "bbbb")
    assert ask(other) == [(None, 0, 0)], "asked for once"
    assert ask(other, policy("p", "b", reward=1.0)) == [("e", 1, 0), ("f", 1, 0)]
    assert ask(other, policy("p", "b", reward=1.0), budget=1) == []
    assert ask(expert("none", ""), policy("p", "b"), budget=1) == []


# --- exploring ---------------------------------------------------------------------------------


class Careless(Novice):
    """The novice, who now opens another product than it should: whether it succeeds is a matter of luck."""

    actor = "careless"

    def __init__(self) -> None:
        super().__init__(slip=0.4)


class CarelessTiny(CheapExpert):
    """Gives up at random, with what is open."""

    actor = "careless"

    def act(self, messages: list[Message], *, seed: int) -> Message:
        if random.Random(f"{seed} {len(messages)}").random() < 0.3:
            return {"role": "assistant", "content": "click[a]" if len(messages) % 4 == 1 else "click[buy]"}
        return super().act(messages, seed=seed)


def run(runs: Path, env: Env, policy: Policy, role: str = "policy", budget: int = 6, **more: Any) -> Counts:
    plans = ["initial"] if role == "expert" else more.pop("plans", ["apt"])
    settings = Settings(role, int(role == "policy"))
    return explore(runs, env, policy, plans=plans, settings=settings, m=1, params={"budget": budget}, **more)


def spent(runs: Path) -> Counter[str]:
    """How many of the policy's rollouts each task has (every task here has one expert)."""
    return Counter(row["task_id"] for row in rows(runs, "SELECT task_id FROM trajectories WHERE role = 'policy'"))


@pytest.mark.parametrize("kind", ["shop", "plain", "tiny"])
def test_exploring_ends_at_the_budget(tmp_path: Path, kind: str) -> None:
    env: Env = (
        TinyShop(train_tasks=16, test_tasks=2) if kind == "tiny" else {"shop": WebShop, "plain": Plain}[kind](**SMALL)
    )
    teacher, pupil = (TinyExpert(), CarelessTiny()) if kind == "tiny" else (Expert(), Careless())
    run(tmp_path, env, teacher, "expert")
    counts = run(tmp_path, env, pupil)
    assert (counts["rollouts"], counts["drift"], counts["error"]) == (16 * 6, 0, 0)
    assert set(spent(tmp_path).values()) == {6}
    assert rows(tmp_path, "FROM apt", budget=6, m=1, iteration=1) == []
    assert run(tmp_path, env, pupil)["rollouts"] == 0
    deep = rows(
        tmp_path,
        "SELECT p.branch_step FROM trajectories AS t JOIN trajectories AS p ON t.parent_id = p.trajectory_id "
        "WHERE p.role = 'policy'",
    )
    assert len(deep) >= 16, "failed branches are explored further"
    several = rows(tmp_path, "SELECT count(*) AS n FROM branch_points WHERE n_rollouts > 1 AND n_solved < n_rollouts")
    assert several[0]["n"] > 0
    more = run(tmp_path, env, pupil, budget=7, plans=["initial", "skip_length", "apt"])
    assert more["rollouts"] == 16, "what the other plans ask for is among the arms"


def test_stopped_and_started_again_it_makes_the_same_rollouts(tmp_path: Path) -> None:
    class Stopping(Careless):
        def __init__(self, after: int) -> None:
            super().__init__()
            self.left = after

        def act(self, messages: list[Message], *, seed: int) -> Message:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().act(messages, seed=seed)

    env = WebShop(**SMALL)
    for runs in (tmp_path / "whole", tmp_path / "stopped"):
        run(runs, env, Expert(), "expert")
    whole = run(tmp_path / "whole", env, Careless())
    stops = 0
    while True:
        try:
            run(tmp_path / "stopped", env, Stopping(100))
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 2
    places = "SELECT trajectory_id FROM trajectories WHERE role = 'policy' ORDER BY 1"
    assert rows(tmp_path / "stopped", places) == rows(tmp_path / "whole", places)
    assert len(rows(tmp_path / "whole", places)) == whole["rollouts"]


def test_errors_do_not_stop_the_others_and_are_made_up_for(tmp_path: Path) -> None:
    class Dying(WebShop):
        dead = True

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            if self.dead and self._state.task % 4 == 0:
                raise ConnectionError("the server is gone")
            return super().step(action)

    run(tmp_path, WebShop(**SMALL), Expert(), "expert")
    dying = Dying(**SMALL)
    counts = run(tmp_path, dying, Careless(), budget=3)
    assert counts["error"] > 0
    ended = rows(
        tmp_path,
        "SELECT task_id, count(*) AS n FROM trajectories WHERE role = 'policy' AND ended != 'error' GROUP BY 1",
    )
    assert {row["n"] for row in ended} == {3} and len(ended) == 12
    dying.dead = False
    again = run(tmp_path, dying, Careless(), budget=3)
    assert (again["rollouts"], again["error"]) == (4 * 3, 0)
