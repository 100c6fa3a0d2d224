"""The scorer's plans: they equal their plain-Python versions, and they are run once, from the right states."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from explore_helpers import SMALL, Plain, rows
from hypothesis import event, given
from hypothesis import strategies as st
from oracle import Oracle
from rules_helpers import difference, relations
from small_runs import trajkit
from worlds import Row, Traj, World, expert, layouts, params, policy, worlds

from envs.webshop import Expert, Novice, TinyExpert, TinyShop, WebShop
from envs.webshop.tiny import CheapExpert
from trajkit.errors import UsageError
from trajkit.exploration.env import Env, Message, Policy
from trajkit.exploration.explore import Settings, explore
from trajkit.exploration.pending import Counts, cost

SCORES = ("score_expert", "score_policy")

# --- the relations -----------------------------------------------------------------------------


def scored(oracle: Oracle, states: Iterable[tuple[str, int]]) -> list[Row]:
    """N rollouts of the scorer from each of these states s_step of a trajectory."""
    return [
        {"task_id": oracle.task(id), "parent_id": id, "branch_step": step, "sample": sample, "role": "scorer"}
        for id, step in states
        for sample in range(oracle.p["n"])
    ]


def score_expert(oracle: Oracle) -> list[Row]:
    own = [[step for owner, step in oracle.path(e) if owner == e] for e in oracle.expert_ids()]
    states = [(e, step + 1) for e, steps in zip(oracle.expert_ids(), own, strict=True) for step in steps[:-1]]
    return scored(oracle, states)


def score_policy(oracle: Oracle) -> list[Row]:
    current = oracle.current_iteration()[0]["iteration"]
    losing = set()
    for r in oracle.trained("policy"):
        at, mine = oracle.t[r]["branch_step"], oracle.value(r)
        if oracle.iteration(r) != current or oracle.t[r]["n_steps"] < 2 or mine is None:
            continue
        for e in oracle.expert_ids():
            theirs = oracle.value(e)
            meet = oracle.task(e) == oracle.task(r) and oracle.path(e)[:at] == oracle.path(r)[:at]
            if not meet or at >= oracle.n_actions(e) or theirs is None or mine >= theirs:
                continue
            said = [
                [(m["content"] or "", m["reasoning"] or "", calls(m)) for m in oracle.conversation(id) if acts(m, at)]
                for id in (e, r)
            ]
            if said[0] != said[1]:
                losing.add((r, at + 1))
    return scored(oracle, losing)


def acts(message: Row, step: int) -> bool:
    return message["role"] == "assistant" and not message["context"] and message["step"] == step


def calls(message: Row) -> Any:
    return [call["function"] for call in json.loads(message["tool_calls"] or "[]")]


@given(worlds(), params, layouts, st.integers(1, 3))
def test_the_plans_equal_their_oracles(world: World, params: dict[str, Any], layout: int, n: int) -> None:
    params = {**params, "n": n}
    oracle = Oracle(world, params)
    expected = {"score_expert": score_expert(oracle), "score_policy": score_policy(oracle), "done": oracle.done()}
    found = relations(world, list(expected), params, layout)
    for name in expected:
        event(f"{name}: {'some' if expected[name] else 'no'} rows")
    scorers = [row for row in expected["done"] if row["role"] == "scorer"]
    event(f"done: {'some' if scorers else 'no'} rows of a scorer")
    differences = [difference(name, found[name], expected[name]) for name in expected]
    assert not any(differences), "\n".join(d for d in differences if d)


def asked(world: World, name: str, **params: Any) -> list[tuple[str, int]]:
    """The states that a plan names, with the samples counted away."""
    found = relations(world, [name], {"n": 2, **params})[name]
    expected = (score_expert if name == "score_expert" else score_policy)(Oracle(world, {"n": 2, **params}))
    assert difference(name, found, expected) is None
    states = Counter((row["parent_id"], row["branch_step"]) for row in found)
    assert set(states.values()) <= {2}
    return sorted(states)


def test_every_own_action_of_an_expert_but_the_last_is_scored() -> None:
    world = World((expert("e", "aaaa"), expert("f", "bb", parent="e", at=2), expert("short", "a"), expert("none", "")))
    assert asked(world, "score_expert") == [("e", 1), ("e", 2), ("e", 3), ("f", 3)]
    broken = (
        expert("x", "aaa", ended="error"),
        expert("y", "aaa", ended="drift"),
        expert("z", "aaa", task="u", split="test"),
    )
    assert asked(World(broken), "score_expert") == []


def test_the_policys_action_is_scored_where_it_may_lose_to_the_experts() -> None:
    e = expert("e", "aaaa", reward=0.5)

    def of(*more: Any, **params: Any) -> list[tuple[str, int]]:
        return asked(World((e, *more)), "score_policy", **params)

    assert of(policy("p", "bb"), policy("q", "bb", parent="e", at=3)) == [("p", 1), ("q", 4)]
    assert of(policy("p", "ab")) == [], "the expert's own action"
    assert of(policy("p", "rb")) == [("p", 1)], "another reasoning is another action"
    assert of(policy("p", "b")) == [], "its last action has the outcome"
    assert of(policy("p", "bb", reward=0.5)) == [], "a tie"
    assert of(policy("p", "bb", reward=1.0)) == [], "the expert lost"
    assert of(policy("p", "bb", reward=None)) == [], "a null reward"
    assert of(policy("p", "bb", ended="error")) == of(policy("p", "bb", ended="drift")) == []
    assert of(policy("p", "bb", parent="e", at=4)) == [], "the expert took no action there"
    assert of(policy("p", "bb"), policy("q", "ab", iteration=2)) == [], "of the current iteration only"
    assert of(policy("p", "bb"), policy("q", "ab", iteration=2), iteration=1) == [("p", 1)]
    other = expert("other", "b", reward=1.0)
    assert of(other, policy("p", "bb")) == [("p", 1)], "repeats one expert's action, not the other's"
    assert of(expert("twin", "aa", reward=1.0), policy("p", "bb")) == [("p", 1)], "once, though it loses to two"


def test_a_scorers_rollouts_are_done_for_every_iteration() -> None:
    def done(**params: Any) -> list[tuple[str | None, int, int, str]]:
        rows = relations(world, ["done"], params)["done"]
        return sorted((row["parent_id"], row["branch_step"], row["sample"], row["role"]) for row in rows)

    def scorer(id: str, at: int, **given: Any) -> Traj:
        return Traj(id, "scorer", "a", at=at, **{"parent": "e", "reward": 0.0, "actor": "sft", "iteration": 1, **given})

    world = World(
        (
            expert("e", "aaaaaaa"),
            policy("p", "b", parent="e", at=1),
            scorer("s1", 1),
            scorer("s2", 2, iteration=2, sample=1),
            scorer("s3", 3, ended="error"),
            scorer("s4", 4, ended="drift", iteration=None),
            expert("held out", "aaaaaaa", task="u", split="test"),
            scorer("s5", 5, task="u", parent="held out"),
            scorer("s6", 6, actor=None),
        )
    )
    sft = [("e", 1, 0, "scorer"), ("e", 2, 1, "scorer"), ("e", 4, 0, "scorer")]
    assert done() == [*sft, ("e", 6, 0, "scorer")]
    assert done(scorer="sft") == sft
    assert done(scorer="gpt-4", iteration=1) == [("e", 1, 0, "policy")]


# --- exploring ---------------------------------------------------------------------------------


def run(
    runs: Path, env: Env, actor: Policy, role: str, *plans: str, iteration: int = 1, n: int = 2, **more: Any
) -> Counts:
    settings = {key: more.pop(key) for key in ("env_workers", "max_steps") if key in more}
    chosen = Settings(role, iteration, **settings)
    return explore(
        runs, env, actor, plans=plans, settings=chosen, params={"n": n} if role == "scorer" else None, **more
    )


def explored(runs: Path, env: Env, tiny: bool = False) -> Path:
    """IPR's exploration but for the scorer: experts, and the policy from all of their states."""
    run(runs, env, TinyExpert() if tiny else Expert(), "expert", "initial", iteration=0)
    run(runs, env, CheapExpert() if tiny else Novice(), "policy", "initial", "every_step")
    return runs


def small(kind: str) -> Env:
    return (
        TinyShop(train_tasks=40, test_tasks=4) if kind == "tiny" else {"shop": WebShop, "plain": Plain}[kind](**SMALL)
    )


@pytest.mark.parametrize("kind", ["tiny", "shop", "plain", "workers"])
def test_branches_of_branches_are_replayed_right(tmp_path: Path, kind: str) -> None:
    """With snapshots, without, and in worker processes: no drift, whole conversations, and every action is scored."""
    make = partial(small, "plain" if kind == "workers" else kind)
    env, tiny = make(), kind == "tiny"
    explored(tmp_path, env, tiny)
    scorer = partial(CheapExpert if tiny else Novice)
    given: dict[str, Any] = {"env_workers": 2, "make_env": make, "make_policy": scorer} if kind == "workers" else {}
    counts = run(tmp_path, env, scorer(), "scorer", *SCORES, **given)
    planned = rows(tmp_path, "SELECT * FROM score_policy UNION ALL FROM score_expert", n=2, iteration=1)
    assert counts["rollouts"] == len(planned) > 100
    assert counts["drift"] == counts["error"] == 0
    deep = rows(
        tmp_path,
        "SELECT s.trajectory_id AS id, s.branch_step AS step, p.branch_step AS parent_step FROM trajectories AS s "
        "JOIN trajectories AS p ON s.parent_id = p.trajectory_id WHERE s.role = 'scorer' AND p.role = 'policy'",
    )
    assert max(row["parent_step"] for row in deep) > 0, "branches of branches"
    assert all(row["step"] == row["parent_step"] + 1 for row in deep)
    paths = rows(
        tmp_path,
        "SELECT s.trajectory_id AS id, m.seq, m.step, m.role FROM path_segments AS s JOIN messages AS m "
        "ON m.trajectory_id = s.owner_id AND m.step >= s.first_step AND (m.step < s.end_step OR s.owner_id = "
        "s.trajectory_id) JOIN trajectories AS t ON t.trajectory_id = s.trajectory_id WHERE t.role = 'scorer' "
        "ORDER BY ALL",
    )
    by_id: dict[str, list[Row]] = {}
    for row in paths:
        by_id.setdefault(row["id"], []).append(row)
    assert {row["id"] for row in deep} <= by_id.keys()
    for messages in by_id.values():
        assert [m["seq"] for m in messages] == list(range(len(messages)))
        acted = [m["step"] for m in messages if m["role"] == "assistant"]
        assert acted == list(range(len(acted)))
    rewards = rows(
        tmp_path,
        "SELECT DISTINCT n_rollouts FROM step_rewards AS s JOIN outcomes AS o USING (trajectory_id) "
        "WHERE s.role = 'expert' AND s.step < o.n_actions - 1",
        n=2,
    )
    assert [row["n_rollouts"] for row in rewards] == [2]
    assert rows(tmp_path, "SELECT * FROM ipr WHERE level = 'step'", n=2) != []


def test_what_a_scorer_has_done_is_known_in_every_iteration(tmp_path: Path) -> None:
    env = small("shop")
    explored(tmp_path, env)
    first = run(tmp_path, env, Novice(), "scorer", *SCORES, n=1)
    assert (tmp_path / "explore-scorer-novice-i1").is_dir()
    again = run(tmp_path, env, Novice(), "scorer", *SCORES, n=1)
    assert (again["rollouts"], again["already_done"]) == (0, first["rollouts"])
    more = run(tmp_path, env, Novice(), "scorer", *SCORES, n=3)
    assert more["rollouts"] == 2 * first["rollouts"]
    run(tmp_path, env, Novice(slip=0.5), "policy", "initial", "every_step", iteration=2)
    experts = run(tmp_path, env, Novice(), "scorer", "score_expert", n=3, iteration=2)
    assert experts["rollouts"] == 0 < experts["already_done"]
    news = run(tmp_path, env, Novice(), "scorer", "score_policy", n=3, iteration=2)
    assert news["rollouts"] > 0

    class Other(Novice):
        actor = "other"

    would = cost(tmp_path, env, "other", plans=SCORES, settings=Settings("scorer", 1), params={"n": 1})
    others = run(tmp_path, env, Other(), "scorer", *SCORES, n=1)
    assert others["rollouts"] == would.rollouts == first["rollouts"], "another scorer's values are others"
    assert rows(tmp_path, "SELECT * FROM ipr", iteration=1, n=1, scorer="other") != []


class Shifting(Plain):
    """After it was recorded, what comes after the action number `at` is another observation."""

    at = 0

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        self.taken = 0
        return super().reset(task_id, seed=seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        self.taken += 1
        return (observation + " [SEP] sale" * (self.taken == self.at), *rest)  # type: ignore[return-value]


def test_drift_is_found_along_both_parts_of_the_path(tmp_path: Path) -> None:
    """A branch from a policy's rollout from s_2: its own first action is the third, the expert's are the first two."""
    env = Shifting(**SMALL)
    explored(tmp_path, env)
    for at in (1, 2, 3):
        env.at = at
        counts = run(tmp_path, env, Novice(), "scorer", "score_policy", iteration=1, n=at)
        assert counts["drift"] > 0
        sample = f"role = 'scorer' AND sample = {at - 1}"
        drifted = rows(tmp_path, f"SELECT branch_step, error FROM trajectories WHERE ended = 'drift' AND {sample}")
        assert {row["branch_step"] >= at for row in drifted} == {True}
        assert {row["error"].partition(": expected user: ")[0] for row in drifted} == {f"at step {at}"}
        whole = rows(tmp_path, f"SELECT min(branch_step) AS n FROM trajectories WHERE ended != 'drift' AND {sample}")
        assert at == 1 or whole[0]["n"] < at, "what branched before it is no drift"
    assert rows(tmp_path, "SELECT * FROM step_rewards WHERE role = 'policy' AND n_rollouts > 0 AND step >= 3") == []


@pytest.mark.parametrize(
    ("role", "split", "plans", "said"),
    [
        ("policy", "train", ["initial", "score_expert"], "--plan score_expert is a plan of the scorer's rollouts: "),
        ("policy", "train", ["score_expert", "initial"], "with --role scorer, apart from the others."),
        ("scorer", "train", ["every_step"], "is a plan of the policy's rollouts: run it with --role policy."),
        ("scorer", "train", ["initial"], "--plan initial is a plan of the policy's rollouts"),
        ("scorer", "test", ["score_policy"], "--role scorer is for the split train"),
        ("expert", "train", ["score_expert"], "only the plan initial can be run for role expert"),
        ("policy", "test", ["score_expert"], "only the plan initial can be run for role policy and split test"),
    ],
)  # fmt: skip
def test_plans_and_roles_that_do_not_fit(tmp_path: Path, role: str, split: str, plans: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        explore(tmp_path / "runs", small("shop"), Novice(), plans=plans, settings=Settings(role, 1, split))
    assert said in str(error.value)
    assert not (tmp_path / "runs").exists(), "refused before anything is made"


def test_the_command_line(tmp_path: Path) -> None:
    explored(tmp_path, small("shop"))
    given = ["--runs", tmp_path, "--env", "envs.webshop:WebShop", "--policy", "envs.webshop:Novice"]
    given += [f"--env-arg={key}={value}" for key, value in SMALL.items()] + ["--iteration", 1]
    scoring = [*given, "--role", "scorer", "--plan", "score_expert", "--set", "n=1"]
    planned = trajkit("plan", "--runs", tmp_path, "--plan", "score_expert", "--set", "n=1", "--format", "csv")
    assert planned.code == 0 and planned.out.splitlines()[1].endswith(",0,scorer")
    would = trajkit("explore", *scoring, "--dry-run")
    n = len(planned.out.splitlines()) - 1
    assert would.err.startswith(f"{n} rollouts of ") or would.out.startswith(f"{n} rollouts of "), would
    done = trajkit("explore", *scoring)
    assert done.code == 0 and f"scorer novice, iteration 1: {n} rollouts" in done.err
    assert f"; {n} skipped as done" in trajkit("explore", *scoring).err
    left = trajkit("plan", "--runs", tmp_path, "--plan", "score_expert", "--set", "n=1", "--iteration", 7)
    assert left.err == "0 rollouts of 0 tasks\n"
    for wrong, said in (
        (["--role", "scorer", "--plan", "initial"], "run it with --role policy"),
        (["--set", "m=3"], "exploring takes it as --m"),
        (["--set", "nn=3"], "no such parameter"),
        (["--set", "budget=0", "--plan", "apt"], "budget"),
    ):
        result = trajkit("explore", *given, *wrong)
        assert result.code == 2 and said in result.err, result
