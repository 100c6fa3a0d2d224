"""What is to be explored: what the plans ask for, minus what is already in runs/, with the paths it starts from."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

from trajkit.engines.base import Engine
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.exploration.env import Env, Snapshots, Task
from trajkit.exploration.rollouts import Job, Recorded, Rollout, Settings, say, shard_of
from trajkit.messages import Message
from trajkit.rules import OWN, PLANNED, Rule, missing_rollouts, plan, plan_role, planned_rollouts, rules
from trajkit.runs.atomic import make_folder
from trajkit.runs.object_store import Location, Url, locate
from trajkit.runs.parquet_sql import first_line
from trajkit.runs.records import to_json
from trajkit.runs.temporary import TemporaryFolder
from trajkit.runs.writer import write_tasks
from trajkit.selection.select import missing_param

_PARENTS_AT_ONCE = 200  # recorded trajectories whose messages are held in memory
_MESSAGE_KEYS = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "context")


class Counts(Counter[str]):
    """How many rollouts ended how: rollouts, solved, failed, no_verdict, drift, error; and already_done (not run
    again), other_tasks (rows of the plan whose task this environment does not have). `first_error` is one for all.
    `conflicts`: tasks that are left out, for the runs say another split or environment of them, or two of either."""

    first_error = ""
    conflicts: Sequence[str] = ()


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
    allow_read: Collection[str | os.PathLike[str]] = (),
) -> Cost:
    """What `explore` would do with the same arguments (of plans that go round by round: in the first round).

    Nothing is run, and nothing is written.
    """
    asked = [plan(name, reads_files=bool(allow_read)) for name in plans]
    tasks = tasks_of(runs, env, settings, asked, make=False)
    if locate(runs).exists():
        tasks, _ = without_conflicts(runs, tasks)
    counts = Counts()
    given = parameters(settings, actor, m, samples, params)
    with (
        TemporaryFolder() as nothing,
        DuckDBEngine(
            runs if locate(runs).exists() else nothing.name, given, allow_read=readable(asked, allow_read)
        ) as recorded,
    ):
        if settings.role == "policy" and settings.split == "train":
            planned_tasks = {row["task_id"] for row in recorded.rows("SELECT task_id FROM initial")}
            unwritten = {task_id: task for task_id, task in tasks.items() if task_id not in planned_tasks}
        else:
            unwritten = {}
        rollouts = pending(recorded, actor, tasks, asked, settings, samples, counts)
    if any(
        rule.name == "initial" for rule in asked
    ):  # explore writes the environment's tasks before it asks for the plan
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


def parameters(settings: Settings, actor: str, m: int, samples: int, more: Mapping[str, Any] | None) -> dict[str, Any]:
    """The rules' parameters. A scorer's own rollouts are what is done, unless told otherwise."""
    if twice := {"iteration", "m", "samples"} & set(more or ()):
        raise UsageError(f"--set {min(twice)}: exploring takes it as --{min(twice)}.")
    scorer = {"scorer": actor} if settings.role == "scorer" else {}
    return scorer | dict(more or {}) | {"iteration": settings.iteration, "m": m, "samples": samples}


def tasks_of(
    runs: str | os.PathLike[str], env: Env, settings: Settings, plans: Sequence[Rule], make: bool = True
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


def _check_plans(plans: Sequence[Rule], settings: Settings) -> None:
    """Raise UsageError for a plan that is not for this role and split."""
    roles = {rule.name: plan_role(rule) for rule in plans}
    if settings.role == "scorer" or (settings.role == "policy" and settings.split == "train"):
        for name, role in roles.items():
            if role != settings.role:
                raise UsageError(
                    f"--plan {name} is a plan of the {role}'s rollouts: run it with --role {role}"
                    f"{', apart from the others' if len(plans) > 1 else ''}."
                )
        if settings.split != "train":
            raise UsageError(f"--role scorer is for the split train: nothing of {settings.split!r} is ever trained on.")
    elif list(roles) != ["initial"]:
        raise UsageError(
            f"only the plan initial can be run for role {settings.role} and split {settings.split}: plans that "
            "start in the middle of an expert's trajectory are for the policy and the scorer on the split train."
        )


def readable(
    plans: Sequence[Rule], allow_read: Collection[str | os.PathLike[str]]
) -> Collection[str | os.PathLike[str]] | None:
    """The files that the plans may read beside the runs; None: there are built-in plans alone, which need no limit."""
    return allow_read if any(rule.kind == OWN for rule in plans) else None


def answered(runs: Engine, plans: Sequence[Rule]) -> list[Rule]:
    """The plans, each user's own one answered into a table (`runs.drop` forgets it), whose name it then has.

    Raises UsageError, which names the file, for an own plan whose answer is not rollouts that can be made.
    """
    return [_answered(runs, rule, f"own_plan_{k}") if rule.kind == OWN else rule for k, rule in enumerate(plans)]


def _answered(runs: Engine, rule: Rule, name: str) -> Rule:
    try:
        runs.make(name, rule.sql)
    except UsageError as error:
        raise UsageError(f"{rule.path}: {error}{missing_param(runs, str(error))}") from error
    if missing := [column for column in PLANNED if column not in (columns := runs.columns(name))]:
        raise UsageError(
            f"{rule.path}: its answer has no column {', '.join(missing)} (it has {', '.join(sorted(columns))}). "
            f"A plan gives a row per rollout: {', '.join(PLANNED)}."
        )
    made = replace(rule, name=name)
    try:
        runs.view("planned", planned_rollouts([made]))
        problems = runs.rows(f"{runs.compose(rules()['wrong_rollouts'].sql)} ORDER BY problem")
        roles = {row["role"] for row in runs.rows("SELECT DISTINCT role FROM planned")}
    except (BadData, UsageError) as error:
        raise UsageError(f"{rule.path}: a column of its answer has the wrong type: {first_line(error)}") from error
    if problems:
        found = "; ".join(f"{row['n']:,} rows of the plan {row['problem']}" for row in problems)
        raise UsageError(f"{rule.path}: {found}.")
    if others := roles - {role := plan_role(rule)}:
        raise UsageError(
            f"{rule.path}: its rows have the role {', '.join(sorted(map(str, others)))}, its header says {role}. "
            "`-- Role: scorer.` (or policy) in its header says whose rollouts it asks for."
        )
    return made


def without_conflicts(runs: str | os.PathLike[str], tasks: Mapping[str, Task]) -> tuple[dict[str, Task], list[str]]:
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


def write_missing_tasks(runs: str | os.PathLike[str], folder: Location, tasks: Iterable[Task]) -> None:
    with DuckDBEngine(runs) as recorded:
        known = {row["task_id"] for row in recorded.rows("SELECT task_id FROM tasks")}
    missing = [
        {"task_id": t.task_id, "env": t.env, "split": t.split, "meta": to_json(dict(t.meta)) if t.meta else None}
        for t in tasks
        if t.task_id not in known
    ]
    write_tasks(folder, missing)


def pending(
    recorded: DuckDBEngine,
    actor: str,
    tasks: dict[str, Task],
    plans: Sequence[Rule],
    settings: Settings,
    samples: int,
    counts: Counts,
) -> list[Rollout]:
    """The plan minus done, grouped by parent and sorted, so that one replay serves all states of a parent."""
    if settings.role != "expert" and settings.split == "train":
        asked = answered(recorded, plans)
        wanted = {_rollout(row) for row in recorded.rows(planned_rollouts(asked))}
        done = wanted - {_rollout(row) for row in recorded.rows(missing_rollouts(asked))}
        for rule in asked:
            if rule.kind == OWN:
                recorded.drop(rule.name)
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


def groups(recorded: DuckDBEngine, tasks: dict[str, Task], rollouts: Sequence[Rollout]) -> Iterator[list[Job]]:
    """The rollouts by parent and task, in the order given (sorted by parent), with the recordings they start from."""
    by_parent = [(parent, list(group)) for parent, group in groupby(rollouts, key=lambda rollout: rollout.parent_id)]
    for start in range(0, len(by_parent), _PARENTS_AT_ONCE):
        batch = by_parent[start : start + _PARENTS_AT_ONCE]
        parents = [parent for parent, _ in batch if parent is not None]
        paths = _recorded_paths(recorded, parents) if parents else {}
        for parent, group in batch:
            for task_id, same in groupby(group, key=lambda rollout: rollout.task_id):
                yield [Job(rollout, tasks[task_id], paths.get(parent or "")) for rollout in same]
