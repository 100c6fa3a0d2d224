"""Importing: from other projects' logs to runs.

A format is one file in this folder, found by its name (`tau_bench.py` is the format `tau-bench`). It has

    FILES                         what a folder is searched for, e.g. ("*.json",)
    FIELDS                        which fields flags can map, with their defaults; may be left out
    recognises(value) -> bool     whether a record looks like this format (for "did you mean")
    records(file) -> Iterator     the records of one file as they lie there (`_files.py` has the readers)
    convert(raw, file, options)   one record to a trajectory, or BadRecord with the reason

and its docstring's first line is its description. The driver below does the rest: progress, counting,
setting aside, writing each trajectory once.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import os
import pkgutil
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.files import hidden
from trajkit.importers import _processes
from trajkit.importers._files import Raw, SourceFile
from trajkit.importers._harvest import Harvest, Reject, Share, harvests
from trajkit.object_store import Location, Url, locate
from trajkit.records import Record
from trajkit.store import RunWriter, existing_ids

REJECTED = "rejected.jsonl"


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


@dataclass
class Counts:
    """What became of the records of an import."""

    files: int = 0
    read: int = 0
    imported: int = 0
    no_outcome: int = 0
    already: int = 0
    duplicates: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)


@cache
def formats() -> dict[str, str]:
    """The formats' names with their one-line descriptions."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name.replace("_", "-"): (_module(name).__doc__ or "").partition("\n")[0] for name in names}


def load(name: str) -> Format:
    """The format called `name`. Raises UsageError with the nearest names."""
    module = name.replace("-", "_")
    if module in {m.name for m in pkgutil.iter_modules(__path__)} and not module.startswith("_"):
        return cast("Format", _module(module))
    known = [m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, 1, 0.5)
    meant = f" Did you mean `{near[0]}`?" if near else ""
    raise UsageError(f"{name!r} is no format that can be imported.{meant} There are: {', '.join(sorted(known))}.")


def run_folder(runs: str | os.PathLike[str], name: str, options: Options) -> Location:
    """Where an import goes: runs/import-<format>-<role>[-<actor>][-i<iteration>]."""
    slug = re.sub(r"[^a-z0-9._]+", "-", (options.actor or "").lower()).strip("-.")
    iteration = f"i{options.iteration}" if options.iteration else ""
    return locate(runs) / "-".join(
        part for part in ("import", name.replace("_", "-"), options.role, slug, iteration) if part
    )


def import_files(
    name: str,
    paths: Sequence[str],
    runs: str | os.PathLike[str],
    options: Options,
    *,
    strict: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> Counts:
    """Import `paths` (files, folders, `-` for stdin) of format `name` into a run below `runs`.

    Idempotent: a trajectory that is already anywhere in `runs` is not written again. A record that
    cannot become a trajectory is written to the run's `rejected.jsonl` (file, line, record, reason,
    raw); importing a file again replaces what was set aside of it. With `strict` the first such
    record raises BadData instead, and nothing is written but parts that were already full (20,000
    trajectories or 64 MB of text). `say` is given the lines for the user.

    Raises UsageError for a path that is not there, BadData when nothing could be imported.
    """
    name = name.replace("_", "-")
    format = load(name)
    files = _find(format, name, paths, Path(runs))
    run = run_folder(runs, name, options)
    there = existing_ids(runs)
    counts = Counts()
    rejected = _Rejected(run)
    jobs = _processes.plan(format, files)
    try:
        with _bar(files) as bar, RunWriter(run, known=there, behind=True) as writer:
            if len(jobs) > 1:
                found = _processes.in_processes(name, options, strict, jobs)
            else:
                found = harvests(format, jobs[0], options, strict)
            intake = _Intake(strict, writer, there, rejected, counts, say)
            for harvest in found:
                bar.update(harvest.n_bytes)
                intake.take(harvest)
        rejected.close()
    finally:
        rejected.discard()
        if isinstance(run, Path):
            with suppress(OSError):  # only where nothing was written
                run.rmdir()
    if counts.set_aside and not counts.imported + counts.already + counts.duplicates:
        raise BadData(
            f"nothing could be imported: all {sum(counts.set_aside.values()):,} records were set aside in "
            f"{run / REJECTED}. The first reason: {rejected.first}"
        )
    return counts


@dataclass
class _Intake:
    """Takes harvests into the run, in order: rows to the writer, the others to `rejected`, numbers to `counts`."""

    strict: bool
    writer: RunWriter
    there: set[str]
    rejected: _Rejected
    counts: Counts
    say: Callable[[str], object]
    _file: _OneFile = field(default_factory=lambda: _OneFile())

    def take(self, harvest: Harvest) -> None:
        ids = harvest.batch.trajectories["trajectory_id"].to_pylist()
        for trajectory_id, new, no_outcome in zip(
            ids, self.writer.extend(harvest.batch), harvest.no_outcome, strict=True
        ):
            if new:
                self.counts.imported += 1
                self.counts.no_outcome += no_outcome
            elif trajectory_id in self.there:
                self.counts.already += 1
            else:
                self.counts.duplicates += 1
        for share in harvest.shares:
            self._take_share(share)

    def _take_share(self, share: Share) -> None:
        path, counts, file = share.span.path, self.counts, self._file
        self.rejected.start(path)
        counts.read += share.read
        for reject in share.rejects:
            reject = file.numbered(reject)
            if self.strict:
                way_out = "Mend it, or leave out --strict to set it aside."
                raise BadData(f"{path}: {_where(reject)}: {reject.reason}. {way_out}")
            self.rejected.add(path, reject)
            counts.set_aside[_kind(reject.reason)] += 1
        if share.failure is not None:
            raise TrajkitError(
                f"{path}: cannot be read ({share.failure}). Mend that and run the command again: "
                "what is already imported is not repeated."
            )
        file.count(share)
        if share.ended and share.span.last:
            counts.files += 1
            if not file.good and not file.bad:
                self.say(f"{path}: no records in it")
            elif not file.good:
                self.say(f"{path}: every record was set aside: is it another format?{file.looks_like or ''}")
            self._file = _OneFile()


@dataclass
class _OneFile:
    """What the shares of a file have told so far; `lines` and `records` are those before the span at hand."""

    good: int = 0
    bad: int = 0
    lines: int = 0
    records: int = 0
    looks_like: str | None = None
    _in_span: int = 0

    def count(self, share: Share) -> None:
        self.good += share.good
        self.bad += len(share.rejects)
        self._in_span += share.read
        if self.looks_like is None:
            self.looks_like = share.looks_like
        if share.ended:
            self.lines += share.n_lines
            self.records += self._in_span
            self._in_span = 0

    def numbered(self, reject: Reject) -> Reject:
        """The record with its line and index in the file."""
        key = str(int(reject.key) + self.records) if self.records else reject.key
        return reject._replace(line=reject.line + self.lines, key=key)


def _find(format: Format, name: str, paths: Sequence[str], runs: Path) -> list[str]:
    """The files to read, in order: each path itself, or those in the folder that the format's FILES name."""
    if not paths:
        raise UsageError(f"nothing to import: give files or folders, e.g. `trajkit import {name} logs/`.")
    found: list[str] = []
    for path in paths:
        if path == "-" or Path(path).is_file():
            found.append(path)
        elif not Path(path).is_dir():
            if Path(path).exists():  # a pipe, as in <(zcat ...)
                found.append(path)
                continue
            raise UsageError(f"{path}: there is no such file or folder.")
        else:
            inside = list(_walk(path, format.FILES, runs.resolve()))
            if not inside:
                names = " or ".join(format.FILES)
                raise UsageError(f"{path}: {name} looks for {names} and there is none. Name the files themselves.")
            found += inside
    return list(dict.fromkeys(found))


def _walk(folder: str, patterns: tuple[str, ...], runs: Path) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        raise UsageError(f"{error.filename}: cannot be read ({error.strerror}).")

    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(root, f).resolve() != runs)
        for name in sorted(names):
            if any(fnmatch(name.removesuffix(".gz"), pattern) for pattern in patterns):
                yield str(Path(root, name))


def _bar(files: Sequence[str]) -> Any:
    from trajkit.progress import bar

    total = sum(Path(path).stat().st_size for path in files if path != "-")
    return bar(desc="import", total=total or None, unit="B", unit_scale=True)


def _where(raw: Reject) -> str:
    return f"line {raw.line}" + (f", record {raw.key}" if raw.key else "")


def _kind(reason: str) -> str:
    """The reason without this record's own values, for counting."""
    return re.sub(r"(?<![\w-])\d+\b", "N", reason.partition(": ")[0])


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


class _Rejected:
    """A run's `rejected.jsonl`, written anew beside the old one and then put in its place.

    What the old one says of files that are read now is dropped, the rest is kept. stdin is no file
    that can be read again, so its lines stay; none is written twice.
    """

    def __init__(self, run: Location) -> None:
        self.path = run / REJECTED
        self.first = ""
        # what is to be uploaded is written on this machine
        self._hidden = hidden((Path(tempfile.gettempdir()) if isinstance(run, Url) else run) / REJECTED)
        self._files: set[str] = set()
        self._new: Any = None

    def start(self, path: str) -> None:
        if path != "-":
            self._files.add(str(Path(path).absolute()))

    def add(self, path: str, raw: Reject) -> None:
        self.first = self.first or f"{path}: {_where(raw)}: {raw.reason}"
        line = {
            "file": "-" if path == "-" else str(Path(path).absolute()),
            "line": raw.line,
            "record": raw.key,
            "reason": raw.reason,
            "raw": raw.text,
        }
        try:
            if self._new is None:
                self._new = self._hidden.open("wb")
            self._new.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Put the new file in place; remove it where nothing is set aside any more."""
        try:
            if self.path.exists():
                self._keep_old()
            if self._new is None:
                return
            self._new.flush()
            os.fsync(self._new.fileno())
            self._new.close()
            if self._hidden.stat().st_size:
                if isinstance(self.path, Url):
                    self.path.upload(self._hidden)
                else:
                    self._hidden.replace(self.path)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def _keep_old(self) -> None:
        """Append the old file's lines that are not of the files read now, nor among the new lines."""
        new = self._new = self._new or self._hidden.open("wb")
        new.flush()
        with self._hidden.open("rb") as written:
            seen = {hashlib.sha256(line).digest() for line in written}
        with self.path.open("rb") as old:
            for line in old:
                if self._kept(line) and hashlib.sha256(line).digest() not in seen:
                    new.write(line)

    def discard(self) -> None:
        if self._new is not None:
            with suppress(OSError):
                self._new.close()
            self._hidden.unlink(missing_ok=True)

    def _kept(self, line: bytes) -> bool:
        try:
            return json.loads(line).get("file") not in self._files
        except (ValueError, AttributeError):
            return True

    def _failed(self, error: OSError) -> TrajkitError:
        return TrajkitError(
            f"{self.path}: cannot be written ({error.strerror or error}). The trajectories imported so far are kept; "
            "mend that and run the command again."
        )
