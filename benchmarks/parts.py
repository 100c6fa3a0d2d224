"""What thousands of small parts cost, and what is left of that after `trajkit compact`.

    python benchmarks/parts.py [--size 50000 --rounds 3]

The same world (world.py) lies there three times: in many parts as `explore` leaves them (of 5 trajectories each),
the same put together by `trajkit compact`, and written as one part. Opening it, eef's rule and `select` are measured
together, against the one part.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import measure
import world

EACH = 5  # trajectories in a small part
STEPS = ("open", "rule", "select")


def rows(folder: Path, size: int = 50_000, rounds: int = 3) -> list[measure.Row]:
    """The many and the compacted parts against the one."""
    made = lay_out(folder / f"parts-{size}", size, size // EACH)
    took: dict[str, list[measure.Found]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, runs in made.items():
            took[name].append(measure.alone(__file__, "all", runs))
    found = []
    for name in ("small", "compacted"):
        steps = ", ".join(f"{step} {sum(one[step] for one in took[name]) / rounds:.1f} s" for step in STEPS)
        parts = len(list(made[name].glob("*/*/")))
        found.append(measure.compared(took, f"{parts:,} parts, {name}", name, "one part", "one", steps))
    copied = folder / f"parts-{size}" / "again"
    found.append(measure.Row(f"`trajkit compact` of {size // EACH:,} parts", [_compact(made["small"], copied)]))
    return found


def all_(out: Path, runs: str) -> measure.Found:
    """The seconds of each step, and of all."""
    from trajkit.engines.duckdb import DuckDBEngine
    from trajkit.selection.select import select

    start = time.perf_counter()
    with DuckDBEngine(runs) as opened:
        opening = time.perf_counter()
        opened.rows("SELECT count(*), max(hash(e)) FROM eef AS e")
    answered = time.perf_counter()
    select(runs, out / "sft.parquet")
    end = time.perf_counter()
    return {"seconds": end - start, "open": opening - start, "rule": answered - opening, "select": end - answered}


MEASURED = {"all": all_}


def _compact(runs: Path, copied: Path) -> float:
    """The seconds it takes to put a copy of `runs` together."""
    from trajkit.runs.compact import compact

    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(runs, copied)
    took = measure.seconds(lambda: compact(copied))
    shutil.rmtree(copied)
    return took


def lay_out(folder: Path, n_trajectories: int, n_parts: int) -> dict[str, Path]:
    """The three runs folders, made unless they are there."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    from trajkit.runs.compact import compact
    from trajkit.runs.schema import arrow_schema

    made = {name: folder / name for name in ("small", "compacted", "one")}
    if (folder / "complete").exists():
        return made
    for path in made.values():
        shutil.rmtree(path, ignore_errors=True)
    world.generate(folder / "world", n_trajectories)
    tables = {
        name: ds.dataset(sorted((folder / "world").glob(f"*/{name}.parquet"))).to_table().cast(arrow_schema(name))
        for name in ("trajectories", "messages")
    }
    tables["trajectories"] = tables["trajectories"].sort_by("trajectory_id")
    tables["messages"] = tables["messages"].sort_by([("trajectory_id", "ascending"), ("seq", "ascending")])

    def write(part: Path, rows: dict[str, pa.Table]) -> None:
        part.mkdir(parents=True)
        for name, table in rows.items():
            pq.write_table(table, part / f"{name}.parquet", compression="zstd", row_group_size=122_880)

    write(made["one"] / "run" / "part-0000000000000000", tables)
    ids = tables["trajectories"]["trajectory_id"].combine_chunks()
    own = pc.index_in(tables["messages"]["trajectory_id"].combine_chunks(), ids)  # in order
    starts = pc.run_end_encode(own).run_ends.to_pylist()
    first = message = 0
    for number in range(n_parts):
        last = (number + 1) * len(ids) // n_parts
        end = starts[last - 1]
        rows = {
            "trajectories": tables["trajectories"].slice(first, last - first),
            "messages": tables["messages"].slice(message, end - message),
        }
        write(made["small"] / "run" / f"part-{number:016x}", rows)
        first, message = last, end
    shutil.copytree(made["small"], made["compacted"])
    compact(made["compacted"])
    (folder / "complete").touch()
    return made


if __name__ == "__main__":
    measure.run(rows, MEASURED)
