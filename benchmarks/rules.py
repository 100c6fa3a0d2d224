"""Every method, plan and report rule alone, against a bare scan of the columns that it reads.

    python benchmarks/rules.py [--size 1000000 --rounds 3]

The answer has all of its columns, and opening the folder is counted. What was said is read by the rules that compare it
or count its characters. (`rft` reads it too where a file has no digests of the actions.)
"""

from __future__ import annotations

import time
from pathlib import Path

import measure
import world

# What the rules read of `trajectories`, and those that look at what was said read of `messages`.
NARROW = (
    "trajectory_id, task_id, split, role, iteration, sample, parent_id, branch_step, n_steps, reward, success, ended"
)
SAID = "trajectory_id, seq, step, role, content, reasoning, tool_calls, context"


def rows(folder: Path, size: int = 1_000_000, rounds: int = 3) -> list[measure.Row]:
    """Methods, then plans, then the report's rules."""
    from trajkit.rules import closure, references, rules

    runs = folder / f"world-{size}"
    world.generate(runs, size, every_method=True)
    found = []
    for kinds in (("examples", "pairs", "values"), ("plan",), ("report",)):
        for rule in (rule for rule in rules().values() if rule.kind in kinds):
            read = [one.sql for one in [rule, *closure(rule.sql)] if one.name != "action_sequences"]
            scan = "said" if any("messages" in references(sql) and "content" in sql for sql in read) else "narrow"
            took = measure.in_turn(__file__, ["answer", "scan"], rounds, runs, rule.name, scan)
            found.append(
                measure.compared(
                    took, f"`{rule.name}`", "answer", f"scan of {NAMES[scan]}", "scan",
                    f"{took['answer'][0]['rows']:,} rows, peak {measure.peak(took['answer'])}",
                )
            )  # fmt: skip
    return found


NAMES = {"narrow": "the trajectories", "said": "the trajectories and all that was said"}


def answer(out: Path, runs: str, name: str, scanned: str) -> measure.Found:
    """All columns of a rule's answer, the folder's opening included."""
    from trajkit.engines.duckdb import DuckDBEngine

    start = time.perf_counter()
    with DuckDBEngine(runs) as opened:
        [row] = opened.rows(f"SELECT count(*) AS n, max(hash(r)) AS h FROM {name} AS r")
    return {"seconds": time.perf_counter() - start, "rows": row["n"]}


def scan(out: Path, runs: str, name: str, scanned: str) -> float:
    """The columns that it reads, read and hashed."""
    import duckdb

    con = duckdb.connect(config={"memory_limit": "1GB"})
    start = time.perf_counter()
    for table, columns in [("trajectories", NARROW)] + [("messages", SAID)] * (scanned == "said"):
        source = f"(SELECT {columns} FROM read_parquet('{runs}/*/{table}.parquet'))"
        con.execute(f"SELECT max(hash(t)) FROM {source} AS t").fetchall()
    return time.perf_counter() - start


MEASURED = {"answer": answer, "scan": scan}


if __name__ == "__main__":
    measure.run(rows, MEASURED)
