"""How long an environment's call has been going on, seen from outside of it: by another process or another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager
from typing import Any

CALLS = ("reset", "step", "close", "snapshot", "restore")


class Watch:
    """Says when a call begins and ends. `cells` are two numbers, which may be in memory shared with a process."""

    def __init__(self, cells: MutableSequence[int] | None = None) -> None:
        self.cells: MutableSequence[int] = [0, 0] if cells is None else cells

    def call(self, what: str, method: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call it, as one of CALLS."""
        self.cells[1] = CALLS.index(what)
        self.cells[0] += 1  # odd as long as a call goes on
        try:
            return method(*args, **more)
        finally:
            self.cells[0] += 1


class Overdue:
    """Looks at a watch now and then. `seconds` 0: nothing is ever overdue."""

    def __init__(self, cells: MutableSequence[int], seconds: float) -> None:
        self._cells, self._seconds = cells, seconds
        self._count, self._since = 0, 0.0
        self.pause = min(seconds / 4, 1.0) if seconds else None  # between two looks

    def look(self) -> str | None:
        """The call that has been going on for `seconds` of looking at it."""
        count, what = self._cells
        if count != self._count or count % 2 == 0:
            self._count, self._since = count, time.monotonic()
            return None
        if not self._seconds or time.monotonic() - self._since < self._seconds:
            return None
        return CALLS[what]


@contextmanager
def watchdog(watch: Watch, seconds: float, tell: Callable[[str], None]) -> Iterator[None]:
    """While it runs, a thread tells of every call that takes longer than `seconds` (0: of none). It cannot end one."""
    overdue, over = Overdue(watch.cells, seconds), threading.Event()

    def look() -> None:
        told = 0
        while not over.wait(overdue.pause):
            what = overdue.look()
            if what is not None and told != watch.cells[0]:
                told = watch.cells[0]
                tell(
                    f"the environment's {what} has been running for {seconds:g} s (--step-timeout). It cannot be ended "
                    "in this process (--env-workers 0): stop it with Ctrl-C; --env-workers 1 ends what hangs."
                )

    thread = threading.Thread(target=look, name="trajkit-watchdog", daemon=True)
    if overdue.pause is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if overdue.pause is not None:
            thread.join()
