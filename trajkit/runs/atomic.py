"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import socket
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trajkit.errors import TrajkitError, UsageError
from trajkit.runs.object_store import Location, Unreachable, Url
from trajkit.runs.temporary import TemporaryFolder

STDOUT = Path("-")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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


def regular(path: Path) -> tuple[Path, int | None]:
    """The regular file that `path` names, links followed, with its permissions; None where there is no file yet.

    Raises UsageError where something else is there: a folder, a named pipe, a socket, a device, a link to itself.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(path)), None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}. Name another place.") from error
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise UsageError(f"{path}: that is {kind}. Name a regular file, or a place where there is none yet.")
    return Path(os.path.realpath(path)), stat.S_IMODE(mode)


def check_out(out: Location, suffixes: Collection[str], runs: Location | None = None) -> None:
    """Raise UsageError where no file `out` can be written, or it would not be what its name says.

    `suffixes` are what the name may end in, the first being the usual one; a name without a suffix is taken too. With
    `runs`, `out` must not lie inside of it.
    """
    example = f"out{next(iter(suffixes))}"
    if out == STDOUT:
        if sys.stdout.isatty():
            raise UsageError(f"--out -: stdout is a terminal. Pipe it on, or name a file, for instance {example}.")
        return
    suffix = Path(out.name).suffix.lower()
    if suffix and suffix not in suffixes:
        raise UsageError(f"--out {out}: what is written is no {suffix} file; end the name in {' or '.join(suffixes)}.")
    if isinstance(out, Url):
        if isinstance(runs, Url) and out.is_relative_to(runs):
            raise UsageError(f"--out {out}: that lies inside the runs that are read. Name a place outside of them.")
        with suppress(Unreachable):  # who may write need not be allowed to ask
            if not out.bucket.exists():
                raise UsageError(f"--out {out}: there is no bucket {out.bucket}. Make it first.")
        return
    if out.is_dir():
        raise UsageError(f"--out {out}: that is a folder; name a file, for instance {out / example}.")
    try:
        goal, _ = regular(out)
    except UsageError as error:
        raise UsageError(f"--out {error}") from None
    if not goal.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {goal.parent}. Make it first (mkdir -p {goal.parent}).")
    if isinstance(runs, Path) and runs.is_dir() and goal.is_relative_to(runs.resolve()):
        raise UsageError(
            f"--out {out}: that lies inside the runs that are read ({runs}). Name a place outside of them."
        )
    if not os.access(goal.parent, os.W_OK):
        raise UsageError(f"--out {out}: the folder {goal.parent} cannot be written to. Name another place.")


@contextmanager
def whole(path: Location) -> Iterator[BinaryIO]:
    """A file to write into, under a hidden name; at the end it is brought to the disk and renamed to `path`.

    A link is followed, and a file that is replaced keeps its permissions. What goes to a URL or to `STDOUT` is written
    into a temporary file here, and uploaded or copied at the end.

    Where the block is left by an exception nothing is left of it. Raises TrajkitError where it cannot be written, and
    UsageError as `regular` does; what was there before is then untouched.
    """
    if isinstance(path, Url) or path == STDOUT:
        with TemporaryFolder() as folder:
            here = Path(folder.name, "file")
            with here.open("wb") as file:
                yield file
            if isinstance(path, Url):
                path.upload(here)
            else:
                with here.open("rb") as written:
                    shutil.copyfileobj(written, sys.stdout.buffer)
                sys.stdout.flush()
        return
    path, permissions = regular(path)
    unfinished = hidden(path)
    try:
        with unfinished.open("wb") as file:
            if permissions is not None:
                os.fchmod(file.fileno(), permissions)
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(unfinished, path)
    except OSError as error:
        raise TrajkitError(
            f"{path}: cannot be written ({error.strerror or error}). What was there before is untouched; "
            "make room or name another place."
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def rename(old: Path, new: Path) -> None:
    """Give a file or folder another name in the same file system, and bring that name to the disk.

    What `new` named before is replaced (of folders: an empty one). What `old` holds must be on the disk before: `sync`.
    """
    os.replace(old, new)
    sync(new.parent)


def hide(old: Path, new: Path) -> None:
    """Rename what is about to be removed. It may come back when the machine fails, and do no harm."""
    os.replace(old, new)


def make_folder(path: Path) -> None:
    """Make a folder, with those above it that are missing, and bring their names to the disk. Nothing where it is."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some file systems of a network cannot do that for a folder, and keep names without it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(opened)


def sync_below(folder: Path) -> None:
    """Bring all files and names below a folder to the disk."""
    for below, _, names in os.walk(folder):
        for name in names:
            sync(Path(below, name))
        sync(Path(below))


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a whole file. Returns `path`. Raises as `whole` does."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path
