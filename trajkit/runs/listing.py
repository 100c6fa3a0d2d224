"""What lies below a folder on this machine: nothing is passed over in silence, and nothing is met twice."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from trajkit.errors import BadData, TrajkitError
from trajkit.runs.object_store import Location, Url, locate, side_by_side
from trajkit.runs.schema import TABLES

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


def parts(runs: str | os.PathLike[str], table: str) -> list[Location]:
    """All files of `table` below `runs`, sorted: `**/<table>*.parquet`, hidden folders left out.

    `runs` may also be a single Parquet file of that table, and a URL. Links are followed, and each file is there once.
    Empty when there is none. Raises BadData for a folder that cannot be read and for what is no regular file.
    """
    return all_parts(runs)[table]


def all_parts(runs: str | os.PathLike[str]) -> dict[str, list[Location]]:
    """`parts` of every table, as they lay there at one moment."""
    root = locate(runs)
    single = root.is_file()
    listed = [str(root)] if single else _listed(root)
    while not single and (again := _listed(root)) != listed:
        listed = again  # parts came and went while they were listed (`compact`): what came may have been missed
    return {table: [locate(file) for file in listed if os.path.basename(file).startswith(table)] for table in TABLES}


def _listed(root: Location) -> list[str]:
    if isinstance(root, Url):
        return [f"{root}/{name}" for name in of_whole_parts(root.below())]
    found: list[tuple[bool, str, str]] = []
    for _, real, entries in walk(root, enter=lambda name: not name.startswith(".")):
        for entry in entries:
            if _of_a_table(entry.name) and not is_folder(entry):
                refuse_irregular(entry)
                linked = entry.is_symlink()
                lies = os.path.realpath(entry.path) if linked else os.path.join(real, entry.name)
                found.append((linked, entry.path, lies))
    once: dict[str, str] = {}  # a link to a file that lies below the folder as well is passed over
    for _, path, lies in sorted(found):
        once.setdefault(lies, path)
    return sorted(once.values())


def of_whole_parts(names: Iterable[str]) -> list[str]:
    """The Parquet files among the names below a store's prefix, sorted: none in hidden folders, and no messages of a
    part whose trajectories are still to come (they are uploaded last)."""
    files = {name for name in names if name.endswith(".parquet") and not re.search(r"(^|/)\.[^/]*/", name)}
    waiting = {
        name
        for name in files
        if re.search(r"(^|/)part-[0-9a-f]{16}/messages\.parquet$", name)
        and name.removesuffix("messages.parquet") + "trajectories.parquet" not in files
    }
    return sorted(files - waiting)


def existing_ids(runs: str | os.PathLike[str]) -> set[str]:
    """The ids already in `runs`: of trajectories, and of the records that corrected one."""
    import pyarrow.parquet as pq

    def ids_of(part: Location) -> list[str] | None:
        try:
            # pyarrow's own file of an object: none of its threads may need Python when the process ends
            source = part.open().opened if isinstance(part, Url) else part
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                table = file.read(columns=["trajectory_id", "import_id"])  # the latter where it is
            ids: list[str] = [id for column in table.columns for id in column.to_pylist() if id is not None]
        except Exception as error:
            if not part.exists() and part not in parts(runs, "trajectories"):
                return None
            way_out = "Make it readable" if isinstance(error, OSError) and error.errno else "Move it out of the runs"
            raise TrajkitError(f"{part}: cannot be read ({error}). {way_out}, then run this command again.") from error
        return ids

    ids: set[str] = set()
    for found in side_by_side(ids_of, parts(runs, "trajectories")):
        if found is None:
            return existing_ids(runs)  # `compact` has put it into another part
        ids.update(found)
    return ids


def _of_a_table(name: str) -> bool:
    return name.endswith(".parquet") and name.startswith(tuple(TABLES))
