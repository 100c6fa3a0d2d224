"""What a file holds, detected by its first bytes: text, text that is compressed, or something that is no text.

Compressed text is read whichever of gzip, bzip2, xz or zstd it is; UTF-16 and UTF-32 are read as UTF-8. Whatever a file
unpacks to, a piece of at most WINDOW bytes is in memory at a time.
"""

from __future__ import annotations

import bz2
import codecs
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, pairwise
from typing import Any

WINDOW = 1 << 20
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")  # of compressed files, for their names; what they are is told by their bytes

Torn = Callable[[str], object]

_HEAD = 512  # bytes that tell what a file is
_STEP = 1 << 16  # bytes that are decompressed at once: a file may have thousands of members in a megabyte
_XZ_MEMORY = 256 * 2**20  # a header may ask for 4 GB
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_UNPACK = "unpack it and import what is in it"
_DATASETS = "make JSON Lines of it, in Python `datasets.Dataset.from_file('FILE').to_json('FILE.jsonl')`"
_DUCKDB = (
    "make JSON Lines of it, in Python `duckdb.sql(\"COPY (FROM read_parquet('FILE')) TO 'FILE.jsonl' (FORMAT json)\")`"
)
_EXPORT = "export the log as JSON or JSON Lines"
# First bytes, where they lie, what it is, and the way out.
_OTHERS = [
    (b"PK\x03\x04", 0, "a zip archive", f"{_UNPACK} (`unzip FILE`)"),
    (b"PK\x05\x06", 0, "an empty zip archive", _EXPORT),
    (b"ustar", 257, "a tar archive", f"{_UNPACK} (`tar -xf FILE`)"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", 0, "a rar archive", _UNPACK),
    (b"\x04\x22\x4d\x18", 0, "lz4", "decompress it (`lz4 -d FILE`)"),
    (b"\xff\x06\0\0sNaPpY", 0, "snappy", "decompress it"),
    (b"\x1f\x9d", 0, "compressed by `compress`", "decompress it (`uncompress FILE`)"),
    (b"PAR1", 0, "Parquet", _DUCKDB),
    (b"ARROW1", 0, "Arrow", _DATASETS),
    (b"\xff\xff\xff\xff", 0, "an Arrow stream", _DATASETS),
    (b"FEA1", 0, "Feather", "make JSON Lines of it, in Python with `pyarrow.feather`"),
    (b"SQLite format 3\0", 0, "a SQLite database", "query what is in it (`sqlite3 -json FILE 'SELECT ...'`)"),
    (b"DUCK", 8, "a DuckDB database", "query what is in it (`duckdb -json FILE 'FROM ...'`)"),
    (b"%PDF-", 0, "a PDF", _EXPORT),
    (b"Obj\x01", 0, "Avro", _EXPORT),
    (b"ORC", 0, "ORC", _EXPORT),
    (b"\x89HDF\r\n", 0, "HDF5", _EXPORT),
    (b"\x93NUMPY", 0, "a NumPy array", _EXPORT),
    (b"\x80\x02", 0, "a pickle", _EXPORT),
    (b"\x80\x03", 0, "a pickle", _EXPORT),
    (b"\x80\x04", 0, "a pickle", _EXPORT),
    (b"\x80\x05", 0, "a pickle", _EXPORT),
    (b"\x89PNG", 0, "an image", _EXPORT),
    (b"\xff\xd8\xff", 0, "an image", _EXPORT),
    (b"GIF8", 0, "an image", _EXPORT),
    (b"\x7fELF", 0, "a program", _EXPORT),
    (b"GGUF", 0, "a model's weights", _EXPORT),
]
_BOMS = [
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
_JSON_BEGINS = b' \t\r\n[{"'


def begin(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """A file's first bytes, and all of its chunks, those included."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    return head, chain([head], chunks) if head else iter(())


def compression(head: bytes) -> str | None:
    """gzip, bzip2, xz or zstd; None where it is none of them."""
    found = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
    skippable = head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F  # pzstd begins with a frame of its own
    return "zstd" if skippable else found


def encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark or as the beginning of JSON; None for UTF-8 and all else."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    name = json.detect_encoding(head)
    if name.startswith(("utf-16", "utf-32")):
        first = head[:4].decode(name, "replace")[:1].encode()
        return name if first and first in _JSON_BEGINS else None
    return None


def no_text(head: bytes) -> str | None:
    """Why a file with these first bytes cannot be read, with the way out; None for text."""
    for magic, at, what, way_out in _OTHERS:
        if head.startswith(magic, at) and (not at or b"\0" in head):
            return f"the file is {what}, not text: {way_out}"
    if b"\0" in head and not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[", b'"')):
        return f"the file is binary, not text: {_EXPORT}"
    return None


def decompressed(name: str, chunks: Iterator[bytes], torn: Torn) -> Iterator[bytes]:
    """What the chunks of a file compressed by `name` hold. `torn` is told where it is damaged or cut: it ends there."""
    if name == "gzip":
        yield from _gunzip(chunks, torn)
    elif name == "zstd":
        yield from _unzstd(chunks, torn)
    elif name == "bzip2":
        yield from _members(name, bz2.BZ2Decompressor, chunks, torn)
    else:
        yield from _members(name, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), chunks, torn)


def as_utf8(name: str, chunks: Iterator[bytes], torn: Torn) -> Iterator[bytes]:
    """UTF-16 or UTF-32 as UTF-8. Half a surrogate pair becomes bytes that are no UTF-8."""
    decoder = codecs.getincrementaldecoder(name)("surrogatepass")
    begins = True
    try:
        for chunk in chain(chunks, [b""]):
            text = decoder.decode(chunk, final=not chunk)
            if begins and text:
                text, begins = text.removeprefix("\ufeff"), False
            yield text.encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        torn(f"the {name.upper()} text is damaged or cut ({error.reason})")


def layout(head: str, ended: bool, name: str) -> str:
    """How a file whose text begins with `head` lays its records out, by its first lines:

    lines     JSON Lines
    array     an array of records
    sequence  an object, or several in a row, over several lines
    nothing   no JSON at all

    `ended`: there is no more text. A first line that is longer than `head` does not tell an array from JSON Lines of
    arrays; then the name does.
    """
    lines = head.split("\n", 200)
    last = lines.pop() if len(lines) > 200 or not ended else ""
    stripped = [line for found in lines if (line := found.strip(" \t\r"))]
    begun = last.lstrip(" \t\r")[:1]
    if not stripped:
        return "array" if begun == "[" and not name.endswith(".jsonl") else "lines"
    first, *others = stripped
    after = (others[0] if others else begun)[:1]
    if first[0] not in "[{":
        return "lines" if _is_json(first) or any(line[0] == "{" and _is_whole(line) for line in others) else "nothing"
    if _is_whole(first) and (after or first[0] == "{"):
        # Within a document a whole value is followed by a comma or a bracket.
        return "lines" if after not in tuple(",]}:") else "array" if first[0] == "[" else "sequence"
    follows = [*others, begun] if begun else others
    if any(_is_whole(a) and b[0] in "[{" for a, b in pairwise(follows)):
        return "lines"
    if len(others) == 1 and _is_whole(others[0]) and first[-1] not in ",[{:":
        return "lines"  # a broken one and a whole one
    return "array" if first[0] == "[" else "sequence"


def _is_whole(line: str) -> bool:
    return line[0] + line[-1] in ("{}", "[]") and len(line) > 1


def _is_json(line: str) -> bool:
    with suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return False


def _gunzip(chunks: Iterator[bytes], torn: Torn) -> Iterator[bytes]:
    unzip, fresh = zlib.decompressobj(wbits=31), True
    for data in _steps(chunks):
        while True:
            if fresh:
                data = data.lstrip(b"\0")  # padding between members
                if not data:
                    break
            before = unzip.copy()
            try:
                out = unzip.decompress(data, WINDOW)
            except zlib.error as error:
                torn(f"the gzip file is damaged ({error})")
                yield from _before_the_damage(before, data)
                return
            fresh = False
            yield out
            if unzip.eof:
                data = unzip.unused_data
                unzip, fresh = zlib.decompressobj(wbits=31), True
            else:
                data = unzip.unconsumed_tail
                if not data and len(out) < WINDOW:
                    break
    if not fresh:
        torn("the gzip file is cut")


def _before_the_damage(unzip: Any, data: bytes) -> Iterator[bytes]:
    with suppress(zlib.error):
        for at in range(0, len(data), 64):
            piece = data[at : at + 64]
            while piece:
                yield unzip.decompress(piece, WINDOW)
                piece = unzip.unconsumed_tail


def _members(name: str, new: Callable[[], Any], chunks: Iterator[bytes], torn: Torn) -> Iterator[bytes]:
    member, fresh = new(), True
    for data in _steps(chunks):
        while True:
            if fresh:
                data = data.lstrip(b"\0")
                if not data:
                    break
            try:
                out = member.decompress(data, WINDOW)
            except (OSError, ValueError, lzma.LZMAError) as error:
                torn(f"the {name} file is damaged ({error})")
                return
            fresh, data = False, b""
            yield out
            if member.eof:
                data = member.unused_data
                member, fresh = new(), True
            elif member.needs_input:
                break
    if not fresh:
        torn(f"the {name} file is cut")


def _unzstd(chunks: Iterator[bytes], torn: Torn) -> Iterator[bytes]:
    import pyarrow as pa  # the standard library reads zstd from Python 3.14 on

    source = _Reader(chunks)
    stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")
    while True:
        try:
            out = stream.read(_STEP)
        except OSError as error:
            if source.failure is not None:
                raise source.failure from None
            cut = "Truncated" in str(error)
            torn("the zstd file is cut" if cut else f"the zstd file is damaged ({error})")
            return
        if not out:
            return
        yield out


class _Reader(io.RawIOBase):
    """Chunks as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = _steps(chunks)
        self._left = b""
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._left = self._left or next(self._chunks, b"")
        except OSError as error:
            self.failure = error
            raise
        given, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def _steps(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for at in range(0, len(chunk), _STEP):
            yield chunk[at : at + _STEP]
