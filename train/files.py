"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from trajkit.errors import TrajkitError


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write the file under a hidden name, have it on the disk, and rename it. Returns `path`.

    Raises TrajkitError where it cannot be written; what was there before is then untouched.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with hidden.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    except OSError as error:
        raise TrajkitError(f"{path}: cannot be written ({error.strerror}).") from error
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
    return path
