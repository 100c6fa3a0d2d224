"""What tests/test_serve.py shares with other tests."""

from __future__ import annotations

import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def stand_in(folder: Path) -> list[str]:
    """The tests' own server: vLLM's protocol without a model."""
    program, said = str(HERE / "model_server.py"), str(folder.parent / "port")
    return [sys.executable, program, str(folder), "--port", "{port}", "--port-file", said]


def lives(pid: int) -> bool:
    """Whether the process runs. A zombie, which waits for its parent to look, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 300.0) -> bool:
    """Whether it ends in that time."""
    end = time.monotonic() + seconds
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not lives(pid)
