"""What a format is, and the formats there are."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from trajkit.console import clean
from trajkit.errors import BadData, UsageError, did_you_mean

_FOLDER = [str(Path(__file__).parent)]


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
    return sorted(name.replace("_", "-") for _, name, _ in pkgutil.iter_modules(_FOLDER) if not name.startswith("_"))


def load(name: str) -> Format:
    """The format of that name. Raises UsageError where there is none."""
    if name not in formats():
        raise UsageError(
            f"--to {name}: there is no such format{did_you_mean(name, formats())} Formats: {', '.join(formats())}."
        )
    return cast(Format, importlib.import_module(f"trajkit.exporters.{name.replace('-', '_')}"))
