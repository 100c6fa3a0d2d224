"""Digests beside Parquet files: SHA256SUMS names each file of its folder with its SHA-256, as `sha256sum -c` reads it.

They are written with a part and renamed with it. A folder without one (older, or made by hand) is fine.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from trajkit.errors import BadData
from trajkit.runs.object_store import Location, Unreachable, Url, side_by_side

SUMS = "SHA256SUMS"
DAMAGED = f"is damaged: its SHA-256 is not the one in {SUMS} beside it (if you changed it yourself, take its line away)"
_LINE = re.compile(r"\\?([0-9a-f]{64}) [ *](.+)")


class Hashed:
    """A file to write into, which keeps the digest of what was written."""

    mode = "wb"

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""

    @property
    def closed(self) -> bool:
        return self._file.closed

    def hexdigest(self) -> str:
        """The SHA-256 of what was written so far."""
        return self._digest.hexdigest()


def sums(digests: Mapping[str, str]) -> bytes:
    """The content of SHA256SUMS: a line per file."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def read_sums(folder: Location) -> dict[str, str]:
    """The digests by the name of the file; empty where the folder has none. Raises BadData where it cannot be read."""
    path = folder / SUMS
    try:
        with path.open("rb") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except Unreachable:
        if isinstance(path, Url) and not path.exists():
            return {}
        raise
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror or error}).") from error
    lines = [_LINE.fullmatch(line) for line in text.decode("utf-8", "replace").splitlines()]
    found = {line[2]: line[1] for line in lines if line}
    if len(found) < len(lines):
        raise BadData(f"{path}: is damaged: a line is a SHA-256, two spaces and the name of a file. Restore it.")
    return found


def damage(file: Location, opened: BinaryIO, given: Mapping[str, str]) -> str | None:
    """Why `file` is not what was written, by the digests of its folder. None where it is, or nothing is known of it."""
    expected = given.get(file.name)
    if expected is None:
        return None
    opened.seek(0)
    digest = hashlib.sha256()
    while block := opened.read(1 << 20):
        digest.update(block)
    return None if digest.hexdigest() == expected else DAMAGED


def damaged_files(files: Sequence[Location], opened: Callable[[Location], BinaryIO]) -> Iterator[tuple[Location, str]]:
    """The files that are not what was written, by the digests beside them, and why. `opened` opens one."""
    folders = list(dict.fromkeys(file.parent for file in files))
    given = dict(zip(folders, side_by_side(read_sums, folders), strict=True))

    def damaged(file: Location) -> str | None:
        if file.name not in given[file.parent]:
            return None
        try:
            with opened(file) as content:
                reason = damage(file, content, given[file.parent])
                # A corrected file (`import --replace`) may have come between the digests and it.
                return reason and damage(file, content, read_sums(file.parent))
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:  # hashlib lets other threads work
        for file, reason in zip(files, threads.map(damaged, files), strict=True):
            if reason:
                yield file, reason


def damaged_page(file: Location) -> str | None:
    """What the checksums of a Parquet file's pages say against it. None too where it has none, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as opened:
            pages = pq.ParquetFile(opened, page_checksum_verification=True)
            for number in range(pages.num_row_groups):
                pages.read_row_group(number)
    except (OSError, pa.ArrowException) as error:
        if "CRC checksum" in str(error):
            return "is damaged: the checksum of a page is another one"
    return None
