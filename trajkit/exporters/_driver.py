"""Exporting a file: reading, counting what is left out, writing whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trajkit.console import clean
from trajkit.errors import BadData, UsageError
from trajkit.exporters import _writing
from trajkit.exporters._format import Note, Options, Summary, formats, load
from trajkit.exporters._rows import Row, Unfit, actions, check_on_or_off, check_text, row
from trajkit.runs.atomic import STDOUT, check_out
from trajkit.runs.object_store import here
from trajkit.selection.dataset import KINDS, Selected, selected

TAKES = {"pairs": "pair", "examples": "example"}  # a kind of file, and the format's function for its rows


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
