"""What lies below a folder on this machine: nothing is passed over in silence, and nothing is met twice."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from trajkit.errors import BadData

WAY_OUT = "What it holds would be missing, so nothing was done. Make it readable, or move it out of the runs."


def walk(root: Path, enter: Callable[[str], bool]) -> Iterator[tuple[str, str, list[os.DirEntry[str]]]]:
    """Each folder below `root`, itself first: its path, where it really lies, and what is in it, by name.

    `enter` says of a folder's name whether to look into it. Links are followed, each folder is entered once, whatever
    leads to it: by its own name where that lies below `root`. Raises BadData for what cannot be read; what goes away
    meanwhile is passed over.
    """
    folders = deque([(os.fspath(root), os.path.realpath(root))])
    links: deque[str] = deque()
    entered: set[str] = set()
    while folders or links:
        if folders:
            folder, real = folders.popleft()
        else:
            folder = links.popleft()
            real = os.path.realpath(folder)
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BadData(f"{folder}: cannot be read ({error.strerror or error}). {WAY_OUT}") from error
        yield folder, real, entries
        for entry in entries:
            if enter(entry.name) and is_folder(entry):
                if entry.is_symlink():
                    links.append(entry.path)
                else:
                    folders.append((entry.path, os.path.join(real, entry.name)))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one. Raises BadData where that cannot be known."""
    if not entry.is_symlink():
        return entry.is_dir()
    mode = _mode(entry)
    return mode is not None and stat.S_ISDIR(mode)


def refuse_irregular(entry: os.DirEntry[str]) -> None:
    """Raise BadData for a pipe, a socket or a device: to read from one might never end. A link to nothing passes."""
    if entry.is_file(follow_symlinks=False):
        return
    mode = _mode(entry)
    if mode is not None and not stat.S_ISREG(mode):
        raise BadData(f"{entry.path}: it is a pipe, a socket or a device, not a file. Move it out of the runs.")


def _mode(entry: os.DirEntry[str]) -> int | None:
    """What it is, or what it is a link to. None for a link to nothing, or to itself, and for what has gone."""
    try:
        return os.stat(entry.path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise BadData(f"{entry.path}: cannot be read ({error.strerror or error}). {WAY_OUT}") from error
