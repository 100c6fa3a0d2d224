"""What exactly gets loss of one example, pair or row of values in a file that `select` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trajkit.console import cell, clean
from trajkit.display.terminal.messages import Row, whole
from trajkit.errors import BadData, UsageError
from trajkit.messages import from_row
from trajkit.selection.dataset import KINDS, LISTS, Selected, selected

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Found:
    """One row of a file, messages and tools as `selection.dataset.read` gives them; `number` counts from 1 to `n`."""

    file: Selected
    number: int
    n: int
    row: Row

    @property
    def id(self) -> str:
        """example_id, or pair_id."""
        return str(self.row[KINDS[self.file.kind][0]])

    @property
    def lists(self) -> list[str]:
        """The columns that hold messages, in the order in which they are read."""
        return [name for name in KINDS[self.file.kind] if name in LISTS]


def find_example(path: str | os.PathLike[str], wanted: str | None) -> Found:
    """The row whose id is `wanted` or begins so; None: the first one.

    Raises UsageError where there is none, or several; BadData for a file that `select` has not written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    file = selected(path)
    name = KINDS[file.kind][0]
    try:
        ids = file.parquet.read(columns=[name]).column(0)
        if not len(ids):
            raise UsageError(f"{path}: it holds no {file.kind}: {file.method} chose nothing.")
        at = 0
        if wanted is not None:
            places = [at.as_py() for at in pc.indices_nonzero(pc.starts_with(ids, wanted))]
            same = [at for at in places if ids[at].as_py() == wanted]
            if len(places) != 1 and not same:
                raise UsageError(_not_one(path, name, wanted, [ids[at].as_py() for at in places], ids))
            [at] = same or places
        group = number = 0
        for group in range(file.parquet.num_row_groups):
            n_rows = file.parquet.metadata.row_group(group).num_rows
            if at < number + n_rows:
                break
            number += n_rows
        [row] = file.parquet.read_row_group(group).slice(at - number, 1).to_pylist()
        row["tools"] = None if row["tools"] is None else json.loads(row["tools"])
        for column in LISTS & row.keys():
            row[column] = [from_row(message) for message in row[column]]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BadData(f"{path}: cannot be read ({error}). `trajkit select` writes it again.") from error
    return Found(file, at + 1, len(ids), row)


def shown(found: Found) -> Iterator[RenderableType]:
    """What to print of it, top to bottom: what it is, then every message with its weight (values: and its value)."""
    yield from heading(found)
    n_messages = n_trained = 0
    for name in found.lists:
        if name != "messages":
            yield cell("")
            yield cell(_side(found, name), "bold")
        for number, message in enumerate(found.row[name]):
            weight = message.get("weight") or 0.0
            n_messages, n_trained = n_messages + 1, n_trained + bool(weight)
            value = f", value {message['value']:.6g}" if "value" in message else ""
            named = f" {message['name']}" if message.get("name") else ""
            label = f"{number}  {message['role']}{named}, weight {weight:g}"
            yield from whole(message, label, bool(weight), value, "red" if name == "rejected" else "green")
    yield cell("")
    yield cell(f"{n_trained} of {n_messages} messages have a weight; of all others nothing is learned.", "bold")


def heading(found: Found) -> Iterator[RenderableType]:
    """Which row of which file it is, and where it comes from."""
    file, row = found.file, found.row
    what = {"examples": "example", "pairs": "pair", "values": "values"}[file.kind]
    yield cell(f"{what} {found.id}", "bold")
    yield cell(f"{found.number:,} of {found.n:,} in {file.path}, method {file.method}")
    names = (
        "task_id", "env", "kind", "level", "trajectory_id", "expert_id", "chosen_id", "rejected_id", "from_step",
        "end_step", "n_trained_steps", "n_expert_steps", "n_values", "reward", "iteration",
    )  # fmt: skip
    told = (f"{name} {_told(row[name])}" for name in names if row.get(name) is not None)
    yield cell(", ".join(told))
    if row["tools"]:
        yield cell(f"{len(row['tools'])} tools: {', '.join(_tool(tool) for tool in row['tools'])}")


def _side(found: Found, name: str) -> str:
    reward = found.row.get(f"{name}_reward")
    about = {"prompt": "what both sides begin with", "chosen": "to be preferred", "rejected": "to be said less"}[name]
    return f"{name.upper()}: {about}" + ("" if reward is None else f", reward {reward:g}")


def _not_one(path: str | os.PathLike[str], name: str, wanted: str, found: list[str], ids: Any) -> str:
    from difflib import get_close_matches

    if found:
        return f"--example {wanted}: {len(found):,} ids begin so: {', '.join(found[:5])}{', ...' * (len(found) > 5)}."
    near = get_close_matches(wanted, (id.as_py() for id in ids.slice(0, 10_000)), n=1)
    maybe = f" (did you mean {near[0]}?)" if near else ""
    query = f"\"SELECT {name} FROM '{path}'\""
    return (
        f"--example {wanted}: no {name} of {path} begins so{maybe}. The first is {ids[0].as_py()}; {query} lists all."
    )


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tool(tool: Any) -> str:
    try:
        return clean(str(tool["function"]["name"]))
    except (KeyError, TypeError):
        return "?"
