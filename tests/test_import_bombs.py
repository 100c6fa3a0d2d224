"""Memory stays bounded whatever a file unpacks to: a process with a limit on its memory reads it to its end."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
GOOD = json.dumps(
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "task_id": "t", "reward": 1}
).encode()
LAST = GOOD.replace(b'"t"', b'"u"')
# What is before, what is repeated, and how many records are imported (the one before, and in lines the one behind).
SHAPES: dict[str, tuple[bytes, bytes, int]] = {
    "one huge line": (GOOD + b'\n{"x": "', b"a", 2),
    "one huge string": (b"[" + GOOD + b', {"x": "', b"a", 1),
    "wide characters": (b"[" + GOOD + b', {"x": "', "🦜".encode(), 1),
    "escapes": (b"[" + GOOD + b', {"x": "', b"\\u0000", 1),
    "deep nesting": (b"[" + GOOD + b", ", b"[", 1),
    "deep objects": (b"[" + GOOD + b", ", b'{"a":', 1),
    "deep nesting in a line": (GOOD + b"\n", b"[", 2),
    "many values": (b"[" + GOOD + b", [", b"[],{},", 1),
    "many values in a line": (GOOD + b'\n{"x": [', b"{},", 2),
    "a huge number": (b"[" + GOOD + b", ", b"1", 1),
    "spaces": (b"[" + GOOD + b", ", b" ", 2),
    "a huge key": (b"[" + GOOD + b', {"', b"k", 1),
    "behind the end": (b"[" + GOOD + b"] ", b"x", 1),
    "no JSON": (b"<", b"html ", 1),
    "zeros": (b"", b"\0", 0),
}
# The limits are smaller than in earnest, so that a small bomb is one, and the process small.
CODE = """
import json, resource, sys
from trajkit.errors import BadData
from trajkit.importers import Options, _source, import_files

_source.RECORD_BYTES, _source.RECORD_VALUES = 8 * 2**20, 300_000
_source.RAW_CHARS, _source._MANY = 2**20, 2**19
bombs, warm, runs = sys.argv[1:]

def go(path, runs):
    try:
        return import_files("openai", [path], runs, Options())
    except BadData as error:
        return error

assert go(warm, runs + "/warm").imported == 1  # what is loaded once is loaded
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 220 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, path in json.loads(bombs).items():
    counts = go(path, f"{runs}/{name}")
    print(json.dumps([name, getattr(counts, "imported", 0), getattr(counts, "read", 1)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a process's memory")
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_memory_is_bounded_whatever_a_file_unpacks_to(tmp_path: Path, compression: str) -> None:
    compress = COMPRESSIONS[compression]
    (tmp_path / "warm").write_bytes(compress(GOOD))
    bombs = {}
    # All kinds go the same way from there on, and bzip2 and xz are slow.
    shapes = SHAPES if compression == "gzip" else {name: SHAPES[name] for name in ("one huge line", "a huge key")}
    for name, (before, unit, _) in shapes.items():
        member = compress(unit * (4 * 2**20 // len(unit)))
        bombs[name] = str(tmp_path / name)
        # 160 MB, in members of 4 MB
        Path(bombs[name]).write_bytes(compress(before) + member * 40 + compress(b"\n" + LAST + b"\n"))
        assert Path(bombs[name]).stat().st_size < 4 * 2**20
    arguments = [json.dumps(bombs), str(tmp_path / "warm"), str(tmp_path / "runs")]
    process = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found: dict[str, Any] = {name: imported for name, imported, _ in map(json.loads, process.stdout.splitlines())}
    assert found == {name: imported for name, (_, _, imported) in shapes.items()}
    for path in (tmp_path / "runs").rglob("rejected.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            assert row["reason"] and len(row["raw"]) <= 2**20
            assert row.get("raw_is_cut", False) == (len(row["raw"]) == 2**20)


def test_a_file_of_many_empty_members(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(b"") * 50_000 + gzip.compress(GOOD))
    code = (
        "import sys; from trajkit.importers import *\n"
        "assert import_files('openai', [sys.argv[1]], sys.argv[2], Options()).imported == 1"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "log.jsonl.gz", tmp_path / "runs"], check=True)
