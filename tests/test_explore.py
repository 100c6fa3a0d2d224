"""`trajkit explore`: what it runs, replays, drift, errors, killing and starting again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from explore_helpers import BOTH_PLANS, CHECKOUT, SMALL, Plain, ids, record_expert, rows, run_policy
from small_runs import trajkit

from envs.webshop import Expert, Novice, WebShop
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import TrajkitError, UsageError
from trajkit.exploration.env import Message, key_values, load
from trajkit.exploration.explore import Rollout, Settings, explore, rollout_seed
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter

# --- what it gives -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default shop: expert recorded, one iteration of the novice."""
    runs = tmp_path_factory.mktemp("explored")
    assert record_expert(runs, WebShop())["rollouts"] == 100
    counts = run_policy(runs, WebShop())
    assert counts["drift"] == counts["error"] == 0
    return runs


def test_the_default_shop_gives_eef_something_to_find(explored: Path) -> None:
    with DuckDBEngine(explored) as runs:
        solved = {row["role"]: row["n"] for row in runs.rows(
            "SELECT role, count(*) AS n FROM outcomes WHERE solved AND branch_step = 0 GROUP BY role"
        )}  # fmt: skip
        assert 20 <= solved["expert"] <= 45
        assert 25 <= solved["policy"] <= 45
        kinds = {row["kind"]: row["n"] for row in runs.rows("SELECT kind, count(*) AS n FROM eef GROUP BY kind")}
        assert kinds["initial"] >= 60
        assert kinds["recovery"] >= 10
        (only,) = runs.rows(
            "SELECT count(*) AS n FROM (SELECT task_id FROM outcomes WHERE split = 'train' GROUP BY task_id "
            "HAVING bool_or(solved AND branch_step > 0) AND NOT bool_or(solved AND branch_step = 0)) AS t"
        )
        assert only["n"] >= 10
        (lost,) = runs.rows("SELECT count(*) AS n FROM first_recovery_state ANTI JOIN eef USING (expert_id)")
        assert lost["n"] >= 5  # recovery states that nobody has solved yet


def test_recorded_paths_are_whole_conversations(explored: Path) -> None:
    with DuckDBEngine(explored) as runs:
        path = runs.rows(
            "SELECT b.trajectory_id, b.branch_step, m.seq, m.step, m.role, m.trajectory_id = b.trajectory_id AS own "
            "FROM trajectories AS b JOIN messages AS m ON m.trajectory_id = b.trajectory_id "
            "OR (m.trajectory_id = b.parent_id AND m.step < b.branch_step) "
            "WHERE b.role = 'policy' ORDER BY b.trajectory_id, m.seq"
        )
    by_branch: dict[str, list[dict[str, Any]]] = {}
    for row in path:
        by_branch.setdefault(row["trajectory_id"], []).append(row)
    for messages in by_branch.values():
        assert [m["seq"] for m in messages] == list(range(len(messages)))
        assert [m["role"] for m in messages] == (["system"] + ["user", "assistant"] * len(messages))[: len(messages)]
        assert [m["step"] for m in messages[1:]] == [number // 2 for number in range(len(messages) - 1)]
        own = [m for m in messages if m["own"]]
        assert own[0]["step"] == messages[0]["branch_step"]
        assert own[0]["role"] in ("user", "system")
        assert messages[-1]["role"] == "user"  # the closing observation


def test_tasks_are_written_once_and_test_tasks_stay_apart(tmp_path: Path) -> None:
    env = WebShop(**SMALL)
    record_expert(tmp_path, env)
    run_policy(tmp_path, env)
    files = list(tmp_path.glob("**/tasks*.parquet"))
    assert len(files) == 1
    counts = explore(tmp_path, env, Novice(), plans=["initial"], settings=Settings("policy", 1, split="test"))
    assert counts["rollouts"] == 4
    assert {row["split"]: row["n"] for row in rows(tmp_path, "SELECT split, count(*) AS n FROM tasks GROUP BY 1")} == {
        "train": 16,
        "test": 4,
    }
    assert (
        rows(tmp_path, "SELECT * FROM eef AS e JOIN outcomes AS o USING (trajectory_id) WHERE o.split = 'test'") == []
    )
    with pytest.raises(UsageError, match="only the plan initial"):
        explore(tmp_path, env, Novice(), plans=BOTH_PLANS, settings=Settings("policy", 1, split="test"))
    with pytest.raises(UsageError, match="no tasks of the split 'dev'"):
        explore(tmp_path, env, Novice(), plans=["initial"], settings=Settings("policy", 1, split="dev"))


def test_the_same_seed_gives_the_same_trajectories_with_and_without_snapshots(tmp_path: Path) -> None:
    for name, env in (("a", WebShop(**SMALL)), ("b", Plain())):
        record_expert(tmp_path / name, env)
        run_policy(tmp_path / name, env)
    assert ids(tmp_path / "a") == ids(tmp_path / "b")
    record_expert(tmp_path / "c", WebShop(**SMALL), seed=1)
    assert not ids(tmp_path / "a") & ids(tmp_path / "c")


def test_one_replay_serves_all_states_of_an_expert(tmp_path: Path) -> None:
    class Counting(WebShop):
        steps = 0

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            self.steps += 1
            return super().step(action)

    shared, plain = Counting(**SMALL), Plain()
    record_expert(tmp_path, shared)
    shared.steps = 0
    run_policy(tmp_path, shared)
    own = sum(r["n_steps"] for r in rows(tmp_path, "SELECT n_steps FROM trajectories WHERE role = 'policy'"))
    last = rows(tmp_path, "SELECT max(branch_step) AS n FROM trajectories WHERE branch_step > 0 GROUP BY parent_id")
    assert shared.steps == own + sum(row["n"] for row in last)
    record_expert(tmp_path / "plain", plain)
    plain.steps = 0
    run_policy(tmp_path / "plain", plain)
    assert plain.steps > shared.steps


def test_seeds_differ_between_rollouts() -> None:
    places = [Rollout("t", parent, step, sample) for parent in (None, "e") for step in (0, 1) for sample in (0, 1)]
    seeds = {rollout_seed(seed, place, i) for seed in (0, 1) for place in places for i in (0, 1)}
    assert len(seeds) == 32
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert rollout_seed(0, Rollout("t", "e", 1, 0), 1) == 466698828  # as in every other process and release


# --- plan minus done ---------------------------------------------------------------------------


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    env = WebShop(**SMALL)
    assert record_expert(tmp_path, env)["rollouts"] == 16
    again = record_expert(tmp_path, env)
    assert (again["rollouts"], again["already_done"]) == (0, 16)
    first = run_policy(tmp_path, env)
    again = run_policy(tmp_path, env)
    assert (again["rollouts"], again["already_done"]) == (0, first["rollouts"])
    more = explore(tmp_path, env, Novice(), plans=["initial"], settings=Settings("policy", 1), samples=3)
    assert more["rollouts"] == 32
    assert run_policy(tmp_path, env, iteration=2)["rollouts"] == first["rollouts"]
    other = WebShop(**SMALL, seed=5)
    counts = run_policy(tmp_path, other)
    assert counts["rollouts"] == 16  # its own tasks from s_0
    assert counts["other_tasks"] == first["rollouts"]


KILLED = """
import sys, time
from pathlib import Path
import trajkit.exploration.explore
from envs.webshop import Novice, WebShop
from trajkit.exploration.explore import Settings, explore

folder, parts = Path(sys.argv[2]), int(sys.argv[3])

class Waiting(WebShop):
    def step(self, action):
        if len(list(folder.glob("part-*"))) >= parts:
            time.sleep(600)  # until it is killed
        return super().step(action)

trajkit.exploration.explore.FLUSH_SECONDS = 0
explore(sys.argv[1], Waiting(products=200, train_tasks=16, test_tasks=4), Novice(), plans=["initial", "skip_length"],
        settings=Settings("policy", 1))
"""


def test_killed_and_started_again_it_runs_everything_exactly_once(tmp_path: Path) -> None:
    env, whole, killed = WebShop(**SMALL), tmp_path / "whole", tmp_path / "killed"
    for runs in (whole, killed):
        record_expert(runs, env)
    total = run_policy(whole, env)["rollouts"]
    folder = killed / "explore-policy-novice-i1"
    for kill in range(2):
        parts = len(list(folder.glob("part-*"))) + 2
        call = [sys.executable, "-c", KILLED, str(killed), str(folder), str(parts)]
        process = subprocess.Popen(call, cwd=CHECKOUT, env=os.environ)
        while len(list(folder.glob("part-*"))) < parts:
            assert process.poll() is None, f"it ended before kill {kill}"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (folder / ".part-0123.elsewhere.1.tmp").mkdir()  # what a writer killed on another machine leaves
    left = run_policy(killed, env)
    assert 0 < left["rollouts"] < total
    assert left["rollouts"] + left["already_done"] == total
    assert ids(killed) == ids(whole)
    times = rows(
        killed, "SELECT count(*) AS n FROM trajectories GROUP BY task_id, parent_id, branch_step, sample, role"
    )
    assert {row["n"] for row in times} == {1}
    assert len(times) == total + 16


# --- drift -------------------------------------------------------------------------------------


class Shifting(Plain):
    """Nondeterministic on purpose: after it was recorded, the observation after the second action is another one."""

    shifts = False

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        self.taken = 0
        return super().reset(task_id, seed=seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        self.taken += 1
        return (observation + (" [SEP] 3 left" if self.shifts and self.taken == 2 else ""), *rest)  # type: ignore[return-value]


def test_the_first_difference_ends_a_rollout_as_drift(tmp_path: Path) -> None:
    env = Shifting()
    record_expert(tmp_path, env)
    env.shifts, env.steps = True, 0
    counts = explore(tmp_path, env, Novice(), plans=["skip_length"], settings=Settings("policy", 1))
    got = rows(tmp_path, "SELECT * FROM trajectories WHERE role = 'policy' ORDER BY branch_step")
    drifted = [row for row in got if row["branch_step"] >= 2]
    assert {row["ended"] for row in drifted} == {"drift"}
    assert counts["drift"] == len(drifted) > 0
    for row in drifted:
        assert row["error"].startswith("at step 2: expected user: Instruction:")
        assert row["error"].endswith(" [SEP] 3 left")
        assert (row["n_steps"], row["reward"], row["success"]) == (0, None, None)
    own = sum(row["n_steps"] + row["branch_step"] for row in got if row["branch_step"] < 2)
    assert env.steps == own + 2 * len(drifted)  # nothing was run after the difference
    assert rows(tmp_path, "SELECT * FROM branch_points WHERE step >= 2 AND n_rollouts > 0") == []
    assert rows(tmp_path, "SELECT * FROM outcomes WHERE ended = 'drift' AND solved IS NOT NULL") == []
    again = explore(tmp_path, env, Novice(), plans=["skip_length"], settings=Settings("policy", 1))
    assert again["rollouts"] == 0


def _other_first_page(env: Plain) -> None:
    def reset(task_id: str, *, seed: int | None = None) -> Any:
        return [*WebShop.reset(env.shop, task_id)[0], {"role": "user", "content": "Sale!"}], {}

    env.shop.reset = reset  # type: ignore[method-assign]


def _other_score(env: Plain) -> None:
    def step(action: str) -> Any:
        observation, reward, done, truncated, info = WebShop.step(env.shop, action)
        return observation, reward, done, truncated, info | {"score": 0.25}

    env.shop.step = step  # type: ignore[method-assign]


def _ends_early(env: Plain) -> None:
    def step(action: str) -> Any:
        observation, reward, _, truncated, info = WebShop.step(env.shop, action)
        return observation, reward, True, truncated, info

    env.shop.step = step  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_other_first_page, "at step 0: expected no message, came user: Sale!"),
        (_other_score, "at step 1: expected score 0.0, came score 0.25"),
        (_ends_early, "at step 1: expected an action, came the end of the episode (done)"),
    ],
)
def test_every_kind_of_difference_is_drift(tmp_path: Path, change: Callable[[Plain], None], error: str) -> None:
    env = Plain()
    record_expert(tmp_path, env)
    change(env)
    counts = explore(tmp_path, env, Novice(), plans=["skip_length"], settings=Settings("policy", 1))
    assert counts["drift"] == counts["rollouts"] > 0
    assert {row["error"] for row in rows(tmp_path, "SELECT error FROM trajectories WHERE ended = 'drift'")} == {error}


# --- errors ------------------------------------------------------------------------------------


def test_an_exception_ends_its_rollout_only_and_is_run_again(tmp_path: Path) -> None:
    class Dying(WebShop):
        dead = True

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            if self.dead and action.endswith("[Buy Now]") and self._state.task % 4 == 0:
                raise ConnectionError("the server is gone")
            return super().step(action)

    env = Dying(**SMALL)
    env.dead = False
    record_expert(tmp_path, env)
    env.dead = True
    first = run_policy(tmp_path, env)
    assert 0 < first["error"] < first["rollouts"]
    died = rows(tmp_path, "SELECT * FROM trajectories WHERE ended = 'error'")
    assert {row["error"] for row in died} == {"ConnectionError: the server is gone"}
    assert all(row["reward"] is None and row["success"] is None and row["n_steps"] > 0 for row in died)
    env.dead = False
    again = run_policy(tmp_path, env)
    assert (again["rollouts"], again["error"]) == (first["error"], 0)
    assert run_policy(tmp_path, env)["rollouts"] == 0


class Answers:
    """A policy whose every answer is the given one."""

    actor = "Answers / 1"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def act(self, messages: list[Message], *, seed: int) -> Message:
        messages.clear()  # what a policy does to its copy of the conversation must not matter
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"role": "assistant", "content": None}, "no assistant message with text"),
        ({"role": "user", "content": "click[x]"}, "no assistant message with text"),
        ("click[x]", "AttributeError"),
        ({"role": "assistant", "content": "\ud800"}, "surrogate"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: Any, error: str) -> None:
    with pytest.raises(TrajkitError, match=r"all 16 rollouts ended in error.*" + error):
        explore(tmp_path, WebShop(**SMALL), Answers(answer), plans=["initial"], settings=Settings("policy", 1))
    assert {row["ended"] for row in rows(tmp_path, "SELECT ended FROM trajectories")} == {"error"}
    assert (tmp_path / "explore-policy-answers-1-i1").is_dir()


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "1", None])
def test_rewards_that_are_none(tmp_path: Path, reward: Any) -> None:
    class Wrong(Plain):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "page", reward, True, False, {}

    if reward == "1":  # text that is a number is taken as one
        explore(
            tmp_path,
            Wrong(),
            Answers({"role": "assistant", "content": "x"}),
            plans=["initial"],
            settings=Settings("policy", 1),
        )
        assert {row["reward"] for row in rows(tmp_path, "SELECT reward FROM trajectories")} == {1.0}
        return
    with pytest.raises(TrajkitError, match="ended in error"):
        explore(
            tmp_path,
            Wrong(),
            Answers({"role": "assistant", "content": "x"}),
            plans=["initial"],
            settings=Settings("policy", 1),
        )
    assert rows(tmp_path, "SELECT * FROM outcomes WHERE solved IS NOT NULL") == []


@pytest.mark.parametrize("success_reward", [None, 0.5, 0.6, -1.0])
def test_what_is_counted_as_solved_is_what_the_tables_say(tmp_path: Path, success_reward: float | None) -> None:
    """Every second task ends with 0.5, the others with 0, and the environment has no verdict of its own."""

    class Half(Plain):
        def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
            self.reward = 0.5 if int(re.findall(r"\d+", task_id)[-1]) % 2 else 0.0
            return super().reset(task_id, seed=seed)

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "page", self.reward, True, False, {}

    params = {} if success_reward is None else {"success_reward": success_reward}
    policy, settings = Answers({"role": "assistant", "content": "x"}), Settings("policy", 1)
    counts = explore(tmp_path, Half(), policy, plans=["initial"], settings=settings, params=params)
    query = "SELECT count(CASE WHEN solved THEN 1 END) AS solved, count(CASE WHEN NOT solved THEN 1 END) AS failed"
    [told] = rows(tmp_path, f"{query} FROM outcomes", **params)
    assert {name: counts[name] for name in ("solved", "failed")} == told
    assert counts["solved"] == {None: 0, 0.5: 8, 0.6: 0, -1.0: 16}[success_reward]


def test_tasks_of_which_the_runs_say_something_else_are_left_out(tmp_path: Path) -> None:
    """What is recorded of them would be of two splits or two environments, and no rule would take any of it."""
    env = WebShop(**SMALL)
    train = [task.task_id for task in env.tasks("train")]
    said = [{"env": "other"}, {"split": "test"}, {"env": "webshop", "split": "train"}, {}]
    with RunWriter(tmp_path / "import", set()) as writer:
        for task_id, of_task in zip(train, said, strict=False):
            messages = [{"role": "user", "content": "s_0"}, {"role": "assistant", "content": "x"}]
            writer.add(record(task_id=task_id, role="expert", messages=messages, reward=0.0, **of_task))
    counts = explore(tmp_path, env, Novice(), plans=["initial"], settings=Settings("policy", 1))
    assert counts.conflicts == sorted(train[:2])
    assert counts["rollouts"] == len(train) - 2
    assert rows(tmp_path, "SELECT * FROM task_worlds WHERE problem IS NOT NULL") == []
    again = explore(tmp_path, env, Expert(), plans=["initial"], settings=Settings("expert", 0))
    assert again.conflicts == counts.conflicts and again["rollouts"] == len(train) - 2
    command = [*("explore", "--runs", tmp_path, "--env", "envs.webshop:WebShop", "--policy", "envs.webshop:Novice")]
    arguments = [f"--env-arg={name}={value}" for name, value in SMALL.items()]
    done = trajkit(*command, *arguments, "--iteration", 1)
    assert done.err.splitlines()[-1].endswith(f": {', '.join(sorted(train[:2]))}")
    assert "2 tasks left out" in done.err


def test_the_step_budget_is_the_whole_paths(tmp_path: Path) -> None:
    env = WebShop(**SMALL)
    record_expert(tmp_path, env)
    assert run_policy(tmp_path, env, max_steps=3)["solved"] == 0
    got = rows(
        tmp_path,
        "SELECT o.*, t.success FROM outcomes AS o JOIN trajectories AS t USING (trajectory_id) WHERE o.role = 'policy'",
    )
    cut = [row for row in got if row["ended"] == "max_steps"]
    assert {row["n_actions"] for row in cut if row["branch_step"] <= 3} == {3}
    assert {row["n_steps"] for row in cut if row["branch_step"] > 3} == {0}
    assert {(row["solved"], row["reward"]) for row in cut} == {(False, 0.0)}


# --- branches of branches ----------------------------------------------------------------------


def test_a_branch_of_a_branch_is_replayed_along_its_whole_path(tmp_path: Path) -> None:
    """An expert goes on from another's s_2 (as IPR's and a second expert's trajectories do), and a third from that."""
    env = WebShop(**SMALL)
    record_expert(tmp_path, env)
    (root,) = rows(tmp_path, "SELECT * FROM outcomes WHERE n_actions >= 8 ORDER BY n_actions, trajectory_id LIMIT 1")
    parent, family = root["trajectory_id"], [root["trajectory_id"]]
    conversation: list[Message] = rows(
        tmp_path, f"SELECT role, content, step FROM messages WHERE trajectory_id = '{parent}' ORDER BY seq"
    )
    for depth, step in enumerate((2, 4)):
        conversation = [
            dict(m) for m in conversation if m["step"] < step or (m["step"] == step and m["role"] == "user")
        ]
        env.reset(root["task_id"])
        for message in conversation:
            if message["role"] == "assistant":
                env.step(message["content"])
        first = len(conversation) - 1
        for number in range(6):
            text = f"Thought: detour {depth}.\nAction: nothing"
            conversation.append({"role": "assistant", "content": text, "step": step + number})
            conversation.append({"role": "user", "content": env.step(text)[0], "step": step + number + 1})
        made = record(
            task_id=root["task_id"], role="expert", env="webshop", split="train", actor="wanderer", parent_id=parent,
            branch_step=step, first_seq=first, messages=conversation[first:], success=False, ended="done",
        )  # fmt: skip
        with RunWriter(tmp_path / "wanderer") as writer:
            writer.add(made)
        parent = made.trajectory["trajectory_id"]
        family.append(parent)
    counts = explore(tmp_path, Plain(), Novice(), plans=["every_step"], settings=Settings("policy", 1))
    assert counts["drift"] == counts["error"] == 0
    from_family = rows(
        tmp_path,
        "SELECT b.parent_id, b.branch_step, min(m.seq) AS first, any_value(p.n_actions) AS n FROM trajectories AS b "
        "JOIN messages AS m USING (trajectory_id) JOIN outcomes AS p ON p.trajectory_id = b.parent_id "
        f"WHERE b.role = 'policy' AND b.parent_id IN {tuple(family)} GROUP BY ALL",
    )
    assert Counter(row["parent_id"] for row in from_family) == {
        family[0]: root["n_actions"] - 1,
        family[1]: 2 + 6 - 1,
        family[2]: 4 + 6 - 1,
    }
    assert all(row["first"] == 1 + 2 * row["branch_step"] for row in from_family)  # the system message comes first
    deep = rows(
        tmp_path,
        "SELECT s.* FROM path_segments AS s JOIN trajectories AS t USING (trajectory_id) "
        f"WHERE t.role = 'policy' AND t.parent_id = '{family[2]}' AND t.branch_step = 6 ORDER BY s.first_step",
    )
    assert [(row["first_step"], row["end_step"]) for row in deep[:3]] == [(0, 2), (2, 4), (4, 6)]
    assert [row["owner_id"] for row in deep[:3]] == family


# --- names on the command line -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("envs.webshop", {}, "no module:attr"),
        ("envs.nowhere:X", {}, "there is no module envs.nowhere"),
        ("envs.webshop:WebShopp", {}, "envs.webshop has no WebShopp.*Expert.*WebShop"),
        ("envs.webshop:WebShop", {"colours": 3}, "unexpected keyword argument 'colours'.*It takes .*colors=4"),
        ("envs.webshop:WebShop", {"colors": 99}, "colors=99: it must be whole, from 1 to 12"),
        ("envs.webshop.generated:COLORS", {"a": 1}, "takes no arguments"),
        ("broken_for_test:X", {}, "importing it failed with ZeroDivisionError"),
        ("lacking_for_test:X", {}, "needs the package surely_not_there"),
    ],
)
def test_load_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, args: dict[str, Any], message: str
) -> None:
    (tmp_path / "broken_for_test.py").write_text("1 / 0")
    (tmp_path / "lacking_for_test.py").write_text("import surely_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match=message):
        load(name, args)


def test_load_and_key_values() -> None:
    args = key_values(["products=90", "page_size=4", "next_share=0.1", "train_tasks=5", "test_tasks=0"])
    assert args == {"products": 90, "page_size": 4, "next_share": 0.1, "train_tasks": 5, "test_tasks": 0}
    assert len(load("envs.webshop:WebShop", args).tasks("train")) == 5
    assert load("envs.webshop.generated:COLORS")[0] == "black"
    assert key_values(["path=a=b"]) == {"path": "a=b"}
    for wrong in ("products", "=3", "a b=3"):
        with pytest.raises(UsageError, match="key=value"):
            key_values([wrong])


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trajkit.cli.explore import command

    monkeypatch.chdir(CHECKOUT)
    runs = tmp_path / "runs"
    common = ["--runs", str(runs), "--env", "envs.webshop:WebShop", "--env-arg", "train_tasks=10"]
    expert = CliRunner().invoke(
        command, [*common, "--policy", "envs.webshop:Expert", "--role", "expert", "--iteration", "0"]
    )
    assert expert.exit_code == 0
    assert expert.stdout == ""
    assert "expert scripted-expert, iteration 0: 10 rollouts, " in expert.stderr
    novice = [*common, "--policy", "envs.webshop:Novice", "--policy-arg", "slip=0", "--iteration", "1"]
    first = CliRunner().invoke(command, [*novice, "--plan", "initial", "--plan", "skip_length", "--m", "2"])
    assert first.exit_code == 0
    assert "0 skipped as done" in first.stderr
    meta = [json.loads(row["meta"]) for row in rows(runs, "SELECT meta FROM trajectories WHERE n_steps > 0")]
    assert all(len(m["scores"]) > 0 for m in meta)
    for swapped in (
        ["--env", "envs.webshop:WebShop", "--policy", "envs.webshop:WebShop"],
        ["--env", "envs.webshop:Novice", "--policy", "envs.webshop:Novice"],
    ):
        wrong = CliRunner().invoke(command, ["--runs", str(runs), "--iteration", "1", *swapped])
        assert isinstance(wrong.exception, UsageError)
        assert " is no " in str(wrong.exception)
    wrong = CliRunner().invoke(command, [*novice, "--plan", "skip_lenght"])
    assert isinstance(wrong.exception, UsageError)
    assert "did you mean skip_length?" in str(wrong.exception)
