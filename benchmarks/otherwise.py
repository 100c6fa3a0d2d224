"""What a user would do otherwise: the published scripts' plain Python over JSON lines, pandas, and datasets.

    python benchmarks/otherwise.py [--size 100000 --rounds 3]

Scripts and trajkit start from the same trajectories and end with a written training set of as many rows: JSON lines
with a weight per message there, Parquet here. The scripts' logs hold whole conversations; trajkit reads them once
(`import`), or has explored them itself. The rules alone read ten times as many trajectories, without messages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import measure
import published
import world

NARROW = "trajectory_id, task_id, split, role, iteration, parent_id, branch_step, n_steps, reward, success, ended"
# A line per trajectory: from s_0 its own messages, from a state of an expert's that one's first messages before them.
LOGS = """
COPY (
    WITH said AS (
        SELECT t.trajectory_id AS id, m.* FROM trajectories AS t JOIN messages AS m USING (trajectory_id)
        UNION ALL BY NAME
        SELECT t.trajectory_id AS id, m.* FROM trajectories AS t JOIN messages AS m ON m.trajectory_id = t.parent_id
        WHERE m.step < t.branch_step
    )
    SELECT {columns}, list({{'role': s.role, 'content': s.content}} ORDER BY s.seq) AS messages
    FROM trajectories AS t JOIN said AS s ON t.trajectory_id = s.id
    WHERE {which}
    GROUP BY {columns} ORDER BY trajectory_id
) TO '{file}' (FORMAT json)
"""
FROM_START = ["expert", *(f"policy-{n}" for n in range(1, world.ITERATIONS + 1))]  # the logs' names


def rows(folder: Path, size: int = 100_000, rounds: int = 3) -> list[measure.Row]:
    """Whole ways from logs to a training set, then rules alone."""
    runs, large = folder / f"plain-{size}", folder / f"world-{10 * size}"
    world.generate(runs, size)
    world.generate(large, 10 * size, every_method=True)
    logs = folder / f"plain-{size}-logs"
    if not (logs / "complete").exists():
        write_logs(runs, logs)
    found = []
    imported = logs / "runs"
    for method in ("rft", "eto"):
        took = measure.in_turn(__file__, ["import_and_select", "select", "script"], rounds, method, imported, logs)
        alike(took)
        for what, mine in ((f"import and select {method}", "import_and_select"), (f"select {method}", "select")):
            note = f"peak {measure.peak(took[mine])}, the script's {measure.peak(took['script'])}"
            found.append(measure.compared(took, what, mine, f"{method} in plain Python", "script", note))
    took = measure.in_turn(__file__, ["select", "datasets"], rounds, "rft", imported, logs)
    alike(took)
    note = f"peak {measure.peak(took['select'])}, theirs {measure.peak(took['datasets'])}"
    found.append(measure.compared(took, "select rft", "select", "datasets: filter and map", "datasets", note))
    took = measure.in_turn(__file__, ["select", "script"], rounds, "eef", runs, logs)
    alike(took)
    note = f"peak {measure.peak(took['select'])}, the script's {measure.peak(took['script'])}"
    found.append(measure.compared(took, "select eef, branches too", "select", "eef in plain Python", "script", note))
    took = measure.in_turn(__file__, ["rule", "dicts", "pandas"], rounds, large)
    alike(took)
    for other, theirs in (("in plain Python dicts", "dicts"), ("in pandas", "pandas")):
        loading = sum(one["loading"] for one in took[theirs]) / rounds
        note = f"{10 * size:,} trajectories; {loading:.1f} s of it to load the table"
        found.append(measure.compared(took, "eef's rule", "rule", f"the same {other}", theirs, note))
    return found


def alike(took: dict[str, list[measure.Found]]) -> None:
    """Raise unless all gave as many rows."""
    counts = {name: {one["rows"] for one in found} for name, found in took.items()}
    if len(set.union(*counts.values())) > 1:
        raise RuntimeError(f"not the same rows: {counts}")


def write_logs(runs: Path, logs: Path) -> None:
    """The trajectories of `runs` as JSON lines, and those from s_0 imported."""
    import duckdb

    logs.mkdir(parents=True, exist_ok=True)
    limits = {"memory_limit": "8GB", "temp_directory": str(logs / "spilled"), "preserve_insertion_order": False}
    con = duckdb.connect(config=limits)
    for table in ("trajectories", "messages"):
        con.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{runs}/*/{table}.parquet')")
    parts = {"expert": "t.role = 'expert'", "branches": "t.branch_step > 0"}
    parts |= {
        name: f"t.role = 'policy' AND t.branch_step = 0 AND t.iteration = {name[-1]}"
        for name in FROM_START
        if name != "expert"
    }
    columns = ", ".join(f"t.{name}" for name in NARROW.split(", "))
    for name, which in parts.items():
        con.execute(LOGS.format(columns=columns, which=which, file=logs / f"{name}.jsonl"))
    import_logs(logs, logs / "runs")
    (logs / "complete").touch()


def import_logs(logs: Path, runs: Path) -> None:
    """`trajkit import openai`, per role and iteration."""
    from trajkit.importers import Options, import_files

    for name in FROM_START:
        role, _, iteration = name.partition("-")
        import_files("openai", [str(logs / f"{name}.jsonl")], runs, Options(role=role, iteration=int(iteration or 0)))


# --- what is measured ---


def select(out: Path, method: str, runs: str, logs: str) -> measure.Found:
    """`trajkit select` from runs that are there."""
    from trajkit.selection.select import select as select_

    start = time.perf_counter()
    summary = select_(runs, out / "selected.parquet", method)
    return {"seconds": time.perf_counter() - start, "rows": summary.n_rows}


def import_and_select(out: Path, method: str, runs: str, logs: str) -> measure.Found:
    """From the logs."""
    took = measure.seconds(lambda: import_logs(Path(logs), out / "runs"))
    found = select(out, method, str(out / "runs"), logs)
    return found | {"seconds": took + found["seconds"]}


def script(out: Path, method: str, runs: str, logs: str) -> measure.Found:
    """Load all, choose, write JSON lines."""
    start = time.perf_counter()
    names = [*FROM_START, "branches"] if method == "eef" else FROM_START
    trajectories = []
    for name in names:
        with (Path(logs) / f"{name}.jsonl").open() as file:
            trajectories += [json.loads(line) for line in file]
    by_id = {t["trajectory_id"]: t for t in trajectories}
    if method == "eto":
        lines: Iterable[Any] = (_pair(by_id[won], by_id[lost]) for won, lost in published.eto(trajectories))
    elif method == "rft":
        lines = (_example(by_id[one], step) for one, step in published.rft(trajectories))
    else:
        lines = (_example(by_id[one], step) for _, _, one, _, step in published.eef(trajectories))
    n = 0
    with (out / "chosen.jsonl").open("w") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
            n += 1
    return {"seconds": time.perf_counter() - start, "rows": n}


def _example(trajectory: dict[str, Any], from_step: int) -> dict[str, Any]:
    return {"task_id": trajectory["task_id"], "messages": _weighted(trajectory["messages"], from_step)}


def _pair(won: dict[str, Any], lost: dict[str, Any]) -> dict[str, Any]:
    start = next(n for n, message in enumerate(won["messages"]) if message["role"] == "assistant")
    sides = {"chosen": won["messages"][start:], "rejected": lost["messages"][start:]}
    return {"task_id": won["task_id"], "prompt": won["messages"][:start], **sides}


def _weighted(messages: list[dict[str, str]], from_step: int) -> list[dict[str, Any]]:
    step, weighted = 0, []
    for message in messages:
        action = message["role"] == "assistant"
        weighted.append(message | {"weight": float(action and step >= from_step)})
        step += action
    return weighted


def datasets(out: Path, method: str, runs: str, logs: str) -> measure.Found:
    """rft by Hugging Face's `datasets` (equal action sequences are not looked for; these logs hold none)."""
    import datasets as hf

    start = time.perf_counter()
    files = [str(Path(logs) / f"{name}.jsonl") for name in FROM_START]
    data = hf.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    data = data.filter(lambda row: row["success"])
    data = data.map(lambda row: {"messages": _weighted(row["messages"], 0)}, remove_columns=data.column_names)
    data.to_parquet(str(out / "chosen.parquet"))
    return {"seconds": time.perf_counter() - start, "rows": len(data)}


def rule(out: Path, runs: str) -> measure.Found:
    """eef's rule by DuckDB from the Parquet parts."""
    from trajkit.engines.duckdb import DuckDBEngine

    start = time.perf_counter()
    with DuckDBEngine(runs) as opened:
        [row] = opened.rows("SELECT count(*) AS n, max(hash(e)) AS h FROM eef AS e")
    return {"seconds": time.perf_counter() - start, "rows": row["n"]}


def dicts(out: Path, runs: str) -> measure.Found:
    """The same rule over a list of dicts."""
    import duckdb

    def load() -> list[dict[str, Any]]:
        cursor = duckdb.connect().execute(f"SELECT {NARROW} FROM read_parquet('{runs}/*/trajectories.parquet')")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    return _loaded(load, published.eef)


def pandas(out: Path, runs: str) -> measure.Found:
    """The same rule in pandas."""
    import pandas as pd

    def load() -> Any:
        files = sorted(Path(runs).glob("*/trajectories.parquet"))
        return pd.concat([pd.read_parquet(file, columns=NARROW.split(", ")) for file in files], ignore_index=True)

    return _loaded(load, published.eef_in_pandas)


def _loaded(load: Callable[[], Any], choose: Callable[[Any], Sequence[Any]]) -> measure.Found:
    start = time.perf_counter()
    table = load()
    loaded = time.perf_counter()
    n = len(choose(table))
    return {"seconds": time.perf_counter() - start, "loading": loaded - start, "rows": n}


MEASURED = {
    "select": select,
    "import_and_select": import_and_select,
    "script": script,
    "datasets": datasets,
    "rule": rule,
    "dicts": dicts,
    "pandas": pandas,
}


if __name__ == "__main__":
    measure.run(rows, MEASURED)
