"""`import --replace`: a corrected record takes the place of the trajectory that says and does the same."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trajkit.errors import BadData, TrajkitError
from trajkit.messages import is_action
from trajkit.runs.atomic import whole
from trajkit.runs.canonical import canonical_calls
from trajkit.runs.digests import SUMS, Hashed, read_sums, sums
from trajkit.runs.listing import parts
from trajkit.runs.object_store import Location, locate
from trajkit.runs.records import Row
from trajkit.runs.writer import Batch

if TYPE_CHECKING:
    import pyarrow as pa

REPLACED = ("reward", "success", "ended", "error", "meta")
Key = tuple[Any, ...]

# Of each trajectory its key without what it says, and a digest of what it says before its first action and does.
_KEYS = """
SELECT
    t.trajectory_id, t.import_id, o.task_id, o.role, coalesce(t.actor, '') AS actor, o.iteration, o.sample,
    coalesce(o.parent_id, '') AS parent_id, o.branch_step, coalesce(s.digest, md5('')) AS digest
FROM outcomes AS o
INNER JOIN trajectories AS t ON o.trajectory_id = t.trajectory_id
LEFT JOIN (
    SELECT trajectory_id, md5(string_agg(digest, '' ORDER BY seq)) AS digest
    FROM (
        SELECT m.trajectory_id, m.seq, md5(
            m.role || chr(31) || coalesce(m.content, '') || chr(31) || coalesce(m.reasoning, '') || chr(31)
            || canonical_calls(m.tool_calls)
        ) AS digest
        FROM messages AS m
        INNER JOIN trajectories AS b ON m.trajectory_id = b.trajectory_id
        WHERE m.step = b.branch_step OR (m.role = 'assistant' AND NOT coalesce(m.context, FALSE))
    ) AS told
    GROUP BY trajectory_id
) AS s ON t.trajectory_id = s.trajectory_id
ORDER BY t.trajectory_id
"""


class Replacing:
    """The trajectories that are there by their keys, and the corrections of them that an import brings.

    `n_replaced` counts corrections; `several` has the trajectories that one record would correct, which are left.
    """

    def __init__(self, runs: str | os.PathLike[str]) -> None:
        from trajkit.engines.duckdb import DuckDBEngine

        self.runs = runs
        self.several: dict[str, list[str]] = {}
        self._there: dict[Key, list[str]] = defaultdict(list)
        self._corrected: dict[str, str] = {}  # trajectory_id by import_id
        self._corrections: dict[str, Row] = {}
        if locate(runs).exists():
            with DuckDBEngine(runs) as opened:
                for row in opened.rows(_KEYS):
                    trajectory_id, import_id, *key = row.values()
                    self._there[tuple(key)].append(trajectory_id)
                    if import_id is not None:
                        self._corrected[import_id] = trajectory_id

    @property
    def n_replaced(self) -> int:
        return len(self._corrections)

    def take(self, batch: Batch, known: set[str]) -> set[str]:
        """The ids of those records of a batch that are no new trajectories: they correct one, or would correct several.
        `known`: the ids that are there already."""
        passed: set[str] = set()
        messages = batch.messages.select(["seq", "step", "role", "content", "reasoning", "tool_calls", "context"])
        first = 0
        for row, length in zip(batch.trajectories.to_pylist(), batch.lengths, strict=True):
            own, first = (first, length), first + length
            trajectory_id = row["trajectory_id"]
            if trajectory_id in self._corrected:  # what is there says just this, whatever came before it in the file
                self._corrections.pop(self._corrected[trajectory_id], None)
            if trajectory_id in known:
                continue
            key = _key(row, messages.slice(*own).to_pylist())
            there = self._there[key]
            if not there:
                there.append(trajectory_id)
            elif len(there) == 1 and there[0] != trajectory_id:
                self._corrections[there[0]] = {name: row[name] for name in REPLACED} | {"import_id": trajectory_id}
                passed.add(trajectory_id)
            elif len(there) > 1:
                self.several[trajectory_id] = there
                passed.add(trajectory_id)
        return passed

    def apply(self) -> None:
        """Write the corrections: each file that holds one is written anew and put in its place as a whole."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if not self._corrections:
            return
        import pyarrow as pa

        wanted = pa.array(self._corrections, pa.string())
        for file in parts(self.runs, "trajectories"):
            try:
                with file.open("rb") as opened:
                    table = pq.read_table(opened)
            except FileNotFoundError:
                raise TrajkitError(
                    f"{file}: it went away meanwhile, as where `trajkit compact` runs. {AGAIN}"
                ) from None
            if pc.any(pc.is_in(table["trajectory_id"].cast(pa.string()), wanted)).as_py():
                _write(file, _corrected(file, table, self._corrections))


AGAIN = "Run this again: what is replaced stays, and what is not yet is replaced then."


def _key(row: Row, messages: Iterable[Row]) -> Key:
    told = []
    for message in messages:
        if message["step"] == row["branch_step"] or is_action(message):
            texts = (message["role"], message["content"] or "", message["reasoning"] or "")
            told.append(_md5("\x1f".join((*texts, canonical_calls(message["tool_calls"])))))
    said = (row["task_id"], row["role"], row["actor"] or "", row["iteration"] or 0, row["sample"] or 0)
    return (*said, row["parent_id"] or "", row["branch_step"], _md5("".join(told)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _corrected(file: Location, table: pa.Table, corrections: Mapping[str, Row]) -> pa.Table:
    import pyarrow as pa

    from trajkit.runs.schema import arrow_schema

    ids = table["trajectory_id"].to_pylist()
    for name in (*REPLACED, "import_id"):
        field = arrow_schema("trajectories").field(name)
        at = table.schema.get_field_index(name)
        values = table[name].to_pylist() if at >= 0 else [None] * len(ids)
        values = [corrections[id][name] if id in corrections else value for id, value in zip(ids, values, strict=True)]
        if at >= 0 and not pa.types.is_null(table.schema.field(at).type):
            field = table.schema.field(at)
        try:
            column = pa.array(values, field.type)
        except pa.ArrowException as error:
            raise BadData(
                f"{file}: its column {name} is {field.type} and cannot hold the corrected value ({error}). Nothing of "
                "this file was replaced."
            ) from error
        table = table.append_column(field, column) if at < 0 else table.set_column(at, field, column)
    return table


def _write(file: Location, table: pa.Table) -> None:
    """Put `table` in the place of a part's file. In between its folder's SHA256SUMS has no line for it."""
    import pyarrow.parquet as pq

    known = read_sums(file.parent)
    if file.name in known:
        _write_sums(file.parent, {name: digest for name, digest in known.items() if name != file.name})
    with whole(file) as out:
        hashed = Hashed(out)
        pq.write_table(table, hashed, compression="zstd", write_page_checksum=True)
    if known:
        _write_sums(file.parent, known | {file.name: hashed.hexdigest()})


def _write_sums(folder: Location, digests: Mapping[str, str]) -> None:
    with whole(folder / SUMS) as out:
        out.write(sums(digests))
