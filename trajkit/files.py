"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from trajkit.errors import TrajkitError
from trajkit.object_store import Location, Url


def hidden(path: Path) -> Path:
    """The name that `path` has until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def whole(path: Location) -> Iterator[BinaryIO]:
    """A file to write into, under a hidden name; at the end it is brought to the disk and renamed to `path`.

    What goes to a URL is written into a temporary file here and uploaded at the end.

    Where the block is left by an exception nothing is left of it. Raises TrajkitError where it cannot be written; what
    was there before is then untouched.
    """
    if isinstance(path, Url):
        with tempfile.NamedTemporaryFile(prefix="trajkit-") as here:
            yield cast(BinaryIO, here.file)
            here.flush()
            path.upload(Path(here.name))
        return
    try:
        with hidden(path).open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        hidden(path).replace(path)
    except OSError as error:
        raise TrajkitError(
            f"{path}: cannot be written ({error.strerror or error}). What was there before is untouched; "
            "make room or name another place."
        ) from error
    finally:
        with suppress(OSError):
            hidden(path).unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a whole file. Returns `path`. Raises as `whole` does."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path
