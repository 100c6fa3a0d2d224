"""Exporting: what `trajkit select` wrote, as a file that another trainer loads.

A format is one file in this folder, found by its name (`ms_swift.py` is the format `ms-swift`). It has

    TRAINER                    the trainer's name, for messages
    pair(pair, note) -> dict   a pair as a row of the format's file, or Unfit with the reason and the way out;
                               `note` is called with what the trainer will do otherwise, or what it does not get
    example(example, note)     the same for an example
    action(example, note)      the same for the examples of --per-step, of which the last message alone is trained on
    tokens(row) -> dict        a row of token ids (trajkit.tokens.masks.Row) of --tokenizer

of which it may leave out what it does not take, and, where they are needed,

    FILES                      what the file's name may end in, .jsonl or .json unless said; the first is for messages
    INFO                       a name that the file must not have
    schema() -> pa.Schema      the columns of a Parquet file of examples
    WEIGHTED                   the functions whose rows hold loss weights between 0 and 1; other rows' are on or off
    beside(out, made) -> str   writes what the trainer needs beside the file; what to tell the user, or None; `made` is
                               the function that made the rows (pair, example, action, tokens)

and its docstring's first line is its description. The driver below does the rest: reading, counting what is left
out, writing the file whole or not at all. The format `datasets` has instead

    folder(file, out, license, summary)   writes a folder
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from trajkit.console import clean
from trajkit.errors import BadData, UsageError, did_you_mean
from trajkit.exporters import _writing
from trajkit.exporters._rows import Row, Unfit, actions, check_on_or_off, check_text, row
from trajkit.runs.atomic import STDOUT, check_out
from trajkit.runs.object_store import here
from trajkit.selection.dataset import KINDS, Selected, selected

TAKES = {"pairs": "pair", "examples": "example"}  # a kind of file, and the format's function for its rows

Note = Callable[[str], None]


class Format(Protocol):
    """A module in this folder."""

    TRAINER: str


@dataclass(frozen=True)
class Options:
    """What `export` may be told beyond the format.

    tokenizer: the folder, or the name on the hub, of the model whose tokenizer and chat template make token ids; None:
    messages. max_length, on_long, per_step, on_refused, template_args: as tokens.masks.Masks has them (the first as
    context); None: its own.
    license: of the data, by Hugging Face's names; None: unknown.
    """

    tokenizer: str | None = None
    max_length: int | None = None
    on_long: str | None = None
    per_step: bool = False
    license: str | None = None
    on_refused: str | None = None
    template_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Summary:
    """What an export wrote and left out.

    `read` counts rows of the file that was read, `written` those of them that were written and `rows` the rows that
    they became. `left_out` counts rows by reason (with the way out); `notes` counts the written ones by what the
    trainer does otherwise with them than ours, or does not get of them. `beside` is what was said of further files, or
    None. `tokens` and `trained_tokens` are counted where token ids are written, else None.
    """

    kind: str
    method: str
    trainer: str
    read: int = 0
    written: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    beside: str | None = None
    tokens: int | None = None
    trained_tokens: int | None = None

    def text(self) -> str:
        """The summary as people read it."""
        became = "" if self.rows == self.written else f" as {self.rows:,} rows"
        lines = [
            f"{self.read:,} {self.kind} of {clean(self.method)}, {self.written:,} written{became} for {self.trainer}"
        ]
        if self.tokens is not None:
            lines.append(f"{self.tokens:,} tokens, {self.trained_tokens:,} of them trained on")
        for title, counted in (("left out", self.left_out), ("written, but mind", self.notes)):
            if counted:
                lines += [title, *(f"  {n:>9,}   {clean(text)}" for text, n in counted.most_common())]
        return "\n".join([*lines, *([self.beside] if self.beside else [])])

    def nothing(self) -> BadData:
        """The error for an export that would write no row."""
        reasons = [f"  {n:>9,}   {clean(text)}" for text, n in self.left_out.most_common()]
        none = f"nothing to export: of {self.read:,} {self.kind} none can be held by {self.trainer}'s format"
        return BadData("\n".join([none if self.read else f"the file holds no {self.kind}", *reasons]))


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


def export(
    source: str | os.PathLike[str], out: str | os.PathLike[str], to: str, options: Options | None = None
) -> Summary:
    """Write the rows of `source`, a Parquet file of `trajkit select`, to `out` as the format `to` has them.

    `out` gets a row per row, in order (with token ids, or one row per step, it may get several), and appears whole or
    not at all. A row that the format cannot hold is left out and counted. Raises UsageError for a wrong call, and
    BadData for a file that `select` has not written, is torn, or holds no row that the format can hold; nothing is
    written then.
    """
    source, out, options = here(source), here(out), options or Options()
    format = load(to)
    _check_options(format, to, options)
    if hasattr(format, "folder"):
        _writing.check_folder(out)
        file = selected(source)
        summary = Summary(file.kind, file.method, format.TRAINER)
        format.folder(file, out, options.license, summary)
        return summary
    suffix = _check_file(format, source, out, options)
    file = selected(source)
    made = _maker(format, to, file, options)
    summary = Summary(file.kind, file.method, format.TRAINER)
    turn = getattr(format, made)
    if made == "tokens":
        from trajkit.exporters import _tokens

        rows = _tokens.rows(file, turn, options, summary)
    else:
        on_or_off = None if made in getattr(format, "WEIGHTED", ()) else format.TRAINER
        rows = _turned(file, turn, made == "action", on_or_off, summary)
    schema = format.schema() if made == "example" and hasattr(format, "schema") else None
    _writing.write(out, suffix, rows, schema, summary)
    if hasattr(format, "beside"):
        summary.beside = format.beside(out, made)
    return summary


def _check_options(format: Any, to: str, options: Options) -> None:
    """Refuse options that the format makes nothing of."""
    if options.license is not None and not hasattr(format, "folder"):
        raise UsageError(f"--license {options.license}: {to} has no place for a licence; --to datasets has.")
    if options.tokenizer is not None and not hasattr(format, "tokens"):
        raise UsageError(f"--tokenizer: {to} takes messages; --to {', '.join(_having('tokens'))} take token ids.")
    for flag, value in (("--max-length", options.max_length), ("--on-long", options.on_long)):
        if value is not None and options.tokenizer is None:
            raise UsageError(
                f"{flag}: only with --tokenizer FOLDER is the length known. Set it in the trainer's config."
            )
    for flag, given in (("--on-refused", options.on_refused), ("--template-arg", options.template_args)):
        if given and options.tokenizer is None:
            raise UsageError(
                f"{flag}: only with --tokenizer FOLDER is a chat template used. Set it in the trainer's config."
            )
    if options.per_step and options.tokenizer is None and not hasattr(format, "action"):
        raise UsageError(
            f"--per-step: with --tokenizer FOLDER ({', '.join(_having('tokens'))}), or with --to "
            f"{', '.join(_having('action'))}."
        )


def _having(function: str) -> list[str]:
    return [name for name in formats() if hasattr(load(name), function)]


def _check_file(format: Any, source: Path, out: Path, options: Options) -> str:
    """Refuse an `out` that the format cannot have. Returns the suffix that says what is written."""
    files = getattr(format, "FILES", (".jsonl", ".json"))
    if options.tokenizer is not None and ".parquet" not in files:
        files = (".parquet", *files)
    if out.is_file() and source.exists() and out.samefile(source):
        raise UsageError(f"--out {out}: that is the file that is read. Name another one, for instance out{files[0]}.")
    check_out(out, files)
    if out == STDOUT:
        if hasattr(format, "beside"):
            raise UsageError(f"--out -: {format.TRAINER} needs more than one file. Name the file to write.")
        return str(files[0])
    if not out.suffix:
        raise UsageError(f"--out {out}: trainers tell the format by the name; end it in {' or '.join(files)}.")
    if out.name == getattr(format, "INFO", None):
        raise UsageError(f"--out {out}: {format.TRAINER} looks its datasets up in a file of that name. Take another.")
    return out.suffix.lower()


def _maker(format: Any, to: str, file: Selected, options: Options) -> str:
    """The name of the format's function for the rows of this file."""
    made = TAKES.get(file.kind, "")
    if file.kind == "examples" and options.tokenizer is not None:
        made = "tokens"
    elif file.kind == "examples" and options.per_step:
        made = "action"
    if not hasattr(format, made):
        takes = [kind for kind, name in TAKES.items() if hasattr(format, name)]
        raise UsageError(
            f"{file.path}: it holds {file.kind} (method {clean(file.method)}), and --to {to} exports "
            f"{' or '.join(takes)}. `trajkit select --method` makes {takes[0]} with another method (docs/exporting.md)."
        )
    if file.kind == "pairs" and (options.tokenizer is not None or options.per_step):
        raise UsageError(f"{file.path}: it holds pairs; --tokenizer and --per-step are for examples.")
    return made


def _turned(
    file: Selected, turn: Callable[[Row, Note], Row], per_step: bool, on_or_off: str | None, summary: Summary
) -> Iterator[Row]:
    """The rows of the format's file. A row of ours of which one part cannot be held is left out as a whole.

    `on_or_off` names the trainer whose loss masks are on or off, None for one that takes weights between.
    """
    for given in _read(file):
        summary.read += 1
        notes: list[str] = []
        try:
            if on_or_off:
                check_on_or_off(given, on_or_off)
            rows = [turn(part, notes.append) for part in (actions(given) if per_step else [given])]
            check_text(given)
        except Unfit as error:
            summary.left_out[str(error)] += 1
        else:
            summary.written += 1
            summary.notes.update(list(dict.fromkeys(notes)))
            yield from rows


def _read(file: Selected) -> Iterator[Row]:
    """The file's rows as the formats get them."""
    needed = KINDS[file.kind]
    for values in file.rows(needed):
        try:
            yield row(values)
        except ValueError as error:
            name = clean(str(values[needed[0]]))
            raise BadData(f"{file.path}: {file.kind.removesuffix('s')} {name}: {error}") from error
