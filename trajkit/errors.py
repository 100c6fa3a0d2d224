"""What can go wrong, and the exit code it ends the command line with."""

from __future__ import annotations

import difflib
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BAD_DATA = 3
    INTERRUPTED = 130  # by Ctrl-C, as shells have it: 128 + SIGINT


class TrajkitError(Exception):
    """An error whose message says what is wrong and which flag or file mends it."""

    exit_code = Exit.FAILED


class UsageError(TrajkitError):
    """The call is wrong: an unknown name, a missing path, a value out of range."""

    exit_code = Exit.USAGE


class BadData(TrajkitError):
    """The input is wrong: a torn file, a mistyped column, rows that contradict each other."""

    exit_code = Exit.BAD_DATA


class OutOfMemory(TrajkitError):
    """A query needs more memory than it may have."""


class BadRecord(BadData):
    """One record cannot become a trajectory. Importers set it aside and go on."""


def did_you_mean(name: str, names: list[str]) -> str:
    """' (did you mean ...?).' or '.'"""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]}?)." if close else "."
