"""What thousands of small parts cost, and what is left of that after `trajkit compact`.

    python benchmarks/parts.py [--trajectories 200000 --parts 10000]

The same world (world.py) lies there three times: in many parts as `explore` leaves them, the same put together by
`trajkit compact`, and written as one part. Opening it, eef's rule and `select` are measured in turn, each in a process
of its own; the ratios are pair by pair, to the one part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
STEPS = ("open", "rule", "select")


def measure(runs: Path) -> dict[str, float]:
    """The seconds of each step."""
    from trajkit.engine import Runs
    from trajkit.select import select

    times = [time.perf_counter()]
    with Runs(runs) as opened:
        times.append(time.perf_counter())
        opened.rows("SELECT count(*), min(trajectory_id), max(from_step) FROM eef")
    times.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as out:
        select(runs, Path(out) / "sft.parquet")
    times.append(time.perf_counter())
    return {step: after - before for step, before, after in zip(STEPS, times, times[1:], strict=False)}


def lay_out(folder: Path, n_trajectories: int, n_parts: int) -> dict[str, Path]:
    """The three runs folders, made unless they are there. Says what `compact` took."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq
    import world  # beside this file

    from trajkit.compact import compact
    from trajkit.schema import arrow_schema

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
    start = time.perf_counter()
    summary = compact(made["compacted"])
    print(f"compact: {time.perf_counter() - start:.1f} s\n{summary.text()}")
    (folder / "complete").touch()
    return made


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trajectories", type=int, default=200_000)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "trajkit-bench-parts")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    made = lay_out(args.folder, args.trajectories, args.parts)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in made}
    for _ in range(args.rounds):
        for name, runs in made.items():
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(runs)],
                env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[name].append(json.loads(done.stdout))
    print("| runs | parts | " + " | ".join(f"{step}, s" for step in STEPS) + " | all, to one part |")
    print("|---|---|---|---|---|---|")
    for name, rows in found.items():
        ratios = [
            sum(row[step] for step in STEPS) / sum(one[step] for step in STEPS)
            for row, one in zip(rows, found["one"], strict=True)
        ]
        cells = [name, f"{len(list(made[name].glob('*/*/'))):,}"]
        cells += [f"{statistics.median(row[step] for row in rows):.2f}" for step in STEPS]
        cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
