"""Importing files: reading, counting, setting aside, writing each trajectory once."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajkit.errors import BadData, TrajkitError
from trajkit.importers import _parallel
from trajkit.importers._advice import Keys
from trajkit.importers._batches import Harvest, Reject, Share, harvests
from trajkit.importers._format import Options, load
from trajkit.importers._paths import find
from trajkit.importers._rejected import Rejected, where
from trajkit.importers._replace import Replacing
from trajkit.runs.listing import existing_ids
from trajkit.runs.object_store import Location, locate
from trajkit.runs.writer import RunWriter

_KINDS = 1000  # of reasons that are counted each


@dataclass
class Counts:
    """What became of the records of an import.

    `notes` counts records that were read otherwise than they are written, by how ("have ...").
    `several`: of each record that fits several trajectories (which `replace` leaves alone) these, by its id.
    `rejected`: where the records that were set aside lie; None without any.
    """

    files: int = 0
    read: int = 0
    imported: int = 0
    no_outcome: int = 0
    already: int = 0
    duplicates: int = 0
    replaced: int = 0
    several: dict[str, list[str]] = field(default_factory=dict)
    set_aside: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    rejected: Location | None = None


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
    replace: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> Counts:
    """Import `paths` (files, folders, `-` for stdin) of format `name` into a run below `runs`.

    Idempotent: a trajectory that is already anywhere in `runs` is not written again. A record that
    cannot become a trajectory is written to the run's `rejected.jsonl` (file, line, record, reason,
    raw); importing a file again replaces what was set aside of it. With `strict` the first such
    record raises BadData instead, and nothing is written but parts that were already full (20,000
    trajectories or 64 MB of text). With `replace` a record that says and does the same as the one
    trajectory of its task, role, actor, iteration and sample overwrites that one's outcome, error and
    meta, and is no trajectory of its own. `say` is given the lines for the user.

    Raises UsageError for a path that is not there, BadData when nothing could be imported.
    """
    name = name.replace("_", "-")
    format = load(name)
    files = find(name, format.FILES, paths, Path(runs))
    run = run_folder(runs, name, options)
    there = existing_ids(runs)
    replacing = Replacing(runs) if replace else None
    counts = Counts()
    rejected = Rejected(run)
    jobs = _parallel.plan(format, files)
    try:
        with _bar(files) as bar, RunWriter(run, known=there, behind=True) as writer:
            if len(jobs) > 1:
                found = _parallel.in_processes(name, options, strict, jobs)
            else:
                found = harvests(format, jobs[0], options, strict)
            intake = _Intake(strict, writer, there, rejected, counts, say, replacing)
            for harvest in found:
                bar.update(harvest.n_bytes)
                intake.take(harvest)
        if replacing is not None:
            replacing.apply()
            counts.replaced, counts.several = replacing.n_replaced, replacing.several
        rejected.close()
    except BaseException:
        if not strict:
            with suppress(TrajkitError):
                rejected.close()
        raise
    finally:
        rejected.discard()
        if isinstance(run, Path):
            with suppress(OSError):  # only where nothing was written
                run.rmdir()
    intake.advise({**getattr(format, "FIELDS", {}), **options.fields})
    if counts.set_aside:
        counts.rejected = rejected.path
    if counts.set_aside and not counts.imported + counts.already + counts.duplicates + counts.replaced + len(
        counts.several
    ):
        raise BadData(
            f"nothing could be imported: all {sum(counts.set_aside.values()):,} records were set aside in "
            f"{rejected.path}. The first reason: {rejected.first}"
        )
    return counts


@dataclass
class _Intake:
    """Takes harvests into the run, in order: rows to the writer, the others to `rejected`, numbers to `counts`."""

    strict: bool
    writer: RunWriter
    there: set[str]
    rejected: Rejected
    counts: Counts
    say: Callable[[str], object]
    replacing: Replacing | None = None
    _keys: Keys = field(default_factory=Keys)
    _empty: list[str] = field(default_factory=list)
    _foreign: list[tuple[str, str]] = field(default_factory=list)
    _file: _OneFile = field(default_factory=lambda: _OneFile())

    def take(self, harvest: Harvest) -> None:
        ids = harvest.batch.trajectories["trajectory_id"].to_pylist()
        passed = self.replacing.take(harvest.batch, self.there) if self.replacing else set()
        self.writer.pass_over(passed)
        for trajectory_id, new, no_outcome in zip(
            ids, self.writer.extend(harvest.batch), harvest.no_outcome, strict=True
        ):
            if new:
                self.counts.imported += 1
                self.counts.no_outcome += no_outcome
            elif trajectory_id in passed:
                pass
            elif trajectory_id in self.there:
                self.counts.already += 1
            else:
                self.counts.duplicates += 1
        for share in harvest.shares:
            self._take_share(share)

    def _take_share(self, share: Share) -> None:
        path, counts, file = share.span.path, self.counts, self._file
        counts.read += share.read
        counts.notes.update(share.notes)
        self._keys.add(share.keys)
        for reject in share.rejects:
            reject = file.numbered(reject)
            if self.strict:
                way_out = "Mend it, or leave out --strict to set it aside."
                raise BadData(f"{path}: {where(reject)}: {reject.reason}. {way_out}")
            self.rejected.add(path, reject)
            kind = _kind(reject.reason)
            counts.set_aside[
                kind if kind in counts.set_aside or len(counts.set_aside) < _KINDS else "other reasons"
            ] += 1
        if share.failure is not None:
            raise TrajkitError(
                f"{path}: cannot be read ({share.failure}). Mend that and run the command again: "
                "what is already imported is not repeated."
            )
        file.count(share)
        if share.ended and share.span.last:
            counts.files += 1
            self.rejected.finish(path)
            if not file.good and not file.bad:
                self._empty.append(path)
            elif not file.good and file.foreign is not None:
                self._foreign.append((path, file.foreign))
            self._file = _OneFile()

    def advise(self, fields: Mapping[str, str]) -> None:
        """Say what the user may have meant otherwise, each thing once."""
        if self._empty:
            self.say(f"{_and_more(self._empty)}: no records in it")
        if self._foreign:
            hint = next((hint for _, hint in self._foreign if hint), "")
            files = _and_more([path for path, _ in self._foreign])
            self.say(f"{files}: every record was set aside: is it another format?{hint}")
        if self._keys.n:
            for line in self._keys.advice(fields):
                self.say(line)


@dataclass
class _OneFile:
    """What the shares of a file have told so far; `lines` and `records` are those before the span at hand."""

    good: int = 0
    bad: int = 0
    lines: int = 0
    records: int = 0
    foreign: str | None = None
    _in_span: int = 0

    def count(self, share: Share) -> None:
        if not self.good and not self.bad:
            self.foreign = share.foreign
        self.good += share.good
        self.bad += len(share.rejects)
        self._in_span += share.read
        if share.ended:
            self.lines += share.n_lines
            self.records += self._in_span
            self._in_span = 0

    def numbered(self, reject: Reject) -> Reject:
        """The record with its line and index in the file."""
        key = str(int(reject.key) + self.records) if self.records else reject.key
        return reject._replace(line=reject.line + self.lines, key=key)


def _and_more(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more files"


def _bar(files: Sequence[str]) -> Any:
    from trajkit.console import bar

    total = sum(Path(path).stat().st_size for path in files if path != "-")
    return bar(desc="import", total=total or None, unit="B", unit_scale=True)


def _kind(reason: str) -> str:
    """The reason without this record's own values, for counting."""
    return re.sub(r"(?<![\w-])\d+\b", "N", reason.partition(": ")[0])
