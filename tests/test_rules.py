"""Every rule equals its plain-Python version on drawn worlds, and small worlds whose answers are spelled out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
from hypothesis import Phase, event, find, given, settings
from oracle import METHODS, PAIR_METHODS, RELATIONS, Oracle
from rules_helpers import FIGURE_1, SHARED_STATE, ask, difference, relations
from worlds import Row, Traj, World, expert, layouts, params, policy, worlds


@given(worlds(), params, layouts)
def test_every_relation_equals_its_oracle(world: World, params: dict[str, Any], layout: int) -> None:
    oracle = Oracle(world, params)
    found = relations(world, list(RELATIONS), params, layout)
    expected = {name: relation(oracle) for name, relation in RELATIONS.items()}
    for name in ("first_recovery_state", "rft", "best_of_n", "skip_length", "done", "step_rewards", *PAIR_METHODS):
        event(f"{name}: {'some' if expected[name] else 'no'} rows")
    event(f"eef: {'a' if any(row['kind'] == 'recovery' for row in expected['eef']) else 'no'} recovery example")
    differences = [difference(name, found[name], expected[name]) for name in RELATIONS]
    assert not any(differences), "\n".join(d for d in differences if d)


# --- the paper's example ---


def test_figure_1_recovers_at_2l() -> None:
    assert ask(FIGURE_1, "first_recovery_state") == [
        {"expert_id": "e", "task_id": "t", "step": 4, "previous_step": 2, "owner_id": "e"}
    ]


def test_figure_1_is_simulated_at_l_2l_3l() -> None:
    assert [row["branch_step"] for row in ask(FIGURE_1, "skip_length", m=3)] == [2, 4, 6]


def test_figure_1_solutions() -> None:
    """s_0 has two solutions and takes the one with fewer expert actions; s_2l has one, trained on from 2l only."""
    assert ask(FIGURE_1, "eef") == [
        {"kind": "initial", "task_id": "t", "trajectory_id": "pl", "expert_id": None, "from_step": 0},
        {"kind": "recovery", "task_id": "t", "trajectory_id": "p3l", "expert_id": "e", "from_step": 4},
    ]
    ranked = [
        (r["kind"], r["trajectory_id"], r["n_expert_actions"], r["n_actions"]) for r in ask(FIGURE_1, "solutions")
    ]
    assert ranked == [("initial", "pl", 2, 4), ("initial", "p3l", 6, 7), ("recovery", "p3l", 2, 3)]


# --- skip_length ---


@pytest.mark.parametrize(
    ("n", "m", "steps"),
    [(0, 5, []), (1, 5, []), (2, 5, [1]), (3, 5, [1, 2]), (6, 5, [1, 2, 3, 4, 5]), (7, 5, [1, 2, 3, 4, 5]),
     (11, 5, [1, 2, 3, 4, 5]), (12, 5, [2, 4, 6, 8, 10]), (13, 5, [2, 4, 6, 8, 10]), (9, 1, [4]), (1, 1, [])],
)  # fmt: skip
def test_skip_length(n: int, m: int, steps: list[int]) -> None:
    rows = ask(World((expert("e", "a" * n),)), "skip_length", m=m)
    assert [row["branch_step"] for row in rows] == steps


def test_plans_repeat_every_state_by_samples() -> None:
    world = World((expert("e", "aaa"),))
    state = {"task_id": "t", "parent_id": "e", "role": "policy"}
    assert ask(world, "skip_length", m=1, samples=2) == [state | {"branch_step": 1, "sample": s} for s in (0, 1)]
    assert ask(world, "every_step", samples=1) == [state | {"branch_step": i, "sample": 0} for i in (1, 2)]
    assert len(ask(world, "initial", samples=3)) == 3


def test_an_expert_that_is_a_branch_counts_its_whole_path() -> None:
    world = World((expert("e", "aaaa"), expert("f", "bb", parent="e", at=2)))
    assert sorted((r["parent_id"], r["branch_step"]) for r in ask(world, "every_step")) == [
        ("e", 1), ("e", 2), ("e", 3), ("f", 1), ("f", 2), ("f", 3),
    ]  # fmt: skip


def test_experts_in_error_or_drift_or_held_out_are_not_simulated() -> None:
    world = World(
        (
            expert("x", "aaa", ended="error"),
            expert("y", "aaa", ended="drift", reward=1.0),
            expert("z", "aaa", task="held out", split="test"),
            expert("unknown", "aaa", reward=None),
        )
    )
    assert {row["parent_id"] for row in ask(world, "every_step")} == {"unknown"}


# --- states and lineage ---


def test_rollouts_of_a_branch_inside_its_parents_prefix_start_from_the_expert() -> None:
    """q branches from p at a step that p inherited from e, so it starts from a state of e."""
    world = World(
        (expert("e", "aaaa"), policy("p", "b", parent="e", at=3, reward=1.0), policy("q", "b", parent="p", at=1))
    )
    assert {(r["expert_id"], r["step"], r["solved"]) for r in ask(world, "branch_points")} == {
        ("e", 3, True),
        ("e", 1, False),
    }


def test_same_actions_are_not_the_same_state() -> None:
    """Two experts did the same; a rollout from one is no rollout from the other."""
    world = World((expert("e", "aa"), expert("f", "aa"), policy("p", "b", parent="e", at=1)))
    assert [(r["expert_id"], r["step"]) for r in ask(world, "branch_points")] == [("e", 1)]


def test_branch_step_0_with_a_parent_starts_from_s_0() -> None:
    world = World((expert("e", "aa"), expert("f", "b"), policy("p", "b", parent="e", reward=1.0)))
    assert {(r["expert_id"], r["step"]) for r in ask(world, "branch_points")} == {("e", 0), ("f", 0)}
    assert ask(world, "path_segments")[-1] == {
        "trajectory_id": "p", "owner_id": "p", "owner_role": "policy", "first_step": 0, "end_step": 1,
    }  # fmt: skip


def test_a_state_is_shared_by_the_expert_and_the_expert_that_branched_behind_it() -> None:
    world = World(
        (expert("e", "aaaa"), expert("f", "b", parent="e", at=2), policy("p", "b", parent="e", at=2, reward=1.0))
    )
    assert {(r["expert_id"], r["step"]) for r in ask(world, "branch_points")} == {("e", 2), ("f", 2)}


def test_four_generations() -> None:
    world = World(
        (
            expert("e", "aaaa"),
            policy("p1", "ab", parent="e", at=3),
            policy("p2", "ab", parent="p1", at=4),
            policy("p3", "ab", parent="p2", at=5),
            policy("p4", "", parent="p3", at=6, reward=1.0),
        )
    )
    segments = {
        r["owner_id"]: (r["first_step"], r["end_step"])
        for r in ask(world, "path_segments")
        if r["trajectory_id"] == "p4"
    }
    assert segments == {"e": (0, 3), "p1": (3, 4), "p2": (4, 5), "p3": (5, 6)}


# --- first recovery state ---


def line(*verdicts: tuple[int, float | None]) -> World:
    """A failed expert of six actions with one rollout from each of these states, solved at reward 1."""
    rollouts = [policy(f"p{i}", "b", parent="e", at=i, reward=reward) for i, reward in verdicts]
    return World((expert("e", "aaaaaa"), *rollouts))


@pytest.mark.parametrize(
    ("verdicts", "step"),
    [
        ([(0, 1.0), (2, 0.0)], 2),  # s_0 is simulated too
        ([(0, 0.0), (2, 0.0)], None),  # never solved before
        ([(0, 1.0), (2, 1.0), (4, 1.0)], None),
        ([(2, 0.0)], None),  # nothing before it
        ([(0, 1.0), (1, 0.0), (2, 1.0), (3, 0.0)], 1),  # the first of two only
        ([(0, 0.0), (1, 1.0), (5, 0.0)], 5),  # intervals need not be equal
        ([(0, 1.0), (2, None), (4, 0.0)], 4),  # a state without an outcome is none
    ],
)
def test_first_recovery_state(verdicts: list[tuple[int, float | None]], step: int | None) -> None:
    assert [row["step"] for row in ask(line(*verdicts), "first_recovery_state")] == ([] if step is None else [step])


@pytest.mark.parametrize("ended", ["error", "drift"])
def test_an_errored_rollout_is_no_failure(ended: str) -> None:
    world = line((0, 1.0)).plus(policy("broken", "b", parent="e", at=2, ended=ended))
    assert ask(world, "first_recovery_state") == []
    [point] = [row for row in ask(world, "branch_points") if row["step"] == 2]
    assert (point["n_rollouts"], point["n_no_outcome"], point["solved"]) == (0, 1, None)


def test_rollouts_of_other_iterations_do_not_say_where_to_recover() -> None:
    world = line((0, 1.0), (2, 1.0)).plus(policy("old", "b", parent="e", at=2, iteration=0))
    assert ask(world, "first_recovery_state") == []
    later = world.plus(policy("s0", "b", iteration=2, reward=1.0), policy("s3", "b", parent="e", at=3, iteration=2))
    assert [row["step"] for row in ask(later, "first_recovery_state")] == [3]
    assert ask(later, "first_recovery_state", iteration=1) == []


def test_the_current_iteration_is_the_last_with_an_outcome_in_train() -> None:
    world = World(
        (
            expert("e", "a", iteration=9),
            policy("p", "a", iteration=2),
            policy("broken", "a", iteration=5, ended="error"),
            policy("held out", "a", iteration=7, task="u", split="test"),
            Traj("s", "scorer", "a", reward=1.0, iteration=8),
        )
    )
    assert ask(world, "current_iteration") == [{"iteration": 2}]
    assert ask(world, "current_iteration", iteration=4) == [{"iteration": 4}]
    assert ask(World((expert("e", "a"),)), "current_iteration") == [{"iteration": None}]


def test_solved_rate() -> None:
    world = line((0, 1.0), (2, 0.0)).plus(
        policy("q", "b", parent="e", at=2, reward=1.0), policy("r", "b", parent="e", at=2)
    )
    assert ask(world, "first_recovery_state", solved_rate=1 / 3) == []
    assert [row["step"] for row in ask(world, "first_recovery_state")] == [2]


def test_a_recovery_state_that_experts_share_is_one() -> None:
    assert ask(SHARED_STATE, "first_recovery_state") == [
        {"expert_id": "e", "task_id": "t", "step": 3, "previous_step": 0, "owner_id": "f"},
        {"expert_id": "d", "task_id": "t", "step": 3, "previous_step": 0, "owner_id": "d"},
    ]
    assert {(r["expert_id"], r["first_expert_id"]) for r in ask(SHARED_STATE, "expert_recovery_states")} == {
        ("d", "d"), ("e", "e"), ("f", "e"),
    }  # fmt: skip
    recovered = [row for row in ask(SHARED_STATE, "eef") if row["kind"] == "recovery"]
    assert [(row["expert_id"], row["trajectory_id"], row["from_step"]) for row in recovered] == [("e", "solves too", 3)]


# --- a task's split and environment ---


def said(*worlds: tuple[str | None, str | None]) -> tuple[Row, ...]:
    """Rows of the table tasks, as several files have them: (env, split) of the task t."""
    return tuple({"task_id": "t", "env": env, "split": split, "meta": None} for env, split in worlds)


@pytest.mark.parametrize(
    ("splits", "tasks", "split"),
    [
        ((None,), (None,), "train"),
        ((None,), ("test",), "test"),  # tasks decides where trajectories do not say
        ((None,), (None, "test"), "test"),
        ((None,), (None, "train"), "train"),
        (("train", None), (None,), "train"),
        (("test", None), (), "test"),  # one trajectory speaks for the others
        (("test", None), ("test",), "test"),
        (("train", "test"), (), None),
        (("train",), ("test",), None),
        ((None,), ("train", "test"), None),  # tasks alone, in two files
        ((None,), ("train", None, "dev"), None),
    ],
)
@pytest.mark.parametrize("layout", [0, 3])
def test_a_task_has_one_split(
    splits: tuple[str | None, ...], tasks: tuple[str | None, ...], split: str | None, layout: int
) -> None:
    trajs = tuple(expert(f"e{n}", "aa", split=one, reward=1.0) for n, one in enumerate(splits))
    world = World(trajs, said(*((None, one) for one in tasks)))
    ask(world, "outcomes")
    found = relations(world, ["outcomes", "initial", "sft_all", "general_reasons"], layout=layout)
    assert {row["split"] for row in found["outcomes"]} == {split}
    assert {name: len(found[name]) for name in ("initial", "sft_all")} == {
        "initial": split == "train", "sft_all": len(splits) * (split == "train"),
    }  # fmt: skip
    if split is None:
        assert {row["reason"] for row in found["general_reasons"]} == {"its task has two splits"}


def test_a_task_has_one_env_and_trajectories_take_it_from_each_other() -> None:
    one = World((expert("e", "a", env="shop", reward=1.0), policy("p", "b")), said((None, None), ("shop", "train")))
    assert {row["env"] for row in ask(one, "outcomes")} == {"shop"}
    assert len(ask(one, "eto")) == 1
    two = World((expert("e", "a", env="shop", reward=1.0), policy("p", "b", env="barn")))
    assert {(row["split"], row["task_problem"]) for row in ask(two, "outcomes")} == {(None, "its task has two envs")}
    names = [*METHODS, *PAIR_METHODS, "step_rewards", "initial", "every_step", "skip_length"]
    assert relations(two, names) == {name: [] for name in names}
    by_tasks = World((expert("e", "a", env="shop", reward=1.0),), said(("barn", None)))
    assert ask(by_tasks, "sft_pos") == []


def test_an_expert_that_solved_itself_recovers_too() -> None:
    """Where the policy fails behind a solved expert's action, the expert itself is a solution of that state."""
    world = World((expert("e", "aaaa", reward=1.0), policy("p0", "b", reward=1.0), policy("p2", "b", parent="e", at=2)))
    assert ask(world, "eef") == [
        {"kind": "initial", "task_id": "t", "trajectory_id": "p0", "expert_id": None, "from_step": 0},
        {"kind": "recovery", "task_id": "t", "trajectory_id": "e", "expert_id": "e", "from_step": 2},
    ]


def test_both_examples_are_kept_when_both_choose_the_same_trajectory() -> None:
    """The expert took over behind s_1, so a rollout from there holds none of its actions and also solves s_0 best."""
    world = World(
        (
            policy("p", "aaa"),
            expert("e", "b", parent="p", at=2),
            policy("p0", "bbb", reward=1.0),
            policy("p1", "b", parent="e", at=1),
            policy("q", "", parent="e", at=2, reward=1.0),
        )
    )
    assert ask(world, "eef") == [
        {"kind": "initial", "task_id": "t", "trajectory_id": "q", "expert_id": None, "from_step": 0},
        {"kind": "recovery", "task_id": "t", "trajectory_id": "q", "expert_id": "e", "from_step": 1},
    ]


def test_a_first_rollout_that_took_no_action_is_an_outcome_but_no_solution() -> None:
    world = World(
        (expert("e", "aa"), policy("p", "", parent="e", at=1, reward=1.0), policy("q", "b", parent="e", at=2))
    )
    assert [(row["kind"], row["trajectory_id"]) for row in ask(world, "eef")] == [("initial", "p")]
    assert [row["step"] for row in ask(world, "first_recovery_state")] == [2]


def test_a_trajectory_that_ends_in_a_state_is_no_solution_of_it() -> None:
    """The solved expert's last state needs recovery, but the expert took no action from there on."""
    world = World((expert("e", "aa", reward=1.0), policy("p", "bbb", reward=1.0), policy("q", "b", parent="e", at=2)))
    assert [row["step"] for row in ask(world, "first_recovery_state")] == [2]
    assert [row["kind"] for row in ask(world, "eef")] == ["initial"]


# --- solutions: ties of every kind ---

STATE = (
    expert("e", "aaaa"),
    policy(
        "p0", "b", iteration=3, reward=0.5
    ),  # counts as solved at 0.5, so that s_2 is where the policy starts failing
    policy("fails", "b", parent="e", at=2, iteration=3),
)


def solves(id: str, actions: str = "b", at: int = 2, **given: Any) -> Traj:
    """A solution of the expert's state s_2."""
    return policy(id, actions, parent="e", at=at, **{"reward": 1.0, **given})


@pytest.mark.parametrize(
    ("solutions", "chosen"),
    [
        ((solves("far", at=3), solves("near", "bbb")), "near"),
        ((solves("long", "bb"), solves("short", "b")), "short"),
        ((solves("aa"), solves("zz", iteration=2)), "zz"),
        ((solves("b"), solves("B", reward=9.0)), "B"),
        ((solves("\U0001d54f"), solves("\uff5e")), "\uff5e"),
        ((solves("é"), solves("z")), "z"),
        ((solves("9"), solves("10")), "10"),
    ],
)
def test_ties(solutions: tuple[Traj, ...], chosen: str) -> None:
    """Fewest expert actions, then fewest actions, then the latest iteration, then the smallest id by code point."""
    world = World((*STATE, *solutions))
    rows = [row for row in ask(world, "eef", iteration=3, success_reward=0.5) if row["kind"] == "recovery"]
    assert [row["trajectory_id"] for row in rows] == [chosen]


def test_a_better_reward_is_no_better_solution() -> None:
    world = World((policy("a", "a", reward=1.0), policy("b", "a", reward=5.0)))
    assert [row["trajectory_id"] for row in ask(world, "eef")] == ["a"]


def test_success_counts_before_reward() -> None:
    world = World((policy("a", "a", reward=1.0, success=False), policy("b", "ab", reward=-1.0, success=True)))
    assert [row["trajectory_id"] for row in ask(world, "eef")] == ["b"]


def test_a_trajectory_without_actions_solves_nothing() -> None:
    world = World((policy("a", "", reward=1.0), expert("e", "", reward=1.0), policy("b", "")))
    names = [*METHODS, *PAIR_METHODS, "step_rewards"]
    assert relations(world, names) == {name: [] for name in names}


# --- the other methods ---


def test_rft_keeps_one_of_every_action_sequence() -> None:
    world = World(
        (
            expert("e", "ab", reward=1.0),
            expert("e2", "ab", reward=1.0),
            expert("failed", "bb"),
            policy("copies the expert", "ab", reward=1.0),
            policy("does as the failed expert", "bb", reward=1.0),
            policy("old", "ba", reward=1.0, iteration=1),
            policy("new", "ba", reward=1.0, iteration=2),
            policy("also new", "ba", reward=1.0, iteration=2),
            policy("branch", "b", reward=1.0, parent="e", at=1),
            policy("reasons", "r", reward=1.0),
            policy("does not", "a", reward=1.0),
            policy("elsewhere", "ab", reward=1.0, task="u"),
        )
    )
    assert {row["trajectory_id"] for row in ask(world, "rft")} == {
        "e", "e2", "does as the failed expert", "also new", "reasons", "does not", "elsewhere",
    }  # fmt: skip


def test_rft_per_task_caps_the_policys_only() -> None:
    world = World(
        (
            expert("e", "ab", reward=1.0),
            policy("long", "bbb", reward=1.0),
            policy("short", "b", reward=1.0),
            policy("rewarded", "bbbb", reward=2.0),
        )
    )
    assert {row["trajectory_id"] for row in ask(world, "rft", per_task=1)} == {"e", "rewarded"}
    assert {row["trajectory_id"] for row in ask(world, "rft", per_task=2)} == {"e", "rewarded", "short"}


def test_rft_knows_what_a_branched_expert_did_from_the_start() -> None:
    """f's whole path is a b; p did the same from s_0, q did only what f did itself."""
    world = World(
        (
            expert("e", "aa"),
            expert("f", "b", parent="e", at=1, reward=1.0),
            policy("p", "ab", reward=1.0),
            policy("q", "b", reward=1.0),
        )
    )
    assert {row["trajectory_id"] for row in ask(world, "rft")} == {"f", "q"}


def test_best_of_n_takes_a_failure_where_there_is_no_better() -> None:
    broken = policy("broken", "a", reward=1.0, ended="error")
    world = World((expert("e", "a", reward=-1.0), policy("p", "aaa", reward=-0.5), broken))
    assert [row["trajectory_id"] for row in ask(world, "best_of_n")] == ["p"]


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ((expert("e", "a", reward=1.0), policy("p", "aaa", reward=1.0)), "p"),
        ((policy("p", "aaa", reward=1.0), policy("q", "aa", reward=1.0)), "q"),
        ((policy("p", "a", reward=1.0), policy("q", "a", reward=1.0, iteration=2)), "q"),
        ((policy("p", "a", reward=1.0), policy("P", "a", reward=1.0)), "P"),
        ((policy("p", "a", reward=None, success=True), policy("q", "a", reward=0.9)), "p"),
    ],
)
def test_best_of_n_ties(candidates: tuple[Traj, ...], chosen: str) -> None:
    assert [row["trajectory_id"] for row in ask(World(candidates), "best_of_n")] == [chosen]


def test_sft_all_keeps_the_failed_and_drops_the_broken() -> None:
    experts = {"good": {"reward": 1.0}, "bad": {}, "unknown": {"reward": None}, "broken": {"ended": "error"}}
    world = World(tuple(expert(id, "a", **given) for id, given in experts.items()))
    assert {row["trajectory_id"] for row in ask(world, "sft_all")} == {"good", "bad", "unknown"}
    assert {row["trajectory_id"] for row in ask(world, "sft_pos")} == {"good"}


# --- the worlds and the oracle themselves ---


def recovers(oracle: Oracle) -> bool:
    return any(row["kind"] == "recovery" for row in oracle.eef())


def recovers_by_the_expert_itself(oracle: Oracle) -> bool:
    return any(row["kind"] == "recovery" and row["trajectory_id"] == row["expert_id"] for row in oracle.eef())


def ties_but_for_the_id(oracle: Oracle) -> bool:
    keys = [{**row, "trajectory_id": None} for row in oracle.solutions()]
    return len(set(map(str, keys))) < len(keys)


def branches_inside_a_prefix(oracle: Oracle) -> bool:
    branches = [row for row in oracle.t.values() if row["parent_id"] is not None]
    return any(0 < row["branch_step"] < oracle.t[row["parent_id"]]["branch_step"] for row in branches)


def has_a_path_with_three_owners(oracle: Oracle) -> bool:
    return any(len({owner for owner, _ in oracle.path(id)}) >= 3 for id in oracle.t)


def repeats_an_action_sequence(oracle: Oracle) -> bool:
    solved = [id for id in oracle.trained("expert", "policy") if oracle.solved(id) and not oracle.t[id]["branch_step"]]
    return len({(oracle.task(id), oracle.action_sequence(id)) for id in solved}) < len(solved)


def step_rewards(oracle: Oracle) -> dict[tuple[str, int], Row]:
    return {(row["trajectory_id"], row["step"]): row for row in oracle.step_rewards()}


def contrasts_means(oracle: Oracle) -> bool:
    """A step pair of IPR where the rejected action's reward is a mean over at least two rollouts."""
    rewards = step_rewards(oracle)
    pairs = [row for row in oracle.ipr() if row["level"] == "step"]
    return any(rewards[row["rejected_id"], row["from_step"]]["n_rollouts"] >= 2 for row in pairs)


def scores_an_inherited_expert_action(oracle: Oracle) -> bool:
    """A step pair of IPR of an expert that branched behind that step."""
    return any(
        row["level"] == "step" and row["from_step"] < oracle.t[row["chosen_id"]]["branch_step"] for row in oracle.ipr()
    )


def scores_a_branch_of_a_branch(oracle: Oracle) -> bool:
    scored = [
        id for (id, _), row in step_rewards(oracle).items() if row["n_rollouts"] and oracle.t[id]["role"] == "policy"
    ]
    return any(oracle.t[id]["branch_step"] and oracle.t[oracle.t[id]["parent_id"]]["branch_step"] for id in scored)


def sums_floats_whose_order_matters(oracle: Oracle) -> bool:
    return any(reduce(add, values) != reduce(add, values[::-1]) for values in scored_values(oracle))


def scored_values(oracle: Oracle) -> list[list[float]]:
    """The values that each step reward is the mean of, sorted; without those that are no mean."""
    found = [[oracle.value(s) for s in oracle.scorer_rollouts(*action)] for action in step_rewards(oracle)]
    return [sorted(value for value in values if value is not None) for values in found if values]


def tau_decides(oracle: Oracle) -> bool:
    return len(oracle.ipr()) < len(Oracle.ipr(replaced(oracle, tau=-math.inf)))


def the_scorers_name_decides(oracle: Oracle) -> bool:
    return oracle.step_rewards() != replaced(oracle, scorer="sft").step_rewards()


def n_decides(oracle: Oracle) -> bool:
    return oracle.step_rewards() != replaced(oracle, n=1).step_rewards()


def has_a_trajectory_pair_where_the_expert_lost(oracle: Oracle) -> bool:
    return any(oracle.t[row["rejected_id"]]["role"] == "expert" for row in oracle.eto())


def has_a_step_pair_where_the_expert_lost(oracle: Oracle) -> bool:
    return any(oracle.t[row["rejected_id"]]["role"] == "expert" for row in oracle.eto_step())


def repeats_the_experts_action(oracle: Oracle) -> bool:
    values = [{oracle.value(row["expert_id"]), oracle.value(row["rollout_id"])} for row in oracle.repeated_actions()]
    return any(len(both) == 2 and None not in both for both in values)


def plays_against_itself(oracle: Oracle) -> bool:
    return len(oracle.self_play()) >= 2


def has_an_eef_pair_of_the_expert(oracle: Oracle) -> bool:
    return any(oracle.t[row["chosen_id"]]["role"] == "expert" for row in oracle.eef_pairs())


def has_an_eef_pair_of_a_rollout_from_further_on(oracle: Oracle) -> bool:
    return any(oracle.t[row["chosen_id"]]["branch_step"] > row["from_step"] for row in oracle.eef_pairs())


def experts_share_an_eef_pair(oracle: Oracle) -> bool:
    """Two experts of one beginning, both states of the pair in it."""
    return any(
        sum(oracle.share_state(e, row["chosen_id"], row["from_step"] + 1) for e in oracle.expert_ids()) > 1
        for row in oracle.eef_pairs()
    )


def replaced(oracle: Oracle, **params: Any) -> Oracle:
    """The same world under other parameters."""
    return Oracle(oracle.world, {**oracle.p, **params})


@pytest.mark.parametrize(
    "happening",
    [
        recovers,
        recovers_by_the_expert_itself,
        ties_but_for_the_id,
        branches_inside_a_prefix,
        has_a_path_with_three_owners,
        repeats_an_action_sequence,
        contrasts_means,
        pytest.param(scores_an_inherited_expert_action, marks=pytest.mark.slow),
        scores_a_branch_of_a_branch,
        sums_floats_whose_order_matters,
        tau_decides,
        the_scorers_name_decides,
        n_decides,
        has_a_trajectory_pair_where_the_expert_lost,
        has_a_step_pair_where_the_expert_lost,
        repeats_the_experts_action,
        plays_against_itself,
        has_an_eef_pair_of_the_expert,
        has_an_eef_pair_of_a_rollout_from_further_on,
        pytest.param(experts_share_an_eef_pair, marks=pytest.mark.slow),
    ],
)
def test_some_drawn_world(happening: Callable[[Oracle], bool]) -> None:
    """A property says nothing about what is never drawn."""
    generate = settings(max_examples=3000, phases=[Phase.generate], derandomize=True, database=None)
    find(worlds(), lambda world: happening(Oracle(world)), settings=generate)
