"""Reading records from JSON and JSON Lines, one at a time, whatever the file's state.

How a file is compressed, encoded and laid out is told by its content (`_content.py`). Only the record
at hand is held in memory, also of one big JSON array or object. The standard
library's decoder is fed from a growing window rather than through an incremental parser: it keeps
each record's own text (which a record that is set aside must not lose), keeps integers and floats
exactly, and one broken record, or a NaN, costs that record and not the rest of the file. orjson is
asked first, wherever a record's end is known or can be guessed: what it reads the standard library
reads alike, but for integers beyond 64 bits (`Raw.exact`).
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from trajkit.importers import _content
from trajkit.importers._content import WINDOW

# A record may be as large as this, in bytes and in values (an empty object takes 64 bytes in memory and 3 in a file).
RECORD_BYTES = 256 * 2**20
RECORD_VALUES = 10_000_000
# Of a record that is set aside so much is kept, in characters.
RAW_CHARS = 8 * 2**20

_HEAD = WINDOW  # characters that tell how a file is laid out
_LAYERS = 4  # a gzip of a gzip of ...
_MANY = 2**24  # bytes up to which no record has too many values

_SPACE = re.compile(r"[ \t\n\r]+")
# A string (possessive, so linear also in one of 100 MB), a bracket, or anything that separates.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]|,', re.DOTALL)
_FIRST_KEY = re.compile(r'\{\s*"[^"\\]*"')
# What an error this close to the window's end may owe to the window: the longest is "-Infinity" or "\ud83d\ude00".
_TAIL = 16
# A record's end is looked for as far as this many times the size of the largest so far, in a window of the usual size,
# and not at all after so many misses.
_FAR, _MISSES = 20, 20


class Raw(NamedTuple):
    """One record as its file holds it. `error` says why it has no `value`; `source` is all of it, unless it is `cut`.

    `rounded`: orjson read it, so integers beyond 64 bits are floats in `value`; `exact` gives them as they are.
    """

    line: int
    key: str
    source: str | bytes
    value: Any = None
    error: str | None = None
    rounded: bool = False
    cut: bool = False

    @property
    def text(self) -> str:
        """All of it as text; bytes that are no UTF-8 become half surrogate pairs."""
        return self.source if isinstance(self.source, str) else self.source.decode("utf-8", "surrogateescape")

    def exact(self) -> Raw:
        """The same as the standard library reads it."""
        return _read(self.line, self.key, self.text) if self.rounded else self


class SourceFile:
    """One file to import, or stdin when its path is `-`: plain or compressed, in UTF-8, UTF-16 or UTF-32.

    `span` (first byte, end) takes only the lines that begin there, of a plain file.
    """

    def __init__(
        self, path: str, progress: Callable[[int], object] = lambda n: None, span: tuple[int, int] | None = None
    ) -> None:
        self.path = path
        self.span = span
        self.n_lines = 0  # line ends in the span
        self.plain = True  # neither compressed nor in another encoding
        self.torn: str | None = None  # where its content ended early: why
        self.refused: str | None = None  # why nothing of it can be read
        self._progress = progress

    @property
    def name(self) -> str:
        """The file's name without .gz, .bz2, .xz or .zst."""
        return plain_name(Path(self.path).name)

    def chunks(self) -> Iterator[bytes]:
        """The file's text as bytes in UTF-8, at most a window of it at a time. Damage ends it and sets `torn`; what is
        no text gives nothing and sets `refused`. Raises OSError."""
        if self.path == "-":
            yield from self._text(sys.stdin.buffer)
        else:
            with Path(self.path).open("rb") as file:
                yield from self._text(file) if self.span is None else self._lines_between(file, *self.span)

    def _text(self, file: BinaryIO) -> Iterator[bytes]:
        chunks = iter(lambda: self._read(file), b"")
        for _ in range(_LAYERS):
            head, chunks = _content.begin(chunks)
            if compression := _content.compression(head):
                self.plain = False
                chunks = _content.decompressed(compression, chunks, self._tear)
            elif encoding := _content.encoding(head):
                self.plain = False
                yield from _content.as_utf8(encoding, chunks, self._tear)
                return
            else:
                self.refused = _content.no_text(head)
                if self.refused is None:
                    yield from chunks
                return
        self.refused = "the file is compressed again and again: decompress it"

    def _tear(self, reason: str) -> None:
        self.torn = self.torn or reason

    def _lines_between(self, file: BinaryIO, first: int, end: int) -> Iterator[bytes]:
        at = first
        if first:
            file.seek(first - 1)
            at += sum(map(len, self._line(file))) - 1
        chunk = b"\n"
        while chunk and at < end:
            chunk = self._read(file, min(WINDOW, end - at))
            at += len(chunk)
            self.n_lines += chunk.count(b"\n")
            yield chunk
        if not chunk.endswith(b"\n"):
            for piece in self._line(file):
                self.n_lines += piece.endswith(b"\n")
                yield piece

    def _line(self, file: BinaryIO) -> Iterator[bytes]:
        """The rest of a line, which may be a large one."""
        while piece := file.readline(WINDOW):
            yield piece
            if piece.endswith(b"\n"):
                return

    def _read(self, file: BinaryIO, n: int = WINDOW) -> bytes:
        chunk = file.read(n)
        self._progress(len(chunk))
        return chunk


def plain_name(name: str) -> str:
    """A file's name without what says that it is compressed."""
    return next((name.removesuffix(end) for end in _content.SUFFIXES if name.endswith(end)), name)


def is_lines(path: str) -> bool:
    """Whether it is a plain file of JSON Lines. Raises OSError."""
    file = SourceFile(path)
    window = Window(file)
    return window.layout() == "lines" and file.plain and not file.refused


def elements(file: SourceFile, window: Window | None = None) -> Iterator[Raw]:
    """The records of an array, of JSON Lines, or of a file with one object (or several in a row).

    `window` is one at the file's beginning, where the caller has looked into the file already.
    """
    window = window or Window(file)
    if file.span is None:
        layout = window.layout()
    else:
        layout = "lines"
        if file.span[0] == 0:
            window.peek()  # past a byte order mark
    if file.refused:
        yield Raw(1, "", "", error=file.refused)
    elif layout == "array":
        yield from _array(window)
    elif layout == "sequence":
        yield from _sequence(window)
    elif layout == "lines":
        yield from _lines(window)
    else:
        yield window.rest("no JSON: the file is neither JSON nor JSON Lines")


def members(window: Window, inner: str) -> Iterator[Raw]:
    """The members of an object, each a record named by its key; the members of its member `inner` in their place."""
    depth = 0
    if window.peek() != "{":
        yield window.rest("the file is no JSON object")
        return
    window.skip(1)
    while True:
        char = window.peek()
        if char == "}":
            window.skip(1)
            depth -= 1
            if depth < 0:
                break
        elif char == '"':
            key = window.record("")
            if key.error is not None or not isinstance(key.value, str) or window.peek() != ":":
                yield window.rest("the file is cut or broken here", key.text)
                return
            window.skip(1)
            if key.value == inner and depth == 0 and window.peek() == "{":
                window.skip(1)
                depth = 1
            else:
                yield window.record(key.value)
                if window.done:
                    return
        elif char != ",":
            break
        if window.peek() == ",":
            window.skip(1)
    yield from window.end(closed=depth < 0)


def _array(window: Window) -> Iterator[Raw]:
    window.skip(1)
    index = 0
    closed = False
    while (char := window.peek()) and not closed:
        if char == "]":
            closed = True
        elif char != ",":
            yield window.record(str(index))
            if window.done:
                return
            index += 1
            continue
        window.skip(1)
    yield from window.end(closed)


def _sequence(window: Window) -> Iterator[Raw]:
    index = 0
    while window.peek() and not window.done:
        yield window.record(str(index))
        index += 1
    if not window.done:
        yield from window.end(closed=True)


def _lines(window: Window) -> Iterator[Raw]:
    index = 0
    for number, line in window.lines():
        if len(line) > _MANY and _too_many(line):
            yield Raw(number, str(index), line[:RAW_CHARS], error=_TOO_MANY, cut=True)
            index += 1
            continue
        try:
            yield Raw(number, str(index), line, orjson.loads(line), None, True)
        except orjson.JSONDecodeError:
            text = line.decode("utf-8", "surrogateescape")
            if not text or text.isspace():
                continue
            if isinstance(line, _Beginning):
                yield Raw(number, str(index), text, error=_TOO_LARGE, cut=True)
            else:
                for raw in _line(number, index, text):
                    yield raw
                    index += 1
                continue
        index += 1
    yield from window.end(closed=True)


def _line(number: int, index: int, text: str) -> Iterator[Raw]:
    """The record of a line, or, where a line end was lost between them, the several ones."""
    raw = _read(number, str(index), text)
    if raw.error is None or not raw.error.startswith("no JSON: Extra data"):
        yield raw
        return
    found: list[Raw] = []
    at = 0
    try:
        while at < len(text):
            value, end = _RAW_DECODE(text, at)
            if not isinstance(value, (dict, list)):
                raise ValueError
            end = space.end() if (space := _SPACE.match(text, end)) else end
            found.append(Raw(number, str(index + len(found)), text[at:end].strip(" \t\r\n"), value))
            at = end
    except (ValueError, RecursionError):
        yield raw
    else:
        yield from found


class _Beginning(bytes):
    """The beginning of a line that is larger than a record may be."""


def _too_many(source: str | bytes) -> bool:
    marks = (",", "[", "{") if isinstance(source, str) else (b",", b"[", b"{")
    return sum(map(source.count, marks)) > RECORD_VALUES  # type: ignore[arg-type]


def _read(line: int, key: str, text: str) -> Raw:
    try:
        return Raw(line, key, text, json.loads(text))
    except (ValueError, RecursionError) as error:
        return Raw(line, key, text, error=_reason(error))


class Window:
    """The part of a file's text that is in memory, moved on record by record."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.done = False
        self._chunks = file.chunks()
        # Bytes that are no UTF-8 become surrogates: they spoil the record that they are in, not the file.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._ending: re.Pattern[str] | None = None
        self._size = self._misses = 0
        self._text = ""
        self._at = 0
        self._line, self._counted = 1, 0

    def peek(self) -> str:
        """The next character that is no space, the window moved to it. Empty at the end."""
        while True:
            if self._at < len(self._text):
                char = self._text[self._at]
                if char not in " \t\n\r":
                    return char
                if space := _SPACE.match(self._text, self._at):
                    self._at = space.end()
            elif not self._fill():
                return ""

    def layout(self) -> str:
        """How the file is laid out (`_content.layout`), from where the window is."""
        ended = False
        while self.peek() and not ended and len(self._text) - self._at < _HEAD:
            ended = not self._fill()
        head = self._text[self._at : self._at + _HEAD]
        return _content.layout(head, ended, self.file.name)

    def skip(self, n: int) -> None:
        self._at += n

    def record(self, key: str) -> Raw:
        """Decode the value here. A broken one is passed over as far as its brackets tell."""
        char = self.peek()
        line = self._here()
        if char == "{" and (raw := self._guessed(line, key)) is not None:
            return raw
        grown = False
        while True:
            if grown and (reason := self._too_large()):
                return self.rest(reason, key=key)
            grown = True
            try:
                value, end = _RAW_DECODE(self._text, self._at)
                # A number may go on behind the window: 1 of 1e+5.
                ends = not isinstance(value, (int, float)) or end + 2 < len(self._text)
                if ends or not self._fill():
                    if first := isinstance(value, dict) and _FIRST_KEY.match(self._text, self._at):
                        self._ending = re.compile(r'\}\s*,\s*(?:"[^"\\]*"\s*:\s*)?' + re.escape(first.group()))
                        self._size = end - self._at
                    return self._take(line, key, end, value)
            except json.JSONDecodeError as error:
                inside = error.pos < len(self._text) - _TAIL and not error.msg.startswith("Unterminated string")
                if inside or not self._fill():
                    return self._broken(line, key, _reason(error))
            except (ValueError, RecursionError) as error:
                return self._broken(line, key, _reason(error))

    def _guessed(self, line: int, key: str) -> Raw | None:
        """The record here, if it ends where the next one seems to begin: as the last one that was decoded did.

        No object begins with a shorter whole one, so what orjson takes for an object is the record.
        """
        if self._ending is None or self._misses > _MISSES:
            return None
        while True:
            last = self._at + max(2 * self._size, min(_FAR * self._size, WINDOW))
            found = self._ending.search(self._text, self._at, last)
            if found or len(self._text) >= last or not self._fill():
                break
        if found:
            source = self._text[self._at : found.start() + 1]
            with suppress(orjson.JSONDecodeError):
                value = orjson.loads(source)
                self._at = found.start() + 1
                self._misses, self._size = 0, max(self._size, len(source))
                return Raw(line, key, source, value, None, True)
        self._misses += 1
        return None

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines from here on, each with its number."""
        number = self._here()
        pending = self._decoder.getstate()[0]  # the window may end inside a character
        self._decoder.reset()
        text = self._text[self._at :]
        self._text, self._at, self._counted = "", 0, 0
        begun: list[bytes] = []
        size = 0
        for chunk in chain([text.encode("utf-8", "surrogateescape") + pending], self._chunks):
            first, *lines = chunk.split(b"\n")
            size += len(first)
            if size <= RECORD_BYTES or not begun:
                begun.append(first)
            if lines:
                yield number, self._joined(begun, size)
                begun = [lines.pop()]
                size = len(begun[0])
                yield from enumerate(lines, number + 1)
                number += len(lines) + 1
        if any(begun):
            yield number, self._joined(begun, size)
        self._line = number

    @staticmethod
    def _joined(begun: list[bytes], size: int) -> bytes:
        line = b"".join(begun)
        return line if size <= RECORD_BYTES else _Beginning(line[:RAW_CHARS])

    def rest(self, reason: str, before: str = "", key: str = "") -> Raw:
        """All that is left, as one record that is set aside. Of much that is left the beginning is kept."""
        line = self._here()
        while len(self._text) - self._at <= RAW_CHARS and self._fill():
            pass
        text = before + self._text[self._at :]
        self._chunks, self._text, self._at, self._counted = iter(()), "", 0, 0
        self.done = True
        return Raw(line, key, text[:RAW_CHARS], error=reason, cut=len(text) > RAW_CHARS)

    def _too_large(self) -> str | None:
        """Why the record that begins here is none that can be held, as far as the window has it."""
        size = len(self._text) - self._at
        if size > RECORD_BYTES:
            return _TOO_LARGE + _LAST
        if size > _MANY and _too_many(self._text[self._at :]):
            return _TOO_MANY + _LAST
        return None

    def end(self, closed: bool) -> Iterator[Raw]:
        """What is wrong with the end of the file, if anything."""
        if self.file.torn:
            yield self.rest(f"{self.file.torn}: the rest of it is lost")
        elif not closed:
            left = self.peek()
            yield self.rest("no JSON goes on like this" if left else "the file is cut: its closing bracket is missing")
        elif self.peek():
            yield self.rest("text behind the file's closing bracket")

    def _take(self, line: int, key: str, end: int, value: Any = None, error: str | None = None) -> Raw:
        raw = Raw(line, key, self._text[self._at : end], value, error)
        self._at = end
        return raw

    def _broken(self, line: int, key: str, reason: str) -> Raw:
        at = self._at
        opened: list[str] = []
        n_open = {"[": 0, "{": 0}
        while True:
            token = _TOKEN.search(self._text, at)
            # A lone quote before the token is a string that the window cuts.
            quote = self._text.find('"', at, token.start() if token else len(self._text))
            if token is None or quote >= 0:
                seen = at - self._at
                if self._fill():
                    if too_large := self._too_large():
                        return self.rest(too_large, key=key)
                    at = self._at + seen
                    continue
                self.done = True
                where = f"it is cut at line {line + self._text.count(chr(10), self._at)}"
                return self._take(line, key, len(self._text), error=f"the file ends inside this record: {where}")
            mark = token.group()
            at = token.end()
            if mark in "[{":
                opened.append(mark)
                n_open[mark] += 1
            elif mark in "]}," and not opened:  # the container's own bracket or comma
                return self._take(line, key, max(token.start(), self._at + 1), error=reason)
            elif mark in "]}":
                # A bracket closes what was opened after its own; one that was never opened closes nothing.
                own = "[" if mark == "]" else "{"
                while n_open[own]:
                    n_open[last := opened.pop()] -= 1
                    if last == own:
                        break
                if not opened:
                    return self._take(line, key, at, error=reason)

    def _here(self) -> int:
        """The line that the window is at, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _fill(self) -> bool:
        """Double what is in the window from here on, within a record's size. False at the end of the file."""
        wanted = max(min(len(self._text) - self._at, RECORD_BYTES + 1 - (len(self._text) - self._at)), 1)
        new: list[str] = []
        chunk: bytes | None = b""
        while wanted > 0 and chunk is not None:
            chunk = next(self._chunks, None)
            if text := self._decoder.decode(chunk or b"", final=chunk is None):
                new.append(text)
                wanted -= len(text)
        if new:
            self._here()
            self._text = "".join([self._text[self._at :], *new])
            self._at = self._counted = 0
        return bool(new)


_RAW_DECODE = json.JSONDecoder().raw_decode
_TOO_LARGE = f"it is larger than {RECORD_BYTES >> 20} MB, which is as large as a record may be"
_TOO_MANY = f"it has more than {RECORD_VALUES:,} values, which is as many as a record may have"
_LAST = "; what follows in the file is set aside with it"


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg.removesuffix(' at')} at character {error.pos}"
    if isinstance(error, RecursionError):
        return "no JSON that can be read: nested too deeply"
    return f"no JSON that can be read: {error}"
