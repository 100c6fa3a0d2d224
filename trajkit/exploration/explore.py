"""Exploring: run a policy, the expert or a scorer in an environment, from s_0 and from states of recorded trajectories.

What is run is the plan minus what is already in runs/, so exploring can be killed at any time and started
again. How one rollout goes is `trajkit.exploration.rollouts`; how many go at once is `trajkit.exploration.workers`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from trajkit.console import bar, tell
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import TrajkitError, UsageError
from trajkit.exploration.env import Env, Policy, Snapshots, Task
from trajkit.exploration.pending import (
    Counts,
    groups,
    parameters,
    pending,
    readable,
    tasks_of,
    without_conflicts,
    write_missing_tasks,
)
from trajkit.exploration.policies import AsyncPolicy, PolicyGone
from trajkit.exploration.rollouts import (
    Job,
    Rollout,
    Seats,
    Settings,
    roll_all,
    rollout_seed,
    verdict,
)
from trajkit.exploration.watch import Watch, watchdog
from trajkit.rules import Rule, plan
from trajkit.runs.listing import existing_ids
from trajkit.runs.object_store import Location, locate
from trajkit.runs.records import Record
from trajkit.runs.writer import RunWriter

__all__ = ["Rollout", "Settings", "explore", "rollout_seed"]

FLUSH_SECONDS = 2.0
_PARENTS_AT_ONCE = 200  # recorded trajectories whose messages are held in memory
_MESSAGE_KEYS = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "context")


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
    allow_read: Collection[str | os.PathLike[str]] = (),
) -> Counts:
    """Run every rollout of `plans` that is not in `runs` yet, and write it there.

    A plan is a built-in one's name or the path of a .sql file, which may read the runs and the files `allow_read`.

    Role expert, and splits other than train, run only the plan `initial`, over the environment's own tasks. Role scorer
    runs the scorer's plans; what this scorer (the policy's `actor`, or `scorer` in `params`) has done in any iteration
    is done. A plan that goes round by round (`bisection`, `apt`) depends on what came of the rollouts before: it is
    asked again until nothing is left to run. `params` are more of the rules' parameters, by name (`n`, `budget`,
    `solved_rate`, ...).
    `make_env` and `make_policy` make what `env` and `policy` are. Worker processes need both (they have to be
    picklable), and so does `concurrency` in an environment without snapshots (`make_env` only).
    Raises TrajkitError when every single rollout ended in error, and PolicyGone when the policy answers nobody.
    """
    _check(env, policy, settings, make_env, make_policy)
    settings = _fitting(policy, settings)
    asked = [plan(name, reads_files=bool(allow_read)) for name in plans]
    tasks, conflicts = without_conflicts(runs, tasks_of(runs, env, settings, asked))
    given = parameters(settings, policy.actor, m, samples, params)
    folder = locate(runs) / f"explore-{settings.role}-{_slug(policy.actor)}-i{settings.iteration}"
    write_missing_tasks(runs, folder, tasks.values())
    counts = Counts()
    counts.conflicts = conflicts
    run = partial(_run, env, policy, settings=settings, make_env=make_env, make_policy=make_policy)
    again = True
    while again:
        with DuckDBEngine(runs, given, allow_read=readable(asked, allow_read)) as recorded:
            again = _round(recorded, folder, run, policy.actor, tasks, asked, settings, given["samples"], counts)
        again = again and any("Rounds" in rule.keys for rule in asked)
    if counts["error"] and counts["error"] == counts["rollouts"]:
        raise TrajkitError(
            f"all {counts['error']} rollouts ended in error, the first one with: {counts.first_error}. They are in "
            f"{folder} and count as nothing; mend the environment or the policy and run this again."
        )
    return counts


def _round(
    recorded: DuckDBEngine,
    folder: Location,
    run: Callable[..., None],
    actor: str,
    tasks: dict[str, Task],
    plans: Sequence[Rule],
    settings: Settings,
    samples: int,
    counts: Counts,
) -> bool:
    """Run what the plans ask for now. Returns whether anything new is known."""
    with RunWriter(folder, existing_ids(recorded.path)) as writer:
        found = Counts()
        found.conflicts = counts.conflicts
        rollouts = pending(recorded, actor, tasks, plans, settings, samples, found)
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

        jobs = groups(recorded, tasks, rollouts)
        try:
            if rollouts:
                run(jobs, take)
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
