"""The preference methods in small worlds: what the published scripts get wrong, and what `select` writes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_runs
from hypothesis import given, target
from hypothesis import strategies as st
from invariants_helpers import TEXT, selected
from oracle import PAIR_METHODS, RELATIONS, Oracle, mark
from rules_helpers import ask, relations
from worlds import (
    CANNED,
    EXAMPLE,
    SYSTEM,
    TOOLS,
    TWO_PART,
    Row,
    Traj,
    World,
    expert,
    layouts,
    params,
    policy,
    worlds,
    write,
)

from trajkit.errors import BadData, UsageError
from trajkit.selection.select import select


def scorer(id: str, parent: str, at: int, reward: float | None, **given: Any) -> Traj:
    """A scorer's rollout from this state."""
    return Traj(id, "scorer", "b", parent=parent, at=at, reward=reward, **given)


def pairs(world: World, method: str, **params: Any) -> list[tuple[str, str, int, int | None]]:
    """(chosen, rejected, from_step, end_step) of every pair, the same by the oracle and by the engine."""
    rows = ask(world, method, **params)
    found = [(r["chosen_id"], r["rejected_id"], r["from_step"], r["end_step"]) for r in rows]
    return sorted(found, key=lambda pair: (*pair[:3], pair[3] or 0))


# --- what is compared ---

WON = expert("e", "aaa", reward=1.0)
FROM_START = ("eto", "self_play", "eto_mixture", "ipr")


def test_a_pair_says_what_it_compares() -> None:
    world = World((WON, policy("p", "b", reward=0.5)))
    assert ask(world, "eto") == [
        {
            "level": "trajectory", "task_id": "t", "from_step": 0, "end_step": None,
            "chosen_id": "e", "rejected_id": "p", "chosen_reward": 1.0, "rejected_reward": 0.5,
        }
    ]  # fmt: skip


def test_equal_rewards_give_no_pair() -> None:
    """Also where one says it by its reward and the other by its success."""
    ties = (
        policy("p", "b", reward=1.0),
        policy("q", "b", reward=1.0, success=False),
        policy("r", "b", reward=None, success=True),
        policy("s", "b", reward=1.0, parent="e", at=1),
    )
    for method in (*FROM_START, "eto_step"):
        assert pairs(World((WON, *ties)), method) == [], method
    assert pairs(World((WON, *ties, policy("x", "b", reward=1 - 2**-53))), "eto") == [("e", "x", 0, None)]


def test_a_null_reward_is_no_zero() -> None:
    unknown = (policy("p", "b", reward=None), policy("q", "b", reward=None, parent="e", at=1))
    for method in (*FROM_START, "eto_step", "eef_pairs"):
        assert pairs(World((WON, *unknown)), method) == [], method
    no_reward = World((expert("e", "aaa", reward=None), policy("p", "b", reward=1.0), policy("q", "bb")))
    assert pairs(no_reward, "eto") == []
    assert pairs(no_reward, "self_play") == [("p", "q", 0, None)]


def test_a_success_without_a_reward_is_worth_1() -> None:
    world = World((expert("e", "a", reward=None, success=True), policy("p", "b", reward=None, success=False)))
    [row] = ask(world, "eto")
    assert (row["chosen_reward"], row["rejected_reward"]) == (1.0, 0.0)


@pytest.mark.parametrize("ended", ["error", "drift"])
def test_what_broke_is_no_negative(ended: str) -> None:
    """A dead server's 0 reward is no failure; and no success either, whatever is written beside it."""
    broken = (
        policy("p", "b", ended=ended),
        policy("q", "b", ended=ended, parent="e", at=1),
        policy("r", "b", ended=ended, reward=9.0, success=True),
        expert("f", "aa", ended=ended, reward=9.0),
    )
    assert pairs(World((WON, *broken)), "eto_mixture") == []
    world = World((WON, *broken, policy("x", "b"), policy("y", "b", parent="e", at=1)))
    for method, only in {
        "eto": [("e", "x", 0, None)],
        "self_play": [],
        "eto_step": [("e", "x", 0, 1), ("e", "y", 1, 2)],
        "ipr": [("e", "x", 0, None)],
        "eef_pairs": [],
    }.items():
        assert pairs(world, method) == only, method


def test_held_out_and_scorers_are_in_no_pair() -> None:
    held_out = (policy("p", "b", task="w", split="test"), expert("x", "aa", task="w", reward=1.0))
    others = (*held_out, scorer("s", "e", 0, 0.0), scorer("s1", "e", 1, 0.0))
    for method in (*FROM_START, "eto_step", "eef_pairs"):
        assert pairs(World((WON, *others)), method) == [], method


def test_two_rollouts_of_one_task_give_two_pairs() -> None:
    """The last file does not win, and neither the best nor the worst rollout."""
    world = World((WON, policy("p", "b"), policy("q", "b"), policy("r", "bb", reward=0.5)))
    assert pairs(world, "eto") == [("e", "p", 0, None), ("e", "q", 0, None), ("e", "r", 0, None)]
    assert pairs(world, "self_play") == [("r", "p", 0, None), ("r", "q", 0, None)]


SAME_WORDS = World(
    (
        expert("e", "aT", reward=1.0),
        policy("same", "aT"),
        policy("other", "ab"),
        policy("thinks", "rT"),
        policy("same and lucky", "ab", reward=0.5),
        policy("branch", "T", parent="e", at=1),
    )
)


def test_two_sides_of_the_same_words_are_no_pair() -> None:
    """A random environment, or a server's new ids of the calls: nothing in the words could be preferred."""
    assert pairs(SAME_WORDS, "eto") == [("e", id, 0, None) for id in ("other", "same and lucky", "thinks")]
    assert pairs(SAME_WORDS, "self_play") == [("same and lucky", id, 0, None) for id in ("same", "thinks")]
    assert ("e", "branch", 1, 2) not in pairs(SAME_WORDS, "eto_step")
    why = relations(SAME_WORDS, ["why_eto", "why_self_play"])
    [told] = [row["reason"] for row in why["why_eto"] if row["trajectory_id"] == "same"]
    assert told == "its actions are the expert's, only the reward is another: 0"
    reasons = [row["reason"] for row in why["why_self_play"] if row["trajectory_id"] == "other"]
    [told] = [reason for reason in reasons if "only" in reason]
    assert told == "the same actions as same and lucky, only the reward is another: 0 < 0.5"


def test_ipr_pairs_no_two_sides_that_begin_with_one_action() -> None:
    """The scorer's few rollouts may say two things of one action; to prefer it to itself is noise."""
    world = World(
        (
            WON,
            policy("repeats", "ab", parent="e", at=1),
            policy("differs", "bb", parent="e", at=1),
            scorer("s", "e", 2, 1.0),
            scorer("s1", "repeats", 2, 0.0),
            scorer("s2", "differs", 2, 0.0),
        )
    )
    assert pairs(world, "ipr") == [("e", "differs", 1, None)]
    why = relations(world, ["why_ipr"])["why_ipr"]
    assert [row["reason"] for row in why if row["trajectory_id"] == "repeats" and row["kind"] == "step"] == [
        "its action from s_1 is the expert's"
    ]


def test_an_expert_that_lost_is_rejected() -> None:
    world = World(
        (
            expert("e", "aaa", reward=0.2),
            policy("p", "b", reward=0.7),
            policy("q", "b", reward=0.7, parent="e", at=2),
        )
    )
    assert pairs(world, "eto") == [("p", "e", 0, None)]
    assert pairs(world, "eto_step") == [("p", "e", 0, 1), ("q", "e", 2, 3)]
    scored = world.plus(scorer("s", "e", 1, 1.0))
    assert pairs(scored, "ipr") == [("p", "e", 0, None)], "a step pair never rejects the expert"


@pytest.mark.parametrize(
    ("experts", "best"),
    [
        ((expert("f", "aaaa", reward=2.0), expert("g", "a", reward=1.0)), "f"),
        ((expert("f", "aa", reward=1.0), expert("g", "a", reward=1.0)), "g"),
        ((expert("f", "aa", reward=1.0, iteration=1), expert("g", "a", reward=1.0)), "g"),
        ((expert("f", "a", reward=1.0), expert("g", "a", reward=1.0, iteration=1)), "g"),
        ((expert("f", "a", reward=1.0), expert("F", "a", reward=1.0)), "F"),
        ((expert("f", "", reward=9.0), expert("g", "a", reward=None)), None),
    ],
)
def test_the_best_expert_of_a_task(experts: tuple[Traj, ...], best: str | None) -> None:
    """Highest value, then fewest actions, latest iteration, smallest id; the others are compared with nothing."""
    world = World((*experts, policy("p", "b", reward=-1.0)))
    assert pairs(world, "eto") == ([] if best is None else [(best, "p", 0, None)])
    assert [row["expert_id"] for row in ask(world, "best_expert")] == ([] if best is None else [best])


def test_only_the_current_iteration_is_compared() -> None:
    world = World((WON, policy("old", "b"), policy("new", "b", iteration=2), policy("step", "b", parent="e", at=1)))
    assert pairs(world, "eto_mixture") == [("e", "new", 0, None), ("e", "new", 0, 1)]
    assert pairs(world, "eto_mixture", iteration=1) == [
        ("e", "old", 0, None),
        ("e", "old", 0, 1),
        ("e", "step", 1, 2),
    ]


def test_tasks_do_not_mix() -> None:
    world = World((WON, policy("p", "b", task="u"), policy("q", "b", task="v", reward=1.0)))
    for method in (*FROM_START, "eto_step", "eef_pairs"):
        assert pairs(world, method) == [], method


# --- pairs of steps ---


def test_the_same_action_is_no_pair_of_steps() -> None:
    """However they go on. The ids of tool calls, drawn anew each time, are no difference; a reasoning is."""
    world = World(
        (
            expert("e", "aTa", reward=1.0),
            policy("same", "ab"),
            policy("same call", "T", parent="e", at=1),
            policy("other call", "U", parent="e", at=1),
            policy("reasons", "r", parent="e", at=2),
        )
    )
    assert pairs(world, "eto_step") == [("e", "other call", 1, 2), ("e", "reasons", 2, 3)]
    repeated = {(row["rollout_id"], row["step"]) for row in ask(world, "repeated_actions")}
    assert repeated == {("same", 0), ("same call", 1)}


def test_a_rollout_from_the_experts_last_state_has_nothing_to_compare() -> None:
    world = World((WON, policy("p", "b", parent="e", at=3), policy("q", "", parent="e", at=1)))
    assert pairs(world, "eto_step") == []


def test_an_expert_that_branched_from_another_is_compared_at_the_states_it_inherited() -> None:
    """p starts from s_1 of e, which is s_1 of f too; q from one that f alone has."""
    world = World(
        (
            expert("e", "aaa"),
            expert("f", "ab", parent="e", at=2, reward=1.0),
            policy("p", "b", parent="e", at=1, reward=0.5),
            policy("q", "b", parent="f", at=2, reward=0.5),
        )
    )
    assert pairs(world, "eto_step") == [("f", "p", 1, 2), ("f", "q", 2, 3), ("p", "e", 1, 2), ("q", "e", 2, 3)]
    scored = world.plus(scorer("s", "e", 2, 1.0))
    assert pairs(scored, "ipr") == [("f", "p", 1, None)], "a_1 is e's, and what scores it scores f's step too"


def test_at_the_state_where_an_expert_branched_its_own_action_counts() -> None:
    """e's a_2 is worth more than f's, which is the one that f's pairs compare."""
    world = World(
        (
            expert("e", "aaaa"),
            expert("f", "bb", parent="e", at=2, reward=1.0),
            policy("p", "ab", parent="f", at=2, reward=0.5),
            *(scorer("s", "e", 3, 1.0), scorer("z", "f", 3, 0.25), scorer("y", "p", 3, 0.25)),
        )
    )
    assert pairs(world, "ipr") == []
    assert pairs(world.plus(scorer("x", "f", 3, 1.0)), "ipr") == [("f", "p", 2, None)]


# --- step rewards ---


def rewards(world: World, **params: Any) -> dict[tuple[str, int], tuple[float, int]]:
    """Every scored action's reward and number of rollouts."""
    rows = ask(world, "step_rewards", **params)
    return {(r["trajectory_id"], r["step"]): (r["step_reward"], r["n_rollouts"]) for r in rows}


def test_the_last_action_has_the_outcome_reward() -> None:
    """And a scorer that went on from there does not change it."""
    world = World((expert("e", "aa", reward=0.3), scorer("s", "e", 2, 1.0), scorer("s1", "e", 1, 0.5)))
    assert rewards(world) == {("e", 1): (0.3, 0), ("e", 0): (0.5, 1)}


def test_a_trajectory_without_an_outcome_has_rewards_before_its_end_only() -> None:
    world = World((expert("e", "aa", reward=None), scorer("s", "e", 1, 0.5), policy("p", "b", reward=None)))
    assert rewards(world) == {("e", 0): (0.5, 1)}


@pytest.mark.parametrize("ended", ["error", "drift"])
def test_a_broken_scorer_rollout_is_not_counted(ended: str) -> None:
    world = World(
        (WON, scorer("s", "e", 1, 1.0), scorer("x", "e", 1, 0.0, ended=ended), scorer("y", "e", 2, 0.0, ended=ended))
    )
    assert rewards(world) == {("e", 0): (1.0, 1), ("e", 2): (1.0, 0)}
    assert rewards(World((policy("p", "bb", ended=ended), scorer("s", "p", 1, 1.0)))) == {}


def test_n_and_the_scorers_name_say_what_counts() -> None:
    values = {0: 1.0, 1: 0.0, 4: 0.5, 5: 0.25}
    rollouts = [scorer(f"s{k}", "e", 1, value, sample=k, actor="sft") for k, value in values.items()]
    world = World((WON, *rollouts, scorer("gpt", "e", 1, 0.0, actor="gpt-4"), scorer("none", "e", 1, 0.0, sample=None)))
    assert rewards(world)["e", 0] == (1.5 / 5, 5)
    assert rewards(world, scorer="sft")["e", 0] == (0.5, 3)
    assert rewards(world, scorer="sft", n=1)["e", 0] == (1.0, 1)
    assert rewards(world, scorer="sft", n=6)["e", 0] == (1.75 / 4, 4)
    assert rewards(world, scorer="nobody") == {("e", 2): (1.0, 0)}


def test_the_mean_does_not_depend_on_the_order() -> None:
    """0.3 + 0.2 + 0.1 is another number than 0.1 + 0.2 + 0.3, which is the one that is taken."""
    for order in ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), (0.2, 0.3, 0.1)):
        rollouts = [scorer(f"s{k}", "e", 1, value) for k, value in enumerate(order)]
        assert rewards(World((WON, *rollouts)))["e", 0] == ((0.1 + 0.2 + 0.3) / 3, 3)


def test_a_policys_action_is_scored_through_a_branch_of_a_branch() -> None:
    """s names p as its parent, z names q, which inherited p's action: both score p's a_1, and neither e's."""
    world = World(
        (
            WON,
            policy("p", "bab", parent="e", at=1),
            policy("q", "a", parent="p", at=3),
            scorer("s", "p", 2, 1.0),
            scorer("z", "q", 2, 0.0),
            scorer("of e", "e", 2, 0.25),
        )
    )
    assert rewards(world) == {
        ("e", 1): (0.25, 1), ("e", 2): (1.0, 0), ("p", 1): (0.5, 2), ("p", 3): (0.0, 0), ("q", 3): (0.0, 0),
    }  # fmt: skip


def test_a_scorer_from_further_on_scores_no_earlier_action() -> None:
    world = World((WON, scorer("s0", "e", 0, 1.0), scorer("s2", "e", 2, 0.5)))
    assert rewards(world) == {("e", 1): (0.5, 1), ("e", 2): (1.0, 0)}


# --- IPR ---


def contrasted(of_expert: float, of_policy: float, reward: float = 0.0) -> World:
    """The expert's and the policy's own action at step 1, with these step rewards; the policy ends with `reward`."""
    return World(
        (
            WON,
            policy("p", "bb", parent="e", at=1, reward=reward),
            scorer("s", "e", 2, of_expert),
            scorer("z", "p", 2, of_policy),
        )
    )


@pytest.mark.parametrize(
    ("of_expert", "of_policy", "tau", "found"),
    [
        (0.75, 0.25, 0.5, False),  # exactly tau
        (0.75, 0.25, 0.49, True),
        (0.5, 0.5, 0.0, False),
        (0.5 + 2**-53, 0.5, 0.0, True),
        (0.25, 0.75, 0.0, False),
        (-1.0, -2.0, 0.5, True),
    ],
)
def test_tau_must_be_exceeded(of_expert: float, of_policy: float, tau: float, found: bool) -> None:
    assert pairs(contrasted(of_expert, of_policy), "ipr", tau=tau) == ([("e", "p", 1, None)] if found else [])


def test_a_rollout_that_ended_as_well_is_no_mistake() -> None:
    """The paper asks for both: a lower step reward and a lower outcome."""
    assert pairs(contrasted(1.0, 0.0, reward=0.5), "ipr") == [("e", "p", 1, None)]
    for reward in (1.0, 1.5):
        assert pairs(contrasted(1.0, 0.0, reward=reward), "ipr") == []


def test_what_nobody_scored_is_no_step_pair() -> None:
    world = contrasted(1.0, 0.0)
    assert pairs(world.without("s"), "ipr") == []
    assert pairs(world.without("z"), "ipr") == []
    assert pairs(world, "ipr", scorer="sft") == []


def test_a_last_action_is_compared_by_its_outcome() -> None:
    """The rollout ended with its first own action, the expert with the one it is compared with."""
    world = World((WON, policy("p", "b", parent="e", at=2)))
    assert pairs(world, "ipr") == [("e", "p", 2, None)]


def test_ipr_holds_both_levels_at_once() -> None:
    world = World((WON, policy("p", "bb"), scorer("s", "e", 1, 1.0), scorer("z", "p", 1, 0.0)))
    assert [
        (r["level"], r["chosen_id"], r["rejected_id"], r["from_step"], r["end_step"]) for r in ask(world, "ipr")
    ] == [
        ("trajectory", "e", "p", 0, None),
        ("step", "e", "p", 0, None),
    ]


# --- EEF's pairs ---


def test_eef_pairs_hold_the_segment_that_turned_failure_into_success() -> None:
    """The policy fails from s_0 and s_2 and solves it from s_1 and s_3: both times the expert's action made it."""
    world = World(
        (
            expert("e", "aaaa"),
            policy("p0", "b"),
            policy("q0", "bb"),
            policy("p1", "bb", parent="e", at=1, reward=1.0),
            policy("p2", "b", parent="e", at=2),
            policy("p3", "b", parent="e", at=3, reward=1.0),
        )
    )
    assert pairs(world, "eef_pairs") == [("p1", "p0", 0, None), ("p1", "q0", 0, None), ("p3", "p2", 2, None)]
    assert {row["level"] for row in ask(world, "eef_pairs")} == {"step"}


def test_eef_pairs_reject_only_what_failed_and_acted() -> None:
    """s_0 counts as failed at a third solved; what was solved there, took no action, or broke is rejected by nobody."""
    world = World(
        (
            expert("e", "aa"),
            policy("solved", "b", reward=1.0),
            policy("failed", "b"),
            policy("idle", ""),
            policy("broken", "b", ended="error"),
            policy("old", "b", iteration=0),
            policy("p", "b", parent="e", at=1, reward=1.0),
        )
    )
    assert pairs(world, "eef_pairs") == [("p", "failed", 0, None)]


def test_experts_that_share_the_segment_give_one_pair() -> None:
    world = World(
        (
            expert("e", "aaa"),
            expert("f", "b", parent="e", at=2),
            policy("p0", "b"),
            policy("p1", "b", parent="e", at=1, reward=1.0),
        )
    )
    assert len(selected(world, "eef_pairs")[0]) == 1
    assert pairs(world, "eef_pairs") == [("p1", "p0", 0, None)]


# --- NAT ---


def test_nat_takes_every_verdict_and_says_which() -> None:
    experts: dict[str, Row] = {
        "good": {"reward": 1.0},
        "bad": {},
        "none": {"reward": None},
        "broken": {"ended": "error"},
    }
    world = World((*(expert(id, "a", **given) for id, given in experts.items()), policy("p", "a"), expert("idle", "")))
    said = {"right_prompt": "Do it.", "wrong_prompt": "Fail."}
    assert [(row["trajectory_id"], row["kind"], row["suffix"]) for row in ask(world, "nat", **said)] == [
        ("good", "positive", "Do it."),
        ("bad", "negative", "Fail."),
    ]


# --- what select writes ---

PAIR = {
    **dict.fromkeys(("pair_id", "task_id", "env", "method", "level"), pl.String),
    **{"from_step": pl.Int32, "end_step": pl.Int32, "chosen_id": pl.String, "rejected_id": pl.String},
    **{"chosen_reward": pl.Float64, "rejected_reward": pl.Float64},
    **dict.fromkeys(("n_chosen_steps", "n_rejected_steps", "iteration"), pl.Int32),
    "tools": pl.String,
}
VALUES = {
    **dict.fromkeys(("example_id", "task_id", "env", "method", "trajectory_id"), pl.String),
    **dict.fromkeys(("from_step", "n_steps", "n_values"), pl.Int32),
    **{"reward": pl.Float64, "iteration": pl.Int32, "tools": pl.String},
}
MESSAGE = {**dict.fromkeys(TEXT, pl.String), "weight": pl.Float32, "token_ids": pl.List(pl.Int32)}


def written(message: Row, weight: float, **more: Any) -> Row:
    """A message as select writes it."""
    return {**{key: message[key] for key in TEXT}, "weight": weight, "token_ids": None, **more}


def expected_pairs(oracle: Oracle, method: str) -> list[Row]:
    """The pairs in plain Python, without their ids: both conversations, split where they part."""
    found = []
    for row in RELATIONS[method](oracle):
        chosen, rejected = (oracle.t[row[f"{side}_id"]] for side in ("chosen", "rejected"))
        prompt, better = oracle.halves(row["chosen_id"], row["from_step"], row["end_step"])
        _, worse = oracle.halves(row["rejected_id"], row["from_step"], row["end_step"])
        if not any(map(mark, better)) or not any(map(mark, worse)):
            continue
        found.append(
            {
                **row,
                "method": method,
                "env": oracle.env(row["chosen_id"]),
                "tools": chosen["tools"],
                "n_chosen_steps": sum(mark(m) > 0 for m in better),
                "n_rejected_steps": sum(mark(m) > 0 for m in worse),
                "iteration": max(chosen["iteration"] or 0, rejected["iteration"] or 0),
                "prompt": [written(m, 0) for m in prompt],
                "chosen": [written(m, mark(m)) for m in better],
                "rejected": [written(m, mark(m)) for m in worse],
            }
        )
    return found


def expected_values(oracle: Oracle) -> list[Row]:
    """The rows of step_rewards in plain Python: a whole conversation for each trajectory with a value."""
    rewards: dict[str, dict[int, float]] = {}
    for row in oracle.step_rewards():
        rewards.setdefault(row["trajectory_id"], {})[row["step"]] = row["step_reward"]
    found = []
    for id, values in rewards.items():
        own, messages = oracle.t[id], []
        for m in oracle.conversation(id):
            value = values.get(m["step"]) if mark(m) else None
            messages.append(written(m, mark(m) if value is not None else 0.0, value=value))
        n_values = sum(m["value"] is not None for m in messages)
        if not n_values:
            continue
        found.append(
            {
                **{key: own[key] for key in ("trajectory_id", "task_id", "reward", "tools")},
                "env": oracle.env(id),
                "method": "step_rewards",
                "n_steps": oracle.n_actions(id),
                "n_values": n_values,
                "iteration": oracle.iteration(id),
                "messages": messages,
            }
        )
    return found


def differing(found: list[Row], wanted: list[Row], key: tuple[str, ...]) -> list[Any]:
    """What differs between rows as written and as expected, both put into order."""

    def order(row: Row) -> str:
        return repr([row[name] for name in key])

    have, want = sorted(found, key=order), sorted(wanted, key=order)
    if [order(row) for row in have] != [order(row) for row in want]:
        return [[order(row) for row in have], [order(row) for row in want]]
    return [
        {name: (got[name], right[name]) for name in right if got[name] != right[name]}
        for got, right in zip(have, want, strict=True)
        if any(got[name] != right[name] for name in right)
    ]


@given(worlds(), params, st.sampled_from((*PAIR_METHODS, "step_rewards")), layouts)
def test_select_writes_what_the_oracle_says(world: World, params: dict[str, Any], method: str, layout: int) -> None:
    """The bytes too are the same, whatever the files, their order and the threads."""
    found, footer, data = selected(world, method, params, layout)
    kind, oracle = "values" if method == "step_rewards" else "pairs", Oracle(world, params)
    if kind == "pairs":
        wanted, key = expected_pairs(oracle, method), ("level", "chosen_id", "rejected_id", "from_step")
    else:
        wanted, key = expected_values(oracle), ("trajectory_id",)
    assert differing(found, wanted, key) == []
    ids = [row["pair_id" if kind == "pairs" else "example_id"] for row in found]
    assert ids == sorted(ids) and len(set(ids)) == len(ids)
    assert (footer["trajkit.kind"], footer["trajkit.method"]) == (kind, method)
    assert data == selected(world, method, params, layout + 1, threads=2)[2]
    target(float(len(found)), label=kind)


@pytest.mark.parametrize(
    ("method", "kind", "columns", "lists", "of"),
    [
        ("eto_mixture", "pairs", PAIR, ("prompt", "chosen", "rejected"), MESSAGE),
        ("step_rewards", "values", VALUES, ("messages",), {**MESSAGE, "value": pl.Float64}),
        ("nat", "examples", None, ("messages",), MESSAGE),
    ],
)
def test_the_files_have_their_schema_also_when_empty(
    tmp_path: Path, method: str, kind: str, columns: Row | None, lists: tuple[str, ...], of: Row
) -> None:
    full = (WON, policy("p", "b"), policy("q", "b", parent="e", at=1))
    for world, n in ((World(full), 3), (World((expert("e", "a", reward=None),)), 0)):
        out = tmp_path / "out.parquet"
        select(write(world, tmp_path / f"runs{n}"), out, method=method, allow_empty=True)
        frame = pl.read_parquet(out)
        assert len(frame) == (n if method != "nat" else min(n, 1))
        assert pq.read_schema(out).metadata[b"trajkit.kind"].decode() == kind
        for name in lists:
            assert frame.schema[name] == pl.List(pl.Struct(of))
        if columns:
            assert dict(frame.drop(lists).schema) == columns


def test_a_pair_splits_the_two_conversations_where_they_part() -> None:
    """p starts from e's s_1 with its own observation; what e saw and did there is the prompt and the chosen side."""
    style = SYSTEM | EXAMPLE | CANNED
    world = World((expert("e", "aTa", reward=1.0, style=style), policy("p", "bb", parent="e", at=1, style=CANNED)))
    scored = world.plus(scorer("s", "e", 2, 1.0), scorer("z", "p", 2, 0.0))
    prompt = ["You are e.", "An example.", "go a", "e sees 0", "go a", "OK.", "e sees 1"]

    [row] = selected(scored, "ipr")[0]
    assert [m["content"] for m in row["prompt"]] == prompt and {m["weight"] for m in row["prompt"]} == {0}
    assert [(m["content"], m["weight"]) for m in row["chosen"]] == [
        (None, 1), ("OK.", 0), ("e sees 2", 0), ("go a", 1), ("OK.", 0), ("e sees 3", 0),
    ]  # fmt: skip
    assert [(m["content"], m["weight"]) for m in row["rejected"]] == [
        ("go b", 1), ("OK.", 0), ("p sees 2", 0), ("go b", 1), ("OK.", 0), ("p sees 3", 0),
    ]  # fmt: skip
    assert (row["n_chosen_steps"], row["n_rejected_steps"]) == (2, 2)

    [row] = selected(world, "eto_step")[0]
    assert (row["level"], row["from_step"], row["end_step"]) == ("step", 1, 2)
    assert [m["content"] for m in row["prompt"]] == prompt
    assert [[m["weight"] for m in row[side]] for side in ("chosen", "rejected")] == [[1], [1]]
    assert (row["n_chosen_steps"], row["n_rejected_steps"]) == (1, 1)


@pytest.mark.parametrize("mark", ["|", ":", ",", "/", "-", "_", " ", "\x1f", "\x00", "'"])
def test_ids_that_would_collide_do_not(mark: str) -> None:
    """However the two ids are glued together, these pairs would read alike."""
    names = (("a", f"b{mark}c"), (f"a{mark}b", "c"), (f"a{mark}", "b"), ("a", f"{mark}b"))
    for one, other in ((names[0], names[1]), (names[2], names[3])):
        trajs = [
            traj
            for task, (chosen, rejected) in (("t", one), ("u", other))
            for traj in (expert(chosen, "a", reward=1.0, task=task), policy(rejected, "b", task=task))
        ]
        found = selected(World(tuple(trajs)), "eto")[0]
        assert {(row["chosen_id"], row["rejected_id"]) for row in found} == {one, other}
        assert len({row["pair_id"] for row in found}) == 2


def test_both_levels_of_a_pair_have_their_own_id() -> None:
    world = World((expert("e", "a", reward=1.0), policy("p", "b")))
    for method in ("eto_mixture", "ipr"):
        found = selected(world, method)[0]
        assert sorted(row["level"] for row in found) == ["step", "trajectory"]
        assert len({row["pair_id"] for row in found}) == 2


def test_nat_says_what_is_wanted_in_the_last_user_message_before_the_first_action_and_nowhere_else() -> None:
    world = World(
        (
            expert("good", "aa", reward=1.0, style=SYSTEM | EXAMPLE | CANNED | TWO_PART),
            expert("bad", "aa", task="u", style=TOOLS),
            expert("branch", "b", parent="bad", at=1, task="u", reward=1.0),
        )
    )
    for said in ({}, {"right_prompt": "Right!\n", "wrong_prompt": "Wrong'\U0001d54f"}):
        found = {row["trajectory_id"]: row for row in selected(world, "nat", said)[0]}
        oracle = Oracle(world, said)
        assert {id: row["kind"] for id, row in found.items()} == {
            "good": "positive", "bad": "negative", "branch": "positive",
        }  # fmt: skip
        for id, row in found.items():
            suffix = oracle.p["right_prompt" if row["kind"] == "positive" else "wrong_prompt"]
            asked = {"good": "good sees 0", "bad": "bad sees 0", "branch": "bad sees 0"}[id]
            wanted = [m["content"] for m in oracle.conversation(id)]
            wanted[wanted.index(asked)] += f"\n\n{suffix}"
            assert [m["content"] for m in row["messages"]] == wanted
            assert [m["weight"] for m in row["messages"]] == [weight for _, weight in oracle.weighted(id, 0)]


# --- input that is wrong ---

BESIDE = {"role": "policy", "iteration": 1, "reward": 0.0}
SCORER = {**BESIDE, "role": "scorer", "parent_id": "e", "branch_step": 1}
BAD: dict[str, tuple[str, Row, str]] = {
    "a reward that is compared": ("eto", {**BESIDE, "reward": math.nan}, "bad_rewards"),
    "a scorer's reward": ("ipr", {**SCORER, "reward": math.inf}, "bad_rewards"),
    "a scorer's parent": ("step_rewards", {**SCORER, "parent_id": "gone"}, "bad_parents"),
    "a scorer's state": ("ipr", {**SCORER, "branch_step": 3}, "bad_parents"),
    "a branch's parent": ("eto_step", {**BESIDE, "parent_id": "gone", "branch_step": 1}, "bad_parents"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_that_matters_is_refused(tmp_path: Path, name: str) -> None:
    method, given, said = BAD[name]
    runs = small_runs.write_run(tmp_path / "runs", small_runs.pair("e"), small_runs.pair("x", **given))
    result = small_runs.trajkit("select", "--input", runs, "--out", tmp_path / "out.parquet", "--method", method)
    assert result.code == 3 and f"{said}: trajectory x" in result.err, result
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("given", [{**SCORER, "reward": math.nan}, {**SCORER, "parent_id": "gone"}])
def test_a_scorers_mistake_does_not_matter_where_no_scorer_counts(tmp_path: Path, given: Row) -> None:
    talks = small_runs.pair("e"), small_runs.pair("p", **BESIDE), small_runs.pair("x", **given)
    runs = small_runs.write_run(tmp_path / "runs", *talks)
    for method in ("eto_mixture", "self_play", "eef_pairs", "nat"):
        out = tmp_path / "out.parquet"
        result = small_runs.trajkit("select", "--input", runs, "--out", out, "--method", method, "--allow-empty")
        assert (result.code, result.out) == (0, ""), result


def test_a_mistake_in_the_rejected_side_alone_is_refused(tmp_path: Path) -> None:
    talk = small_runs.talk("x")
    talk[4]["seq"] = 9
    runs = small_runs.write_run(tmp_path / "runs", small_runs.pair("e"), ([small_runs.traj("x", **BESIDE)], talk))
    result = small_runs.trajkit("select", "--input", runs, "--out", tmp_path / "out.parquet", "--method", "eto")
    assert result.code == 3 and "seq_gaps: trajectory x" in result.err, result


def test_no_pair_has_an_empty_prompt(tmp_path: Path) -> None:
    """The best expert's conversation begins with its action: nothing can be asked."""
    talk = [{**row, "seq": row["seq"] - 1} for row in small_runs.talk("e")[1:]]
    runs = small_runs.write_run(tmp_path / "runs", ([small_runs.traj("e")], talk), small_runs.pair("p", **BESIDE))
    with pytest.raises(BadData, match="trajectory e: it begins with an action"):
        select(runs, tmp_path / "out.parquet", method="eto")
    assert not (tmp_path / "out.parquet").exists()


def test_nat_never_leaves_its_suffix_out(tmp_path: Path) -> None:
    """Without a user message it is in the system's; where nothing is said before the first action, that is refused."""
    for number, content in enumerate((small_runs.talk("e")[0]["content"], "")):
        talk = small_runs.talk("e")
        talk[0] |= {"role": "system", "content": content}
        runs = small_runs.write_run(tmp_path / f"runs-{number}", ([small_runs.traj("e", reward=0.0)], talk))
        out = tmp_path / f"{number}.parquet"
        select(runs, out, method="nat", params={"wrong_prompt": "Fail."})
        [example] = pq.read_table(out).to_pylist()
        assert [m["content"] for m in example["messages"] if m["role"] == "system"] == [f"{content}\n\nFail."]
        assert sum("Fail." in (m["content"] or "") for m in example["messages"]) == 1
    talk = [{**row, "seq": row["seq"] - 1} for row in small_runs.talk("e")[1:]]
    runs = small_runs.write_run(tmp_path / "bare", ([small_runs.traj("e", reward=0.0)], talk))
    with pytest.raises(BadData, match="trajectory e: nothing is said before its first action"):
        select(runs, tmp_path / "bare.parquet", method="nat")


def test_token_ids_come_along_on_both_sides(tmp_path: Path) -> None:
    """What the server sampled, on the policy's side alone, for nobody recorded the expert's."""
    runs = small_runs.write_run(tmp_path / "runs", small_runs.pair("e"), small_runs.pair("p", **BESIDE))
    file = runs / "a" / "messages.parquet"
    table = pq.read_table(file)
    ids = [
        [7, k] if m["role"] == "assistant" and m["trajectory_id"] == "p" else None
        for k, m in enumerate(table.to_pylist())
    ]
    pq.write_table(table.append_column("token_ids", pa.array(ids, pa.list_(pa.int32()))), file)
    select(runs, tmp_path / "out.parquet", method="eto")
    [row] = pl.read_parquet(tmp_path / "out.parquet").to_dicts()
    assert [m["token_ids"] for m in row["rejected"]] == [[7, 6], None, [7, 8], None]
    assert {m["token_ids"] is None for m in row["prompt"] + row["chosen"]} == {True}


# --- a user's own pairs ---

OWN_WORLD = World(
    (
        expert("e", "aaa", reward=1.0),
        expert("f", "aaa", reward=1.0),
        expert("elsewhere", "aaa", task="u"),
        expert("held out", "aaa", task="w", split="test"),
        expert("broken", "aaa", ended="error"),
        policy("p", "b"),
        policy("q", "bb", parent="e", at=1),
        policy("r", "b", parent="q", at=2, reward=0.5),
        scorer("s", "e", 0, 0.0),
    )
)


def own(tmp_path: Path, sql: str) -> list[Row]:
    """What select writes by this SQL."""
    mine = tmp_path / "mine.sql"
    mine.write_text(sql)
    return selected(OWN_WORLD, str(mine))[0]


def test_columns_chosen_id_and_rejected_id_make_a_method_of_ones_own_one_of_pairs(tmp_path: Path) -> None:
    [row] = own(tmp_path, "SELECT 'e' AS chosen_id, 'p' AS rejected_id")
    assert (row["method"], row["task_id"], row["from_step"], row["end_step"]) == ("mine", "t", 0, None)
    assert (row["chosen_reward"], row["rejected_reward"]) == (1.0, 0.0)
    assert (row["n_chosen_steps"], row["n_rejected_steps"]) == (3, 1)
    [row] = own(tmp_path, "SELECT 'r' AS chosen_id, 'q' AS rejected_id, 1 AS from_step, 2 AS end_step, 'step' AS level")
    assert (row["level"], row["from_step"], row["end_step"]) == ("step", 1, 2)
    assert [m["content"] for m in row["chosen"]] == [m["content"] for m in row["rejected"]] == ["go b"]
    found = own(tmp_path, "SELECT * FROM eto UNION ALL SELECT * FROM eto_step")
    assert [(row["chosen_id"], row["rejected_id"], row["level"]) for row in found].count(("e", "p", "step")) == 1


def test_columns_step_and_step_reward_make_a_method_of_ones_own_one_of_values(tmp_path: Path) -> None:
    sql = "SELECT 'q' AS trajectory_id, unnest([1, 2]) AS step, unnest([0.5, -1.0]) AS step_reward"
    [row] = own(tmp_path, sql)
    assert (row["method"], row["trajectory_id"], row["n_values"], row["n_steps"]) == ("mine", "q", 2, 3)
    assert [m["value"] for m in row["messages"] if m["role"] == "assistant"] == [None, 0.5, -1.0]
    assert [m["weight"] for m in row["messages"] if m["role"] == "assistant"] == [0, 1, 1]


def test_a_column_step_alone_is_nothing_of_a_values_method(tmp_path: Path) -> None:
    [row] = own(tmp_path, "SELECT 'q' AS trajectory_id, 1 AS step, 2 AS from_step")
    assert (row["kind"], row["trajectory_id"], row["from_step"]) == ("initial", "q", 2)


WRONG_PAIRS = {
    "unknown": "SELECT 'e' AS chosen_id, 'nobody' AS rejected_id",
    "null": "SELECT NULL AS chosen_id, 'p' AS rejected_id",
    "held out": "SELECT 'e' AS chosen_id, 'held out' AS rejected_id",
    "a scorer's": "SELECT 'e' AS chosen_id, 's' AS rejected_id",
    "broken": "SELECT 'broken' AS chosen_id, 'p' AS rejected_id",
    "of two tasks": "SELECT 'e' AS chosen_id, 'elsewhere' AS rejected_id",
    "states like each other, but not one": "SELECT 'e' AS chosen_id, 'f' AS rejected_id, 1 AS from_step",
    "a state behind where they part": "SELECT 'e' AS chosen_id, 'q' AS rejected_id, 2 AS from_step",
    "no action there": "SELECT 'q' AS chosen_id, 'r' AS rejected_id, 3 AS from_step",
    "before the start": "SELECT 'e' AS chosen_id, 'p' AS rejected_id, -1 AS from_step",
    "ends where it starts": "SELECT 'e' AS chosen_id, 'q' AS rejected_id, 1 AS from_step, 1 AS end_step",
    "with itself": "SELECT 'e' AS chosen_id, 'e' AS rejected_id",
    "twice": "SELECT 'e' AS chosen_id, 'p' AS rejected_id FROM range(2)",
    "no number": "SELECT 'e' AS chosen_id, 'p' AS rejected_id, 'x' AS from_step",
}
WRONG_VALUES = {
    "unknown": "SELECT 'nobody' AS trajectory_id, 0 AS step, 1.0 AS step_reward",
    "held out": "SELECT 'held out' AS trajectory_id, 0 AS step, 1.0 AS step_reward",
    "a scorer's": "SELECT 's' AS trajectory_id, 0 AS step, 1.0 AS step_reward",
    "broken": "SELECT 'broken' AS trajectory_id, 0 AS step, 1.0 AS step_reward",
    "no action there": "SELECT 'e' AS trajectory_id, 3 AS step, 1.0 AS step_reward",
    "two of one action": "SELECT 'e' AS trajectory_id, 0 AS step, unnest([1.0, 2.0]) AS step_reward",
    "no value": "SELECT 'e' AS trajectory_id, 0 AS step, NULL AS step_reward",
    "not a number": "SELECT 'e' AS trajectory_id, 0 AS step, 'nan'::DOUBLE AS step_reward",
}


@pytest.mark.parametrize("sql", [*WRONG_PAIRS.values(), *WRONG_VALUES.values()])
def test_wrong_answers_of_ones_own_method_are_refused(tmp_path: Path, sql: str) -> None:
    runs, mine, out = write(OWN_WORLD, tmp_path / "runs"), tmp_path / "mine.sql", tmp_path / "out.parquet"
    mine.write_text(sql)
    out.write_bytes(b"what was there before")
    result = small_runs.trajkit("select", "--input", runs, "--out", out, "--method", mine)
    assert result.code == 2 and str(mine) in result.err and "Traceback" not in result.err, result
    assert out.read_bytes() == b"what was there before"


SAID = {
    "unknown": "not there", "held out": "split train", "a scorer's": "scorer", "broken": "error or drift",
    "a state behind where they part": "state", "no action there": "no action",
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_is_wrong_with_ones_own_pairs_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=SAID[name]):
        own(tmp_path, WRONG_PAIRS[name])
