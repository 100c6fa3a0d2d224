"""A run's `rejected.jsonl`: what imports set aside, with file, line, reason and text.

It is written anew beside the old one and then put in its place. What the old one says of files that were read to their
end is dropped, the rest is kept. stdin is no file that can be read again, so its lines stay; none is there twice.
Imports into one run that end at the same time take turns, and what one that was killed had set aside is taken in.

In an object store nothing can be locked: there each import writes a `rejected-<digest>.jsonl` that holds the old lines
too, then removes the objects that it took them from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trajkit.errors import TrajkitError
from trajkit.importers._batches import Reject
from trajkit.runs.atomic import abandoned, owner, rename, sync
from trajkit.runs.object_store import Location, Url

REJECTED = "rejected.jsonl"

_OBJECT = re.compile(r"rejected(-[0-9a-f]{16})?\.jsonl")
_HIDDEN = re.compile(r"\.rejected-[0-9a-f]{8}\.(.+)\.tmp")
_being_written: set[str] = set()  # this process's own hidden files


class Rejected:
    """What this import sets aside. `path` is where it lies at last, `first` the first record with its reason.

    `close` puts the lines in place, `discard` drops them where that has not been done.
    """

    def __init__(self, run: Location) -> None:
        self.path = run / REJECTED
        self.first = ""
        self._run = run
        # what is to be uploaded is written on this machine
        folder = Path(tempfile.gettempdir()) if isinstance(run, Url) else run
        self._hidden = folder / f".rejected-{secrets.token_hex(4)}.{owner()}.tmp"
        self._finished: set[str] = set()
        self._dropped = False
        self._twice = False  # whether an old line may be among the new ones
        self._new: Any = None

    def add(self, path: str, reject: Reject) -> None:
        """Write one record down. Raises TrajkitError where it cannot be written."""
        self.first = self.first or f"{path}: {where(reject)}: {reject.reason}"
        line = {
            "file": _name(path),
            "line": reject.line,
            "record": reject.key,
            "reason": reject.reason,
            "raw": reject.text,
        }
        if reject.cut:
            line["raw_is_cut"] = True
        try:
            self._open().write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, path: str) -> None:
        """`path` is read to its end: what was set aside of it before is set aside no more, or again."""
        if path != "-":
            self._finished.add(_name(path))

    def close(self) -> None:
        """Put the new lines in place, with the old ones that stay. Raises TrajkitError where that cannot be done."""
        try:
            if isinstance(self._run, Url):
                self._upload(self._run)
            elif self._new is not None or self.path.exists() or self._leftovers():
                with _locked(self._run / ".rejected.lock"):
                    self._replace(self._run)
        except OSError as error:
            raise self._failed(error) from error

    def discard(self) -> None:
        if self._new is not None:
            with suppress(OSError):
                self._new.close()
            with suppress(OSError):
                self._hidden.unlink(missing_ok=True)
            _being_written.discard(self._hidden.name)

    def _replace(self, run: Path) -> None:
        leftovers = self._leftovers()
        self._keep([path for path in (run / REJECTED, *leftovers) if path.exists()])
        if self._flushed():
            rename(self._hidden, run / REJECTED)
        else:
            (run / REJECTED).unlink(missing_ok=True)
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        sync(run)

    def _upload(self, run: Url) -> None:
        old = [run / name for name in run.below() if _OBJECT.fullmatch(name)]
        if self._new is None and not old:
            return
        self._keep(old)
        new: Url | None = None
        if self._flushed():
            with self._hidden.open("rb") as file:
                new = run / f"rejected-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.jsonl"
            if new not in old:
                new.upload(self._hidden)
            self.path = new
        for one in old:
            if one != new:
                one.unlink()

    def _open(self) -> Any:
        if self._new is None:
            _being_written.add(self._hidden.name)
            self._new = self._hidden.open("wb")
        return self._new

    def _flushed(self) -> bool:
        """Bring the new file to the disk. False when it is empty."""
        self._new.flush()
        os.fsync(self._new.fileno())
        self._new.close()
        return self._hidden.stat().st_size > 0

    def _leftovers(self) -> list[Path]:
        """What imports that were killed had set aside."""
        found = []
        for path in sorted(Path(self._run).glob(".rejected-*.tmp")):
            name = _HIDDEN.fullmatch(path.name)
            if name and path.name not in _being_written and abandoned(name[1]):
                found.append(path)
        return found

    def _keep(self, old: Iterable[Location]) -> None:
        """Append the old lines that are not of the files read now, each once."""
        new = self._open()
        new.flush()
        seen = set()
        with self._hidden.open("rb") as written:
            for line in written:
                if _file(line) not in self._finished:
                    seen.add(hashlib.sha256(line).digest())
        for path in old:
            with path.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n") or _file(line) in self._finished:
                        continue  # torn by the kill, or read again
                    digest = hashlib.sha256(line).digest()
                    if digest not in seen:
                        seen.add(digest)
                        new.write(line)

    def _failed(self, error: OSError) -> TrajkitError:
        return TrajkitError(
            f"{self.path}: cannot be written ({error.strerror or error}). The trajectories imported so far are kept; "
            "mend that and run the command again."
        )


def where(reject: Reject) -> str:
    """The record's place in its file."""
    return f"line {reject.line}" + (f", record {reject.key}" if reject.key else "")


def _name(path: str) -> str:
    return "-" if path == "-" else str(Path(path).absolute())


def _file(line: bytes) -> Any:
    """The file that a line is of; None where it does not say."""
    try:
        file = json.loads(line).get("file")
    except (ValueError, AttributeError, RecursionError):
        return None
    return file if isinstance(file, str) else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock `path`, which is removed at the end: one that waited for it sees that and makes it anew."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        file.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
