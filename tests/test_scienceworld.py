"""ScienceWorld: exact replays, scores, the JVM's life, the scripted policies. Needs the package and Java."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.scienceworld import (
    DOORS,
    SIMPLIFICATIONS,
    SYSTEM,
    Gold,
    Mistaken,
    Novice,
    PerturbedGold,
    ScienceWorld,
    parse_action,
    wrong_turns,
)
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.exploration.env import Message, Task
from trajkit.exploration.explore import Settings, explore

CHECKOUT = Path(__file__).resolve().parents[1]

pytest.importorskip("scienceworld", reason="needs the simulator: pip install 'trajkit[scienceworld]'")
if not shutil.which("java"):
    pytest.skip("needs Java 17 or newer: apt-get install default-jre-headless", allow_module_level=True)


@pytest.fixture(scope="module")
def env() -> Iterator[ScienceWorld]:
    made = ScienceWorld()
    yield made
    made.close()


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> list[dict[str, Any]]:
    """60 gold trajectories that were recorded elsewhere, two of each task."""
    path = shared_data / "scienceworld" / "gold_paths.json"
    if not path.is_file():
        pytest.skip(f"no recordings at {path}")
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def gold() -> Iterator[Gold]:
    made = Gold()
    yield made
    made.close()


class Loose(ScienceWorld):
    """Without the flag: the JVM draws identity hashes."""

    JAVA_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC")


class Player:
    """Plays the solutions that it is given. It knows a task by its description, which no chance changes."""

    actor = "player"

    def __init__(self, solutions: dict[str, list[str]], env: ScienceWorld) -> None:
        self.solutions: dict[str, list[str]] = {}
        for task_id, solution in solutions.items():
            env.load(task_id)
            self.solutions[str(env.world.getTaskDescription())] = solution

    def act(self, messages: list[Message], *, seed: int) -> Message:
        solution = self.solutions[str(messages[1]["content"]).split("\n\nThis ")[0]]
        number = sum(message["role"] == "assistant" for message in messages)
        return {"role": "assistant", "content": solution[number] if number < len(solution) else "wait1"}


def differences(env: ScienceWorld, recorded: list[dict[str, Any]]) -> list[str]:
    """The tasks whose replay differs from the recording in an observation or a score."""
    found = []
    for path in recorded:
        messages, _ = env.reset(f"{path['task']}/{path['variation']}")
        same = messages[1]["content"] == f"{path['desc']}\n\n{path['observations'][0]}"
        for number, action in enumerate(path["actions"]):
            observation, _, done, _, info = env.step(action)
            same &= (observation, info["score"]) == (path["observations"][number + 1], path["scores"][number])
            same &= not done or number == len(path["actions"]) - 1
        if not same:
            found.append(f"{path['task']}/{path['variation']}")
    return found


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_recording_replays_exactly(env: ScienceWorld, recorded: list[dict[str, Any]], every: bool) -> None:
    some = recorded if every else [path for path in recorded if len(path["actions"]) <= 60][::3]
    assert len(some) == (60 if every else 16)
    # Backwards: what was played in this JVM before must not matter.
    assert differences(env, some[::-1]) == []


@pytest.mark.parametrize(("kind", "drifts"), [(Loose, True), (ScienceWorld, False)])
def test_drift_is_caught_without_the_flag_and_there_is_none_with_it(
    tmp_path: Path, kind: type[ScienceWorld], drifts: bool
) -> None:
    unstable = [
        "chemistry-mix-paint-secondary-color/4", "identify-life-stages-2/2", "power-component/1",
        "power-component-renewable-vs-nonrenewable-energy/1",
    ]  # fmt: skip

    # Each part in a JVM of its own, as it is when exploring is started again.
    class Few(kind):  # type: ignore[valid-type, misc]
        def tasks(self, split: str) -> list[Task]:
            return [Task(task_id, "scienceworld") for task_id in unstable]

    first, second, exact = Few(), Few(), ScienceWorld()
    try:
        player = Player({task.task_id: exact.gold(task.task_id) for task in first.tasks("train")}, exact)
        counts = explore(tmp_path, first, player, plans=["initial"], settings=Settings("expert", 0, max_steps=30))
        assert counts["rollouts"] == 4
        settings = Settings("policy", 1, max_steps=30)
        counts = explore(tmp_path, second, player, plans=["skip_length"], settings=settings, m=2)
    finally:
        for env in (first, second, exact):
            env.close()
    assert counts["error"] == 0
    assert (counts["drift"] > 0) == drifts
    if drifts:
        with DuckDBEngine(tmp_path) as runs:
            errors = runs.rows("SELECT error FROM trajectories WHERE ended = 'drift'")
        assert all("expected user: " in row["error"] and ", came user: " in row["error"] for row in errors)


# --- tasks, scores, ends -----------------------------------------------------------------------


def test_tasks_and_splits(env: ScienceWorld) -> None:
    ids = {split: [task.task_id for task in env.tasks(split)] for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in ids.items()} == {"train": 3592, "dev": 1796, "test": 1819}
    assert len({task for found in ids.values() for task in found}) == 7207
    assert ids["train"][:2] == ["boil/0", "boil/1"]
    assert len({task.split("/")[0] for task in ids["train"]}) == 30
    assert env.tasks("nothing") == []
    few = ScienceWorld(limit=100)
    few.__dict__["variations"] = env.variations
    tasks = Counter(task.task_id.split("/")[0] for task in few.tasks("train"))
    assert sum(tasks.values()) == 100
    assert len(tasks) == 30
    assert max(tasks.values()) == 4


def test_only_some_tasks_and_another_system_message(env: ScienceWorld) -> None:
    some = ScienceWorld(limit=5, only="find-plant,boil", system="Do it.")
    some.__dict__["variations"] = env.variations
    assert [task.task_id for task in some.tasks("test")] == [
        "boil/21", "boil/22", "boil/23", "find-plant/225", "find-plant/226",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="only=fly: fly is none of boil, "):
        other = ScienceWorld(only="fly")
        other.__dict__["variations"] = env.variations
        other.tasks("train")
    try:
        messages, _ = some.reset("boil/0")
    finally:
        some.close()
    expected, _ = env.reset("boil/0")
    assert expected[0]["content"] == SYSTEM
    assert messages == [{"role": "system", "content": "Do it."}, *expected[1:]]


def test_a_wrong_focus_ends_it_with_minus_100(env: ScienceWorld) -> None:
    env.reset("boil/0")
    assert env.step("focus on inventory") == (
        "You focus on the inventory.", -100.0, True, False, {"score": -100.0, "success": False},
    )  # fmt: skip


def test_rewards_add_up_to_the_score_and_success_is_100(env: ScienceWorld) -> None:
    gold = env.gold("use-thermometer/0")
    messages, info = env.reset("use-thermometer/0")
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"].startswith("Your task is to measure the temperature of ")
    assert "\n\nThis room is called the " in messages[1]["content"]
    assert info == {"score": 0}
    total, successes = 0.0, []
    for action in gold:
        _, reward, done, truncated, info = env.step(f"Thought: next.\nAction: {action}")
        total += reward
        successes.append(info["success"])
        assert info["score"] == total
        assert not truncated
        if done:
            break
    assert total == 100.0
    assert successes == [False] * (len(successes) - 1) + [True]


def test_a_gold_path_may_not_solve_its_task(env: ScienceWorld, recorded: list[dict[str, Any]]) -> None:
    (path,) = (path for path in recorded if (path["task"], path["variation"]) == ("grow-fruit", 8))
    assert path["scores"][-1] == 50


def test_actions_that_are_none_are_answered(env: ScienceWorld) -> None:
    env.reset("boil/0")
    for action in ("", "dance", "teleport to outside", "Action:", "x" * 5000, "wait\u0000", "\U0001f600"):
        observation, reward, terminated, _, _ = env.step(action)
        assert observation
        assert (reward, terminated) == (0.0, False)
    assert env.step("look around")[0].startswith("This room")
    assert "open door to kitchen" in env.admissible()


def test_parse_action() -> None:
    assert parse_action("Thought: I look.\nAction: look around") == "look around"
    assert parse_action("Action: a\nAction: open door to kitchen \nObservation: x") == "open door to kitchen"
    assert parse_action("Thought:\nx\n\nAction:\nwait1") == "wait1"
    assert parse_action(" 0\n") == "0"


def test_simplifications_are_another_task(env: ScienceWorld) -> None:
    easy = ScienceWorld("easy")
    try:
        task = easy.tasks("train")[0]
        assert task.task_id == "boil/0/easy"
        assert easy.reset(task.task_id)[0] != env.reset("boil/0")[0]
        assert easy.step("teleport to outside")[0] != env.step("teleport to outside")[0]
        with pytest.raises(KeyError, match="other simplifications"):
            easy.reset("boil/0")
        assert {*easy.world.getPossibleSimplifications().split(", "), "easy"} == set(SIMPLIFICATIONS)
    finally:
        easy.close()


def test_wrong_names(env: ScienceWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for task_id in ("boil", "boil/30", "boil/-1", "cook/0", "boil/x"):
        with pytest.raises(KeyError, match="an id is task/variation"):
            env.reset(task_id)
    with pytest.raises(ValueError, match="flying is none of easy, "):
        ScienceWorld("easy,flying")
    with pytest.raises(ValueError, match="limit=-1"):
        ScienceWorld(limit=-1)
    with pytest.raises(ValueError, match="wrong=2"):
        PerturbedGold(wrong=2)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="Java 17"):
        ScienceWorld()


# --- the JVM's life ----------------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Whether the process ends, looked at for ten minutes."""
    for _ in range(6000):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return True
        time.sleep(0.1)
    return False


def test_the_jvm_is_bounded_and_closed(env: ScienceWorld) -> None:
    second = ScienceWorld()
    second.reset("boil/0")
    env.reset("boil/1")
    assert second._simulator and env._simulator
    process = second._simulator.process
    assert process.pid != env._simulator.process.pid
    assert {"-Xmx512m", "-XX:hashCode=2"} <= set(process.args)
    second.close()
    second.close()
    assert process.poll() is not None
    assert env.step("look around")[0].startswith("This room")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_jvm_ends_with_its_process(how: signal.Signals) -> None:
    script = (
        "from envs.scienceworld import ScienceWorld; import time\n"
        "env = ScienceWorld(); env.reset('boil/0'); print(env._simulator.process.pid, flush=True); time.sleep(6000)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=CHECKOUT, text=True
    )
    assert process.stdout
    jvm = int(process.stdout.readline())
    assert not Path(f"/proc/{jvm}/stat").read_text().count(") Z ")
    process.send_signal(how)
    process.wait(10)
    assert gone(jvm)


def test_a_jvm_that_died_is_started_again() -> None:
    env = ScienceWorld()
    messages, _ = env.reset("boil/0")
    assert env._simulator
    os.kill(env._simulator.process.pid, signal.SIGKILL)
    env._simulator.process.wait()
    with pytest.raises(Exception, match="the JVM is gone"):
        env.step("look around")
    assert env.reset("boil/0")[0] == messages
    env.close()


# --- the scripted policies ---------------------------------------------------------------------


def play(env: ScienceWorld, policy: Gold, task_id: str, seed: int, steps: int = 80) -> tuple[list[Message], float]:
    messages, info = env.reset(task_id)
    for _ in range(steps):
        action = policy.act(messages, seed=seed)
        observation, _, done, _, info = env.step(action["content"])
        messages += [action, {"role": "user", "content": observation}]
        if done:
            break
    return messages, float(info["score"])


def test_gold_solves_and_the_others_fail_now_and_then(env: ScienceWorld, gold: Gold) -> None:
    tasks = ["find-animal/0", "use-thermometer/1", "chemistry-mix/0", "power-component/0", "identify-life-stages-2/0"]
    perturbed, novice = PerturbedGold(), Novice()
    try:
        assert [play(env, gold, task, 0)[1] for task in tasks] == [100.0] * 5
        for policy in (perturbed, novice):
            policy._solutions, policy._starts = gold._solutions, gold._starts
            played = [play(env, policy, task, seed) for task in tasks for seed in range(3)]
            solved = sum(score == 100 for _, score in played)
            assert 2 <= solved <= 13
            again = play(env, policy, tasks[1], 2)
            assert again == played[5]
        # Its mistakes happen in the world: they are answered, and what comes after is another state.
        assert any(m["content"].startswith(("You move to", "The door is now open")) for m in played[0][0][2:])
    finally:
        for policy in (perturbed, novice):
            policy.close()


def test_the_mistaken_take_detours_and_focus_wrongly(env: ScienceWorld, gold: Gold) -> None:
    detours, hasty, wrong = Mistaken(1, 0, 0), Mistaken(0, 1, 0), Mistaken(0, 0, 1)
    try:
        solution = gold.solution(str(env.reset("find-animal/0")[0][-1]["content"]))
        for policy in (detours, hasty, wrong):
            policy._solutions, policy._starts = gold._solutions, gold._starts
        done, score = play(env, wrong, "find-animal/0", 0)
        taken = [parse_action(m["content"]) for m in done if m["role"] == "assistant"]
        assert taken[:-1] == solution[: len(taken) - 1]
        assert taken[-1].startswith("focus on ")
        assert score == -100
        # In a hallway there is nothing but a picture.
        assert play(env, hasty, "find-animal/0", 0)[0][2]["content"] == "Action: focus on picture"
        done, _ = play(env, detours, "find-animal/0", 0, steps=3)
        there, go, back = (parse_action(m["content"]) for m in done if m["role"] == "assistant")
        astray = there.removeprefix("open door to ")
        assert astray in DOORS["hallway"]
        assert (go, back) == (f"go to {astray}", "go to hallway")
        assert [m["content"] for m in done[3::2]][1:] == [f"You move to the {astray}.", "You move to the hallway."]
    finally:
        for policy in (detours, hasty, wrong):
            policy.close()


def test_the_mistaken_fail_about_half_of_the_time(env: ScienceWorld, gold: Gold) -> None:
    mistaken = Mistaken()
    mistaken.env.close()
    mistaken.env, mistaken._search = gold.env, gold._search
    mistaken._solutions, mistaken._starts = gold._solutions, gold._starts
    tasks = ["find-animal/0", "find-plant/0", "find-non-living-thing/0"]
    played = [play(env, mistaken, task, seed, 24) for task in tasks for seed in range(6)]
    assert 4 <= sum(score == 100 for _, score in played) <= 14
    assert play(env, mistaken, tasks[1], 2, 24) == played[8]


def test_mistaken_experts_of_other_names_make_other_mistakes(env: ScienceWorld, gold: Gold) -> None:
    experts = [Mistaken(hasty=0.3, name=name) for name in ("a", "b")]
    assert [expert.actor for expert in experts] == ["mistaken-a", "mistaken-b"]
    assert Mistaken().actor == "mistaken"
    first = str(env.reset("find-animal/0")[0][-1]["content"])
    solution = gold.solution(first)
    try:
        played = [play(env, expert, "find-animal/0", seed, 16) for expert in experts for seed in range(4)]
        assert played[:4] != played[4:]
        assert play(env, experts[1], "find-animal/0", 3, 16) == played[7]
        # What one has found out the others know, so they need no simulator.
        assert [expert.env._simulator for expert in experts] == [None, None]
    finally:
        for expert in experts:
            expert.close()
    assert experts[0].solution(first) == solution


def test_doors_are_the_houses(env: ScienceWorld, gold: Gold) -> None:
    seen = {}
    for task in ("find-animal", "find-plant"):
        for number in range(0, 150, 6):
            first = str(env.reset(f"{task}/{number}")[0][-1]["content"])
            room = first.partition(" is called the ")[2].partition(".")[0]
            seen[room] = tuple(re.findall(r"^\tA door to the (.+?) \(", first, re.MULTILINE))
    assert {room: doors for room, doors in seen.items() if len(doors) > 1} == DOORS


def test_the_policies_go_on_from_any_state(env: ScienceWorld, gold: Gold, monkeypatch: pytest.MonkeyPatch) -> None:
    messages, _ = env.reset("find-animal/0")
    solution = gold.solution(str(messages[1]["content"]))
    for action in ("inventory", *solution[:4], "wait1"):
        observation = env.step(action)[0]
        messages += [{"role": "assistant", "content": action}, {"role": "user", "content": observation}]
    assert gold.act(messages, seed=0)["content"] == f"Action: {solution[4]}"
    monkeypatch.setattr(gold, "_search", gold._search[:1])
    with pytest.raises(ValueError, match="no task of ScienceWorld starts with"):
        gold.act([{"role": "user", "content": "Hello"}], seed=0)


def test_wrong_turns_are_those_in_sight(env: ScienceWorld) -> None:
    messages, _ = env.reset("boil/0")
    turns = wrong_turns(messages)
    assert "open door to kitchen" in turns
    assert not any("substance" in turn or "agent" in turn for turn in turns)
    assert env.step("go to kitchen")[0] == "The door is not open."  # what the novice reads
    assert wrong_turns([{"role": "user", "content": "nothing"}]) == []
