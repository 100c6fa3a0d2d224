"""Large imports in several processes: each reads its spans of the files, and their harvests come in the files' order.

The processes only read and convert; what is new, what is a duplicate and where a part ends is for the driver. One that
is ahead waits: two harvests of a process are under way at most. When the driver is gone they end at their next word.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trajkit.errors import TrajkitError
from trajkit.importers._batches import Harvest, Span, harvests
from trajkit.importers._source import is_lines
from trajkit.runs.writer import Batch

if TYPE_CHECKING:
    from trajkit.importers._format import Format, Options

LARGE = 64 * 2**20
JOB_BYTES = 8 * 2**20
_MOST = 8  # one process takes in what the others read
_PIPE_BYTES = 2**20

Job = list[Span]


def plan(format: Format, files: Sequence[str]) -> list[Job]:
    """The files' spans, some megabytes a job; one job where they are few, or not all of them plain files on a disk."""
    if not all(Path(path).is_file() for path in files):
        return [[Span(path) for path in files]]
    sizes = [Path(path).stat().st_size for path in files]
    if sum(sizes) < LARGE or _cores() < 2:
        return [[Span(path) for path in files]]
    jobs: list[Job] = []
    room = 0
    for path, size in zip(files, sizes, strict=True):
        cuts = [*range(0, size, JOB_BYTES), size] if size > JOB_BYTES and _in_lines(format, path) else [0, size]
        for first, end in pairwise(cuts):
            span = Span(path, (first, end) if len(cuts) > 2 else None, end == size)
            if jobs and end - first <= room:
                jobs[-1].append(span)
                room -= end - first
            else:
                jobs.append([span])
                room = JOB_BYTES - (end - first)
    return jobs


def in_processes(name: str, options: Options, strict: bool, jobs: Sequence[Job]) -> Iterator[Harvest]:
    """The jobs' harvests in order. Raises TrajkitError when a process ends before it is through."""
    n = min(_cores(), _MOST, len(jobs))
    code = f"from {__name__} import serve; serve()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(n):
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pipesize=_PIPE_BYTES,
            )
            started.append(process)
            assert process.stdin
            with suppress(BrokenPipeError), process.stdin as theirs:  # what is wrong is seen when it does not answer
                pickle.dump((name, options, strict, jobs[number::n]), theirs)
        for number in range(len(jobs)):
            process = started[number % n]
            assert process.stdout
            try:
                while (harvest := _receive(process.stdout)) is not None:
                    yield harvest
            except (EOFError, OSError, ValueError) as error:
                raise TrajkitError(
                    f"a process that read for this import ended (exit code {process.wait()}): was it killed, or out of "
                    "memory? Run the command again: what is already imported is not repeated."
                ) from error
    finally:
        for process in started:
            process.kill()
            assert process.stdout
            process.stdout.close()
            process.wait()


def serve() -> None:
    """A process's life: its jobs from stdin, their harvests to stdout, each job's end as None."""
    from trajkit.importers._format import load

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then ends this process
    gc.disable()  # records have no cycles, and there are many of them
    name, options, strict, jobs = pickle.load(sys.stdin.buffer)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing but harvests
    waiting: queue.Queue[Harvest | None] = queue.Queue(1)
    ended = object()

    def speak() -> None:
        try:
            while (harvest := waiting.get()) is not ended:
                _send(harvest, out)
        except OSError:  # nobody listens any more
            os._exit(1)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        for job in jobs:
            for harvest in harvests(load(name), job, options, strict):
                waiting.put(harvest)
            waiting.put(None)
    finally:
        waiting.put(ended)  # type: ignore[arg-type]
        speaker.join()


def _send(harvest: Harvest | None, out: IO[bytes]) -> None:
    import pyarrow as pa

    if harvest is None:
        pickle.dump(None, out)
    else:
        told: Any = harvest._replace(batch=harvest.batch._replace(trajectories=None, messages=None))
        pickle.dump(told, out, pickle.HIGHEST_PROTOCOL)
        for table in (harvest.batch.trajectories, harvest.batch.messages):
            with pa.ipc.new_stream(out, table.schema) as stream:
                stream.write_table(table)
    out.flush()


def _receive(pipe: IO[bytes]) -> Harvest | None:
    import pyarrow as pa

    told: Harvest | None = pickle.load(pipe)
    if told is None:
        return None
    trajectories, messages = (pa.ipc.open_stream(pipe).read_all() for _ in range(2))
    return told._replace(batch=Batch(trajectories, messages, told.batch.lengths, told.batch.sizes))


def _in_lines(format: Format, path: str) -> bool:
    """Whether it is a plain file of JSON Lines, as the format reads it."""
    try:
        return "*.jsonl" in format.FILES and is_lines(path)
    except OSError:
        return False  # which is said when it is read


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
