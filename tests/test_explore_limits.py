"""What an environment may do to `trajkit explore`: hang, end its process, print. It costs its own rollout at most."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from explore_helpers import CHECKOUT, SMALL, Plain, rows

import trajkit.exploration.explore
from envs.webshop import Novice, WebShop
from trajkit.cli.explore import closing
from trajkit.exploration.env import Message
from trajkit.exploration.explore import Settings, explore
from trajkit.exploration.pending import Counts
from trajkit.exploration.policies import Answer
from trajkit.exploration.watch import Overdue, Watch

LIMIT = 3.0  # seconds; an innocent step takes a thousandth of one


shopper = partial(Novice, slip=0)  # it draws nothing


class Awaited:
    """The shopper as a policy that is awaited, of which all rollouts are in flight."""

    actor = "novice"

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        return Answer(shopper().act([dict(message) for message in messages], seed=0))

    def sampling(self, sample: int) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        return None


class Naughty(WebShop):
    """Does what it should not in task `at`, unless the file `well` is there."""

    def __init__(self, how: str, well: str, at: int = 5, **settings: Any) -> None:
        super().__init__(**settings)
        self.how, self.well, self.at = how, Path(well), at

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        found = super().reset(task_id, seed=seed)
        if self.how == "hang in reset":
            self.misbehave()
        return found

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.how != "hang in reset":
            self.misbehave()
        return super().step(action)

    def misbehave(self) -> None:
        if self._state.task != self.at or self.well.exists():
            return
        if self.how == "end":
            os._exit(7)
        if self.how == "crash":
            ctypes.string_at(0)
        if self.how == "hang busy":
            while True:
                pass
        threading.Event().wait()


class NaughtyPlain(Plain):
    """The same without snapshots: each rollout in flight has an environment of its own."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.shop = Naughty(*args, **settings)
        self.steps = 0


def run(runs: Path, policy: Any, env: Any = WebShop, *given: Any, **more: Any) -> Counts:
    settings = Settings("policy", 1, **{"concurrency": 16, "env_workers": 1, "step_timeout": LIMIT, **more})
    made: Any = {"make_env": partial(env, *given, **SMALL), "make_policy": shopper}
    return explore(runs, WebShop(**SMALL), policy, plans=["initial"], settings=settings, **made)


def ended(runs: Path) -> dict[str, tuple[Any, ...]]:
    """By task, how it ended."""
    found = rows(runs, "SELECT * FROM trajectories WHERE ended <> 'error' ORDER BY task_id")
    return {row["task_id"]: (row["ended"], row["n_steps"], row["reward"], row["actions_digest"]) for row in found}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    runs = tmp_path_factory.mktemp("calm")
    run(runs, shopper(), env_workers=0)
    return ended(runs)


@pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")
@pytest.mark.parametrize(
    ("policy", "how", "env", "error"),
    [
        (shopper, "end", Naughty, "the environment's process ended (exit code 7)"),
        (Awaited, "end", NaughtyPlain, "the environment's process ended (exit code 7)"),
        (Awaited, "crash", Naughty, "the environment's process ended (exit code -11)"),
        (shopper, "hang", NaughtyPlain, "the environment's step took longer than 3 s (--step-timeout)"),
        (Awaited, "hang busy", Naughty, "the environment's step took longer than 3 s (--step-timeout)"),
        (Awaited, "hang in reset", NaughtyPlain, "the environment's reset took longer than 3 s (--step-timeout)"),
    ],
)
def test_what_hangs_or_ends_its_process_costs_its_rollout_alone(
    tmp_path: Path, calm: dict[str, tuple[Any, ...]], policy: Any, how: str, env: Any, error: str
) -> None:
    runs, well = tmp_path / "runs", tmp_path / "well"
    counts = run(runs, policy(), env, how, str(well), tries=1)
    assert (counts["rollouts"], counts["error"]) == (16, 1)
    assert counts.first_error.startswith(error)
    (bad,) = rows(runs, "SELECT * FROM trajectories WHERE ended = 'error'")
    assert (bad["error"], bad["reward"], bad["success"]) == (counts.first_error, None, None)
    assert ended(runs) == {task: how for task, how in calm.items() if task != bad["task_id"]}
    well.touch()  # mended: the next run does what ended in error, and nothing else
    again = run(runs, policy(), env, how, str(well))
    assert (again["rollouts"], again["error"], again["already_done"]) == (1, 0, 15)
    assert ended(runs) == calm


class Lingering(WebShop):
    """Does not close, and is no trouble else."""

    def close(self) -> None:
        threading.Event().wait()


def test_a_close_that_hangs_is_ended(
    tmp_path: Path, calm: dict[str, tuple[Any, ...]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, shopper(), Lingering)["error"] == 0
    assert ended(tmp_path) == calm
    assert "an environment's close took longer than 3 s; its process was ended." in capfd.readouterr().err


def test_without_a_process_of_its_own_what_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    spoken = threading.Event()

    def tell(line: str) -> None:
        if "'s step has" in line or "'s close has" in line:  # on a busy machine others take as long
            told.append(line)
            spoken.set()

    class Slow(WebShop):
        taken = 0

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            Slow.taken += 1
            if Slow.taken == 3:
                assert spoken.wait(60)
            return super().step(action)

        def close(self) -> None:
            assert spoken.wait(60)

    monkeypatch.setattr(trajkit.exploration.explore, "tell", tell)
    monkeypatch.setattr("trajkit.console.tell", tell)
    settings = Settings("policy", 1, step_timeout=0.2)
    assert explore(tmp_path, Slow(**SMALL), Novice(), plans=["initial"], settings=settings)["error"] == 0
    assert told[0].startswith("the environment's step has been running for 0.2 s (--step-timeout). It cannot be ended")
    told.clear()
    spoken.clear()
    with closing(Slow(**SMALL), 0.2):
        pass
    assert told[0].startswith("the environment's close has been running for 0.2 s")


def test_a_call_is_overdue_when_it_has_gone_on_for_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("trajkit.exploration.watch.time.monotonic", lambda: now)
    watch = Watch()
    overdue, never = Overdue(watch.cells, 10), Overdue(watch.cells, 0)
    seen: list[Any] = []

    def during(seconds: float) -> None:
        nonlocal now
        seen.append(overdue.look())
        now += seconds
        seen.extend((overdue.look(), never.look()))

    watch.call("step", during, 9)
    now += 50
    assert overdue.look() is None  # nothing goes on
    with pytest.raises(TypeError):
        watch.call("reset", int, [])
    watch.call("close", during, 10)
    assert seen == [None, None, None, None, "close", None]
    assert (overdue.pause, never.pause) == (1.0, None)


class Loud(WebShop):
    """Prints wherever it can, in every way."""

    def __init__(self, **settings: Any) -> None:
        print("python, made")
        super().__init__(**settings)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        print("python, step")
        sys.__stdout__.write("python, its first stdout\n")  # type: ignore[union-attr]
        ctypes.CDLL(None).puts(b"C")
        os.system("echo a process")
        return super().step(action)

    def close(self) -> None:
        print("python, close")


@pytest.mark.parametrize("workers", [0, 1])
def test_stdout_is_data_whatever_an_environment_prints(tmp_path: Path, workers: int) -> None:
    call = [sys.executable, "-c", "from trajkit.cli import main; main()", "explore", f"--runs={tmp_path / 'runs'}"]
    call += ["--env=tests.test_explore_limits:Loud", "--env-arg=products=200", "--env-arg=train_tasks=2"]
    call += ["--env-arg=test_tasks=0", "--policy=envs.webshop:Novice", "--iteration=1", "--max-steps=2", "--json"]
    here = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")])
    done = subprocess.run(
        [*call, f"--env-workers={workers}"],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": here},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rollouts"] == 2
    for said in ("python, made", "python, step", "python, its first stdout", "C", "a process", "python, close"):
        assert f"{said}\n" in done.stderr


def test_rollouts_in_flight_are_as_many_as_there_are_descriptors_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trajkit.exploration.http_client import connections_that_fit

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, hard))
    assert 1024 - open_now - 110 < connections_that_fit() <= 1024 - open_now - 90
    monkeypatch.setattr(resource, "getrlimit", lambda which: (20, hard))
    assert connections_that_fit() == 1

    class Few(Awaited):
        at_most, now, most = 5, 0, 0

        async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
            import asyncio

            Few.now += 1
            Few.most = max(Few.most, Few.now)
            await asyncio.sleep(0)
            Few.now -= 1
            return await super().answer(messages, seed=seed, sample=sample)

    assert run(tmp_path, Few(), env_workers=0, concurrency=300)["rollouts"] == 16
    assert Few.most == 5
    assert capfd.readouterr().err == (
        "300 rollouts in flight need as many connections, and this process may open too few files: 5 are in flight. "
        "`ulimit -n 1024` before it allows more.\n"
    )
