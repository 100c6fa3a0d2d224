"""Reading records from JSON, JSON Lines and their gzips, one at a time, whatever the file's state.

Only the record at hand is held in memory, also of one big JSON array or object. The standard
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
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

WINDOW = 1 << 20

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
    """One record as its file holds it. `error` says why it has no `value`; `source` is always all of it.

    `rounded`: orjson read it, so integers beyond 64 bits are floats in `value`; `exact` gives them as they are.
    """

    line: int
    key: str
    source: str | bytes
    value: Any = None
    error: str | None = None
    rounded: bool = False

    @property
    def text(self) -> str:
        """All of it as text; bytes that are no UTF-8 become half surrogate pairs."""
        return self.source if isinstance(self.source, str) else self.source.decode("utf-8", "surrogateescape")

    def exact(self) -> Raw:
        """The same as the standard library reads it."""
        return _read(self.line, self.key, self.text) if self.rounded else self


class SourceFile:
    """One file to import, plain or gzip (told by its first bytes), or stdin when its path is `-`.

    `span` (first byte, end) takes only the lines that begin there, of a plain file.
    """

    def __init__(
        self, path: str, progress: Callable[[int], object] = lambda n: None, span: tuple[int, int] | None = None
    ) -> None:
        self.path = path
        self.span = span
        self.n_lines = 0  # line ends in the span
        self.torn: str | None = None
        self._progress = progress

    @property
    def name(self) -> str:
        """The file's name without .gz."""
        return Path(self.path).name.removesuffix(".gz")

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes, unzipped. A torn gzip ends early and sets `torn`. Raises OSError."""
        if self.path == "-":
            yield from self._unzipped(sys.stdin.buffer)
        else:
            with Path(self.path).open("rb") as file:
                yield from self._unzipped(file) if self.span is None else self._lines_between(file, *self.span)

    def _lines_between(self, file: BinaryIO, first: int, end: int) -> Iterator[bytes]:
        at = first
        if first:
            file.seek(first - 1)
            at += len(file.readline()) - 1
        chunk = b"\n"
        while chunk and at < end:
            chunk = self._read(file, min(WINDOW, end - at))
            at += len(chunk)
            self.n_lines += chunk.count(b"\n")
            yield chunk
        if not chunk.endswith(b"\n"):
            line = file.readline()
            self.n_lines += line.endswith(b"\n")
            yield line

    def _unzipped(self, file: BinaryIO) -> Iterator[bytes]:
        chunk = self._read(file)
        if not chunk.startswith(b"\x1f\x8b"):
            while chunk:
                yield chunk
                chunk = self._read(file)
            return
        unzip = zlib.decompressobj(wbits=31)
        while chunk:
            before = unzip.copy()
            try:
                yield unzip.decompress(chunk)
            except zlib.error as error:
                self.torn = f"the gzip file is damaged ({error})"
                with suppress(zlib.error):  # what comes before the damage
                    for at in range(0, len(chunk), 64):
                        yield before.decompress(chunk[at : at + 64])
                return
            chunk = b""
            if unzip.eof:  # another member, or padding, may follow
                chunk = unzip.unused_data.lstrip(b"\0")
                unzip = zlib.decompressobj(wbits=31)
                fresh = not chunk
            else:
                fresh = False
            chunk = chunk or self._read(file)
        if not fresh:
            self.torn = "the gzip file is cut"

    def _read(self, file: BinaryIO, n: int = WINDOW) -> bytes:
        chunk = file.read(n)
        self._progress(len(chunk))
        return chunk


def elements(file: SourceFile, window: Window | None = None) -> Iterator[Raw]:
    """The records of an array, of JSON Lines, or of a `.json` file with one object (or several in a row).

    `window` is one at the file's beginning, where the caller has looked into the file already.
    """
    window = window or Window(file)
    begins = file.span is None or file.span[0] == 0
    if begins and window.peek() == "[" and not file.name.endswith(".jsonl"):
        yield from _array(window)
    elif file.name.endswith(".json"):
        yield from _sequence(window)
    else:
        yield from _lines(window)


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
        try:
            yield Raw(number, str(index), line, orjson.loads(line), None, True)
        except orjson.JSONDecodeError:
            text = line.decode("utf-8", "surrogateescape")
            if not text or text.isspace():
                continue
            yield _read(number, str(index), text)
        index += 1
    yield from window.end(closed=True)


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
        self._decode = json.JSONDecoder().raw_decode
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

    def skip(self, n: int) -> None:
        self._at += n

    def record(self, key: str) -> Raw:
        """Decode the value here. A broken one is passed over as far as its brackets tell."""
        char = self.peek()
        line = self._here()
        if char == "{" and (raw := self._guessed(line, key)) is not None:
            return raw
        while True:
            try:
                value, end = self._decode(self._text, self._at)
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
        for chunk in chain([text.encode("utf-8", "surrogateescape") + pending], self._chunks):
            first, *lines = chunk.split(b"\n")
            begun.append(first)
            if lines:
                yield number, b"".join(begun)
                begun = [lines.pop()]
                yield from enumerate(lines, number + 1)
                number += len(lines) + 1
        if any(begun):
            yield number, b"".join(begun)
        self._line = number

    def rest(self, reason: str, before: str = "") -> Raw:
        """All that is left, as one record that is set aside."""
        line = self._here()
        while self._fill():
            pass
        text = before + self._text[self._at :]
        self._at = len(self._text)
        self.done = True
        return Raw(line, "", text, error=reason)

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
        at, opened = self._at, ""
        while True:
            token = _TOKEN.search(self._text, at)
            # A lone quote before the token is a string that the window cuts.
            quote = self._text.find('"', at, token.start() if token else len(self._text))
            if token is None or quote >= 0:
                seen = at - self._at
                if self._fill():
                    at = self._at + seen
                    continue
                self.done = True
                where = f"it is cut at line {line + self._text.count(chr(10), self._at)}"
                return self._take(line, key, len(self._text), error=f"the file ends inside this record: {where}")
            mark = token.group()
            at = token.end()
            if mark in "[{":
                opened += mark
            elif mark in "]}," and not opened:  # the container's own bracket or comma
                return self._take(line, key, max(token.start(), self._at + 1), error=reason)
            elif mark in "]}":
                # A bracket closes what was opened after its own; one that was never opened closes nothing.
                own = opened.rfind("[" if mark == "]" else "{")
                opened = opened[:own] if own >= 0 else opened
                if not opened:
                    return self._take(line, key, at, error=reason)

    def _here(self) -> int:
        """The line that the window is at, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _fill(self) -> bool:
        """At least double what is in the window from here on. False at the end of the file."""
        wanted = max(len(self._text) - self._at, 1)
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


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg.removesuffix(' at')} at character {error.pos}"
    if isinstance(error, RecursionError):
        return "no JSON that can be read: nested too deeply"
    return f"no JSON that can be read: {error}"
