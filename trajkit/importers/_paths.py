"""Which files an import reads: each path itself, or those in a folder that a format looks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from trajkit.errors import BadData, UsageError
from trajkit.importers._source import plain_name

_NAMED = 10  # of the files that cannot be read


def find(name: str, patterns: tuple[str, ...], paths: Sequence[str], runs: Path) -> list[str]:
    """The files to read for format `name`, in order, each once however many links lead to it.

    Links in folders are followed, loops are cut; hidden folders and `runs` are passed over. Raises UsageError for a
    path that is not there or a device, BadData for what cannot be read or is no regular file in a folder.
    """
    if not paths:
        raise UsageError(f"nothing to import: give files or folders, e.g. `trajkit import {name} logs/`.")
    found: dict[str, str] = {}  # by where it really lies
    wrong: list[str] = []
    for path in paths:
        if path == "-":
            found[path] = path
        elif Path(path).is_dir():
            inside = list(_walk(path, patterns, runs.resolve(), wrong))
            if not inside and not wrong:
                names = " or ".join(patterns)
                raise UsageError(f"{path}: {name} looks for {names} and there is none. Name the files themselves.")
            for file in inside:
                found.setdefault(os.path.realpath(file), file)
        elif not os.path.lexists(path):
            raise UsageError(f"{path}: there is no such file or folder.")
        else:
            mode = _mode(path, wrong)
            if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):  # a pipe, as in <(zcat ...)
                raise UsageError(f"{path}: it is {_what(mode)}, not a file. `-` reads from stdin.")
            found.setdefault(os.path.realpath(path), path)
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise BadData(
            f"{'; '.join(wrong[:_NAMED])}{more}. Nothing was imported: make it readable, or name the files to import."
        )
    return list(found.values())


def _walk(folder: str, patterns: tuple[str, ...], runs: Path, wrong: list[str]) -> Iterator[str]:
    """The files below `folder` that match a pattern. What cannot be read goes to `wrong`."""
    visited: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=lambda error: _add(wrong, error), followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            folders[:] = []
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(root, f).resolve() != runs)
        for name in sorted(names):
            if any(fnmatch(plain_name(name), pattern) for pattern in patterns):
                path = str(Path(root, name))
                mode = _mode(path, wrong)
                if mode is not None and not stat.S_ISREG(mode):
                    wrong.append(f"{path}: it is {_what(mode)}, not a file")
                yield path


def _mode(path: str, wrong: list[str]) -> int | None:
    """What kind of file it is; None where it cannot be read."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        _add(wrong, error)
        return None
    return mode


def _add(wrong: list[str], error: OSError) -> None:
    wrong.append(f"{error.filename}: cannot be read ({error.strerror or error})")


def _what(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
