"""`make bench`: how far trajkit is from the floor and from what one would do without it, as ratios in one run.

    python benchmarks/bench.py [--trajectories 1000000]

Writes docs/performance.md. Every figure is the median of several runs taken in turn with what it is compared with,
each in a process of its own, so that a slow spell of the machine hits both. The world is generated once (world.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
NARROW = "trajectory_id, task_id, split, role, iteration, parent_id, branch_step, n_steps, reward, success, ended"


# --- what is measured: each runs in a process of its own and returns seconds, and whatever else it says ---


def rule_in_sql(runs: Path, out: Path) -> dict[str, Any]:
    """eef's rule alone, by DuckDB from the Parquet parts, two threads."""
    from trajkit.engine import Runs

    with Runs(runs) as opened:
        start = time.perf_counter()
        [row] = opened.rows("SELECT count(*) AS n, min(trajectory_id), max(from_step) FROM eef")
        return {"seconds": time.perf_counter() - start, "examples": row["n"]}


def rule_in_python(runs: Path, out: Path) -> dict[str, Any]:
    """The same rule in plain Python over a list of dicts; loading them is timed apart."""
    import duckdb
    from eef_in_python import eef  # beside this file

    start = time.perf_counter()
    cursor = duckdb.connect().execute(f"SELECT {NARROW} FROM read_parquet('{runs}/*/trajectories.parquet')")
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    loaded = time.perf_counter()
    n = len(eef(rows))
    return {"seconds": time.perf_counter() - loaded, "loading": loaded - start, "examples": n}


def select_eef(runs: Path, out: Path) -> dict[str, Any]:
    """`trajkit select`, end to end."""
    from trajkit.select import select

    start = time.perf_counter()
    summary = select(runs, out / "sft.parquet")
    return {"seconds": time.perf_counter() - start, "examples": summary.n_rows}


def bare_copy(runs: Path, out: Path) -> dict[str, Any]:
    """The floor: DuckDB copies the messages of the chosen paths by a semi-join, with the same memory limit."""
    import duckdb

    con = duckdb.connect(config={"memory_limit": "1GB", "preserve_insertion_order": False})
    start = time.perf_counter()
    con.execute(
        f"COPY (SELECT m.* FROM read_parquet('{runs}/*/messages.parquet') AS m SEMI JOIN '{out}/owners.parquet' AS o "
        f"USING (trajectory_id)) TO '{out}/copy.parquet' (COMPRESSION zstd)"
    )
    return {"seconds": time.perf_counter() - start}


def command_line(*args: str) -> Callable[[Path, Path], dict[str, Any]]:
    """A `trajkit` command as a whole process."""

    def run(runs: Path, out: Path) -> dict[str, Any]:
        call = [sys.executable, "-c", "from trajkit.cli import main; main()"]
        filled = [arg.format(runs=runs, out=out) for arg in args]
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        start = time.perf_counter()
        subprocess.run([*call, *filled], env=environment, capture_output=True, check=True)
        return {"seconds": time.perf_counter() - start}

    return run


MEASURED: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "rule_in_sql": rule_in_sql,
    "rule_in_python": rule_in_python,
    "select_eef": select_eef,
    "bare_copy": bare_copy,
    "help": command_line("--help"),
    "python_alone": lambda runs, out: _python_alone(),
    "small_select": command_line("select", "--input", "{runs}", "--out", "{out}/small.parquet"),
}


def _python_alone() -> dict[str, Any]:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import click"], check=True)
    return {"seconds": time.perf_counter() - start}


# --- how ---


def in_turn(names: list[str], runs: Path, out: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """The medians of each, run in turn."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            call = [sys.executable, __file__, "--one", name, str(runs), str(out)]
            done = subprocess.run(
                call, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=True
            )
            results[name].append(json.loads(done.stdout))
    return {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} | {"runs": rows}
        for name, rows in results.items()
    }


def ratio(results: dict[str, dict[str, Any]], a: str, b: str) -> str:
    """a / b, pair by pair: median and range."""
    pairs = [x["seconds"] / y["seconds"] for x, y in zip(results[a]["runs"], results[b]["runs"], strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def main() -> None:
    """Measure and write docs/performance.md."""
    import world  # beside this file

    parser = argparse.ArgumentParser()
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "trajkit-bench")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, runs, out = args.one
        result = MEASURED[name](Path(runs), Path(out))
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps(result | {"peak_mb": peak / 1024}))
        return
    big, small, out = args.folder / f"{args.trajectories}", args.folder / "1000", args.folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    world.generate(big, args.trajectories)
    world.generate(small, 1_000)
    _owners(big, out)
    large = in_turn(["rule_in_sql", "rule_in_python"], big, out, max(2, args.rounds // 2))
    large |= in_turn(["select_eef", "bare_copy"], big, out, args.rounds)
    little = in_turn(["help", "python_alone", "small_select"], small, out, args.rounds)
    text = page(args, big, large, little)
    (CHECKOUT / "docs/performance.md").write_text(text)
    print(text)


def _owners(runs: Path, out: Path) -> None:
    """The ids whose messages the floor copies: all on the paths that eef chooses."""
    from trajkit.engine import Runs

    with Runs(runs) as opened:
        opened.rows(
            "COPY (SELECT DISTINCT s.owner_id AS trajectory_id FROM path_segments AS s SEMI JOIN eef AS e "
            f"ON s.trajectory_id = e.trajectory_id) TO '{out}/owners.parquet'"
        )


def page(
    args: argparse.Namespace, big: Path, large: dict[str, dict[str, Any]], little: dict[str, dict[str, Any]]
) -> str:
    """docs/performance.md."""
    import duckdb
    import polars
    import pyarrow

    [(n_trajectories, n_messages)] = (
        duckdb.connect()
        .execute(
            f"SELECT (SELECT count(*) FROM read_parquet('{big}/*/trajectories.parquet')), "
            f"(SELECT count(*) FROM read_parquet('{big}/*/messages.parquet'))"
        )
        .fetchall()
    )
    rule, python, select, copy = (large[name] for name in ("rule_in_sql", "rule_in_python", "select_eef", "bare_copy"))
    return f"""# Performance

Made by `make bench`: medians of runs in turn, each in a process of its own; ratios pair by pair, median and range.
{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, DuckDB {duckdb.__version__}, Polars \
{polars.__version__}, pyarrow {pyarrow.__version__}. A generated world of {n_trajectories:,} trajectories and \
{n_messages:,} messages, {select["examples"]:,.0f} examples chosen by eef.

| what | seconds | compared with | seconds | ratio |
|---|---|---|---|---|
| eef's rule in SQL, reading Parquet | {rule["seconds"]:.2f} | the same rule in plain Python dicts, without the \
{python["loading"]:.1f} s of loading them | {python["seconds"]:.2f} | {ratio(large, "rule_in_python", "rule_in_sql")} \
times faster |
| `trajkit select`, end to end | {select["seconds"]:.2f} | the floor: a bare semi-join copy of the same messages | \
{copy["seconds"]:.2f} | {ratio(large, "select_eef", "bare_copy")} times the floor |

Peak memory of `select`: {select["peak_mb"]:,.0f} MB (DuckDB's limit is 1 GB by default; `--memory-limit` changes it). \
The copy: {copy["peak_mb"]:,.0f} MB.

| whole process | seconds | floor |
|---|---|---|
| `trajkit --help` | {little["help"]["seconds"]:.2f} | `python -c "import click"`: \
{little["python_alone"]["seconds"]:.2f} |
| `trajkit select` on 1,000 trajectories | {little["small_select"]["seconds"]:.2f} | |
"""


if __name__ == "__main__":
    main()
