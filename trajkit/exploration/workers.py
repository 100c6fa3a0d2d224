"""Many rollouts at once: environments in processes of their own, answers awaited side by side.

A worker process is sent requests only when it has answered all before them, and the others wait here, so nothing piles
up in its pipe. A worker that dies, or hangs and is ended, is started anew: the rollout that it died of is an error, and
those that have their seats there are run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from trajkit.console import tell
from trajkit.exploration.env import Env, Policy
from trajkit.exploration.policies import AsyncPolicy, PolicyGone
from trajkit.exploration.rollouts import (
    Drift,
    Failed,
    Job,
    Lost,
    Seats,
    Settings,
    reached,
    roll,
    rollout_seed,
    say,
    unreached,
)
from trajkit.exploration.watch import Overdue, Watch
from trajkit.quoting import short
from trajkit.runs.records import Record

_JOBS_AT_ONCE = 16  # rollouts that a worker with a policy of its own is sent together
_CLOSE_SECONDS = 10.0  # what a process has to end in when the exploring was stopped

Take = Callable[[Record], None]
Groups = Iterator[list[Job]]
"""Jobs by parent and task, each group in order of step: one replay serves a group where there are snapshots."""


class Place(Protocol):
    """Where seats are: in this process or in a worker's."""

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of `Seats` there (or roll). Raises Drift, Failed, Lost, or what the environment raises."""

    def stop(self) -> None:
        """Have it close the environments that were made for it."""

    def close(self, patient: bool) -> None:
        """Wait for that, as long as they may take; without patience a few seconds."""


class Here:
    """Seats in this process: while an environment steps, nothing else happens."""

    def __init__(self, make_env: Callable[[], Env] | None, env: Env, watch: Watch) -> None:
        self._seats = Seats(make_env, env, watch)

    async def call(self, method: str, *args: Any) -> Any:
        """As `Place.call`."""
        return getattr(self._seats, method)(*args)

    def stop(self) -> None:
        """As `Place.stop`."""

    def close(self, patient: bool) -> None:
        """As `Place.close`."""
        self._seats.close()


class Worker:
    """Seats in a process of their own, which starts with the first call. POSIX only: the pipe is awaited as a file.

    It answers the calls in their order, so when it ends, or an environment's call passes the limit, the first call
    without an answer is the one to blame: it gets Failed, all others are Lost.
    """

    def __init__(
        self, make_env: Callable[[], Env], make_policy: Callable[[], Policy] | None, settings: Settings
    ) -> None:
        self._given = (make_env, make_policy, settings)
        self._limit = settings.step_timeout
        self._process: Any = None
        self._pipe: Connection | None = None
        self._overdue = Overdue([0, 0], 0)
        self._waiting: list[tuple[str, tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def call(self, method: str, *args: Any) -> Any:
        """As `Place.call`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((method, args, answer))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        """Send what waits, take the answers one by one, and again. Nothing is sent while answers are on their way."""
        while self._waiting:
            sent, self._waiting = self._waiting, []
            try:
                pipe = self._pipe or self._start()
                pipe.send([(method, args) for method, args, _ in sent])
                while sent:
                    await self._readable(pipe)
                    done, value = pipe.recv()
                    _, _, answer = sent.pop(0)
                    if answer.done():  # nobody waits for it any more
                        continue
                    if done:
                        answer.set_result(value)
                    else:
                        answer.set_exception(value)
            except Exception as problem:
                why = self._ended(problem)
                for number, (_, _, answer) in enumerate(sent):
                    if not answer.done():
                        answer.set_exception(Failed(why) if number == 0 else Lost(why))

    async def _readable(self, pipe: Connection) -> None:
        """Wait for an answer. Raises _Hung where an environment's call takes too long."""
        if pipe.poll():
            return
        loop, ready, descriptor = asyncio.get_running_loop(), asyncio.Event(), pipe.fileno()
        loop.add_reader(descriptor, ready.set)
        try:
            while not ready.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._overdue.pause):
                        await ready.wait()
                if not ready.is_set() and (what := self._overdue.look()) is not None:
                    raise _Hung(what)
        finally:
            loop.remove_reader(descriptor)

    def _ended(self, problem: Exception) -> str:
        """Clear away a process that has ended or has to. Returns why."""
        if self._pipe is None:
            return f"no process can be started for the environment: {say(problem)}"
        self._pipe.close()
        self._pipe = None
        if isinstance(problem, EOFError | OSError):
            self._process.join(_CLOSE_SECONDS)
            code = self._process.exitcode
            self._kill()
            return f"the environment's process ended ({'it closed its pipe' if code is None else f'exit code {code}'})"
        self._kill()
        if isinstance(problem, _Hung):
            return f"the environment's {problem} took longer than {self._limit:g} s (--step-timeout) and was ended"
        return f"what the environment's process sent cannot be read: {say(problem)}"

    def stop(self) -> None:
        """As `Place.stop`."""
        if self._sender is not None:
            self._sender.cancel()
        if self._pipe is not None:
            self._pipe.close()

    def close(self, patient: bool) -> None:
        """As `Place.close`. A process that does not end in time is ended."""
        if self._pipe is None:
            return
        self._pipe = None
        try:
            if not patient:
                self._process.join(_CLOSE_SECONDS)
                return
            while self._process.is_alive():
                self._process.join(self._overdue.pause)
                if self._process.is_alive() and (what := self._overdue.look()) is not None:
                    tell(f"an environment's {what} took longer than {self._limit:g} s; its process was ended.")
                    return
        finally:
            self._kill()

    def _kill(self) -> None:
        """End the process, and what it has started and left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.is_alive():  # it may have had no time to become a group of its own
            self._process.kill()
        self._process.join()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        cells = context.RawArray("Q", 2)
        ours, theirs = context.Pipe()
        try:
            self._process = context.Process(target=_serve, args=(theirs, cells, *self._given), daemon=False)
            self._process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._overdue = Overdue(cells, self._limit)
        self._pipe = ours
        return ours


class _Hung(Exception):
    """An environment's call takes too long; the text is its name."""


def _serve(
    pipe: Connection,
    cells: Any,
    make_env: Callable[[], Env],
    make_policy: Callable[[], Policy] | None,
    settings: Settings,
) -> None:
    """A worker's life: calls in, answers out, until the pipe is closed or its other end is dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then closes the pipe
    os.setsid()  # so that all that it starts can be ended with it
    sys.stdout = sys.stderr  # stdout is for data, whoever prints: Python, C, or a process that an environment starts
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    _answer(pipe, Seats(make_env, watch=Watch(cells)), make_policy, settings)


def _answer(pipe: Connection, seats: Seats, make_policy: Callable[[], Policy] | None, settings: Settings) -> None:
    policy: Policy | None = None
    try:
        while True:
            for method, args in pipe.recv():
                answer: tuple[bool, Any]
                try:
                    if method == "roll" and make_policy:
                        policy = policy or make_policy()
                        answer = True, roll(seats, policy, args[0], settings)
                    else:
                        answer = True, getattr(seats, method)(*args)
                except (Drift, Lost) as known:
                    answer = False, known
                except Exception as error:  # as text: an exception of any class may not survive the way
                    answer = False, Failed(say(error))
                try:
                    pipe.send(answer)
                except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
                    pipe.send((False, Failed(f"what the environment gave cannot be sent on: {say(error)}")))
    except (EOFError, OSError):  # nobody listens any more
        seats.close()


# --- running -----------------------------------------------------------------------------------


Once = Callable[[Place, int, Job], Awaitable[Record]]
"""Run a job once, at a seat of a place. Raises Lost where it is to be run again, and that is not its own fault."""


async def run_async(
    places: Sequence[Place], policy: AsyncPolicy, groups: Groups, settings: Settings, take: Take
) -> None:
    """Run all jobs with a policy that is awaited, `settings.concurrency` at a time; `take` gets each record.

    The seats are spread evenly over the places. Raises PolicyGone as soon as the policy does.
    """

    async def once(place: Place, seat: int, job: Job) -> Record:
        return await _roll(place, seat, policy, job, settings)

    try:
        await _run(places, settings.concurrency, once, groups, settings.tries, take)
    finally:
        await policy.close()


async def run_in_workers(workers: Sequence[Place], actor: str, groups: Groups, settings: Settings, take: Take) -> None:
    """Run all jobs in workers that have a policy of their own, named `actor`; `take` gets each record."""

    async def once(worker: Place, seat: int, job: Job) -> Record:
        try:
            result: Record = await worker.call("roll", job)
        except Lost:
            raise
        except Failed as failure:
            return unreached(job, actor, settings, failure)
        return result

    await _run(workers, _JOBS_AT_ONCE * len(workers), once, groups, settings.tries, take)


async def _run(places: Sequence[Place], n: int, once: Once, groups: Groups, tries: int, take: Take) -> None:
    """Run all jobs, `n` at a time, spread over the places. What ends in error is run again when all else is done: it
    may end its process once more, and with it what others have there."""

    async def fill(place: Place, seat: int, waiting: deque[tuple[Job, int]], again: deque[tuple[Job, int]]) -> None:
        while waiting or _refill(waiting, groups) or again:
            job, tried = (waiting or again).popleft()
            try:
                result = await once(place, seat, job)
            except Lost:
                waiting.appendleft((job, tried))
                continue
            if result.trajectory["ended"] == "error" and tried + 1 < tries:
                again.append((job, tried + 1))
            else:
                take(result)

    # A group stays at one place, where one replay serves it.
    lines: list[tuple[deque[tuple[Job, int]], deque[tuple[Job, int]]]] = [(deque(), deque()) for _ in places]
    await _all(fill(places[seat % len(places)], seat, *lines[seat % len(places)]) for seat in range(n))


def _refill(waiting: deque[tuple[Job, int]], groups: Groups) -> bool:
    """Add the next group. False: there is none."""
    group = next(groups, None)
    waiting.extend((job, 0) for job in group or ())
    return group is not None


async def _all(coroutines: Iterator[Any]) -> None:
    """Await all; the first exception cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _roll(place: Place, seat: int, policy: AsyncPolicy, job: Job, settings: Settings) -> Record:
    """`trajkit.exploration.rollouts.roll` with a policy and an environment that are awaited."""
    rollout = job.rollout
    sampling = policy.sampling(rollout.sample)
    seed, error = rollout_seed(settings.seed, rollout, settings.iteration), None
    try:
        episode = await place.call("go_to", seat, rollout, job.path)
    except Lost:
        raise
    except Exception as problem:
        await _leave(place, seat)
        return unreached(job, policy.actor, settings, problem)
    try:
        while not episode.ended:
            if episode.steps >= settings.max_steps:
                episode.ended = "max_steps"
                break
            # A server starts from the seed anew at every request; the same one would repeat the same luck.
            step_seed = (seed + episode.steps) % 2**31
            answer = await policy.answer(episode.conversation, seed=step_seed, sample=rollout.sample)
            if answer.message is not None:
                episode.conversation.append(answer.message)
            if answer.cut or answer.message is None:
                episode.ended = "max_tokens"
                break
            if not isinstance(answer.message.get("content"), str):
                raise ValueError(f"the policy's answer is no message with text: {short(repr(answer.message))}")
            episode.take(await place.call("step", seat, answer.message["content"]))
    except (PolicyGone, Lost):
        raise
    except Exception as problem:
        episode.ended, error = "error", say(problem)
    await _leave(place, seat)
    return reached(job, policy.actor, settings, episode, error, sampling)


async def _leave(place: Place, seat: int) -> None:
    with contextlib.suppress(Failed):  # a dead worker has no seats
        await place.call("leave", seat)
