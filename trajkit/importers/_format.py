"""What a format is, and the formats there are."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from trajkit.errors import UsageError

if TYPE_CHECKING:
    from trajkit.importers._source import Raw, SourceFile
    from trajkit.runs.records import Record

_FOLDER = [str(Path(__file__).parent)]


@dataclass(frozen=True)
class Options:
    """What the caller says of the trajectories, because their files do not.

    `env` replaces the environment's name that the format would give. `fields` maps the names in a
    format's FIELDS to those in the file.
    """

    role: str = "policy"
    actor: str | None = None
    env: str | None = None
    iteration: int = 0
    split: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


class Format(Protocol):
    """A module in this folder."""

    FILES: tuple[str, ...]

    @staticmethod
    def recognises(value: Any) -> bool: ...
    @staticmethod
    def records(file: SourceFile) -> Iterator[Raw]: ...
    @staticmethod
    def convert(raw: Raw, file: SourceFile, options: Options) -> Record: ...


@cache
def formats() -> dict[str, str]:
    """The formats' names with their one-line descriptions."""
    names = sorted(m.name for m in pkgutil.iter_modules(_FOLDER) if not m.name.startswith("_"))
    return {name.replace("_", "-"): (_module(name).__doc__ or "").partition("\n")[0] for name in names}


def load(name: str) -> Format:
    """The format called `name`. Raises UsageError with the nearest names."""
    module = name.replace("-", "_")
    if module in {m.name for m in pkgutil.iter_modules(_FOLDER)} and not module.startswith("_"):
        return cast("Format", _module(module))
    known = [m.name.replace("_", "-") for m in pkgutil.iter_modules(_FOLDER) if not m.name.startswith("_")]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, 1, 0.5)
    meant = f" Did you mean `{near[0]}`?" if near else ""
    raise UsageError(f"{name!r} is no format that can be imported.{meant} There are: {', '.join(sorted(known))}.")


def _module(name: str) -> Any:
    return importlib.import_module(f"trajkit.importers.{name}")
