"""Temporary folders. What a killed process left of them goes with the next run."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Self

PREFIX = "trajkit-tmp-"


class TemporaryFolder:
    """A folder in the system's temporary folder (TMPDIR), gone after `cleanup` or at the end of the `with` block.

    Its process holds a lock on it for as long as it lives. The system takes the lock away when the process ends, in
    whatever way, so a folder without a lock was left behind, and whoever makes the next one removes it. (The number of
    a process says less: it may be another's by then, or that of one in another container.)
    """

    def __init__(self) -> None:
        top = Path(tempfile.gettempdir())
        _remove_abandoned(top)
        while True:
            self.name = tempfile.mkdtemp(prefix=PREFIX, dir=top)
            try:
                lock = _lock(Path(self.name))
            except OSError:  # there are no locks in this file system: nobody will take it for an abandoned one
                lock = None
            else:
                if lock is None:
                    continue  # somebody looked at it before it had its lock, and removes it
            break
        self._finalizer = weakref.finalize(self, _remove, self.name, lock, os.getpid())

    def cleanup(self) -> None:
        """Remove the folder and what is in it."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cleanup()


def _remove(name: str, lock: int | None, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(name, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock the folder; the file descriptor that has the lock. None where another has it, or the folder is gone or
    another user's. Raises OSError where it cannot be locked."""
    import fcntl

    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.stat(folder)
        if there.st_uid == os.geteuid() and os.path.samestat(there, os.fstat(opened)):
            return opened
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(opened)
        raise
    os.close(opened)
    return None


def _remove_abandoned(top: Path) -> None:
    with suppress(OSError), os.scandir(top) as entries:
        for folder in [Path(entry.path) for entry in entries if entry.name.startswith(PREFIX)]:
            with suppress(OSError):
                lock = _lock(folder)
                if lock is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(lock)
