"""Files that are there whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from trajkit.errors import TrajkitError
from trajkit.object_store import Location, Url


def hidden(path: Path) -> Path:
    """The name that `path` has until it is whole. What writers of `path` left there when they were killed goes."""
    begin = f".{path.name}."
    for leftover in path.parent.glob(f"{glob.escape(begin)}*.tmp"):
        if abandoned(leftover.name.removeprefix(begin).removesuffix(".tmp")):
            with suppress(OSError):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return path.with_name(f"{begin}{owner()}.tmp")


def owner() -> str:
    """Who writes, as hidden names say it: this machine and process."""
    return f"{socket.gethostname()}.{os.getpid()}"


def abandoned(owner: str) -> bool:
    """Whether that was a process of this machine which no longer runs.

    One with this process's own number counts as ended: in a container every process may have the number of the one
    before. What this process itself has there the caller knows.
    """
    host, _, pid = owner.rpartition(".")  # a host's name may hold dots
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


@contextmanager
def whole(path: Location) -> Iterator[BinaryIO]:
    """A file to write into, under a hidden name; at the end it is brought to the disk and renamed to `path`.

    What goes to a URL is written into a temporary file here and uploaded at the end.

    Where the block is left by an exception nothing is left of it. Raises TrajkitError where it cannot be written; what
    was there before is then untouched.
    """
    if isinstance(path, Url):
        with tempfile.NamedTemporaryFile(prefix="trajkit-") as here:
            yield cast(BinaryIO, here.file)
            here.flush()
            path.upload(Path(here.name))
        return
    unfinished = hidden(path)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise TrajkitError(
            f"{path}: cannot be written ({error.strerror or error}). What was there before is untouched; "
            "make room or name another place."
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a whole file. Returns `path`. Raises as `whole` does."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path
