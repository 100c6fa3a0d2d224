"""One rollout: going to its state, letting the policy act, and the record of it.

Going to a state s_i of a recorded trajectory restores a snapshot or replays the trajectory's actions, and compares
every observation (and score) with the recording; the first difference is a `Drift`, and nothing after it is run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trajkit.console import tell
from trajkit.errors import BadRecord
from trajkit.exploration.env import Env, Message, Policy, Snapshots, Task
from trajkit.exploration.watch import Watch
from trajkit.messages import is_action
from trajkit.quoting import ends, hide, short
from trajkit.runs.records import Record, record, to_json

Stepped = tuple[str, float, bool, bool, dict[str, Any]]
"""What an environment's step gives: observation, reward, terminated, truncated, info."""


@dataclass(frozen=True)
class Rollout:
    """One row of a plan. `parent_id` None: from s_0 of the task."""

    task_id: str
    parent_id: str | None
    branch_step: int
    sample: int


@dataclass(frozen=True)
class Settings:
    """How to run rollouts. `max_steps` bounds the actions on a rollout's whole path, its parent's included.

    `concurrency` rollouts are in flight where the policy answers asynchronously (a server, a model folder).
    `env_workers` processes hold the environments; 0: this process does. `tries` bounds how often a rollout that ends
    in error is run before it is recorded as such. `shard` (k, n): only the k-th of n parts of the plan, k from 1;
    the rollouts from states of one trajectory are always in the same part. `step_timeout` is in seconds, for a reset, a
    step or the close of an environment: in a process of its own what takes longer is ended, and its rollout is an
    error; in this one it is told on stderr. 0: no limit.
    """

    role: str
    iteration: int
    split: str = "train"
    max_steps: int = 30
    seed: int = 0
    concurrency: int = 1
    env_workers: int = 0
    tries: int = 1
    shard: tuple[int, int] = (1, 1)
    step_timeout: float = 300.0


@dataclass
class Recorded:
    """The path of a recorded trajectory: its messages in order with their steps, and the score after each action."""

    messages: list[tuple[int, Message]]
    scores: dict[int, float | None]

    def action(self, step: int) -> Message | None:
        """The action a_step. None: the path has no such action."""
        return next((m for at, m in self.messages if at == step and is_action(m)), None)

    def observed(self, step: int) -> list[Message]:
        """The messages of state s_step: all that come after a_(step-1) and before a_step."""
        return [m for at, m in self.messages if at == step and not is_action(m)]

    def n_before(self, step: int) -> int:
        """How many messages come before state s_step."""
        return sum(at < step for at, _ in self.messages)


@dataclass
class Episode:
    """What has happened so far in the environment, whoever acted. Copied where rollouts branch off."""

    conversation: list[Message]
    steps: int = 0
    total: float = 0.0
    score: float | None = None
    success: bool | None = None
    ended: str | None = None
    scores: list[float | None] = field(default_factory=list)  # after each own action

    def branch(self) -> Episode:
        """The same state, with scores to come."""
        return Episode(list(self.conversation), self.steps, self.total, self.score, self.success, self.ended)

    def take(self, stepped: Stepped) -> Message:
        """Append what the environment answered to the last action. Returns the observation's message."""
        observation, reward, terminated, truncated, info = stepped
        message = _chat_message({"role": "user", "content": observation})
        self.steps += 1
        self.judge(reward, info)
        self.scores.append(self.score)
        self.conversation.append(message)
        self.ended = "done" if terminated else "max_steps" if truncated else None
        return message

    def judge(self, reward: Any, info: dict[str, Any]) -> None:
        """Take over reward, score and success of a step. Raises ValueError for NaN and infinity."""
        self.total += float(reward)
        self.score = None if info.get("score") is None else float(info["score"])
        for name, number in (("reward", self.total), ("score", self.score or 0.0)):
            if not math.isfinite(number):
                raise ValueError(f"the environment's {name} is {number} after step {self.steps}")
        success = info.get("success")
        self.success = None if success is None else bool(success)


class Drift(Exception):
    """The replay differs from the recording. `came` is the message that came instead, where one came."""

    def __init__(self, text: str, came: Message | None = None) -> None:
        super().__init__(text, came)
        self.text, self.came = text, came

    @classmethod
    def at(cls, step: int, expected: str, came: str, message: Message | None = None) -> Drift:
        """The drift found at a step."""
        return cls(f"at step {step}: expected {short(expected)}, came {short(came)}", message)


class Failed(Exception):
    """Something failed elsewhere (another process, a server); the text is the whole story."""


class Lost(Failed):
    """The environment's process ended because of another rollout. This one is to be run again."""


@dataclass(frozen=True)
class Job:
    """A rollout with all that running it takes. `path` None: it starts from s_0."""

    rollout: Rollout
    task: Task
    path: Recorded | None


class Seats:
    """Episodes side by side in one process. A seat is one rollout's episode, from `go_to` to `leave`.

    An environment with snapshots serves all seats: it is snapshot and restored whenever another seat has its turn.
    Of one without, every seat taken at the same time has its own, made by `make_env` when it is first needed.
    """

    def __init__(
        self, make_env: Callable[[], Env] | None, first: Env | None = None, watch: Watch | None = None
    ) -> None:
        """`first` is an environment that is there already and that its owner closes; `make_env` makes more."""
        self._make_env, self._call = make_env, (watch or Watch()).call
        self._shared: Any = None
        self._free: list[Env] = []
        self._made: list[Env] = []
        self._seated: dict[int, Env] = {}
        self._tokens: dict[int, Any] = {}  # of the seats whose turn it is not, where the environment is shared
        self._turn: int | None = None
        self._reached: tuple[tuple[str, str | None], Episode, Any] | None = None
        if first is not None:
            self._offer(first)

    def go_to(self, seat: int, rollout: Rollout, path: Recorded | None) -> Episode:
        """Bring the seat to the rollout's state. Raises Drift, or whatever the environment raises."""
        if self._shared is None and not self._free:
            if self._make_env is None:
                raise Failed("an environment without snapshots runs one rollout at a time unless explore has make_env")
            self._made.append(self._make_env())
            self._offer(self._made[-1])
        if self._shared is None:
            env = self._seated[seat] = self._free.pop()
            return self._go_to(env, rollout, path, None).branch()
        env = self._seated[seat] = self._shared
        self._switch(seat)
        # One replay serves all states of a parent, as long as they come in order.
        key, episode = (rollout.task_id, rollout.parent_id), None
        reached, self._reached = self._reached, None
        if reached and reached[0] == key and reached[1].steps <= rollout.branch_step:
            episode = reached[1]
            self._call("restore", self._shared.restore, reached[2])
        episode = self._go_to(env, rollout, path, episode)
        self._reached = (key, episode, self._call("snapshot", self._shared.snapshot))
        return episode.branch()

    def step(self, seat: int, action: str) -> Stepped:
        """Take an action in the seat's episode. Of info only score and success are kept."""
        if seat not in self._seated:
            raise Lost("the environment's process ended in the middle of the rollout")
        if self._shared is not None and self._turn != seat:
            self._switch(seat)
            self._call("restore", self._shared.restore, self._tokens.pop(seat))
        observation, reward, terminated, truncated, info = self._call("step", self._seated[seat].step, action)
        told: dict[str, Any] = {key: info[key] for key in ("score", "success") if key in info}
        return observation, reward, terminated, truncated, told

    def leave(self, seat: int) -> None:
        """The seat's episode is over, whether or not it was ever begun."""
        env = self._seated.pop(seat, None)
        self._tokens.pop(seat, None)
        self._turn = None if self._turn == seat else self._turn
        if env is not None and env is not self._shared:
            self._free.append(env)

    def close(self) -> None:
        """Close the environments made here. One that fails at it is told on stderr."""
        for env in self._made:
            try:
                self._call("close", env.close)
            except Exception as problem:
                tell(f"an environment could not be closed: {say(problem)}")

    def _offer(self, env: Env) -> None:
        if isinstance(env, Snapshots):
            self._shared = env
        else:
            self._free.append(env)

    def _switch(self, seat: int) -> None:
        """Give the shared environment to another seat; what it holds now is kept for the seat that had it."""
        if self._turn is not None and self._turn != seat:
            self._tokens[self._turn] = self._call("snapshot", self._shared.snapshot)
        self._turn = seat

    def _go_to(self, env: Env, rollout: Rollout, path: Recorded | None, episode: Episode | None) -> Episode:
        """Bring the environment to the rollout's state, from `episode` (a state before it) or from a reset."""
        if episode is None:
            # s_0 of a task is one state: its seed comes from the task alone, so that a recording can be replayed later.
            seed = int.from_bytes(_digest(rollout.task_id)[:4]) >> 1
            messages, info = self._call("reset", env.reset, rollout.task_id, seed=seed)
            messages = [_chat_message(message) for message in messages]
            if not messages:
                raise ValueError("the environment's reset gave no messages")
            if path and rollout.branch_step:
                _compare(0, path.observed(0), messages)
            episode = Episode(list(messages))
            episode.judge(0.0, info)
        while episode.steps < rollout.branch_step:
            assert path is not None
            action = path.action(episode.steps)
            if action is None or not isinstance(action.get("content"), str):
                raise ValueError(f"the recording of {rollout.parent_id} has no text action at step {episode.steps}")
            if episode.ended:
                break
            episode.conversation.append(action)
            observation = episode.take(self._call("step", env.step, action["content"]))
            expected = path.scores.get(episode.steps - 1)
            if expected is not None and episode.score is not None and expected != episode.score:
                raise Drift.at(episode.steps, f"score {expected}", f"score {episode.score}", observation)
            if path.action(episode.steps) or path.observed(episode.steps):
                _compare(episode.steps, path.observed(episode.steps), [observation])
        if episode.ended and path and path.action(episode.steps):
            raise Drift.at(episode.steps, "an action", f"the end of the episode ({episode.ended})")
        return episode


def rollout_seed(seed: int, rollout: Rollout, iteration: int) -> int:
    """The seed of one rollout, from 0 to 2**31 - 1: the same for the same rollout, in any process and order."""
    key = to_json([seed, rollout.task_id, rollout.parent_id, rollout.branch_step, rollout.sample, iteration])
    return int.from_bytes(_digest(key)[:4]) >> 1


def shard_of(rollout: Rollout, n: int) -> int:
    """Which of n parts of a plan a rollout is in, from 1: the same on every machine."""
    return 1 + int.from_bytes(_digest(to_json([rollout.task_id, rollout.parent_id]))[:8]) % n


def roll(seats: Seats, policy: Policy, job: Job, settings: Settings) -> Record:
    """Run one rollout with a policy that answers at once. Its errors and drift are in the record."""
    rollout = job.rollout
    seed, error = rollout_seed(settings.seed, rollout, settings.iteration), None
    try:
        try:
            episode = seats.go_to(0, rollout, job.path)
        except Exception as problem:
            return unreached(job, policy.actor, settings, problem)
        try:
            while not episode.ended:
                if episode.steps >= settings.max_steps:
                    episode.ended = "max_steps"
                    break
                action = policy.act([message.copy() for message in episode.conversation], seed=seed)
                said = action.get("content")
                if not is_action(action) or not isinstance(said, str):
                    raise ValueError(f"the policy's answer is no assistant message with text: {short(repr(action))}")
                episode.conversation.append(action)
                episode.take(seats.step(0, said))
        except Exception as problem:
            episode.ended, error = "error", say(problem)
    finally:
        seats.leave(0)
    return reached(job, policy.actor, settings, episode, error)


def roll_all(seats: Seats, policy: Policy, jobs: Sequence[Job], settings: Settings) -> Iterator[Record]:
    """`roll` each job, those that end in error again up to `settings.tries` times."""
    for job in jobs:
        for attempt in range(settings.tries):
            result = roll(seats, policy, job, settings)
            if result.trajectory["ended"] != "error" or attempt == settings.tries - 1:
                yield result
                break


def _compare(step: int, expected: Sequence[Message], came: Sequence[Message]) -> None:
    """Raise Drift when the messages of state s_step are not the recorded ones."""
    for number in range(max(len(expected), len(came))):
        old = expected[number] if number < len(expected) else None
        new = came[number] if number < len(came) else None
        if old is None or new is None or (old["role"], old.get("content")) != (new["role"], new.get("content")):
            raise Drift.at(step, _text(old), _text(new), new)


# --- the record --------------------------------------------------------------------------------


def reached(
    job: Job,
    actor: str,
    settings: Settings,
    episode: Episode,
    error: str | None,
    sampling: Mapping[str, Any] | None = None,
) -> Record:
    """The record of a rollout that came to its state, with an outcome unless it ended in error."""
    first = _first_seq(job)
    what = _columns(job, actor, settings, first)
    if episode.ended != "error":
        what["reward"] = episode.total if episode.score is None else episode.score
        what["success"] = episode.success
    scores = {"scores": episode.scores} if any(score is not None for score in episode.scores) else {}
    what["meta"] = scores | ({"sampling": dict(sampling)} if sampling else {})
    try:
        return record(**what, messages=episode.conversation[first:], ended=episode.ended, error=error)
    except BadRecord as bad:  # the policy or the environment gave something that no table can hold
        return unreached(job, actor, settings, bad)


def unreached(job: Job, actor: str, settings: Settings, problem: Exception) -> Record:
    """The record of a rollout that never was at its state, or cannot be told: drift or error, without outcome."""
    drifted = isinstance(problem, Drift)
    came = problem.came if isinstance(problem, Drift) else None
    return record(
        **_columns(job, actor, settings, _first_seq(job)),
        messages=[came or {"role": "user", "content": ""}],
        ended="drift" if drifted else "error",
        error=say(problem),
    )


def _first_seq(job: Job) -> int:
    return job.path.n_before(job.rollout.branch_step) if job.path and job.rollout.branch_step else 0


def _columns(job: Job, actor: str, settings: Settings, first_seq: int) -> dict[str, Any]:
    return {
        "task_id": job.rollout.task_id,
        "role": settings.role,
        "env": job.task.env,
        "split": job.task.split,
        "actor": actor,
        "iteration": settings.iteration,
        "sample": job.rollout.sample,
        "parent_id": job.rollout.parent_id,
        "branch_step": job.rollout.branch_step,
        "first_seq": first_seq,
        "seed": rollout_seed(settings.seed, job.rollout, settings.iteration),
        "created_at": datetime.now(UTC),
    }


def verdict(result: Record, success_reward: float) -> str:
    """solved, failed, no_verdict, drift or error, as sql/concepts/outcomes.sql has it with that parameter."""
    row = result.trajectory
    if row["ended"] in ("error", "drift"):
        return str(row["ended"])
    if row["success"] is None:
        return "no_verdict" if row["reward"] is None else "solved" if row["reward"] >= success_reward else "failed"
    return "solved" if row["success"] else "failed"


def say(error: BaseException) -> str:
    """An exception as text for the column error: without credentials, and of one without end both ends."""
    if isinstance(error, Drift):
        return hide(error.text)
    text = str(error) if isinstance(error, Failed | BadRecord) else f"{type(error).__name__}: {error}"
    return hide(ends(text)).encode("utf-8", "backslashreplace").decode()


def _chat_message(message: Message) -> Message:
    if not isinstance(message.get("content"), str):
        raise ValueError(f"the environment gave a message without text: {short(repr(message))}")
    return message


def _text(message: Message | None) -> str:
    return "no message" if message is None else f"{message['role']}: {message.get('content')}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
