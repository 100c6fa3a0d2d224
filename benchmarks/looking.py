"""What looks at a runs folder: validate against a bare scan of all columns; show, explain and report.

    python benchmarks/looking.py [--size 1000000 --rounds 3]

show, explain and report are whole processes, for which there is no floor.
"""

from __future__ import annotations

import time
from pathlib import Path

import measure
import world


def rows(folder: Path, size: int = 1_000_000, rounds: int = 3) -> list[measure.Row]:
    """validate; then the commands as whole processes, for which there is no floor."""
    runs = folder / f"world-{size}"
    world.generate(runs, size, every_method=True)
    took = measure.in_turn(__file__, list(MEASURED), rounds, runs)
    found = [
        measure.compared(
            took, "validate", "validate", "DuckDB hashes every column of the same parts", "scan",
            f"peak {measure.peak(took['validate'])}",
        )
    ]  # fmt: skip
    for name in ("show", "explain", "report"):
        note = f"peak {measure.peak(took[name])}"
        if name == "report":
            note += f", {took[name][0]['written_mb']:,.0f} MB of HTML"
        found.append(measure.Row(f"`trajkit {name}`", [one["seconds"] for one in took[name]], note=note))
    return found


def validate(out: Path, runs: str) -> float:
    """Every check; the world has no mistakes."""
    from trajkit.engines.checks import validate as validate_

    start = time.perf_counter()
    assert not list(validate_(runs))
    return time.perf_counter() - start


def scan(out: Path, runs: str) -> float:
    """All columns of all parts, read and hashed."""
    import duckdb

    con = duckdb.connect(config={"memory_limit": "1GB"})
    start = time.perf_counter()
    for table in ("trajectories", "messages"):
        con.execute(f"SELECT max(hash(t)) FROM read_parquet('{runs}/*/{table}.parquet') AS t").fetchall()
    return time.perf_counter() - start


def show(out: Path, runs: str) -> float:
    """One trajectory."""
    return measure.seconds(measure.command("show", "--task", "task-7", "--runs", runs))


def explain(out: Path, runs: str) -> float:
    """Why eef took what it took of one task."""
    return measure.seconds(measure.command("explain", "--task", "task-7", "--runs", runs))


def report(out: Path, runs: str) -> measure.Found:
    """The page of the whole folder."""
    page = out / "report.html"
    took = measure.seconds(measure.command("report", "--runs", runs, "--out", page))
    return {"seconds": took, "written_mb": page.stat().st_size / 2**20}


MEASURED = {"validate": validate, "scan": scan, "show": show, "explain": explain, "report": report}


if __name__ == "__main__":
    measure.run(rows, MEASURED)
