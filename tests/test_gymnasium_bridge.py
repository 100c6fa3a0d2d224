"""The bridge to Gymnasium and to the old gym API, with small environments of both kinds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from envs.gymnasium_bridge import GymnasiumEnv, numbers
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.exploration.env import Message, key_values, load_env
from trajkit.exploration.explore import Settings, explore

gymnasium = pytest.importorskip("gymnasium", reason="the bridge's tests need: pip install 'trajkit[gymnasium]'")


class Doors(gymnasium.Env):  # type: ignore[misc]
    """Three doors, one has the prize. `win` opens as many of the right ones as it takes."""

    observation_space = gymnasium.spaces.Text(200)
    action_space = gymnasium.spaces.Text(200)

    def __init__(self, rooms: int = 3, verdict: bool = True) -> None:
        self.rooms, self.verdict = rooms, verdict

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.room, self.lost = int((options or {}).get("room", 0)), False
        return self._look(), {"room": self.room}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "break":
            raise RuntimeError("broken")
        right = action == self.prize
        self.lost = action in "abc" and not right
        self.room += right
        won = self.room == self.rooms
        info = {"success": won} if self.verdict else {}
        text = "You win." if won else "You lose." if self.lost else self._look()
        return text, float(right), won or self.lost, False, info

    def _look(self) -> str:
        self.prize = "abc"[int(self.np_random.integers(3))]
        return f"Room {self.room}. Doors: a, b, c. A voice says {self.prize}."


class OldDoors:
    """The old gym API: seed(), reset() without arguments, four values; out of time after four actions."""

    def seed(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def reset(self) -> str:
        self.steps = 0
        self.prize = self.rng.choice("abc")
        return f"Doors: a, b, c. A voice says {self.prize}."

    def step(self, action: str) -> tuple[str, float, bool, dict[str, Any]]:
        self.steps += 1
        won = action == self.prize
        info = {"TimeLimit.truncated": True} if self.steps == 4 and not won else {}
        return ("Yes." if won else "No."), float(won), won or self.steps == 4, info

    def close(self) -> None:
        pass


class Numbers(Doors):
    """Its observations are no texts."""

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return 5, {}


class Listener:
    """Does what the voice says; each `deaf` action it does something else."""

    actor = "listener"

    def __init__(self, deaf: int = 0) -> None:
        self.deaf = deaf

    def act(self, messages: list[Message], *, seed: int) -> Message:
        number = sum(message["role"] == "assistant" for message in messages)
        said = str(messages[-1]["content"])
        prize = said.rsplit("says ", 1)[-1][0] if "says" in said else "a"
        return {"role": "assistant", "content": f"Action: {'listen' if self.deaf and number % 2 else prize}"}


NEW, OLD = f"{__name__}:Doors", f"{__name__}:OldDoors"


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    gymnasium.register("TrajkitDoors-v0", entry_point=Doors, max_episode_steps=6)


def test_gymnasium_by_id_and_by_name() -> None:
    for make in ("TrajkitDoors-v0", NEW):
        env = GymnasiumEnv(make, kwargs={"rooms": 2}, train=3, instruction="Open doors.")
        assert env.name == make
        (first, *rest) = env.tasks("train")
        assert len(rest) == 2
        assert first.task_id.startswith(f"{make}-")
        assert first.task_id.endswith("/0")
        messages, info = env.reset(first.task_id)
        assert messages[0] == {"role": "system", "content": "Open doors."}
        assert info == {"score": 0.0}
        total = 0.0
        for _ in range(2):
            prize = messages[-1]["content"][-2]
            observation, reward, terminated, truncated, info = env.step(f"Thought: {prize}.\nAction: {prize}")
            messages.append({"role": "user", "content": observation})
            total += reward
        assert (observation, terminated, truncated, total) == ("You win.", True, False, 2.0)
        assert info == {"score": 2.0, "success": True}
        env.close()


def test_the_same_task_is_the_same_state() -> None:
    env, other = GymnasiumEnv(NEW, train="0:20"), GymnasiumEnv("TrajkitDoors-v0", train="0:20")
    first = [env.reset(task.task_id, seed=99)[0] for task in env.tasks("train")]
    assert [env.reset(task.task_id)[0] for task in env.tasks("train")] == first
    assert [other.reset(task.task_id)[0] for task in other.tasks("train")] == first
    assert len({messages[0]["content"] for messages in first}) == 3
    assert {task.task_id for task in GymnasiumEnv(NEW, {"rooms": 1}).tasks("train")} & {
        task.task_id for task in env.tasks("train")
    } == set()


def test_the_time_limit_is_no_end_of_its_own() -> None:
    env = GymnasiumEnv("TrajkitDoors-v0", train=1)
    env.reset("TrajkitDoors-v0/0")
    ends = [env.step("listen")[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]


def test_the_old_api() -> None:
    env = GymnasiumEnv(OLD, train=30)
    starts = [env.reset(task.task_id)[0][0]["content"] for task in env.tasks("train")]
    assert len(set(starts)) == 3
    assert [env.reset(task.task_id)[0][0]["content"] for task in env.tasks("train")] == starts
    messages, _ = env.reset(env.tasks("train")[0].task_id)
    prize = messages[0]["content"][-2]
    wrong = next(door for door in "abc" if door != prize)
    assert [env.step(wrong)[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]
    env.reset(env.tasks("train")[0].task_id)
    assert env.step(prize) == ("Yes.", 1.0, True, False, {"score": 1.0})


def test_tasks_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    listed = [{"task_id": "late", "split": "test", "seed": 3, "options": {"room": 2}}, {"task_id": "plain"}]
    path.write_text(json.dumps(listed))
    env = GymnasiumEnv(NEW, tasks=str(path))
    assert [task.task_id for task in env.tasks("train")] == ["plain"]
    assert env.reset("late")[0][0]["content"].startswith("Room 2.")
    assert env.reset("plain", seed=1)[0] == env.reset("plain", seed=1)[0]
    old = GymnasiumEnv(OLD, tasks=str(path))
    with pytest.raises(TypeError, match="its reset takes no options"):
        old.reset("late")
    for text, message in (("{", "is no JSON"), ("[1]", "a list of objects with task_id")):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            GymnasiumEnv(NEW, tasks=str(path))


@pytest.mark.parametrize("make", [NEW, OLD, "TrajkitDoors-v0"])
def test_explored_and_replayed_without_drift(tmp_path: Path, make: str) -> None:
    env = load_env("envs.gymnasium_bridge:GymnasiumEnv", key_values([f'make="{make}"', "train=10"]))
    expert = Settings("expert", 0, max_steps=12)
    assert explore(tmp_path, env, Listener(1), plans=["initial"], settings=expert)["solved"] == 10
    counts = explore(tmp_path, env, Listener(), plans=["initial", "skip_length"], settings=Settings("policy", 1), m=2)
    assert counts["drift"] == counts["error"] == 0
    assert counts["solved"] == counts["rollouts"] >= 10
    with DuckDBEngine(tmp_path) as runs:
        verdicts = runs.rows("SELECT DISTINCT success FROM trajectories")
    assert verdicts == [{"success": None if make == OLD else True}]


def test_a_broken_environment_is_an_error(tmp_path: Path) -> None:
    class Breaker(Listener):
        def act(self, messages: list[Message], *, seed: int) -> Message:
            return {"role": "assistant", "content": "break" if "says b" in messages[-1]["content"] else "a"}

    env = GymnasiumEnv(NEW, train=10)
    counts = explore(tmp_path, env, Breaker(), plans=["initial"], settings=Settings("policy", 1))
    assert counts["error"] > 0
    assert counts["error"] + counts["failed"] + counts["solved"] == 10


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"make": "Nowhere-v0"}, UsageError, "Gymnasium cannot make Nowhere-v0"),
        ({"make": "no_such_module:Nowhere-v0"}, UsageError, "no module"),
        ({"make": f"{__name__}:Nothing"}, UsageError, "has no Nothing"),
        ({"make": f"{__name__}:Listener"}, UsageError, "no reset and no step and no close"),
        ({"make": NEW, "train": "1-5"}, ValueError, "write a count"),
        ({"make": NEW, "train": 5, "test": "4:6"}, ValueError, "the same task comes twice"),
        ({"make": NEW, "tasks": "nowhere.json"}, UsageError, "cannot be read"),
    ],
)
def test_wrong_arguments(args: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GymnasiumEnv(**args)


def test_observations_must_be_texts() -> None:
    env = GymnasiumEnv(f"{__name__}:Numbers", train=1)
    with pytest.raises(TypeError, match="is no text but int: wrap it"):
        env.reset(env.tasks("train")[0].task_id)


def test_numbers() -> None:
    assert numbers(3) == [0, 1, 2]
    assert numbers("3,5, 10:12") == [3, 5, 10, 11]
    assert numbers("") == numbers("4:4") == []
