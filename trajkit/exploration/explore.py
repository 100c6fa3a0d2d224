"""Exploring: run a policy, the expert or a scorer in an environment, from s_0 and from states of recorded trajectories.

What is run is the plan minus what is already in runs/, so exploring can be killed at any time and started
again. How one rollout goes is `trajkit.exploration.rollouts`; how many go at once is `trajkit.exploration.workers`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, cast

from trajkit.console import bar, tell
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import TrajkitError, UsageError
from trajkit.exploration.env import Env, Policy, Snapshots, Task
from trajkit.exploration.policies import AsyncPolicy, PolicyGone
from trajkit.exploration.rollouts import (
    Job,
    Recorded,
    Rollout,
    Seats,
    Settings,
    roll_all,
    rollout_seed,
    say,
    shard_of,
    verdict,
)
from trajkit.exploration.watch import Watch, watchdog
from trajkit.messages import Message
from trajkit.rules import ROUND_BY_ROUND, missing_rollouts, plan_role, planned_rollouts
from trajkit.runs.atomic import make_folder
from trajkit.runs.listing import existing_ids
from trajkit.runs.object_store import Location, Url, locate
from trajkit.runs.records import Record, to_json
from trajkit.runs.temporary import TemporaryFolder
from trajkit.runs.writer import RunWriter, write_tasks

__all__ = ["Cost", "Counts", "Rollout", "Settings", "cost", "explore", "rollout_seed"]

FLUSH_SECONDS = 2.0
_PARENTS_AT_ONCE = 200  # recorded trajectories whose messages are held in memory
_MESSAGE_KEYS = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "context")


class Counts(Counter[str]):
    """How many rollouts ended how: rollouts, solved, failed, no_verdict, drift, error; and already_done (not run
    again), other_tasks (rows of the plan whose task this environment does not have). `first_error` is one for all.
    `conflicts`: tasks that are left out, for the runs say another split or environment of them, or two of either."""

    first_error = ""
    conflicts: Sequence[str] = ()


def explore(
    runs: str | os.PathLike[str],
    env: Env,
    policy: Policy | AsyncPolicy,
    *,
    plans: Sequence[str],
    settings: Settings,
    m: int = 5,
    samples: int = 1,
    params: Mapping[str, Any] | None = None,
    make_env: Callable[[], Env] | None = None,
    make_policy: Callable[[], Policy] | None = None,
) -> Counts:
    """Run every rollout of `plans` that is not in `runs` yet, and write it there.

    Role expert, and splits other than train, run only the plan `initial`, over the environment's own tasks. Role scorer
    runs the scorer's plans; what this scorer (the policy's `actor`, or `scorer` in `params`) has done in any iteration
    is done. The plans `bisection` and `apt` depend on what came of the rollouts before: they are asked again until
    nothing is left to run. `params` are more of the rules' parameters, by name (`n`, `budget`, `solved_rate`, ...).
    `make_env` and `make_policy` make what `env` and `policy` are. Worker processes need both (they have to be
    picklable), and so does `concurrency` in an environment without snapshots (`make_env` only).
    Raises TrajkitError when every single rollout ended in error, and PolicyGone when the policy answers nobody.
    """
    _check(env, policy, settings, make_env, make_policy)
    settings = _fitting(policy, settings)
    tasks, conflicts = _without_conflicts(runs, _tasks(runs, env, settings, plans))
    given = _params(settings, policy.actor, m, samples, params)
    folder = locate(runs) / f"explore-{settings.role}-{_slug(policy.actor)}-i{settings.iteration}"
    _write_missing_tasks(runs, folder, tasks.values())
    counts = Counts()
    counts.conflicts = conflicts
    run = partial(_run, env, policy, settings=settings, make_env=make_env, make_policy=make_policy)
    again = True
    while again:
        again = _round(runs, folder, run, policy.actor, tasks, plans, settings, given, counts)
        again = again and not ROUND_BY_ROUND.isdisjoint(plans)
    if counts["error"] and counts["error"] == counts["rollouts"]:
        raise TrajkitError(
            f"all {counts['error']} rollouts ended in error, the first one with: {counts.first_error}. They are in "
            f"{folder} and count as nothing; mend the environment or the policy and run this again."
        )
    return counts


def _round(
    runs: str | os.PathLike[str],
    folder: Location,
    run: Callable[..., None],
    actor: str,
    tasks: dict[str, Task],
    plans: Sequence[str],
    settings: Settings,
    params: dict[str, Any],
    counts: Counts,
) -> bool:
    """Run what the plans ask for now. Returns whether anything new is known."""
    with DuckDBEngine(runs, params) as recorded, RunWriter(folder, existing_ids(runs)) as writer:
        found = Counts()
        found.conflicts = counts.conflicts
        rollouts = _missing(recorded, actor, tasks, plans, settings, params["samples"], found)
        if not counts:  # what later rounds find done was run here
            counts.update(found)
        ran, before = counts["rollouts"], counts["rollouts"] - counts["error"]
        [solved_from] = recorded.rows("SELECT success_reward FROM params")
        shown = _Progress(len(rollouts))
        flushed = time.monotonic()

        def take(result: Record) -> None:
            nonlocal flushed
            writer.add(result)
            if result.trajectory["ended"] == "error":
                counts.first_error = counts.first_error or str(result.trajectory["error"])
            counts.update(("rollouts", verdict(result, solved_from["success_reward"])))
            shown.count(result, counts)
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                writer.flush()
                flushed = time.monotonic()

        groups = _groups(recorded, tasks, rollouts)
        try:
            if rollouts:
                run(groups, take)
        except PolicyGone as gone:
            writer.flush()
            raise PolicyGone(
                f"{gone}. {counts['rollouts'] - ran} of {len(rollouts)} rollouts are done and written; mend that and "
                "run this again for the others."
            ) from gone
        except KeyboardInterrupt:
            writer.flush()
            raise
        finally:
            shown.close()
    return counts["rollouts"] - counts["error"] > before


@dataclass(frozen=True)
class Cost:
    """What exploring would take. `replayed_steps` are the environment steps that only lead to the states."""

    rollouts: int
    tasks: int
    from_s0: int
    parents: int
    replayed_steps: int
    already_done: int


def cost(
    runs: str | os.PathLike[str],
    env: Env,
    actor: str,
    *,
    plans: Sequence[str],
    settings: Settings,
    m: int = 5,
    samples: int = 1,
    params: Mapping[str, Any] | None = None,
) -> Cost:
    """What `explore` would do with the same arguments (of plans that go round by round: in the first round).

    Nothing is run, and nothing is written.
    """
    tasks = _tasks(runs, env, settings, plans, make=False)
    if locate(runs).exists():
        tasks, _ = _without_conflicts(runs, tasks)
    counts = Counts()
    given = _params(settings, actor, m, samples, params)
    with TemporaryFolder() as nothing, DuckDBEngine(runs if locate(runs).exists() else nothing.name, given) as recorded:
        if settings.role == "policy" and settings.split == "train":
            planned_tasks = {row["task_id"] for row in recorded.rows("SELECT task_id FROM initial")}
            unwritten = {task_id: task for task_id, task in tasks.items() if task_id not in planned_tasks}
        else:
            unwritten = {}
        rollouts = _missing(recorded, actor, tasks, plans, settings, samples, counts)
    if "initial" in plans:  # explore writes the environment's tasks before it asks for the plan
        rollouts += [
            rollout
            for task_id in unwritten
            for sample in range(samples)
            if _ours(rollout := Rollout(task_id, None, 0, sample), settings)
        ]
    replays: dict[tuple[str, str], list[int]] = {}
    for rollout in rollouts:
        if rollout.parent_id is not None:
            replays.setdefault((rollout.parent_id, rollout.task_id), []).append(rollout.branch_step)
    once = isinstance(env, Snapshots)
    return Cost(
        rollouts=len(rollouts),
        tasks=len({rollout.task_id for rollout in rollouts}),
        from_s0=sum(rollout.parent_id is None for rollout in rollouts),
        parents=len(replays),
        replayed_steps=sum(max(steps) if once else sum(steps) for steps in replays.values()),
        already_done=counts["already_done"],
    )


# --- what to run -------------------------------------------------------------------------------


def _params(settings: Settings, actor: str, m: int, samples: int, more: Mapping[str, Any] | None) -> dict[str, Any]:
    """The rules' parameters. A scorer's own rollouts are what is done, unless told otherwise."""
    if twice := {"iteration", "m", "samples"} & set(more or ()):
        raise UsageError(f"--set {min(twice)}: exploring takes it as --{min(twice)}.")
    scorer = {"scorer": actor} if settings.role == "scorer" else {}
    return scorer | dict(more or {}) | {"iteration": settings.iteration, "m": m, "samples": samples}


def _tasks(
    runs: str | os.PathLike[str], env: Env, settings: Settings, plans: Sequence[str], make: bool = True
) -> dict[str, Task]:
    """The environment's tasks of the split by id. Makes the folder `runs`."""
    _check_plans(plans, settings)  # before anything is made
    try:
        if make:
            folder = locate(runs)
            folder.mkdir() if isinstance(folder, Url) else make_folder(folder)
    except OSError as error:
        raise UsageError(f"{runs}: --runs is no folder and none can be made there ({error.strerror}).") from None
    try:
        tasks = {task.task_id: task for task in env.tasks(settings.split)}
    except Exception as error:
        raise TrajkitError(f"the environment cannot list its tasks: {say(error)}") from error
    if not tasks:
        raise UsageError(f"the environment has no tasks of the split {settings.split!r}.")
    return tasks


def _check_plans(plans: Sequence[str], settings: Settings) -> None:
    """Raise UsageError for a plan that is none, or that is not for this role and split."""
    roles = {name: plan_role(name) for name in plans}
    if settings.role == "scorer" or (settings.role == "policy" and settings.split == "train"):
        for name, role in roles.items():
            if role != settings.role:
                raise UsageError(
                    f"--plan {name} is a plan of the {role}'s rollouts: run it with --role {role}"
                    f"{', apart from the others' if len(plans) > 1 else ''}."
                )
        if settings.split != "train":
            raise UsageError(f"--role scorer is for the split train: nothing of {settings.split!r} is ever trained on.")
    elif list(plans) != ["initial"]:
        raise UsageError(
            f"only the plan initial can be run for role {settings.role} and split {settings.split}: plans that "
            "start in the middle of an expert's trajectory are for the policy and the scorer on the split train."
        )


def _without_conflicts(runs: str | os.PathLike[str], tasks: Mapping[str, Task]) -> tuple[dict[str, Task], list[str]]:
    """The tasks but those of which the runs say another split or environment, or two of either; and these.

    What is recorded of such a task would be left out by every rule, and all that is there of it, too.
    """
    with DuckDBEngine(runs) as recorded:
        worlds = {row["task_id"]: row for row in recorded.rows("SELECT * FROM task_worlds WHERE task_id IS NOT NULL")}
    said = {id: (world["env"], world["split"]) for id, world in worlds.items() if not world["problem"]}

    def agrees(task: Task) -> bool:
        env, split = said.get(task.task_id, (None, None))
        return env in (None, task.env) and split in (None, task.split)

    conflicts = worlds.keys() - said.keys() | {id for id, task in tasks.items() if not agrees(task)}
    return {id: task for id, task in tasks.items() if id not in conflicts}, sorted(conflicts)


def _write_missing_tasks(runs: str | os.PathLike[str], folder: Location, tasks: Iterable[Task]) -> None:
    with DuckDBEngine(runs) as recorded:
        known = {row["task_id"] for row in recorded.rows("SELECT task_id FROM tasks")}
    missing = [
        {"task_id": t.task_id, "env": t.env, "split": t.split, "meta": to_json(dict(t.meta)) if t.meta else None}
        for t in tasks
        if t.task_id not in known
    ]
    write_tasks(folder, missing)


def _missing(
    recorded: DuckDBEngine,
    actor: str,
    tasks: dict[str, Task],
    plans: Sequence[str],
    settings: Settings,
    samples: int,
    counts: Counts,
) -> list[Rollout]:
    """The plan minus done, grouped by parent and sorted, so that one replay serves all states of a parent."""
    if settings.role != "expert" and settings.split == "train":
        wanted = {_rollout(row) for row in recorded.rows(planned_rollouts(plans))}
        done = wanted - {_rollout(row) for row in recorded.rows(missing_rollouts(plans))}
    else:
        wanted = {Rollout(task_id, None, 0, sample) for task_id in tasks for sample in range(samples)}
        done = {
            _rollout(row)
            for row in recorded.rows(
                "SELECT task_id, NULL AS parent_id, 0 AS branch_step, coalesce(sample, 0) AS sample FROM trajectories "
                "WHERE role = ? AND branch_step = 0 AND coalesce(iteration, 0) = ? AND coalesce(ended, '') <> 'error' "
                "AND (role = 'policy' OR actor IS NOT DISTINCT FROM ?)",
                [settings.role, settings.iteration, actor],
            )
        }
    wanted = {rollout for rollout in wanted if _ours(rollout, settings)}
    ours = {rollout for rollout in wanted if rollout.task_id in tasks}
    counts["other_tasks"] = sum(rollout.task_id not in counts.conflicts for rollout in wanted - ours)
    counts["already_done"] = len(ours & done)
    return sorted(ours - done, key=lambda r: (r.parent_id or "", r.task_id, r.branch_step, r.sample))


def _ours(rollout: Rollout, settings: Settings) -> bool:
    k, n = settings.shard
    return n == 1 or shard_of(rollout, n) == k


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(row["task_id"], row["parent_id"], row["branch_step"], row["sample"])


def _recorded_paths(recorded: DuckDBEngine, ids: Sequence[str]) -> dict[str, Recorded]:
    """The paths of these trajectories. The scores come from the column meta, where explore put them."""
    paths = {trajectory_id: Recorded([], {}) for trajectory_id in ids}
    columns = ", ".join(f"m.{key}" for key in _MESSAGE_KEYS)
    path = (
        "SELECT s.trajectory_id AS path_id, s.owner_id, s.first_step, s.end_step FROM path_segments AS s "
        "WHERE s.trajectory_id IN (SELECT unnest(?))"
    )
    for row in recorded.rows(
        f"SELECT s.path_id, m.step, {columns} FROM ({path}) AS s JOIN messages AS m ON m.trajectory_id = s.owner_id "
        "WHERE m.step >= s.first_step AND m.step < s.end_step ORDER BY s.path_id, m.seq",
        [list(ids)],
    ):
        message = {key: row[key] for key in _MESSAGE_KEYS if row[key] is not None}
        paths[row["path_id"]].messages.append((row["step"], cast(Message, message)))
    for row in recorded.rows(
        f"SELECT s.path_id, s.first_step, s.end_step, t.branch_step, t.meta FROM ({path}) AS s "
        "JOIN trajectories AS t ON t.trajectory_id = s.owner_id WHERE t.meta IS NOT NULL",
        [list(ids)],
    ):
        scores = _scores(row["meta"])
        for step in range(row["first_step"], row["end_step"]):
            if step - row["branch_step"] < len(scores):
                paths[row["path_id"]].scores[step] = scores[step - row["branch_step"]]
    return paths


def _scores(meta: str) -> list[float | None]:
    try:
        value = json.loads(meta)
    except ValueError:
        return []
    scores = value.get("scores") if isinstance(value, dict) else None
    return scores if isinstance(scores, list) else []


def _groups(recorded: DuckDBEngine, tasks: dict[str, Task], rollouts: Sequence[Rollout]) -> Iterator[list[Job]]:
    """The rollouts by parent and task, in the order given (sorted by parent), with the recordings they start from."""
    by_parent = [(parent, list(group)) for parent, group in groupby(rollouts, key=lambda rollout: rollout.parent_id)]
    for start in range(0, len(by_parent), _PARENTS_AT_ONCE):
        batch = by_parent[start : start + _PARENTS_AT_ONCE]
        parents = [parent for parent, _ in batch if parent is not None]
        paths = _recorded_paths(recorded, parents) if parents else {}
        for parent, group in batch:
            for task_id, same in groupby(group, key=lambda rollout: rollout.task_id):
                yield [Job(rollout, tasks[task_id], paths.get(parent or "")) for rollout in same]


# --- running -----------------------------------------------------------------------------------


def _check(
    env: Env,
    policy: Policy | AsyncPolicy,
    settings: Settings,
    make_env: Callable[[], Env] | None,
    make_policy: Callable[[], Policy] | None,
) -> None:
    k, n = settings.shard
    if not 1 <= k <= n:
        raise UsageError(f"--shard {k}/{n}: k is from 1 to n.")
    if not 0 <= settings.step_timeout < float("inf"):
        raise UsageError("step_timeout is in seconds, at least 0, which is no limit.")
    if settings.concurrency < 1 or settings.env_workers < 0 or settings.tries < 1:
        raise UsageError("concurrency and tries are at least 1, env_workers at least 0.")
    scripted = hasattr(policy, "act")
    if settings.env_workers and (make_env is None or (scripted and make_policy is None)):
        raise UsageError("env_workers need make_env, and a scripted policy make_policy: each process makes its own.")
    several = not scripted and settings.concurrency > 1 and not settings.env_workers
    if several and make_env is None and not isinstance(env, Snapshots):
        raise UsageError(
            "concurrency needs make_env: this environment has no snapshots, so each rollout needs its own."
        )


def _fitting(policy: Policy | AsyncPolicy, settings: Settings) -> Settings:
    """The settings with no more rollouts in flight than the policy can have requests (`at_most`, where it says so)."""
    fits = getattr(policy, "at_most", None)
    if fits is None or (fits := max(1, fits - 4 * settings.env_workers)) >= settings.concurrency:
        return settings
    enough = 1 << (settings.concurrency + 255).bit_length()
    tell(
        f"{settings.concurrency:,} rollouts in flight need as many connections, and this process may open too few "
        f"files: {fits:,} are in flight. `ulimit -n {enough}` before it allows more."
    )
    return replace(settings, concurrency=fits)


def _run(
    env: Env,
    policy: Policy | AsyncPolicy,
    groups: Iterator[list[Job]],
    take: Callable[[Record], None],
    *,
    settings: Settings,
    make_env: Callable[[], Env] | None,
    make_policy: Callable[[], Policy] | None,
) -> None:
    """Run all jobs; `take` gets each record as soon as there is one."""
    scripted = hasattr(policy, "act")
    watch = Watch()
    if scripted and not settings.env_workers:
        seats = Seats(make_env, env, watch)
        with watchdog(watch, settings.step_timeout, tell):
            for group in groups:
                for result in roll_all(seats, cast(Policy, policy), group, settings):
                    take(result)
        return

    import asyncio

    from trajkit.exploration.workers import Here, Place, Worker, run_async, run_in_workers

    async def run() -> None:
        places: list[Place] = [Here(make_env, env, watch)]
        if settings.env_workers:
            assert make_env is not None
            places = [Worker(make_env, make_policy, settings) for _ in range(settings.env_workers)]
        whole = False
        try:
            if not scripted:
                await run_async(places, cast(AsyncPolicy, policy), groups, settings, take)
            else:
                await run_in_workers(places, policy.actor, groups, settings, take)
            whole = True
        finally:
            for place in places:
                place.stop()
            for place in places:
                place.close(patient=whole)

    with watchdog(watch, settings.step_timeout if not settings.env_workers else 0, tell):
        asyncio.run(run())


class _Progress:
    """A bar with what the rollouts that have ended came to."""

    def __init__(self, total: int) -> None:
        self._bar = bar(total=total, unit="rollout")
        self._began = time.monotonic()
        self._steps = self._tokens = 0

    def count(self, result: Record, counts: Counts) -> None:
        """One more has ended."""
        self._steps += result.trajectory["n_steps"]
        if not self._bar.disable:
            self._tokens += sum(len(message["token_ids"] or ()) for message in result.messages)
            seconds = max(time.monotonic() - self._began, 1e-9)
            said = [f"{counts[name]} {name}" for name in ("solved", "failed", "drift", "error") if counts[name]]
            said += [f"{self._steps / seconds:.0f} steps/s"]
            said += [f"{self._tokens / seconds:.0f} tokens/s"] if self._tokens else []
            self._bar.set_postfix_str(", ".join(said), refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Take it away."""
        self._bar.close()


def _slug(actor: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", actor.lower()).strip("-") or "actor"
