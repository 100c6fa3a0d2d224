"""`trajkit select` against a bare semi-join copy of the same messages; `trajkit export` against a bare loop.

    python benchmarks/selecting.py [--size 1000000 --rounds 3]

The copy reads and writes the messages of all trajectories on the chosen paths, once each, in any order; `select` also
chooses, checks, repeats what several examples share, sorts and lays the messages out as lists.
"""

from __future__ import annotations

import time
from pathlib import Path

import measure
import world

METHODS = ("eef", "rft", "eto")


def rows(folder: Path, size: int = 1_000_000, rounds: int = 3) -> list[measure.Row]:
    """Each method with its floor, the smallest select as a whole process, and export."""
    runs, small = folder / f"world-{size}", folder / "world-1000"
    world.generate(runs, size, every_method=True)
    world.generate(small, 1000, n_parts=2, every_method=True)
    found = []
    for method in METHODS:
        owners = folder / f"owners-{size}-{method}.parquet"
        if not owners.exists():
            _owners(runs, method, owners)
        took = measure.in_turn(__file__, ["select", "copy"], rounds, runs, method, owners)
        mine = took["select"]
        note = f"{mine[0]['rows']:,} rows, peak {measure.peak(mine)}, the copy's {measure.peak(took['copy'])}"
        found.append(measure.compared(took, f"select {method}", "select", "semi-join copy by DuckDB", "copy", note))
    chosen = folder / f"selected-{size}.parquet"
    if not chosen.exists():
        _select(runs, chosen, "eef")
    took = measure.in_turn(__file__, ["export", "dump"], rounds, chosen)
    note = f"peak {measure.peak(took['export'])}, the loop's {measure.peak(took['dump'])}"
    other = "pyarrow and orjson.dumps, row by row"
    found.append(measure.compared(took, "export --to openai", "export", other, "dump", note))
    took = measure.in_turn(__file__, ["help", "python", "small"], rounds, small)
    found.append(measure.compared(took, "`trajkit --help`", "help", '`python -c "import click"`', "python"))
    found.append(measure.Row("`trajkit select`, 1,000 trajectories", [one["seconds"] for one in took["small"]]))
    return found


def _owners(runs: Path, method: str, file: Path) -> None:
    """The ids whose messages the floor copies: all on the chosen paths."""
    from trajkit.engines.duckdb import DuckDBEngine

    ids = f"trajectory_id AS id FROM {method}"
    if method == "eto":
        ids = "chosen_id AS id FROM eto UNION SELECT rejected_id FROM eto"
    with DuckDBEngine(runs) as opened:
        opened.rows(
            f"COPY (WITH chosen AS (SELECT {ids}) SELECT DISTINCT s.owner_id AS trajectory_id FROM path_segments AS s "
            f"SEMI JOIN chosen AS c ON s.trajectory_id = c.id) TO '{file}'"
        )


def _select(runs: Path | str, out: Path, method: str) -> int:
    from trajkit.selection.select import select as select_

    return select_(runs, out, method).n_rows


# --- what is measured ---


def select(out: Path, runs: str, method: str, owners: str) -> measure.Found:
    """`trajkit select`, without Python's own start."""
    start = time.perf_counter()
    n = _select(runs, out / "selected.parquet", method)
    return {"seconds": time.perf_counter() - start, "rows": n}


def copy(out: Path, runs: str, method: str, owners: str) -> float:
    """DuckDB copies the messages of the chosen paths, with the same memory limit and compression."""
    import duckdb

    con = duckdb.connect(config={"memory_limit": "1GB", "preserve_insertion_order": False})
    start = time.perf_counter()
    con.execute(
        f"COPY (SELECT m.* FROM read_parquet('{runs}/*/messages.parquet') AS m SEMI JOIN '{owners}' AS o "
        f"USING (trajectory_id)) TO '{out}/copy.parquet' (COMPRESSION zstd)"
    )
    return time.perf_counter() - start


def export(out: Path, chosen: str) -> float:
    """`trajkit export --to openai`, without Python's own start."""
    from trajkit.exporters import export as export_

    start = time.perf_counter()
    export_(chosen, out / "chosen.jsonl", "openai")
    return time.perf_counter() - start


def dump(out: Path, chosen: str) -> float:
    """The same file read, and its rows written as JSON lines as they are."""
    import orjson
    import pyarrow.parquet as pq

    start = time.perf_counter()
    with (out / "chosen.jsonl").open("wb") as file:
        for batch in pq.ParquetFile(chosen).iter_batches(1024):
            for row in batch.to_pylist():
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return time.perf_counter() - start


def help_(out: Path, runs: str) -> float:
    """A whole process."""
    return measure.seconds(measure.command("--help"))


def python(out: Path, runs: str) -> float:
    """What Python and click take to start."""
    return measure.seconds(measure.process("-c", "import click"))


def small(out: Path, runs: str) -> float:
    """A whole process."""
    return measure.seconds(measure.command("select", "--input", runs, "--out", out / "small.parquet"))


MEASURED = {
    "select": select,
    "copy": copy,
    "export": export,
    "dump": dump,
    "help": help_,
    "python": python,
    "small": small,
}


if __name__ == "__main__":
    measure.run(rows, MEASURED)
