"""How the benchmarks measure: each thing in a process of its own, in turn with what it is compared with.

A slow spell of the machine then hits both, so the ratio, taken pair by pair, says more than the seconds.

A part is a module with

    MEASURED                          functions by name: they get an empty folder to write to and the arguments given to
                                      `alone`, and return the seconds they took, or a dict that holds them (`seconds`)
    rows(folder, size, rounds)        what it found, as a list of Row; worlds lie below `folder` and are kept

and `run(rows, MEASURED)` as its main program.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
WORLDS = Path(tempfile.gettempdir()) / "trajkit-bench"

Found = dict[str, Any]
Measured = Callable[..., float | Found]


@dataclass(frozen=True)
class Row:
    """A line of a table: what was measured, round by round, and what it was compared with in the same round.

    `other` is None where there is nothing to compare with; `note` is said of it (peak memory, counts, ...).
    """

    what: str
    seconds: Sequence[float]
    other: str | None = None
    other_seconds: Sequence[float] = ()
    note: str = ""

    def cells(self) -> list[str]:
        """What, seconds, compared with, its seconds, the ratio (median and range), note."""
        took = _seconds(self.seconds)
        if self.other is None:
            return [self.what, took, "", "", "", self.note]
        pairs = [mine / theirs for mine, theirs in zip(self.seconds, self.other_seconds, strict=True)]
        ratio = f"{_short(statistics.median(pairs))}"
        if len(pairs) > 1:
            ratio += f" ({_short(min(pairs))} to {_short(max(pairs))})"
        return [self.what, took, self.other, _seconds(self.other_seconds), ratio, self.note]


def compared(
    found: Mapping[str, Sequence[Found]], what: str, mine: str, other: str, theirs: str, note: str = ""
) -> Row:
    """A row of what `in_turn` found under the names `mine` and `theirs`."""
    return Row(what, [one["seconds"] for one in found[mine]], other, [one["seconds"] for one in found[theirs]], note)


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; columns that all leave empty are not there."""
    names = ["what", "seconds", "compared with", "seconds", "ratio", ""]
    cells = [row.cells() for row in rows]
    kept = [at for at in range(len(names)) if any(row[at] for row in cells)]
    lines = [[names[at] for at in kept], ["---"] * len(kept), *([row[at] for at in kept] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def alone(script: str, name: str, *args: object, **environment: str) -> Found:
    """What MEASURED[name] of the part `script` returns, run in a process of its own.

    With it: `peak_mb`, the most memory of the process (or of one that it started), and `spilled_mb`, the most that lay
    in its folder for temporary files.
    """
    with tempfile.TemporaryDirectory(dir=_kept(WORLDS)) as folder:
        out, temporary = _kept(Path(folder) / "out"), _kept(Path(folder) / "tmp")
        known = {"PYTHONPATH": str(CHECKOUT), "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            [sys.executable, script, "--one", name, out, *map(str, args)],
            env=os.environ | known | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        spilled = 0
        while True:
            try:
                said, complaint = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                spilled = max(spilled, _size(temporary))
    if process.returncode:
        raise RuntimeError(f"{Path(script).name} {name}: {complaint[-3000:]}")
    found: Found = json.loads(said.splitlines()[-1])
    return found | {"spilled_mb": spilled / 2**20}


def in_turn(
    script: str, names: Sequence[str], rounds: int, *args: object, **environment: str
) -> dict[str, list[Found]]:
    """What each of the part's MEASURED `names` returned, round by round."""
    found: dict[str, list[Found]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(alone(script, name, *args, **environment))
    return found


def peak(found: Sequence[Found]) -> str:
    """The largest peak memory, for a note."""
    return f"{max(one['peak_mb'] for one in found):,.0f} MB"


def seconds(run: Callable[[], Any]) -> float:
    """How long `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def process(*args: object) -> Callable[[], Any]:
    """A Python process of its own; raises where it fails."""
    call = [sys.executable, *map(str, args)]
    return lambda: subprocess.run(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)


def command(*args: object) -> Callable[[], Any]:
    """A `trajkit` command as a whole process."""
    return process("-c", "from trajkit.cli import main; main()", *args)


def is_one(measured: Mapping[str, Measured]) -> bool:
    """Whether this process is one of `alone`'s; then it has measured what it should and printed it."""
    if sys.argv[1:2] != ["--one"]:
        return False
    name, out, *args = sys.argv[2:]
    result = measured[name](Path(out), *args)
    found = result if isinstance(result, dict) else {"seconds": result}
    print(json.dumps(found | {"cpu": _processor_seconds(), "peak_mb": _peak_mb()}))
    return True


def run(rows: Callable[..., list[Row]], measured: Mapping[str, Measured]) -> None:
    """The main program of a part: its table, or (in a process of its own) one thing measured."""
    if is_one(measured):
        return
    given = inspect.signature(rows).parameters
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=WORLDS, help="where worlds lie, and are kept")
    parser.add_argument("--size", type=int, default=given["size"].default)
    parser.add_argument("--rounds", type=int, default=given["rounds"].default)
    args = parser.parse_args()
    print(table(rows(_kept(args.folder), args.size, args.rounds)))


def _kept(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_mb() -> float:
    """The most memory of this process or of one that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")  # getrusage's figure would begin with that of the process that started this one
    own = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    return max(int(own[1]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children) / 1024


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:  # it is gone
            continue
    return total


def _seconds(values: Sequence[float]) -> str:
    return _short(statistics.median(values)) if values else ""


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"
