"""The built-in WebShop: tasks that can be solved, rewards, pages in upstream's format, policies."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product as every
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.webshop import Expert, Novice, WebShop
from envs.webshop.env import parse_action
from envs.webshop.pages import BACK, NEXT, PREV
from envs.webshop.policies import read_page
from envs.webshop.scoring import score

EASIEST = {"colors": 2, "sizes": 0, "attributes": 1, "page_size": 2} | {
    f"{needs}_share": 0 for needs in ("next", "back", "both")
}
SMALL = {"products": 80, "page_size": 3, "train_tasks": 10, "test_tasks": 4}
CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("settings", [{}, EASIEST, {"seed": 7, "page_size": 10, "colors": 8}])
def test_gold_solves_every_task(settings: dict[str, object]) -> None:
    env = WebShop(**settings)  # type: ignore[arg-type]
    for task in [*env.tasks("train"), *env.tasks("test")]:
        env.reset(task.task_id)
        gold = env.gold(task.task_id)
        results = [env.step(action) for action in gold]
        assert [(reward, done) for _, reward, done, _, _ in results] == [(0.0, False)] * (len(gold) - 1) + [(1.0, True)]
        assert results[-1][4] == {"score": 1.0, "success": True}
        assert ("click[Next >]" in gold) == (task.meta["needs"] in ("next", "both"))


def test_shares_and_splits() -> None:
    env = WebShop(train_tasks=40, test_tasks=20, next_share=0.25, back_share=0.2, both_share=0.1)
    for split, size in (("train", 40), ("test", 20)):
        needs = [task.meta["needs"] for task in env.tasks(split)]
        assert len(needs) == size
        assert {kind: needs.count(kind) / size for kind in ("next", "back", "both")} == {
            "next": 0.25,
            "back": 0.2,
            "both": 0.1,
        }
    texts = [task.meta["instruction"] for split in ("train", "test") for task in env.tasks(split)]
    assert len(set(texts)) == 60
    assert env.tasks("valid") == []


def test_only_the_right_product_with_the_right_options_gives_1() -> None:
    env = WebShop(products=120, train_tasks=20, test_tasks=0)
    for goal in env.goals:
        for item in env.products:
            for values in every(*(((None, *offered)) for offered in item.options.values())):
                chosen = {name: value for name, value in zip(item.options, values, strict=True) if value}
                right = goal.is_right(item) and chosen == goal.options
                assert (score(item, goal, chosen).reward == 1.0) == right, (goal, item, chosen)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("click[Buy Now]", ("click", "buy now")),
        ("Thought: cheap [really]\nAction: search[red shirt]", ("search", "red shirt")),
        ("Action: click[a]\nThought: no\n  Action:  click[< Prev]  ", ("click", "< prev")),
        ("Thought: click[a]", ("", "")),
        ("search[]", ("", "")),
        ("buy everything", ("", "")),
        ("", ("", "")),
    ],
)
def test_parse_action(text: str, action: tuple[str, str]) -> None:
    assert parse_action(text) == action


_ENV = WebShop(**SMALL)  # type: ignore[arg-type]


@given(st.data())
def test_any_action_is_answered_and_snapshots_are_replays(data: st.DataObject) -> None:
    env, task = _ENV, data.draw(st.sampled_from(_ENV.tasks("train")))
    messages, _ = env.reset(task.task_id)
    start = observation = messages[-1]["content"]
    actions: list[str] = []
    seen: list[str] = []
    tokens = []
    for _ in range(data.draw(st.integers(1, 12))):
        offered = st.sampled_from(env.admissible() or ["click[nothing]"])
        action = data.draw(st.one_of(offered, offered, offered, st.text(max_size=20), st.just("click[Buy Now]")))
        before, allowed = observation, env.admissible()
        observation, reward, done, truncated, info = env.step(action)
        assert read_page(observation)[1].kind
        assert not truncated
        assert info["score"] == sum([reward]) if done else info["score"] == 0.0
        if action not in [*allowed, "click[Buy Now]"] and not action.startswith("search["):
            assert observation == before
        actions.append(action)
        seen.append(observation)
        tokens.append(env.snapshot())
        if done:
            assert env.admissible() == []
            break
    again, _ = env.reset(task.task_id)
    assert again[-1]["content"] == start
    assert [env.step(action)[0] for action in actions] == seen
    for number, token in enumerate(tokens[:-1]):
        env.restore(token)
        assert env.step(actions[number + 1])[0] == seen[number + 1]


def test_a_page_does_not_show_what_an_invalid_action_wanted() -> None:
    env = WebShop(**SMALL)  # type: ignore[arg-type]
    messages, _ = env.reset(env.tasks("train")[0].task_id)
    for action in ("click[Buy Now]", "click[Next >]", "search[", "look around", "\x00", "search[a]\nclick[b]"):
        assert env.step(action)[0] == messages[-1]["content"]
    results, *_ = env.step("search[no such words]")
    assert results.endswith("Page 1 (Total results: 0) [SEP] Next >")
    assert env.step("search[shirt]")[0] == results  # no search bar here


def test_the_same_settings_give_the_same_shop_in_another_process() -> None:
    code = (
        "import hashlib\nfrom envs.webshop import WebShop\nenv = WebShop()\n"
        "print(hashlib.sha256(repr([(t.task_id, t.meta['instruction'], env.reset(t.task_id)[0], env.gold(t.task_id))"
        " for t in env.tasks('train')] + env.products).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code.replace("+ env.products", "+ [p.title for p in env.products]")],
            cwd=CHECKOUT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    ids = {WebShop(**(SMALL | {"seed": seed})).tasks("train")[0].task_id for seed in range(3)}  # type: ignore[arg-type]
    assert len(ids) == 3


@pytest.mark.parametrize(
    "settings",
    [{"colors": "4"}, {"colors": 0}, {"next_share": 1.5}, {"next_share": 0.6, "back_share": 0.6}],
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        WebShop(**settings)  # type: ignore[arg-type]


def test_too_many_tasks_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="Make products larger"):
        WebShop(products=20, train_tasks=1000)


def test_novice_solves_what_needs_nothing_and_never_navigates() -> None:
    env, novice = WebShop(), Novice(slip=0)
    for task in env.tasks("train"):
        conversation, _ = env.reset(task.task_id)
        for _ in range(30):
            conversation.append(novice.act(conversation, seed=1))
            observation, _, done, _, info = env.step(conversation[-1]["content"])
            conversation.append({"role": "user", "content": observation})
            if done:
                break
        actions = " ".join(m["content"] for m in conversation if m["role"] == "assistant")
        assert not any(button in actions for button in (NEXT, PREV, BACK))
        assert info["success"] == (task.meta["needs"] == "nothing")


def test_policies_read_only_the_conversation() -> None:
    """Another object of the class goes on from any point as the first one did."""
    env = WebShop(**SMALL)  # type: ignore[arg-type]
    for task in env.tasks("train"):
        conversation, _ = env.reset(task.task_id)
        first = Expert()
        for _ in range(30):
            action = first.act(conversation, seed=3)
            assert action == Expert().act(conversation, seed=3)
            assert action["content"].startswith("Thought: ")
            observation, _, done, _, _ = env.step(action["content"])
            conversation += [action, {"role": "user", "content": observation}]
            if done:
                break
    with pytest.raises(ValueError, match="not a page of WebShop"):
        Novice().act([{"role": "user", "content": "You are in a kitchen."}], seed=0)
