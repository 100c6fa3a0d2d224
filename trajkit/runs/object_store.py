"""runs/ in an object store: a URL such as s3://bucket/runs in place of a folder.

pyarrow speaks with the store, for us and, through fsspec, for DuckDB. Nothing is downloaded but what is read.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar, cast

from trajkit.errors import TrajkitError, UsageError

if TYPE_CHECKING:
    import duckdb
    import pyarrow.fs

# How to reach a store is not said in a URL. What to look at where it cannot be reached:
WAYS_OUT = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or ~/.aws/credentials), AWS_REGION, and AWS_ENDPOINT_URL for a "
    "store other than Amazon's, say where it is and who asks.",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS names the file that says who asks.",
}
AT_ONCE = 16  # requests in flight

Given = TypeVar("Given")
Answer = TypeVar("Answer")


class Unreachable(TrajkitError):
    """The store did not give or take an object: no network, no permission, no such bucket or object."""


class Url(os.PathLike[str]):
    """An object in a store, or all objects below a prefix. It does what `Path` does, as far as that is needed here.

    Its methods raise Unreachable where the store does not answer as it should.
    """

    def __init__(self, text: str) -> None:
        self.scheme, _, key = text.partition("://")
        self.key = key.rstrip("/")  # bucket/name, as pyarrow's filesystems have it

    def __fspath__(self) -> str:
        return f"{self.scheme}://{self.key}"

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self}/{name}")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The prefix that it lies below. Of a bucket: the bucket."""
        above = self.key.rpartition("/")[0] or self.key
        return Url(f"{self.scheme}://{above}")

    @property
    def bucket(self) -> Url:
        return Url(f"{self.scheme}://{self.key.partition('/')[0]}")

    def is_relative_to(self, other: Url) -> bool:
        return f"{self}/".startswith(f"{other}/")

    def exists(self) -> bool:
        """Whether there is such an object, or any below it."""
        return self._type() != "NotFound"

    def is_dir(self) -> bool:
        return self._type() == "Directory"

    def is_file(self) -> bool:
        return self._type() == "File"

    def _type(self) -> str:
        with self._reaching():
            found: str = self.filesystem.get_file_info(self.key).type.name
        return found

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Put an empty object there that stands for a folder, so that `exists` is true before anything lies below."""
        with self._reaching():
            self.filesystem.create_dir(self.key, recursive=True)

    def unlink(self, missing_ok: bool = True) -> None:
        with self._reaching():
            if self.is_file():
                self.filesystem.delete_file(self.key)

    def open(self, mode: str = "rb") -> Reader:
        """The object to read from. Only what is asked for is read."""
        with self._reaching():
            return Reader(self, self.filesystem.open_input_file(self.key))

    def upload(self, file: Path) -> None:
        """Make this object of a file on this machine. It appears whole, or what was there stays."""
        from pyarrow.fs import LocalFileSystem, copy_files

        with self._reaching("written"):
            # One call: Arrow would finish an upload that an exception in Python left half-way.
            copy_files(str(file), self.key, source_filesystem=LocalFileSystem(), destination_filesystem=self.filesystem)

    def below(self) -> list[str]:
        """The names, after this one and a slash, of all objects below; sorted."""
        from pyarrow.fs import FileSelector

        with self._reaching():
            found = self.filesystem.get_file_info(FileSelector(self.key, recursive=True, allow_not_found=True))
        return sorted(info.path[len(self.key) + 1 :] for info in found if info.is_file)

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """What pyarrow reaches the store with."""
        return _filesystem(self.bucket)

    @contextmanager
    def _reaching(self, done: str = "read") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Unreachable(f"{self}: there is no such object.") from error
        except OSError as error:
            raise _unreachable(self, error, done) from error


Location: TypeAlias = Path | Url


def locate(path: str | os.PathLike[str]) -> Location:
    """A folder or a file: a `Url` where it is written as one (`scheme://...`), else a path on this machine."""
    return Url(os.fspath(path)) if re.match(r"[a-z][a-z0-9+.-]+://", os.fspath(path)) else Path(path)


def here(path: str | os.PathLike[str], then: str = "name the copy") -> Path:
    """A path on this machine. Raises UsageError for a URL; `then` says what to do once it was copied."""
    if isinstance(locate(path), Url):
        raise UsageError(f"{path}: that is not on this machine. Copy it here (`aws s3 sync`, `aws s3 cp`), {then}.")
    return Path(path)


def absolute(path: Location) -> Location:
    """`path` as it can be named from anywhere."""
    return path if isinstance(path, Url) else path.resolve()


class Reader(io.RawIOBase):
    """A place in an object from which to read on, as Python's files have it.

    Readers may share what pyarrow has opened, which knows no place of its own. Threads may share a reader as long as
    each seeks before it reads: DuckDB's do.
    """

    def __init__(self, url: Url, opened: Any) -> None:
        self._url, self.opened, self._at = url, opened, 0
        self._sought = threading.local()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start: int = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.opened.size()}[whence]
        self._at = self._sought.at = start + offset
        return start + offset

    def read(self, size: int | None = -1) -> bytes:
        at: int = self._sought.__dict__.pop("at", self._at)
        left = max(0, self.opened.size() - at)
        wanted = left if size is None or size < 0 else min(size, left)
        try:
            data: bytes = self.opened.read_at(wanted, at) if wanted else b""
        except OSError as error:
            raise _unreachable(self._url, error) from error
        self._at = at + len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def let_read(con: duckdb.DuckDBPyConnection, path: Location) -> Callable[[Location], BinaryIO]:
    """Let DuckDB read what lies in the store of `path`; nothing is to be done for a path on this machine.

    Returns how a file there is opened so that DuckDB need not open it again. While the connection lasts, an object is
    taken to stay as it was when it was first read.
    """
    if not isinstance(path, Url):
        return lambda file: cast(BinaryIO, file.open("rb"))
    scheme, filesystem = path.scheme, path.filesystem
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError as error:
        raise UsageError(f"{path}: fsspec is needed to read there: pip install 'trajkit[s3]'.") from error

    class ForDuckDB(ArrowFSWrapper):  # type: ignore[misc]
        """What DuckDB asks of a filesystem. An object is opened once."""

        protocol = scheme
        cachable = False

        def __init__(self) -> None:
            super().__init__(filesystem)
            self._readers: dict[str, Reader] = {}

        def open(self, name: str, mode: str = "rb", **options: Any) -> Any:
            if mode != "rb":
                return super().open(name, mode, **options)
            return Reader(Url(name), self._reader(name).opened)

        def _reader(self, name: str) -> Reader:
            if name not in self._readers:
                self._readers[name] = Url(name).open()
            return self._readers[name]

        def size(self, name: str) -> int:
            size: int = self._reader(name).opened.size()
            return size

        def modified(self, name: str) -> datetime:
            return datetime(1970, 1, 1, tzinfo=UTC)  # long ago: DuckDB keeps what it has read

        def glob(self, pattern: str, **options: Any) -> list[str]:
            if not re.search(r"[*?[]", pattern) or Url(pattern).is_file():
                return [pattern]
            return [f"{scheme}://{name}" for name in super().glob(pattern, **options)]

    store = ForDuckDB()
    con.register_filesystem(store)
    # What was read stays in the memory that DuckDB may use, as long as there is room.
    con.execute("SET cache_local_files = true; SET validate_external_file_cache = 'NO_VALIDATION'")
    return lambda file: cast(BinaryIO, store.open(str(file)))


def side_by_side(do: Callable[[Given], Answer], files: Sequence[Given]) -> Iterator[Answer]:
    """What `do` makes of each file, in their order; of objects many at once, as each is a wait for the network."""
    if not any(isinstance(file, Url) for file in files):
        yield from map(do, files)
        return
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield from threads.map(do, files)


def told_by_store(error: Exception) -> str | None:
    """What Unreachable said, where it was raised inside a query and reached us as text in DuckDB's error."""
    found = re.search(rf"^{re.escape(Unreachable.__module__)}\.Unreachable: (.*)$", str(error), re.MULTILINE)
    return found and found[1]


def _unreachable(url: Url, error: OSError, done: str = "read") -> Unreachable:
    reason = re.sub(r"\s+", " ", str(error)).removesuffix(".")
    return Unreachable(f"{url}: cannot be {done} ({reason}). {WAYS_OUT[url.scheme]}")


@cache
def _filesystem(bucket: Url) -> pyarrow.fs.FileSystem:
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    if bucket.scheme not in WAYS_OUT:
        known = " and ".join(f"{scheme}://" for scheme in WAYS_OUT)
        raise UsageError(f"{bucket}: that can be no folder of runs; {known} can.")
    try:
        return FileSystem.from_uri(str(bucket))[0]
    except ArrowException as error:
        raise UsageError(f"{bucket}: that is no name of a bucket ({error}).") from error
