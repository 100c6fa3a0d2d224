"""Time and memory against size: worlds of 10,000, 100,000, ... trajectories (world.py).

    python benchmarks/growth.py [--largest 10000000]

Measures rules alone and `select` end to end with one memory limit for all sizes, each in a process of its own, and
writes docs/growth.csv and docs/growth.svg; `make bench` puts them on its page. The observations have 25 words here (147
characters a message, as InterCode-SQL's), so that 10 million trajectories with 140 million messages need 6 GB of disk,
and 10 GB more while `select` runs.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import measure
import world

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
LIMIT = "2GB"  # DuckDB's; the process has some hundred MB more
RULES = ("eef", "eto", "rft", "step_rewards", "ipr")
COLOURS = ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#222222"]
TABLE, DRAWING = measure.CHECKOUT / "docs/growth.csv", measure.CHECKOUT / "docs/growth.svg"


def rule(out: Path, name: str, runs: str) -> measure.Found:
    """A rule's answer, all of its columns."""
    from trajkit.engines.duckdb import DuckDBEngine

    start = time.perf_counter()
    with DuckDBEngine(runs, memory_limit=LIMIT) as opened:
        [row] = opened.rows(f"SELECT count(*) AS n, max(hash(r)) AS h FROM {name} AS r")
    return {"seconds": time.perf_counter() - start, "rows": row["n"]}


def select(out: Path, limit: str, runs: str) -> measure.Found:
    """`trajkit select --method eef`."""
    from trajkit.selection.select import select as select_

    start = time.perf_counter()
    summary = select_(runs, out / "sft.parquet", memory_limit=limit)
    return {"seconds": time.perf_counter() - start, "rows": summary.n_rows}


MEASURED = {"rule": rule, "select": select}


def generate(folder: Path, size: int) -> Path:
    """The world of `size` trajectories, made unless it is there."""
    runs = folder / f"growth-{size}"
    world.generate(runs, size, n_parts=max(4, size // 50_000), words=25, every_method=True)
    return runs


def grow(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """What was measured, smallest first."""
    import duckdb

    found = []
    for size in sizes:
        runs = generate(folder, size)
        [(n, m)] = duckdb.sql(
            f"SELECT (SELECT count(*) FROM '{runs}/*/trajectories.parquet'), "
            f"(SELECT count(*) FROM '{runs}/*/messages.parquet')"
        ).fetchall()
        asked = [("rule", name, LIMIT) for name in RULES] + [("select", "eef", LIMIT)]
        asked += [("select", "eef", "1GB")] * (size == 1_000_000)
        for kind, name, limit in asked:
            one = measure.alone(__file__, kind, limit if kind == "select" else name, runs)
            row = {"trajectories": n, "messages": m, "what": f"{kind} {name}", "memory_limit": limit}
            row |= {key: round(one[key], 2) for key in ("rows", "seconds", "cpu", "peak_mb", "spilled_mb")}
            row |= {"duckdb": duckdb.__version__}
            print(*row.values(), flush=True)
            found.append(row)
    return found


def write(found: list[dict[str, Any]]) -> None:
    """docs/growth.csv and docs/growth.svg."""
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    draw(read())


def read() -> list[dict[str, Any]]:
    """docs/growth.csv."""
    with TABLE.open() as file:
        return [
            {key: value if key in ("what", "memory_limit", "duckdb") else float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def draw(found: list[dict[str, Any]]) -> None:
    """Processor seconds and memory against size, both axes logarithmic. (Other programs disturb the clock more.)"""
    import altair as alt

    lines = [row for row in found if row["memory_limit"] == LIMIT]
    colour = alt.Color("what:N", title=None, sort=None).scale(range=COLOURS)
    ends = [min(row["trajectories"] for row in lines) / 1.3, max(row["trajectories"] for row in lines) * 1.3]
    size = alt.X("trajectories:Q", title="trajectories").scale(type="log", domain=ends)
    size = size.axis(format="~s", values=list(SIZES), grid=False)
    panels = []
    for column, title in (("cpu", "processor seconds"), ("peak_mb", "most memory of the process, MB")):
        ticks = [10.0**n for n in range(-1, 5)]
        y = alt.Y(f"{column}:Q", title=title).scale(type="log").axis(format="~g", values=ticks)
        base = alt.Chart(alt.Data(values=lines)).encode(size, y, colour)
        panels.append((base.mark_line() + base.mark_point(filled=True, size=40)).properties(width=300, height=260))
    chart = alt.hconcat(*panels).configure(background="white").configure_view(stroke=None)
    chart.save(DRAWING)


def slope(found: list[dict[str, Any]], what: str, column: str) -> float:
    """By what power of the size it grows, from 100,000 trajectories on (below, starting up is most of it)."""
    points = [
        (math.log(row["trajectories"]), math.log(row[column]))
        for row in found
        if row["what"] == what and row["memory_limit"] == LIMIT and row["trajectories"] > 50_000
    ]
    x, y = zip(*points, strict=True)
    return statistics.linear_regression(x, y).slope


def section() -> str:
    """The page's section, from docs/growth.csv."""
    found = read()
    sizes = sorted({row["trajectories"] for row in found})
    by = {(row["what"], row["memory_limit"], row["trajectories"]): row for row in found}
    head = ["", *(f"{size:,.0f}" for size in sizes), "power"]
    lines = [head, ["---"] * len(head)]
    for name in dict.fromkeys(row["what"] for row in found):
        mine = [by[name, LIMIT, size] for size in sizes]
        power = f"{slope(found, name, 'cpu'):.2f}" if len(sizes) > 2 else ""
        lines.append([f"{name}, seconds", *(f"{row['seconds']:,.1f} ({row['cpu']:,.1f})" for row in mine), power])
        lines.append([f"{name}, MB", *map(_memory, mine), ""])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = "".join(
        f"\nWith `--memory-limit {row['memory_limit']}`, the default, {row['what']} of {row['trajectories']:,.0f} "
        f"takes {row['seconds']:,.1f} s ({row['cpu']:,.1f}) and {row['peak_mb']:,.0f} MB."
        for row in found
        if row["memory_limit"] != LIMIT
    )
    largest = max(found, key=lambda row: row["messages"])
    return f"""## Growth

Up to {largest["trajectories"]:,.0f} trajectories with {largest["messages"]:,.0f} messages (147 characters each, as
InterCode-SQL's), everything with `--memory-limit {LIMIT}`: rules alone, all columns of their answers, and `select` end
to end. Seconds by the clock, and in brackets the processor's (all threads, Python's own start too); the most memory of
the process, and what was spilled to disk. `power` is that of the size with which the processor's seconds grow, from
100,000 on: 1 is in proportion. (DuckDB {largest["duckdb"]}.)
{more}

![Processor seconds and memory against the number of trajectories, both axes logarithmic](growth.svg)

{table}

`python benchmarks/growth.py --largest {SIZES[min(len(sizes), len(SIZES)) - 1]}`"""


def _memory(row: dict[str, Any]) -> str:
    spilled = f", {row['spilled_mb']:,.0f} spilled" if row["spilled_mb"] > 1 else ""
    return f"{row['peak_mb']:,.0f}{spilled}"


def memory() -> int:
    """The machine's, in GB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def main() -> None:
    """Measure, then write the table and the drawing."""
    if measure.is_one(MEASURED):
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=measure.WORLDS)
    parser.add_argument("--largest", type=int, default=1_000_000, choices=SIZES)
    args = parser.parse_args()
    write(grow(args.folder, [size for size in SIZES if size <= args.largest]))


if __name__ == "__main__":
    main()
