"""Processes that start at once, to be killed at any moment: a Python that has imported all forks one for each call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# Reads the arguments of a call as JSON, says the pid that runs it, then how that ended.
LOOP = """
import importlib, json, os, sys
import duckdb, pyarrow.parquet
tests, module, name = sys.argv[1:]
sys.path[:0] = [os.path.dirname(tests), tests]
function = getattr(importlib.import_module(module), name)
print("ready", flush=True)
for line in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
    else:
        sys.stdin.close()
        os.dup2(2, 1)  # what a call prints is no answer
        try:
            function(*json.loads(line))
        except BaseException as error:
            os.write(2, f"{error!r}\\n".encode())
            os._exit(9)
        os._exit(0)
"""


class Forks:
    """Calls of a test module's function (paths come as text), one after another, each in a process of its own.

    `start` gives the pid, `end` how it ended: 0, or the signal that killed it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        command = [sys.executable, "-c", LOOP, str(Path(__file__).parent), function.__module__, function.__name__]
        self._loop = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._loop.stdout
        return self._loop.stdout.readline().strip()

    def start(self, *args: Any) -> int:
        assert self._loop.stdin
        self._loop.stdin.write(json.dumps(args, default=str) + "\n")
        return int(self._line())

    def end(self) -> int:
        return int(self._line())

    def killed(self, pid: int) -> bool:
        """Kill it; whether it had not ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.end() == signal.SIGKILL

    def close(self) -> None:
        assert self._loop.stdin and self._loop.stdout
        self._loop.stdin.close()
        self._loop.stdout.close()
        self._loop.wait()
