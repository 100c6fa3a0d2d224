"""`trajkit import` against orjson parsing the same files, the standard library's json, and a bare pipeline.

    python benchmarks/importing.py [--size 400 --rounds 3]

`size` is megabytes of each format. The logs are generated once: chats of 10 to 20 messages, 466 characters each on
average as in WebShop, as JSON lines for `openai` and as one JSON object for `intercode` (in four files, as its logs
come: a file per model).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure

LOGS = {"openai": ["openai.jsonl"], "intercode": [f"intercode-{n}.json" for n in range(4)]}


def rows(folder: Path, size: int = 400, rounds: int = 3) -> list[measure.Row]:
    """Import of both formats against each of the others."""
    folder /= f"logs-{size}"
    generate(folder, size)
    found = []
    for format, names in LOGS.items():
        took = measure.in_turn(__file__, list(MEASURED), rounds, *(folder / name for name in names))
        for other, theirs, note in (
            ("orjson parses the same", "bare", f"peak of a process {measure.peak(took['ours'])}"),
            ("json of the standard library parses the same", "standard", ""),
            ("orjson, hashlib and pyarrow in one process: parse, hash, write as Parquet", "needed", ""),
        ):
            found.append(measure.compared(took, f"import {format}, {size} MB", "ours", other, theirs, note))
    return found


# --- what is measured: each runs in a process of its own and returns seconds ---


def bare(out: Path, *logs: str) -> float:
    """orjson parses the files, and nothing is done with it."""
    start = time.perf_counter()
    for _ in _parsed(logs):
        pass
    return time.perf_counter() - start


def standard(out: Path, *logs: str) -> float:
    """The standard library's json parses the files."""
    start = time.perf_counter()
    for log in map(Path, logs):
        with log.open("rb") as file:
            for text in file if log.suffix == ".jsonl" else [file.read()]:
                json.loads(text)
    return time.perf_counter() - start


def needed(out: Path, *logs: str) -> float:
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


def ours(out: Path, *logs: str) -> float:
    """`trajkit import`, without Python's own start."""
    from trajkit.importers import Options, import_files

    start = time.perf_counter()
    format = "openai" if logs[0].endswith(".jsonl") else "intercode"
    import_files(format, list(logs), out / "runs", Options())
    return time.perf_counter() - start


def _parsed(logs: tuple[str, ...]) -> Iterator[Any]:
    import orjson

    for log in map(Path, logs):
        with log.open("rb") as file:
            yield from map(orjson.loads, file if log.suffix == ".jsonl" else [file.read()])


MEASURED = {"bare": bare, "standard": standard, "needed": needed, "ours": ours}


# --- the logs ---


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


if __name__ == "__main__":
    measure.run(rows, MEASURED)
