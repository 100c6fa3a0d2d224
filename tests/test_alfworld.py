"""ALFWorld on TextWorld: real games where they are, else only what needs none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.alfworld import ALFWorld, Wanderer, parse_action
from trajkit.errors import UsageError
from trajkit.exploration.env import load_env

EASY = "pick_and_place_simple-Mug-None-Desk-308"


@pytest.fixture(scope="module")
def games(shared_data: Path) -> Path:
    pytest.importorskip("textworld", reason="textworld is not installed: pip install -e '.[alfworld]'")
    pytest.importorskip("alfworld", reason="alfworld is not installed: pip install -e '.[alfworld]'")
    folder = shared_data / "alfworld" / "games"
    if not folder.is_dir():
        pytest.skip(f"no ALFWorld games at {folder}")
    return folder


@pytest.fixture
def env(games: Path) -> Iterator[ALFWorld]:
    env = ALFWorld(games=str(games))
    yield env
    env.close()


def test_tasks_are_the_games_of_the_folder(env: ALFWorld, games: Path) -> None:
    tasks = env.tasks("train")
    assert [task.task_id for task in tasks] == sorted(
        f"alfworld/{path.parent.relative_to(games).as_posix()}" for path in games.rglob("game.tw-pddl")
    )
    assert len(tasks) >= 90
    assert {task.meta["type"] for task in tasks} >= {"look_at_obj_in_light", "pick_and_place_simple"}
    assert env.tasks("valid_seen") == []


def _play(env: ALFWorld, task_id: str, actions: list[str]) -> list[str]:
    """Every observation of an episode that these actions solve."""
    start, info = env.reset(task_id)
    assert info == {"score": 0.0, "success": False}
    results = [env.step(f"Thought: as planned.\nAction: {action}") for action in actions]
    assert [(r[1], r[2]) for r in results] == [(0.0, False)] * (len(results) - 1) + [(1.0, True)]
    assert results[-1][4] == {"score": 1.0, "success": True}
    return [start[0]["content"], *(observation for observation, *_ in results)]


@pytest.mark.parametrize("task_type", ["look_at_obj_in_light", "pick_heat_then_place_in_recep"])
def test_the_plan_solves_a_game_which_replays_exactly(env: ALFWorld, task_type: str) -> None:
    first, other = [task.task_id for task in env.tasks("train") if task.meta["type"] == task_type][:2]
    plan = env.gold(first)
    observations = _play(env, first, plan)
    assert observations[0].startswith("You are in the middle of a room.")
    assert not any("You arrive at loc" in observation for observation in observations)
    env.reset(other)
    assert _play(env, first, plan) == observations
    again = ALFWorld(games=str(env._folder))
    assert _play(again, first, plan) == observations
    again.close()


@pytest.mark.slow
def test_the_plans_solve_every_game(env: ALFWorld) -> None:
    for task in env.tasks("train"):
        _play(env, task.task_id, env.gold(task.task_id))


def test_actions(env: ALFWorld) -> None:
    task_id = next(task.task_id for task in env.tasks("train") if EASY in task.task_id)
    env.reset(task_id.removeprefix("alfworld/"))
    before = env.admissible()
    assert "look" in before
    assert env.step("dance on the table")[:4] == ("Nothing happens.", 0.0, False, False)
    assert env.step("")[0] == "Nothing happens."
    assert env.admissible() == before
    goes = next(action for action in before if action.startswith("go to"))
    assert env.step(f"Action: {goes.upper()}.")[0] != "Nothing happens."
    assert env.admissible() != before
    for action in env.gold(task_id):  # the planner has its own engine: the episode goes on as it was
        done = env.step(action)[2]
    assert done
    assert env.admissible() == []
    with pytest.raises(RuntimeError, match="reset"):
        env.step("look")


LEFT_ALONE = """
import sys
from envs.alfworld import ALFWorld
env = ALFWorld(games=sys.argv[1])
arguments = list(sys.argv)
env.reset(env.tasks("train")[0].task_id)
env.step("look")
env.gold(env.tasks("train")[1].task_id)
assert sys.argv == arguments
assert not {"torch", "torchvision", "cv2"} & sys.modules.keys()
"""


def test_it_leaves_the_process_alone(games: Path) -> None:
    """In a process of its own: other tests may have loaded PyTorch in this one."""
    done = subprocess.run([sys.executable, "-c", LEFT_ALONE, str(games)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_policy_that_knows_nothing_can_play(env: ALFWorld) -> None:
    task_id = env.tasks("train")[0].task_id
    messages, _ = env.reset(task_id)
    for _ in range(8):
        action = Wanderer().act(messages, seed=3)
        assert action == Wanderer().act(messages, seed=3)
        observation, _, done, _, _ = env.step(action["content"])
        messages += [action, {"role": "user", "content": observation}]
        if done:
            break
    assert sum(m["content"] != "Nothing happens." for m in messages if m["role"] == "user") > 4


def test_splits_come_from_the_folders(tmp_path: Path) -> None:
    for name in ("train/a/trial", "valid_seen/b/trial", "valid_unseen/c/trial", "other/d"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "game.tw-pddl").write_text("{}")
    env = ALFWorld(games=str(tmp_path))
    found = {split: [t.task_id for t in env.tasks(split)] for split in ("train", "valid_seen", "valid_unseen", "test")}
    assert found == {
        "train": ["alfworld/other/d", "alfworld/train/a/trial"],
        "valid_seen": ["alfworld/valid_seen/b/trial"],
        "valid_unseen": ["alfworld/valid_unseen/c/trial"],
        "test": [],
    }
    with pytest.raises(KeyError, match="no game"):
        env.reset("alfworld/elsewhere")


def test_a_wrong_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_env("envs.alfworld:ALFWorld", {"games": str(tmp_path / "nowhere")})
    with pytest.raises(UsageError, match=r"no game\.tw-pddl"):
        load_env("envs.alfworld:ALFWorld", {"games": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("go to desk 1", "go to desk 1"),
        ("Thought: hm.\nAction: Go to desk 1.", "go to desk 1"),
        ("Action: look\nThought: no\naction:  take mug 1 from desk 1 \n", "take mug 1 from desk 1"),
        ("\n  inventory\nand then", "inventory"),
        ("Action:", ""),
        ("", ""),
    ],
)
def test_parse_action(text: str, command: str) -> None:
    assert parse_action(text) == command
