"""Reading and converting: from spans of files to harvests, which the driver takes in, in the order of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from trajkit.errors import BadRecord
from trajkit.importers._advice import Keys
from trajkit.importers._source import RAW_CHARS, Raw, SourceFile
from trajkit.runs.records import Record
from trajkit.runs.writer import Batch, batch

if TYPE_CHECKING:
    from trajkit.importers._format import Format, Options

HARVEST_BYTES = 4 * 2**20
_OWN_BYTES = 500  # about what a record takes besides its text


class Span(NamedTuple):
    """A file, or of a file of JSON lines those that begin in `bytes` (first, end); `last`: the file's last span."""

    path: str
    bytes: tuple[int, int] | None = None
    last: bool = True


class Reject(NamedTuple):
    """A record that is set aside. Its line and index count from where its span begins. `cut`: there is more text."""

    line: int
    key: str
    text: str
    reason: str
    cut: bool = False


@dataclass
class Share:
    """What a span gave to a harvest: `read` records, of which `good` are trajectories.

    `notes` counts the trajectories' notes (`trajkit.runs.records.Record`). `foreign` says what the first that was set
    aside looks like, for the user: "" where it is like nothing known, None where it is of this format or its file
    is no text. `keys` are those of the trajectories' records, where flags can map them. `n_lines` and `ended` are
    said when the span is through; `failure` says why it cannot be read.
    """

    span: Span
    read: int = 0
    good: int = 0
    rejects: list[Reject] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    foreign: str | None = None
    keys: Keys = field(default_factory=Keys)
    n_lines: int = 0
    ended: bool = False
    failure: str | None = None


class Harvest(NamedTuple):
    """What spans gave, one after another: their trajectories (`no_outcome` of each), and `n_bytes` that were read."""

    shares: list[Share]
    batch: Batch
    no_outcome: list[bool]
    n_bytes: int


def harvests(format: Format, spans: Iterable[Span], options: Options, strict: bool) -> Iterator[Harvest]:
    """Read and convert the spans, a harvest for every few megabytes; with `strict` also for each record set aside."""
    shares: list[Share] = []
    records: list[Record] = []
    size = n_bytes = 0

    def progress(n: int) -> None:
        nonlocal n_bytes
        n_bytes += n

    def cut() -> Harvest:
        nonlocal shares, records, size, n_bytes
        harvest = Harvest(shares, batch(records), [_no_outcome(one.trajectory) for one in records], n_bytes)
        shares, records, size, n_bytes = [], [], 0, 0
        return harvest

    fields = {**getattr(format, "FIELDS", {}), **options.fields}
    mapped = "task-id" in fields

    for span in spans:
        share = Share(span)
        shares.append(share)
        file = SourceFile(span.path, progress, span.bytes)
        try:
            for raw in format.records(file):
                share.read += 1
                try:
                    record = _convert(format, raw, file, options)
                except BadRecord as error:
                    if not share.good and not share.rejects and not file.refused:
                        share.foreign = _foreign(raw, format)
                    text = raw.text
                    shortened = raw.cut or len(text) > RAW_CHARS
                    share.rejects.append(Reject(raw.line, raw.key, text[:RAW_CHARS], str(error), shortened))
                    size += len(raw.source) + _OWN_BYTES
                else:
                    share.good += 1
                    records.append(record)
                    share.notes.update(record.notes)
                    size += record.size + _OWN_BYTES
                    if mapped and isinstance(raw.value, dict):
                        row = record.trajectory
                        share.keys.look(raw.value, fields, row["reward"] is None and row["success"] is None)
                if size >= HARVEST_BYTES or (strict and share.rejects):
                    yield cut()
                    share = Share(span)
                    shares.append(share)
        except OSError as error:
            share.failure = error.strerror or str(error)
        share.n_lines, share.ended = file.n_lines, True
    yield cut()


def _convert(format: Format, raw: Raw, file: SourceFile, options: Options) -> Record:
    """The record's trajectory, as the standard library reads the record."""
    try:
        try:
            if raw.error is None:
                record = format.convert(raw, file, options)
                if not raw.rounded or _exact(record):
                    return record
        except (BadRecord, RecursionError):
            if not raw.rounded:
                raise
        raw = raw.exact()
        if raw.error is not None:
            raise BadRecord(raw.error)
        return format.convert(raw, file, options)
    except RecursionError:
        raise BadRecord("it is nested too deeply") from None


def _exact(record: Record) -> bool:
    """Whether none of its texts can hold an integer that was rounded: as a float that is 1.8446744073709552e+19."""
    row = record.trajectory
    return not (
        (row["meta"] and "e+" in row["meta"])
        or (row["error"] and "e+" in row["error"])
        or (row["tools"] and "e+" in row["tools"])
        or ("tool_calls" in record.columns and any("e+" in calls for calls in record.columns["tool_calls"] if calls))
        or ("logprobs" in record.columns and any(max(map(abs, n)) >= 1e16 for n in record.columns["logprobs"] if n))
    )


def _no_outcome(trajectory: Mapping[str, Any]) -> bool:
    unknown = trajectory["reward"] is None and trajectory["success"] is None
    return unknown or trajectory["ended"] in ("error", "drift")


def _foreign(raw: Raw, format: Format) -> str | None:
    """What a record that was set aside looks like: None where it is of this format."""
    from trajkit.importers._format import formats, load

    value = raw.exact().value
    if value is None:
        return ""
    if format.recognises(value):
        return None
    for name in formats():
        if load(name).recognises(value):
            return f" It looks like {name}: `trajkit import {name} ...`."
    return ""
