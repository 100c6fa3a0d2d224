"""Exporting: what `trajkit select` wrote, as a file that another trainer loads.

A format is one file in this folder, found by its name (`ms_swift.py` is the format `ms-swift`). It has

    TRAINER                    the trainer's name, for messages
    pair(pair, note) -> dict   a pair as a line of the format's file, or Unfit with the reason and the way out;
                               `note` is called with what the trainer will do otherwise, or what it does not get
    example(example, note)     the same for an example; a format has one of the two or both
    beside(out) -> str | None  writes what the trainer needs beside the file; what to tell the user; may be left out

and its docstring's first line is its description. The driver below does the rest: reading, counting what is left
out, writing the file whole or not at all.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.examples import KINDS, Selected, selected
from trajkit.exporters._rows import Row, Unfit, row
from trajkit.progress import bar
from trajkit.rules import did_you_mean
from trajkit.terminal import clean

TAKES = {"pairs": "pair", "examples": "example"}  # a kind of file, and the format's function for its rows
# They are in no way special in JSON, but some readers take them for the end of a line.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})

Note = Callable[[str], None]


class Format(Protocol):
    """A module in this folder."""

    TRAINER: str


@dataclass
class Summary:
    """What an export wrote and left out.

    `left_out` counts rows by reason (with the way out); `notes` counts the written rows by what the trainer does
    otherwise with them than ours, or does not get of them. `beside` is what was said of further files, or None.
    """

    kind: str
    method: str
    trainer: str
    read: int = 0
    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    beside: str | None = None

    def text(self) -> str:
        """The summary as people read it."""
        lines = [f"{self.read:,} {self.kind} of {clean(self.method)}, {self.written:,} written for {self.trainer}"]
        for title, counted in (("left out", self.left_out), ("written, but mind", self.notes)):
            if counted:
                lines += [title, *(f"  {n:>9,}   {clean(text)}" for text, n in counted.most_common())]
        return "\n".join([*lines, *([self.beside] if self.beside else [])])


@cache
def formats() -> list[str]:
    """The names that `export --to` takes."""
    return sorted(name.replace("_", "-") for _, name, _ in pkgutil.iter_modules(__path__) if not name.startswith("_"))


def load(name: str) -> Format:
    """The format of that name. Raises UsageError where there is none."""
    if name not in formats():
        raise UsageError(
            f"--to {name}: there is no such format{did_you_mean(name, formats())} Formats: {', '.join(formats())}."
        )
    return cast(Format, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def export(source: str | os.PathLike[str], out: str | os.PathLike[str], to: str) -> Summary:
    """Write the rows of `source`, a Parquet file of `trajkit select`, to `out` as the format `to` has them.

    `out` gets a line of JSON per row, in order, and appears whole or not at all. A row that the format cannot hold is
    left out and counted. Raises UsageError for a wrong call, and BadData for a file that `select` has not written, is
    torn, or holds no row that the format can hold; nothing is written then.
    """
    source, out = Path(source), Path(out)
    format = load(to)
    _check_paths(source, out)
    file = selected(source)
    turn = getattr(format, TAKES.get(file.kind, ""), None)
    if turn is None:
        takes = [kind for kind, name in TAKES.items() if hasattr(format, name)]
        raise UsageError(
            f"{source}: it holds {file.kind} (method {clean(file.method)}), and --to {to} exports "
            f"{' or '.join(takes)}. `trajkit select --method` makes {takes[0]} with another method (docs/exporting.md)."
        )
    summary = Summary(file.kind, file.method, format.TRAINER)
    _write(out, _lines(file, turn, summary), summary)
    if hasattr(format, "beside"):
        summary.beside = format.beside(out)
    return summary


def _check_paths(source: Path, out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"--out {out}: that is a folder; name a file, for instance {out / 'pairs.jsonl'}.")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"--out {out}: that is the file that is read. Name another one, for instance pairs.jsonl.")
    if out.suffix not in (".jsonl", ".json"):
        raise UsageError(f"--out {out}: trainers tell the format by the name; end it in .jsonl.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}. Make it first (mkdir -p {out.parent}).")


def _rows(file: Selected) -> Iterator[Row]:
    """The file's rows as the formats get them."""
    needed = KINDS[file.kind]
    for values in file.rows(needed):
        try:
            yield row(values)
        except ValueError as error:
            name = clean(str(values[needed[0]]))
            raise BadData(f"{file.path}: {file.kind.removesuffix('s')} {name}: {error}") from error


def _lines(file: Selected, turn: Callable[[Row, Note], Row], summary: Summary) -> Iterator[bytes]:
    for given in _rows(file):
        summary.read += 1
        notes: list[str] = []
        try:
            line = json.dumps(turn(given, notes.append), ensure_ascii=False, allow_nan=False)
            yield line.translate(_LINE_ENDS).encode() + b"\n"
        except Unfit as error:
            summary.left_out[str(error)] += 1
        except UnicodeEncodeError:
            summary.left_out["half a surrogate pair in a tool call: that is no text, and no trainer could read it"] += 1
        else:
            summary.written += 1
            summary.notes.update(set(notes))


def _write(out: Path, lines: Iterator[bytes], summary: Summary) -> None:
    """Write the lines under a hidden name and rename the file; with no line at all, refuse and leave nothing."""
    hidden = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with hidden.open("wb") as file:
            _write_lines(file, lines, summary)
        hidden.replace(out)
    except OSError as error:
        raise TrajkitError(
            f"{out}: cannot be written ({error.strerror or error}). What was there before is untouched."
        ) from error
    finally:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def _write_lines(file: BinaryIO, lines: Iterator[bytes], summary: Summary) -> None:
    with bar(desc="exporting", unit=f" {summary.kind}") as shown:
        for line in lines:
            file.write(line)
            shown.update()
    if not summary.written:
        reasons = [f"  {n:>9,}   {clean(text)}" for text, n in summary.left_out.most_common()]
        none = f"nothing to export: of {summary.read:,} {summary.kind} none can be held by {summary.trainer}'s format"
        raise BadData("\n".join([none if summary.read else f"the file holds no {summary.kind}", *reasons]))
    file.flush()
    os.fsync(file.fileno())
