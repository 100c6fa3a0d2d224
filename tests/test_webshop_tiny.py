"""The tiny shop: every task can be solved and takes what it says, and its experts fail as they should."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.webshop import CheapExpert, TinyExpert, TinyShop
from envs.webshop.tiny import LETTERS, read_shopping
from trajkit.exploration.env import Message, Policy, Snapshots, Task

ENV = TinyShop()
SMALL = TinyShop(train_tasks=60, test_tasks=20)
NAVIGATION = {"click[next]", "click[back]"}


def actions_of(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "assistant"]


def play(policy: Policy, task: Task, seed: int, messages: list[Message] | None = None) -> tuple[list[Message], bool]:
    """One episode of at most 12 actions, from where ENV is if `messages` say how it got there."""
    messages = list(messages or ENV.reset(task.task_id)[0])
    while len(actions_of(messages)) < 12:
        message = policy.act([dict(message) for message in messages], seed=seed)
        observation, _, done, _, info = ENV.step(message["content"])
        messages += [message, {"role": "user", "content": observation}]
        if done:
            return messages, info["success"]
    raise AssertionError(f"no end: {messages}")


class Still:
    """Opens the first item on the page that looks right and is new, buys it; never clicks Next or Back."""

    actor = "still"

    def act(self, messages: list[Message], *, seed: int) -> Message:
        shopping = read_shopping(messages)
        wish = shopping.wish
        if shopping.kind == "item":
            action = f"click[{wish.size if wish.size in shopping.sizes else shopping.sizes[0]}]"
        else:
            letter = [*shopping.fitting(), "a"][0]
            moves = {
                "start": f"search[{wish.color} {wish.type}]",
                "results": f"click[{letter}]",
                "chosen": "click[buy]",
            }
            action = moves[shopping.kind]
        return {"role": "assistant", "content": action}


def test_what_a_shopper_sees() -> None:
    task = next(task for task in ENV.tasks("train") if task.meta["needs"] == "both")
    messages, solved = play(TinyExpert(easy=0, hard=0, wanders=0), task, 0)
    wish = read_shopping(messages).wish
    assert solved and messages[0] == {"role": "user", "content": f"find {wish.size} {wish.color} {wish.type}"}
    assert messages[1]["content"] == f"search[{wish.color} {wish.type}]"
    assert messages[2]["content"].startswith("page 1 a ")
    assert messages[3]["content"] in {f"click[{letter}]" for letter in LETTERS}
    assert messages[4]["content"].startswith(f"{wish.color} {wish.type} ")
    assert wish.size not in messages[4]["content"]
    assert [message["content"] for message in messages[5:8]] == ["click[back]", messages[2]["content"], "click[next]"]
    assert messages[8]["content"].startswith("page 2 a ")
    assert [message["content"] for message in messages[-5:]] == [
        messages[-5]["content"],
        f"click[{wish.size}]",
        f"{wish.size} {wish.color} {wish.type}",
        "click[buy]",
        "bought",
    ]


@pytest.mark.parametrize("settings", [{}, {"colors": 2, "types": 2, "sizes": 2}, {"colors": 8, "sizes": 4, "seed": 3}])
def test_gold_solves_every_task(settings: dict[str, int]) -> None:
    env = TinyShop(**settings)
    for task in [*env.tasks("train"), *env.tasks("test")]:
        env.reset(task.task_id)
        gold = env.gold(task.task_id)
        results = [env.step(action) for action in gold]
        assert [(reward, done) for _, reward, done, _, _ in results] == [(0.0, False)] * (len(gold) - 1) + [(1.0, True)]
        assert results[-1][4] == {"score": 1.0, "success": True}
        assert ("click[next]" in gold) == (task.meta["needs"] in ("next", "both"))


def test_gold_is_shortest() -> None:
    for task in SMALL.tasks("train"):
        SMALL.reset(task.task_id)
        start = SMALL.snapshot()
        queue, seen = deque([(start, 0)]), {start}
        while queue:
            state, length = queue.popleft()
            if state.score == 1.0:
                break
            SMALL.restore(state)
            for action in SMALL.admissible():
                SMALL.restore(state)
                SMALL.step(action)
                if SMALL.snapshot() not in seen:
                    seen.add(SMALL.snapshot())
                    queue.append((SMALL.snapshot(), length + 1))
        assert state.score == 1.0
        assert length == len(SMALL.gold(task.task_id))


def test_shares_and_splits() -> None:
    for split, size in (("train", 2000), ("test", 500)):
        needs = [task.meta["needs"] for task in ENV.tasks(split)]
        assert {kind: needs.count(kind) / size for kind in needs} == {
            "nothing": 0.45,
            "next": 0.25,
            "back": 0.2,
            "both": 0.1,
        }
    assert ENV.tasks("valid") == []
    assert len({task.task_id for split in ("train", "test") for task in ENV.tasks(split)}) == 2500
    assert len(set(ENV.goals)) == 2500
    assert TinyShop(seed=1).tasks("test")[0].task_id != TinyShop(seed=2).tasks("test")[0].task_id
    assert TinyShop().tasks("test") == ENV.tasks("test")


def test_without_next_and_back_exactly_the_easy_tasks_are_solved() -> None:
    for task in ENV.tasks("test"):
        assert play(Still(), task, 0)[1] == (task.meta["needs"] == "nothing")


def test_who_makes_no_mistake_solves_everything() -> None:
    for task in ENV.tasks("test"):
        messages, solved = play(TinyExpert(easy=0, hard=0, wanders=0), task, 0)
        assert solved
        clicked = NAVIGATION & set(actions_of(messages))
        assert (
            clicked
            == {
                "nothing": set(),
                "next": {"click[next]"},
                "back": {"click[back]"},
                "both": NAVIGATION,
            }[task.meta["needs"]]
        )


def shares(policy: Policy) -> tuple[float, float, float]:
    """Of the train tasks the share that is solved, of the solved ones the easy ones', of failures in the others those
    that got to a state from which no more Next or Back is needed."""
    solved, useful = [], []
    for number, task in enumerate(ENV.tasks("train")):
        messages, right = play(policy, task, number)
        if right:
            solved.append(task.meta["needs"] == "nothing")
        elif task.meta["needs"] != "nothing":
            useful.append(any(play(Still(), task, 0, start)[1] for start in starts(task, messages)))
    return len(solved) / 2000, sum(solved) / len(solved), sum(useful) / len(useful)


def starts(task: Task, messages: list[Message]) -> Iterator[list[Message]]:
    """Every state before the last action, with the environment in it."""
    for end in range(1, len(messages) - 2, 2):
        ENV.reset(task.task_id)
        for action in actions_of(messages[:end]):
            ENV.step(action)
        yield messages[:end]


def test_the_expert_solves_easy_tasks_and_its_failures_are_useful() -> None:
    solved, easy, useful = shares(TinyExpert())
    assert 0.28 < solved < 0.36
    assert easy > 0.8
    assert useful > 0.8


def test_the_early_expert_solves_as_much_and_its_failures_are_of_no_use() -> None:
    solved, easy, useful = shares(TinyExpert(slips="early"))
    assert 0.28 < solved < 0.36
    assert easy > 0.8
    assert useful == 0
    with pytest.raises(ValueError, match="late or early"):
        TinyExpert(slips="never")


def test_the_cheap_expert_solves_less() -> None:
    solved, easy, useful = shares(CheapExpert())
    assert 0.2 < solved < 0.27
    assert easy > 0.8
    assert 0.2 < useful < 0.8
    both = [(play(TinyExpert(), task, 0)[1], play(CheapExpert(), task, 0)[1]) for task in ENV.tasks("train")]
    assert both.count((False, True)) > 100


def test_experts_have_no_memory_and_chance_from_the_seed_only() -> None:
    for task in ENV.tasks("test")[:50]:
        for expert in (TinyExpert, CheapExpert):
            assert play(expert(), task, 5) == play(expert(), task, 5)
    with pytest.raises(ValueError, match="not a wish"):
        TinyExpert().act([{"role": "user", "content": "WebShop"}], seed=0)
    with pytest.raises(ValueError, match="no wish"):
        TinyExpert().act([], seed=0)


@given(st.data())
def test_any_action_is_answered_and_snapshots_are_replays(data: st.DataObject) -> None:
    env, task = SMALL, data.draw(st.sampled_from(SMALL.tasks("train")))
    assert isinstance(env, Snapshots)
    messages, _ = env.reset(task.task_id)
    start = observation = messages[-1]["content"]
    actions: list[str] = []
    seen: list[str] = []
    tokens = []
    for _ in range(data.draw(st.integers(1, 12))):
        offered = st.sampled_from(env.admissible())
        action = data.draw(st.one_of(offered, offered, offered, st.text(max_size=20), st.just("click[next]")))
        before, page, allowed = observation, env.snapshot().page, env.admissible()
        observation, reward, done, truncated, info = env.step(action)
        assert not truncated
        assert 0 <= info["score"] <= 1
        assert info["score"] == reward
        assert done == (action == "click[buy]" and page == "item") == (observation == "bought")
        if action not in allowed and not action.strip().startswith(("search[", "Action:")):
            assert observation == before
        actions.append(action)
        seen.append(observation)
        tokens.append(env.snapshot())
        if done:
            assert env.admissible() == []
            assert env.step("click[back]")[:3] == ("bought", 0.0, True)
            break
    again, _ = env.reset(task.task_id)
    assert again[-1]["content"] == start
    assert [env.step(action)[0] for action in actions] == seen
    for number, token in enumerate(tokens[:-1]):
        env.restore(token)
        assert env.step(actions[number + 1])[0] == seen[number + 1]


def test_the_reward_is_the_share_that_is_right() -> None:
    rewards = set()
    for task in SMALL.tasks("train"):
        SMALL.reset(task.task_id)
        SMALL.step("search[anything]")
        results = SMALL.snapshot()
        for letter in LETTERS:
            SMALL.restore(results)
            color, kind, *sizes = SMALL.step(f"click[{letter}]")[0].split()
            for size in (None, *sizes):
                SMALL.restore(results)
                for action in (f"click[{letter}]", *([f"click[{size}]"] if size else []), "click[buy]"):
                    _, reward, done, _, info = SMALL.step(action)
                met = [mine == wanted for mine, wanted in zip((size, color, kind), task_wish(task), strict=True)]
                assert done and reward == sum(met) / 3
                assert info["success"] == all(met)
                rewards.add(sum(met))
    assert rewards == {0, 1, 2, 3}


def task_wish(task: Task) -> list[str]:
    return str(task.meta["instruction"]).split()[1:]


@pytest.mark.parametrize(
    "settings",
    [{"colors": 1}, {"types": 9}, {"sizes": "3"}, {"next_share": 1.5}, {"next_share": 0.6, "back_share": 0.6}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|more than 1"):
        TinyShop(**settings)  # type: ignore[arg-type]


def test_a_task_of_another_shop_is_refused() -> None:
    with pytest.raises(KeyError, match="settings"):
        ENV.reset(SMALL.tasks("train")[0].task_id)
