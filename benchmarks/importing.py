"""How far `trajkit import` is from orjson parsing the same files, as ratios in one run.

    python benchmarks/importing.py [--megabytes 400] [--rounds 5]

Prints a table. Every figure is the median of several runs taken in turn with what it is compared with, each in a
process of its own, so that a slow spell of the machine hits both. The logs are generated once: chats of 10 to 20
messages, 466 characters each on average as in WebShop, as JSON lines for `openai` and as one JSON object for
`intercode` (in four files, as its logs come: a file per model).

`needed` is what the tables alone cost, without any of trajkit's Python: parse, hash each record's text once
(trajectory_id), and write the texts as Parquet with zstd, by orjson, hashlib and pyarrow in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
LOGS = {"openai": ["openai.jsonl"], "intercode": [f"intercode-{n}.json" for n in range(4)]}


# --- what is measured: each runs in a process of its own and returns seconds ---


def bare(logs: list[Path], out: Path) -> float:
    """orjson parses the files, and nothing is done with it."""
    start = time.perf_counter()
    for _ in _parsed(logs):
        pass
    return time.perf_counter() - start


def standard(logs: list[Path], out: Path) -> float:
    """The standard library's json parses the files."""
    start = time.perf_counter()
    for log in logs:
        with log.open("rb") as file:
            for text in file if log.suffix == ".jsonl" else [file.read()]:
                json.loads(text)
    return time.perf_counter() - start


def needed(logs: list[Path], out: Path) -> float:
    """The least that the tables cost: parse, hash, encode, write."""
    import hashlib

    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.perf_counter()
    texts: list[str] = []
    size = n = 0
    for record in _parsed(logs):
        for one in [record] if "messages" in record else record.values():
            hashlib.sha256(orjson.dumps(one)).hexdigest()
            history = one.get("turn_history")
            own = history["actions"] + history["observations"] if history else [m["content"] for m in one["messages"]]
            texts += own
            size += sum(map(len, own))
            if size > 64 * 2**20:
                pq.write_table(pa.table({"content": pa.array(texts)}), out / f"{n}.parquet", compression="zstd")
                texts, size, n = [], 0, n + 1
    pq.write_table(pa.table({"content": pa.array(texts)}), out / f"{n}.parquet", compression="zstd")
    return time.perf_counter() - start


def ours(logs: list[Path], out: Path) -> float:
    """`trajkit import`, without Python's own start."""
    from trajkit.importers import Options, import_files

    start = time.perf_counter()
    format = "openai" if logs[0].suffix == ".jsonl" else "intercode"
    import_files(format, [str(log) for log in logs], out / "runs", Options())
    return time.perf_counter() - start


def _parsed(logs: list[Path]) -> Iterator[Any]:
    import orjson

    for log in logs:
        with log.open("rb") as file:
            yield from map(orjson.loads, file if log.suffix == ".jsonl" else [file.read()])


MEASURED: dict[str, Callable[[list[Path], Path], float]] = {
    "bare": bare,
    "standard": standard,
    "needed": needed,
    "ours": ours,
}


# --- how ---


def in_turn(logs: list[Path], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds and CPU seconds of each, run in turn."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in MEASURED}
    for _ in range(rounds):
        for name in MEASURED:
            with tempfile.TemporaryDirectory(dir=logs[0].parent) as out:
                call = [sys.executable, __file__, "--one", name, out, *map(str, logs)]
                environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
                done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
            results[name].append(json.loads(done.stdout))
    return results


def ratio(results: dict[str, list[dict[str, float]]], a: str, b: str) -> str:
    """b's seconds / a's, pair by pair, in percent: a's speed as a share of b's. Median and range."""
    pairs = [y["seconds"] / x["seconds"] for x, y in zip(results[a], results[b], strict=True)]
    return f"{statistics.median(pairs):.0%} ({min(pairs):.0%} to {max(pairs):.0%})"


def generate(folder: Path, megabytes: int) -> None:
    """Write the logs, unless they are there."""
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 10))) for _ in range(4000)]
    pages = [" ".join(rng.choices(words, k=110)) for _ in range(20_000)]

    def turns() -> list[tuple[str, str]]:
        seen = rng.choices(pages, k=rng.randint(5, 10))
        return [
            (f"Observation: {page}", f"Thought: {page[:60]} Action: click[{rng.getrandbits(40):x}]") for page in seen
        ]

    def chat(n: int) -> str:
        messages = [
            {"role": role, "content": text}
            for turn in turns()
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        sample = {"task_id": f"task-{n // 6}", "sample": n % 6, "reward": rng.random(), "success": rng.random() < 0.3}
        return json.dumps({"messages": messages, **sample})

    def task(n: int) -> str:
        (query, first), *rest = turns()
        actions = [first, *(action for _, action in rest)]
        history = {
            "actions": actions,
            "observations": [*(seen for seen, _ in rest), "done"],
            "rewards": [rng.random() for _ in actions],
            "valid_action": [True] * len(actions),
        }
        summary = {"max_reward": rng.random(), "turns_taken": len(actions), "turns_max": 10}
        record = {"environment": "ic_sql", "task_id": n, "query": query, "turn_history": history, "summary": summary}
        return f'"{n}": {json.dumps(record)}'

    for format, names in LOGS.items():
        for name in names:
            with (folder / name).open("w") as file:
                size = n = 0
                file.write("" if format == "openai" else "{")
                while size < megabytes * 1e6 / len(names):
                    text = chat(n) + "\n" if format == "openai" else (", " if n else "") + task(n)
                    size += file.write(text)
                    n += 1
                file.write("" if format == "openai" else "}")
    (folder / "complete").touch()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=400, help="of each format")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "trajkit-bench" / "logs")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, out, *logs = args.one
        seconds = MEASURED[name]([Path(log) for log in logs], Path(out))
        spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(one.ru_utime + one.ru_stime for one in spent)
        print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": max(one.ru_maxrss for one in spent) / 1024}))
        return
    folder = args.folder / str(args.megabytes)
    generate(folder, args.megabytes)
    print(
        "| format | import, s (CPU s, peak MB of a process) | orjson, s | import / orjson | import / json "
        "| needed / orjson |"
    )
    print("|---|---|---|---|---|---|")
    for format, names in LOGS.items():
        results = in_turn([folder / name for name in names], args.rounds)
        middle = {
            name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for name, runs in results.items()
        }
        mine = middle["ours"]
        print(
            f"| {format} | {mine['seconds']:.2f} ({mine['cpu']:.2f}, {mine['peak_mb']:.0f}) "
            f"| {middle['bare']['seconds']:.2f} | {ratio(results, 'ours', 'bare')} "
            f"| {ratio(results, 'ours', 'standard')} | {ratio(results, 'needed', 'bare')} |"
        )


if __name__ == "__main__":
    main()
