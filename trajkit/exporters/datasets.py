"""A folder for `datasets.load_dataset`: the file that select wrote, as it is, and a dataset card.

https://huggingface.co/docs/hub/datasets-cards
Examples, pairs and values alike; nothing is left out. What comes from the data (names of environments, of methods) is
escaped in the card.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajkit.console import bar, clean
from trajkit.errors import BadData, TrajkitError
from trajkit.runs.atomic import hidden, rename, sync_below

if TYPE_CHECKING:
    from trajkit.exporters._format import Summary
    from trajkit.selection.dataset import Selected

TRAINER = "datasets"
DATA = "data/train-00000-of-00001.parquet"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MOST = 20  # lines of a table in the card
HOLDS = {
    "examples": (
        "A row is an example to fine-tune on: a conversation, `messages`, whose assistant's messages have a loss "
        "`weight` each: 1 on the actions to train on (or less, where their source says so), 0 on everything else "
        "(context, for instance the actions before `from_step`)."
    ),
    "pairs": (
        "A row is a pair for preference learning: `prompt`, and the `chosen` and the `rejected` continuation, each a "
        "list of messages. A message's loss `weight` is 1 on the actions to compare, 0 on everything else (context)."
    ),
    "values": (
        "A row is a trajectory, `messages`, in which actions have a `value`: the reward to expect after them, to train "
        "a step reward model. A message's `weight` is 1 on actions with a value to learn, 0 on everything else."
    ),
}
TASKS = {"examples": "supervised fine-tuning", "pairs": "preference learning", "values": "reward modelling"}
# The columns that the card counts, and how it names them.
COUNTED = {"env": "environment", "kind": "kind", "level": "level", "iteration": "iteration"}
SUMMED = {
    "n_trained_steps": "actions to train on",
    "n_expert_steps": "of them an expert's",
    "n_chosen_steps": "chosen actions",
    "n_rejected_steps": "rejected actions",
    "n_values": "actions with a value",
}


def folder(file: Selected, out: Path, license: str | None, summary: Summary) -> None:
    """Write the folder under a hidden name and rename it. Raises BadData for a file with no row or a damaged one."""
    counts, totals = _read_through(file, summary)
    if not summary.read:
        raise summary.nothing()
    summary.written = summary.rows = summary.read
    made = hidden(out)
    try:
        (made / DATA).parent.mkdir(parents=True)
        shutil.copyfile(file.path, made / DATA)
        (made / "README.md").write_text(card(file, out.name, license, totals, counts), encoding="utf-8")
        sync_below(made)
        rename(made, out)
    except OSError as error:
        raise TrajkitError(f"{out}: cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(made, ignore_errors=True)


def _read_through(file: Selected, summary: Summary) -> tuple[dict[str, Counter[Any]], dict[str, int]]:
    """What the card counts: rows by the values of some columns, and totals. All is read, to find damage.

    The totals are rows, tasks and those of SUMMED that the file has.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = file.parquet.schema_arrow.names
    counts: dict[str, Counter[Any]] = {name: Counter() for name in COUNTED if name in columns}
    totals = {"rows": 0, "tasks": 0} | {SUMMED[name]: 0 for name in SUMMED if name in columns}
    tasks: set[Any] = set()
    with bar(desc="reading", unit=f" {summary.kind}") as shown:
        for number in range(file.parquet.num_row_groups):
            try:
                group = file.parquet.read_row_group(number)
            except (OSError, pa.ArrowException) as error:
                raise BadData(f"{file.path}: row group {number} cannot be read ({error}); it is damaged.") from error
            for name, counted in counts.items():
                counted.update(group.column(name).to_pylist())
            for name in SUMMED.keys() & set(columns):
                totals[SUMMED[name]] += pc.sum(group.column(name)).as_py() or 0
            if "task_id" in columns:
                tasks.update(group.column("task_id").unique().to_pylist())
            totals["rows"] += len(group)
            shown.update(len(group))
    summary.read, totals["tasks"] = totals["rows"], len(tasks)
    return counts, totals


def card(
    file: Selected, name: str, license: str | None, totals: dict[str, int], counts: dict[str, Counter[Any]]
) -> str:
    """The dataset card: what the Hub reads of it, then what people do."""
    told, rows = file.told, totals["rows"]
    size = next((size for below, size in SIZES if rows < below), "n>1M")
    front = {
        "license": license or "unknown",
        "pretty_name": f"{name} ({file.method})",
        "tags": ["trajkit", "agents", "trajectories", file.kind, file.method],
        "size_categories": [size],
        "task_categories": ["text-generation"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    provenance = {
        "method": file.method,
        "parameters": told.get("params", "not told"),
        "iteration judged": told.get("iteration", "not told"),
        "trajkit": told.get("version", "not told"),
        "fingerprint of the trajectories": told.get("input_fingerprint", "not told"),
    }
    lines = [
        "---",
        *(f"{key}: {_yaml(value)}" for key, value in front.items()),
        "---",
        "",
        f"# {_plain(name)}",
        "",
        f"{rows:,} {file.kind} for {TASKS[file.kind]} of LLM agents, chosen by trajkit's method {_plain(file.method)}.",
        "",
        HOLDS[file.kind],
        "`tools` and a message's `tool_calls` are JSON as text; `token_ids` are what a model sampled, where known.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset({_code(name)}, split="train")',
        "```",
        "",
        "## Counts",
        "",
        "| | |",
        "|---|--:|",
        *(f"| {what} | {n:,} |" for what, n in totals.items()),
        "",
        *(line for column, counted in counts.items() for line in _table(COUNTED[column], file.kind, counted)),
        "## Provenance",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_plain(value)} |" for key, value in provenance.items()),
        "",
    ]
    if sql := told.get("method_sql"):
        lines += ["The method's SQL:", "", *_fenced(sql), ""]
    return "\n".join(lines)


def _table(title: str, kind: str, counted: Counter[Any]) -> list[str]:
    found = sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))
    shown = [f"| {_plain('' if value is None else value)} | {n:,} |" for value, n in found[:MOST]]
    if found[MOST:]:
        shown.append(f"| {len(found) - MOST:,} more | {sum(n for _, n in found[MOST:]):,} |")
    return [f"| {title} | {kind} |", "|---|--:|", *shown, ""]


def _yaml(value: Any) -> str:
    """JSON, which YAML can read; without what YAML takes for the end of a line."""
    if isinstance(value, str):
        value = clean(value)
    elif isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    elif isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(clean(str(value)).split())
    return re.sub(r"([\\`*_{}\[\]()#+\-!|~<>&$:@])", r"\\\1", text)


def _code(name: str) -> str:
    return json.dumps(clean(name), ensure_ascii=False)


def _fenced(text: str) -> list[str]:
    """A block of code that the text cannot end."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return [f"{fence}sql", *(clean(line) for line in text.splitlines()), fence]
